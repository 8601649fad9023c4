"""One process at a time in a folder of this machine, whoever dies and whoever is stopped."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_ASK_SECONDS = 0.005


@contextlib.contextmanager
def alone_in(folder: Path, patience_seconds: float) -> Iterator[bool]:
    """Whether no other process is in a block of this kind with this folder; False where one stayed in it for so long.

    The lock is on the file `lock` in the folder, which stays. It ends with the block or with the process, so that one
    that was killed holds up nobody, and one that was stopped does for no longer than the patience. Raises OSError where
    the folder is not there, cannot be written or knows no locks.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until = time.monotonic() + patience_seconds
        while not (alone := locks(descriptor, fcntl.LOCK_EX)) and time.monotonic() < until:
            time.sleep(_ASK_SECONDS)
        yield alone
    finally:
        os.close(descriptor)


def locks(descriptor: int, kind: int) -> bool:
    """Takes an flock (LOCK_EX or LOCK_SH) of an open file, and gives whether it could without waiting.

    Raises OSError where the file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
