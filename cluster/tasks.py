"""The same function over many items: in this process, in a pool of local processes, or as Ray tasks on a cluster."""

import math
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_ENDED = (
    "a worker process ended without an answer (killed, most often for want of memory): "
    "use fewer processes or give the machine more memory; finished work is kept"
)


def map_tasks(function: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[R]:
    """`function` of each item, in the order of `items`, as an iterator; at most 2 x processes are under way or waiting.

    `processes` 0: all cores (of the cluster where there is one); 1: in this process; more: as many spawned processes,
    or Ray tasks at a time where a Ray cluster is known (inside a Ray job, RAY_ADDRESS, or an open connection).
    `function` and the items must pickle. What `function` raises is raised here, at its item's place; the rest is then
    given up. A killed worker raises RuntimeError. Closing the iterator, or Ctrl-C, ends the workers.
    """
    if processes < 0:
        raise ValueError(f"processes is {processes}: give 0 (all cores), 1 (this process) or more")
    if processes == 1 or len(items) <= 1:
        return (function(item) for item in items)
    if _on_ray():
        return _map_on_ray(function, items, processes)
    return _map_in_pool(function, items, min(processes or available_cores(), len(items)))


def available_cores() -> int:
    """CPU cores that this process may use: its affinity, and no more than its container's share of CPU time."""
    cores = len(os.sched_getaffinity(0))
    share = cpu_share(Path("/sys/fs/cgroup"), _own_groups())
    return cores if share is None else max(1, min(cores, math.ceil(share)))


def cpu_share(mount: Path, groups: Sequence[str]) -> float | None:
    """Cores' worth of CPU time by the tightest limit on any of `groups` and those above them; None without a limit.

    `groups` are paths as in /proc/self/cgroup. cgroup 2 keeps `max 100000` or `150000 100000` (microseconds per
    period) in cpu.max, cgroup 1 the two numbers in files of cpu/.
    """
    shares: list[float] = []
    for group in groups:
        below = PurePosixPath(group.lstrip("/"))
        for part in (below, *below.parents):
            for folder in (mount / part, mount / "cpu" / part):
                words = _read_words(folder / "cpu.max") or [
                    *_read_words(folder / "cpu.cfs_quota_us"),
                    *_read_words(folder / "cpu.cfs_period_us"),
                ]
                if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]) > 0:
                    shares.append(int(words[0]) / int(words[1]))
    return min(shares, default=None)


def _own_groups() -> list[str]:
    """This process's groups, and "/", which is where a container sees its own."""
    lines = [line.split(":", 2) for line in _read_lines(Path("/proc/self/cgroup"))]
    return ["/", *(path for _, names, path in lines if names == "" or "cpu" in names.split(","))]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # there need not be any limit, nor anything that tells of one
        return []


def _read_words(path: Path) -> list[str]:
    return [word for line in _read_lines(path) for word in line.split()]


def _on_ray() -> bool:
    if os.environ.get("RAY_ADDRESS"):
        return True
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _map_in_pool(function: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[R]:
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    waiting: deque[Future[R]] = deque()
    finished = False
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        finished = True
    except BrokenProcessPool as error:
        raise RuntimeError(_ENDED) from error
    finally:
        workers = [] if finished else list((pool._processes or {}).values())
        pool.shutdown(wait=finished, cancel_futures=True)
        for worker in workers:  # an abandoned item may run for minutes: nobody wants its answer
            worker.terminate()
        for worker in workers:
            worker.join()


def _map_on_ray(function: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[R]:
    import ray

    if not ray.is_initialized():
        ray.init(logging_level="warning")
    at_once = processes or max(1, int(ray.cluster_resources().get("CPU", 1)))
    task: Any = ray.remote(num_cpus=1)(function)
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(task.remote(item))
            if len(waiting) >= 2 * at_once:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.WorkerCrashedError as error:
        raise RuntimeError(_ENDED) from error
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
