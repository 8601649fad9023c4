"""Tars on a disk, read by offset: nothing is scanned, and nothing is opened twice while it is in use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from cluster.storage import Place
from loaders.failures import MissingShardError
from loaders.open_files import OpenFiles, read_fully


class LocalTars:
    """Reads parts of tars, from any number of threads."""

    def __init__(self, tars: Sequence[Place], max_open: int) -> None:
        """`tars`: by number. `max_open`: files kept open at most."""
        self._tars = tuple(tars)
        self._files = OpenFiles(tars, max_open)

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`length` bytes of a tar from `offset`, fewer where it ends. Raises MissingShardError."""
        try:
            file = self._files.get(number)
            return read_fully(file.descriptor, offset, length)
        except OSError as error:
            raise MissingShardError(self._tars[number], error.strerror or type(error).__name__) from error

    def advise(self, number: int, offset: int, length: int) -> None:
        """Says that these bytes will be read soon, so that the disk has more than one request to choose from."""
        with contextlib.suppress(OSError):
            file = self._files.get(number)
            os.posix_fadvise(file.descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Lets go of all files."""
        self._files.close()
