"""What a benchmark ran on and with: a figure without these means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster.tasks import available_cores


def machine(work: Path) -> dict[str, str]:
    """CPU, cores, memory, GPU, system and the file system that `work` lies on. No name of a machine or a person."""
    return {
        "cpu": _match(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo")) or platform.machine(),
        "cores": f"{available_cores()} to use, {os.cpu_count()} in all",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "gpu": _gpus() or "none",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "file system": file_system(work),
        "load before": f"{os.getloadavg()[0]:.2f} processes over the last minute",
    }


def libraries(names: Sequence[str]) -> dict[str, str]:
    """Distribution -> version; "absent" where it is not installed."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def file_system(path: Path) -> str:
    """Type of the file system that holds `path`, such as ext4, tmpfs or nfs4; "unknown" where /proc does not tell."""
    whole = path.resolve()
    kind, depth = "unknown", -1
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in lines:
        _, where, name, *_ = line.split()
        mount = Path(where.replace("\\040", " "))
        if len(mount.parts) >= depth and whole.is_relative_to(mount):
            kind, depth = name, len(mount.parts)
    return kind


def _match(pattern: str, file: Path) -> str:
    try:
        found = re.search(pattern, file.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _gpus() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    words = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return "; ".join(answer.stdout.strip().splitlines()) if answer.returncode == 0 else ""
