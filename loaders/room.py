"""How much a cache may still write: a limit that all processes on it keep together, and what goes when it is reached.

Block shuffle reads each tar once an epoch, in another order each time. Then nothing beats keeping what is there: of a
cache that holds half of the set, half of the reads are hits. To take in the newest and let the oldest go (LRU) throws
out most images just before they come round again: 15 % hits (tests/loaders/test_room.py), and each miss is written. So
a full cache takes nothing more in from a run, and what makes room is what no running process can use:

- mirrors of tars that belong to no running process, the longest unused first;
- mirrors in which this process has looked again and again and found nothing (another filter, other levels).

What belongs to a running process is known by files in `runs/`, each a list of tars, locked by its process for as long
as it lives. Counting and removing are done under a lock of the folder, which dies with its holder too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.alone import alone_in, locks

GRANTS = 64
"""A process takes room for so great a part of the limit at a time, shared with the other processes."""
FREE_SHARE = 0.05
"""So much of the disk is left to others."""
LOOK_SECONDS = 10.0
"""How often a full cache is looked at again."""
_ALONE_SECONDS = 1.0
"""How long a look waits for another process's."""
_WAIT_SECONDS = 0.25
"""How long who would write waits for a look; then that image is not kept, so that fetching goes on."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A file of the cache."""

    path: Path
    num_bytes: int
    """On the disk: holes are none."""
    used_at: float
    """When it was made or last had what was asked for, seconds since 1970."""


class Room:
    """Room for bytes in a folder of mirrors, from any number of threads and processes."""

    def __init__(
        self, folder: Path, mine: Collection[str], limit_bytes: int, useless: Callable[[Mirror], bool]
    ) -> None:
        """`mine`: names of the mirrors this process may use. `limit_bytes`: of all mirrors together.

        `useless`: whether one of mine was of no use, though this process asked often enough to know. Raises OSError
        where the folder cannot be used.
        """
        self._folder = folder
        self._mine = frozenset(mine)
        self._limit_bytes = limit_bytes
        self._useless = useless
        self._granted = 0
        self._look_at = 0.0
        self._lists: dict[str, frozenset[str]] = {}
        self._num_writing = 0
        self._looking = False
        self._changed = threading.Condition()
        self._run = -1
        self._closed = False
        self._register()

    @contextlib.contextmanager
    def writing(self, num_bytes: int) -> Iterator[bool]:
        """Whether so many bytes more may be written, which is done when this ends. Raises OSError."""
        may = self._take(num_bytes)
        try:
            yield may
        finally:
            if may:
                with self._changed:
                    self._num_writing -= 1
                    self._changed.notify_all()

    def _take(self, num_bytes: int) -> bool:
        with self._changed:
            while num_bytes > self._granted:
                if self._looking:
                    if not self._changed.wait(_WAIT_SECONDS):
                        return False
                elif self._closed or time.monotonic() < self._look_at:
                    return False
                else:
                    self._renew(num_bytes)
            self._granted -= num_bytes
            self._num_writing += 1
            return True

    def _renew(self, num_bytes: int) -> None:
        """Called with the lock, which is free while the disk is looked at."""
        self._granted, self._looking = 0, True
        self._look_at = then = time.monotonic() + LOOK_SECONDS
        try:
            while self._num_writing:  # so that all this process was granted before is on the disk, and counted
                self._changed.wait()
            self._changed.release()
            try:
                granted = self._look(num_bytes)
            finally:
                self._changed.acquire()
            if self._look_at == then:  # not refused meanwhile
                self._granted = granted
                if num_bytes <= granted:
                    self._look_at = 0.0
        finally:
            self._looking = False
            self._changed.notify_all()

    def refuse(self) -> None:
        """Nothing more is written for a while: the disk would not take it."""
        with self._changed:
            self._granted = 0
            self._look_at = time.monotonic() + LOOK_SECONDS

    def close(self) -> None:
        """What this process kept may go from now on. Never raises."""
        with self._changed:
            self._closed = True
            while self._looking:
                self._changed.wait()
            self._unregister()
            with contextlib.suppress(OSError):  # others remove what nobody has locked
                self._run_path.unlink()

    def _unregister(self) -> None:
        if self._run >= 0:
            os.close(self._run)
            self._run = -1

    def _register(self) -> None:
        """Names what this process uses, in a file that appears locked and ends with it."""
        runs = self._folder / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        (self._folder / "tars").mkdir(exist_ok=True)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        hidden = runs / f".{name}"
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # others hold it for an instant, to see whether it is locked
            content = "\n".join(sorted(self._mine)).encode()
            if os.write(descriptor, content) < len(content):
                raise OSError("the list of a run was not written whole")
            os.rename(hidden, runs / name)
            self._run_path = runs / name
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise
        self._run = descriptor

    def _look(self, need_bytes: int) -> int:
        """Counts what is there, makes room where it can, and gives the bytes this process may write."""
        if self._run < 0 or os.fstat(self._run).st_nlink == 0:  # someone removed the folder
            self._unregister()
            self._register()
        with alone_in(self._folder, _ALONE_SECONDS) as alone:
            if not alone:
                return 0
            used, num_processes = self._runs()
            mirrors = self._mirrors()
            taken = sum(mirror.num_bytes for mirror in mirrors)
            most = min(self._limit_bytes, taken + self._free_on_disk())
            grant = max(need_bytes, most // GRANTS // num_processes)
            excess = taken + num_processes * grant - most  # each may hold as much, and not have written it yet
            for mirror in self._may_go(mirrors, used) if excess > 0 else ():
                excess -= _remove(mirror, for_good=mirror.path.name not in used)
                if excess <= 0:
                    break
            return grant if excess <= 0 else 0

    def _runs(self) -> tuple[frozenset[str], int]:
        """Every mirror that a running process may use, and how many processes there are."""
        used, num_processes = self._mine, 0
        for entry in os.scandir(self._folder / "runs"):
            with contextlib.suppress(FileNotFoundError):
                if not _is_locked(entry.path):
                    if not entry.name.startswith(".") or time.time() - entry.stat().st_mtime > 60:
                        os.unlink(entry.path)
                    continue
                num_processes += 1
                if entry.name not in self._lists and not entry.name.startswith("."):
                    self._lists[entry.name] = frozenset(Path(entry.path).read_text().split("\n"))
                used |= self._lists.get(entry.name, frozenset())
        return used, max(1, num_processes)

    def _mirrors(self) -> list[Mirror]:
        mirrors = []
        for entry in os.scandir(self._folder / "tars"):
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                mirrors.append(Mirror(Path(entry.path), found.st_blocks * 512, found.st_mtime))
        return mirrors

    def _free_on_disk(self) -> int:
        """Negative where others have taken what should stay free."""
        disk = os.statvfs(self._folder)
        return int((disk.f_bavail - FREE_SHARE * disk.f_blocks) * disk.f_frsize)

    def _may_go(self, mirrors: list[Mirror], used: frozenset[str]) -> list[Mirror]:
        """In the order in which they go."""
        nobodys = [mirror for mirror in mirrors if mirror.path.name not in used]
        useless = [m for m in mirrors if m.path.name in self._mine and m.num_bytes and self._useless(m)]
        return sorted(nobodys, key=lambda mirror: mirror.used_at) + useless


def _is_locked(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not locks(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _remove(mirror: Mirror, for_good: bool) -> int:
    """Gives its bytes back at once, also where another process has it open and reads holes from now on."""
    try:
        os.truncate(mirror.path, 0)
        if for_good:
            mirror.path.unlink()
    except OSError:
        return 0
    return mirror.num_bytes
