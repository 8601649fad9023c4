"""What this machine or cluster can do and what is missing: one line per question, with the repair."""

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from cluster import door
from cluster.doors import UnusableModule, open_module
from cluster.files import write_atomic
from cluster.tasks import available_cores
from cluster.version import DISTRIBUTION

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class DoctorConfig:
    """Say what this machine or cluster can do, and what is missing."""

    json: Path | None = None
    """file to write the answers to as JSON; none: only the screen"""
    ray: bool = True
    """start (or ask) Ray too: takes some seconds"""
    ports: tuple[int, ...] = ()
    """TCP ports that must be free here, e.g. 6379 8265 before `ray start --head`"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. `repair` is empty where all is well."""

    question: str
    state: Literal["ok", "warning", "failed"]
    answer: str
    repair: str = ""


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    answer = f"{platform.python_version()} at {sys.executable}"
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "failed", answer, "" if good else "install Python 3.11 or newer")


def check_packages() -> Iterator[Finding]:
    """Every package that the distribution requires, against the version that is installed."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "packages", "warning", f"{DISTRIBUTION} is not installed here", "run `make setup`, or pip install -e ."
        )
        return
    wrong, num_right = [], 0
    for line in required:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if requirement.name.startswith("nvidia-dali-cuda") and _other_dali():
                continue
            wrong.append(f"{requirement.name} is absent")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            num_right += 1
        else:
            wrong.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
    if wrong:
        yield Finding("packages", "failed", "; ".join(wrong), "run `make setup`: it installs what the lock file says")
    else:
        yield Finding("packages", "ok", f"{num_right} as wanted")


def _other_dali() -> bool:
    return any(
        (each.name or "").startswith("nvidia-dali-cuda") for each in importlib.metadata.distributions() if each.name
    )


def check_gpus() -> Iterator[Finding]:
    """torch's CUDA against the driver, and the GPUs that it shows."""
    import torch

    if torch.version.cuda is None:
        yield Finding("torch", "warning", f"{torch.__version__} is built for the CPU only", "run `make setup`")
        return
    built = f"torch {torch.__version__} for CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        if Path("/proc/driver/nvidia/version").exists():
            repair = "the driver is too old for this CUDA: update it, or `make setup LOCK=locks/cuda12.lock`"
            yield Finding("gpus", "failed", f"there is a driver, but {built} finds no GPU", repair)
        else:
            yield Finding("gpus", "warning", f"none ({built}); everything runs on the CPU, slowly")
        return
    torch.ones(1, device="cuda:0").sum().item()
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    yield Finding(
        "gpus", "ok", f"{built}: " + ", ".join(f"{each.name} {each.total_memory / _GIB:.0f} GiB" for each in names)
    )


def check_decoder() -> Iterator[Finding]:
    """The loaders' own probe of its decoder, on the CPU and on the GPU where there is one."""
    try:
        culprits = open_module("loaders.culprits")
    except UnusableModule as error:
        yield Finding("decoder", "failed", str(error), "run `make setup`")
        return
    for device, why in culprits.probe():
        yield judge_decoder(device, why)


def judge_decoder(device: str, why: str | None) -> Finding:
    """The answer for one device; `why` is None where a JPEG was decoded there."""
    if why is None:
        return Finding(f"decoder {device}", "ok", "decodes JPEG")
    repair = "run `make setup`: it installs the DALI that the lock file names"
    if device != "cpu":
        repair += "; `make setup LOCK=locks/cuda12.lock` for an older driver, or update the driver"
    return Finding(f"decoder {device}", "failed", f"does not decode JPEG: {why}", repair)


def check_machine() -> Iterator[Finding]:
    """Cores, memory, shared memory, disk and the limit of open files."""
    yield Finding("cores", "ok", f"{available_cores()} of {os.cpu_count()} may be used")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield _at_least("memory", memory, 8 * _GIB, "use a machine with more memory, or fewer workers and smaller batches")
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    yield _at_least("shared memory", shared, _GIB, "start the container with --shm-size=8g (or --ipc=host)")
    yield _at_least("disk here", shutil.disk_usage(Path.cwd()).free, 10 * _GIB, "free some space or work elsewhere")
    temporary = tempfile.gettempdir()
    yield _at_least(
        f"disk in {temporary}", shutil.disk_usage(temporary).free, 2 * _GIB, "free some space, or set TMPDIR"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < 4096
    repair = f"`ulimit -n {min(hard, 65536) if hard > 0 else 65536}` before starting" if few else ""
    yield Finding("open files", "warning" if few else "ok", f"at most {soft}", repair)


def _at_least(question: str, size_bytes: int, wanted_bytes: int, repair: str) -> Finding:
    enough = size_bytes >= wanted_bytes
    answer = f"{size_bytes / _GIB:.1f} GiB" + ("" if enough else f", under {wanted_bytes / _GIB:.0f} GiB")
    return Finding(question, "ok" if enough else "warning", answer, "" if enough else repair)


def check_ports(ports: Sequence[int]) -> Iterator[Finding]:
    """Whether each port can be listened on."""
    for port in ports:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError as error:
                yield Finding(
                    f"port {port}", "failed", error.strerror or str(error), "end what listens there, or take another"
                )
            else:
                yield Finding(f"port {port}", "ok", "free")


def check_ray() -> Iterator[Finding]:
    """The cluster of RAY_ADDRESS, or a Ray started here: does it come up, and what does it hold."""
    from cluster import workers
    from cluster.scale import ScaleConfig

    with workers.open_ray(ScaleConfig(workers=1)):
        import ray

        total = ray.cluster_resources()
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    where = f"the cluster at {os.environ['RAY_ADDRESS']}" if os.environ.get("RAY_ADDRESS") else "started here and ended"
    held = f"{nodes} node(s), {total.get('CPU', 0):.0f} cores, {total.get('GPU', 0):.0f} GPUs"
    yield Finding("ray", "ok", f"{ray.__version__}, {where}: {held}")


def run(config: DoctorConfig) -> None:
    """Prints the answers as they come; RuntimeError at the end if something failed."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("gpus", check_gpus),
        ("decoder", check_decoder),
        ("machine", check_machine),
        ("ports", lambda: check_ports(config.ports)),
    ]
    if config.ray:
        checks.append(("ray", check_ray))
    findings: list[Finding] = []
    for name, check in checks:
        try:
            for finding in check():
                findings.append(finding)
                _print(finding)
        except Exception as error:  # one question that breaks must not hide the others: it is itself an answer
            findings.append(Finding(name, "failed", door.explain(error), door.repair_for(error)))
            _print(findings[-1])
    if config.json is not None:
        write_atomic(config.json, json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    failed = [finding.question for finding in findings if finding.state == "failed"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(findings)} failed: {', '.join(failed)}")


def _print(finding: Finding) -> None:
    print(f"{finding.state:<8} {finding.question:<14} {finding.answer}")
    if finding.repair:
        print(f"{'':<24}-> {finding.repair}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """`cxr doctor`"""
    return door.enter("cxr doctor", DoctorConfig, run, argv)


if __name__ == "__main__":
    from cluster.doctor import main

    sys.exit(main())
