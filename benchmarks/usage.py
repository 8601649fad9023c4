"""What this process uses: cores, CPU time, memory."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def cpu_seconds() -> float:
    """CPU time, user and system, of this process and of its children that have ended and were waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def reset_peak() -> bool:
    """Lets `peak_bytes` begin anew; False where the system does not allow it, and the peak is since the start."""
    try:
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """Largest resident memory of this process since `reset_peak`."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


@contextmanager
def on_cores(number: int | None) -> Iterator[None]:
    """Keeps the calling thread, and threads and processes that it starts, on the last `number` of its cores.

    None leaves all.
    """
    mine = os.sched_getaffinity(0)
    if number is None:
        yield
        return
    os.sched_setaffinity(0, sorted(mine)[-number:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)
