"""The same function over many items: in this process, in a pool of local processes, or as Ray tasks on a cluster.

On one machine a pool starts in a fraction of a second where an embedded Ray takes several and a share of the memory;
both give the same answers, and in both an item whose process was killed is tried again.
"""

import math
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_ENDED = (
    "a worker process ended without an answer, again and again (killed, most often for want of memory): "
    "use fewer processes or give the machine more memory; finished work is kept"
)
NUM_TRIES = 3
"""How often an item is begun whose process is killed."""


def map_tasks(function: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    """`function` of each item, in the order of `items`, as an iterator; at most 2 x processes are under way or waiting.

    `processes` 0: all cores (of the cluster where there is one); 1: in this process; more: as many spawned processes,
    or Ray tasks at a time where a Ray cluster is known (inside a Ray job, RAY_ADDRESS, or an open connection).
    `function` and the items must pickle; items are taken as they are needed. What `function` raises is raised here, at
    its item's place; the rest is then given up. An item whose worker is killed is tried again, RuntimeError after
    NUM_TRIES. Closing the iterator, or Ctrl-C, ends the workers.
    """
    if processes < 0:
        raise ValueError(f"processes is {processes}: give 0 (all cores), 1 (this process) or more")
    if isinstance(items, Sequence) and len(items) <= 1:
        processes = 1
    if processes == 1:
        return (function(item) for item in items)
    if _on_ray():
        return _map_on_ray(function, items, processes)
    wanted = processes or available_cores()
    return _map_in_pool(function, items, min(wanted, len(items)) if isinstance(items, Sequence) else wanted)


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


def _map_in_pool(function: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    coming = iter(items)
    waiting: deque[tuple[T, Future[R]]] = deque()
    again: deque[T] = deque()  # begun in a pool that broke
    num_broken = 0
    while True:
        pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
        finished = False
        try:
            while True:
                while len(waiting) < 2 * processes:
                    item: T = again.popleft() if again else next(coming, _NO_MORE)
                    if item is _NO_MORE:
                        break
                    again.appendleft(item)  # until the pool has taken it
                    waiting.append((item, pool.submit(function, item)))
                    again.popleft()
                if not waiting:
                    finished = True
                    return
                answer = waiting[0][1].result()
                waiting.popleft()
                num_broken = 0
                yield answer
        except BrokenProcessPool as error:
            num_broken += 1
            if num_broken >= NUM_TRIES:
                raise RuntimeError(_ENDED) from error
            again.extendleft(item for item, _ in reversed(waiting))
            waiting.clear()
        finally:
            workers = [] if finished else list((pool._processes or {}).values())
            pool.shutdown(wait=finished, cancel_futures=True)
            for worker in workers:  # an abandoned item may run for minutes: nobody wants its answer
                worker.terminate()
            for worker in workers:
                worker.join()


_NO_MORE: Any = object()


def _map_on_ray(function: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    import ray

    if not ray.is_initialized():
        ray.init(logging_level="warning")
    at_once = processes or max(1, int(ray.cluster_resources().get("CPU", 1)))
    task: Any = ray.remote(num_cpus=1, max_retries=NUM_TRIES - 1)(function)
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
    except ray.exceptions.RayError as error:  # killed, out of memory, its node lost: after all tries
        raise RuntimeError(_ENDED) from error
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
