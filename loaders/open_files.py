"""Files that are read by offset: kept open while they are in use, and closed under no reader."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence

from cluster.storage import Place


class OpenFile:
    """An open file, closed when its last user lets go: eviction never closes it under a reader."""

    def __init__(self, path: Place, flags: int = os.O_RDONLY) -> None:
        """Raises OSError."""
        self.descriptor = -1
        self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class OpenFiles:
    """Files by number, opened when asked for, from any number of threads; the least recently used is let go."""

    def __init__(self, paths: Sequence[Place], max_open: int, flags: int = os.O_RDONLY, renew: bool = False) -> None:
        """`flags`: of open(2). `renew`: whether a file that was removed is opened again, where there is another."""
        self._paths = tuple(paths)
        self._max_open = max_open
        self._flags = flags
        self._renew = renew
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int) -> OpenFile:
        """The file, to be held until what is done with it is over. Raises OSError."""
        with self._lock:
            file = self._open.get(number)
            if file is not None and self._renew and os.fstat(file.descriptor).st_nlink == 0:
                del self._open[number]  # what was removed takes room on the disk until it is closed
                file = None
            if file is None:
                file = self._open[number] = OpenFile(self._paths[number], self._flags)
                while len(self._open) > self._max_open:
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            return file

    def close(self) -> None:
        """Lets go of all files."""
        with self._lock:
            self._open.clear()


def read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, fewer only where the file ends. One pread may give less than asked for."""
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
