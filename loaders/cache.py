"""Parts of tars kept on a disk of this machine, so that they are fetched once.

Each tar has a mirror: a file with holes, in which an image lies at the offset it has in the tar. An image is there if
and only if the bytes at its place have its digest. There is no list of what is there, and so none that could be wrong:
a hole, a write that was broken off, a flipped bit or another file in its place are all the same, and are fetched again.
Any number of processes may use a cache at once, and be killed at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import xxhash

from cluster.storage import Place, absolute, name_of
from loaders.open_files import OpenFiles, read_fully
from loaders.room import Mirror, Room

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_BLOCK_BYTES = 4096
_TOUCH_SECONDS = 60.0
_NUM_LOOKS = 64
"""A mirror in which so many images were looked for and none was found is of no use."""
_USELESS_SECONDS = 2 * _TOUCH_SECONDS


class Cache:
    """Mirrors of tars in a folder, from any number of threads. It never raises: what it cannot do it leaves."""

    def __init__(
        self, folder: Path, tars: Sequence[Place], digests: Sequence[str], limit_bytes: int, max_open: int
    ) -> None:
        """`tars`: by number. `digests`: sha256 of each, by which copies of a tar share a mirror; may be empty.

        `limit_bytes`: what mirrors take of the disk at most. `max_open`: mirrors kept open at most, for reading and
        as many for writing.
        """
        self._folder = folder / "tars"
        self._names = [_name(tar, digests[number] if digests else "") for number, tar in enumerate(tars)]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        paths = [self._folder / name for name in self._names]
        self._readable = OpenFiles(paths, max_open, os.O_RDONLY | os.O_NOFOLLOW, renew=True)
        self._writable = OpenFiles(paths, max_open, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, renew=True)
        self._looks: dict[int, tuple[float, int]] = {}
        self._touched: dict[int, float] = {}
        self._lock = threading.Lock()
        self._told = False
        self._room: Room | None = None
        try:
            self._room = Room(folder, self._names, limit_bytes, self._is_useless)
        except OSError as error:
            self._failed(error)

    def find(self, number: int, offset: int, length: int, digest: bytes) -> bytes | None:
        """The image at this place of a tar, if it is there."""
        data = b""
        with contextlib.suppress(OSError):
            file = self._readable.get(number)
            data = read_fully(file.descriptor, offset, length)
        found = len(data) == length and xxhash.xxh3_128_digest(data) == digest
        now = time.time()
        if found and now > self._touched.get(number, 0.0) + _TOUCH_SECONDS:
            self._touched[number] = now
            with contextlib.suppress(OSError):
                os.utime(self._folder / self._names[number])
        if number not in self._looks or not found:
            since, num_looks = self._looks.get(number, (now, 0))
            self._looks[number] = since, num_looks + 1
        return data if found else None

    def advise(self, number: int, offset: int, length: int) -> None:
        """Says that these bytes will be looked for soon."""
        with contextlib.suppress(OSError):
            file = self._readable.get(number)
            os.posix_fadvise(file.descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def keep(self, number: int, offset: int, data: bytes | memoryview) -> bool:
        """Writes an image, whose digest holds, to its place in the mirror; False where there is no room."""
        if self._room is None:
            return False
        blocks = -(-(offset + len(data)) // _BLOCK_BYTES) - offset // _BLOCK_BYTES
        try:
            with self._room.writing(blocks * _BLOCK_BYTES) as may:
                if may:
                    self._write(number, offset, data)
                return may
        except OSError as error:
            if error.errno in _OF_THE_DISK:
                self._room.refuse()
            self._failed(error)
            return False

    def _write(self, number: int, offset: int, data: bytes | memoryview) -> None:
        try:
            file = self._writable.get(number)
        except FileNotFoundError:  # someone removed the folder
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._writable.get(number)
        before = os.fstat(file.descriptor)
        done = 0
        while done < len(data):
            done += os.pwrite(file.descriptor, data[done:], offset + done)
        if before.st_size:  # the time says when it was of use, and being written to is none
            os.utime(file.descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))

    def close(self) -> None:
        """Lets go of all files."""
        self._readable.close()
        self._writable.close()
        if self._room is not None:
            self._room.close()

    def _is_useless(self, mirror: Mirror) -> bool:
        since, num_looks = self._looks.get(self._numbers[mirror.path.name], (0.0, 0))
        return num_looks >= _NUM_LOOKS and mirror.used_at < since < time.time() - _USELESS_SECONDS

    def _failed(self, error: OSError) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
            print(
                f"cxr: warning: the cache {self._folder.parent} cannot be written ({reason}); what it has is used",
                file=sys.stderr,
                flush=True,
            )


def _name(tar: Place, digest: str) -> str:
    """File name of a tar's mirror, such as `nih-000012-0f3a9b2c4d5e6f70.tar`."""
    stem = os.path.splitext(name_of(tar))[0]
    return f"{stem}-{(digest or hashlib.sha256(absolute(tar).encode()).hexdigest())[:16]}.tar"
