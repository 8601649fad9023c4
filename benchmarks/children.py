"""Arms that are programs of their own: they stand still, all their processes and threads, while others have their turn.

A loader works ahead. Left running between its turns it would take the machine from the others and come to its next
turn with batches that nobody timed. So each is a process group that is stopped (SIGSTOP) after each turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""Where `benchmarks` is imported from."""
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
"""The interpreter of peers whose libraries conflict with ours, made by `make peers`."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    module: str
    """A module that ends in `benchmarks.peers.serve.serve`."""
    about: Mapping[str, Any]
    """Its argument."""
    python: Path = Path(sys.executable)
    """Its interpreter."""


class ChildFailed(RuntimeError):
    """A program ended or said nothing; the message has the last line that it wrote to its standard error."""


class Child:
    """A running program."""

    def __init__(self, program: Program, log: Path) -> None:
        """Starts it; it stands still when it is ready. Raises ChildFailed. `log`: file for its standard error."""
        self.program = program
        self._log = log
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                [str(program.python), "-m", program.module, json.dumps(dict(program.about))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        self.about: dict[str, Any] = {}
        try:
            self.about = self._answer()
            self._signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    def take(self, seconds: float = 0.0, steps: int = 0, pace: float = 0.0) -> tuple[list[int], list[float]]:
        """Lets it run for at least so many seconds, or so many steps: images of each step, and when it was there.

        `pace`: seconds that the user of a batch takes, before the next one is asked for.
        """
        self._signal(signal.SIGCONT)
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write((json.dumps({"seconds": seconds, "steps": steps, "pace": pace}) + "\n").encode())
            pipe.flush()
        except BrokenPipeError:
            raise self._failed() from None
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer["items"], answer["ends"]

    def cpu_seconds(self) -> float:
        """CPU time, user and system, of its processes, the ended ones that were waited for included."""
        ticks = 0
        for fields in self._stats():
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        return ticks / TICKS

    def memory_bytes(self) -> int:
        """Memory of its processes now, shared pages in equal parts (proportional set size)."""
        total = 0
        for fields in self._stats():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{fields[-1]}/smaps_rollup").read_text()
                total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return 1024 * total

    def close(self) -> None:
        """Ends all its processes."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _stats(self) -> list[list[str]]:
        """Of each of its processes: the fields of /proc/PID/stat after the name, and its number at the end."""
        found: list[list[str]] = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                with contextlib.suppress(OSError):
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[2]) == self._process.pid:  # the process group
                        found.append([*fields, folder.name])
        return found

    def _answer(self) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise self._failed()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failed(self) -> ChildFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return ChildFailed(f"{self.program.module} ended: {lines[-1][:300] if lines else 'it said nothing'}")

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
