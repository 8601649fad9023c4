"""Tars on a disk, read by offset: nothing is scanned, and nothing is opened twice while it is in use."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from cluster.storage import Place
from loaders.failures import MissingShardError


class OpenFile:
    """An open file, closed when its last user lets go: eviction never closes it under a reader."""

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class LocalTars:
    """Reads parts of tars, from any number of threads."""

    def __init__(self, tars: Sequence[Place], max_open: int) -> None:
        """`tars`: by number. `max_open`: files kept open at most; the least recently used is let go."""
        self._tars = tuple(tars)
        self._max_open = max_open
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`length` bytes of a tar from `offset`, fewer where it ends. Raises MissingShardError."""
        try:
            file = self._file(number)  # held until the read is over, or an eviction would close it
            return read_fully(file.descriptor, offset, length)
        except OSError as error:
            raise MissingShardError(self._tars[number], error.strerror or type(error).__name__) from error

    def advise(self, number: int, offset: int, length: int) -> None:
        """Says that these bytes will be read soon, so that the disk has more than one request to choose from."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._file(number).descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Lets go of all files."""
        with self._lock:
            self._open.clear()

    def _file(self, number: int) -> OpenFile:
        with self._lock:
            file = self._open.get(number)
            if file is None:
                file = self._open[number] = OpenFile(Path(self._tars[number]))
                while len(self._open) > self._max_open:
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            return file


def read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, fewer only where the file ends. One pread may give less than asked for."""
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
