"""Bytes of a sample from a shard on a local disk, checked against the digest in the index.

Files are read by offset: nothing is scanned, and nothing is opened twice while it is in use.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash


class BadSampleError(RuntimeError):
    """A stored sample cannot be used. The message names it, its shard and the repair."""

    def __init__(self, key: str, shard: Path, reason: str) -> None:
        super().__init__(
            f"sample {key!r} in {shard}: {reason}; run `cxr verify {shard.parent}`, then make or copy that shard again"
        )
        self.key = key
        self.shard = shard
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSampleError], tuple[str, Path, str]]:
        return type(self), (self.key, self.shard, self.reason)


class MissingShardError(RuntimeError):
    """A shard that the index names cannot be read (any more)."""

    def __init__(self, shard: Path, reason: str) -> None:
        super().__init__(
            f"shard {shard} cannot be read ({reason}); is its disk still there? "
            f"Copy the shard set again, or run `cxr verify {shard.parent}`"
        )
        self.shard = shard
        self.reason = reason

    def __reduce__(self) -> tuple[type[MissingShardError], tuple[Path, str]]:
        return type(self), (self.shard, self.reason)


class _OpenFile:
    """A file open for reading, closed when its last user lets go: eviction never closes it under a reader."""

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Store:
    """Reads samples from shards, from any number of threads."""

    def __init__(
        self, shards: Sequence[Path], key_of: Callable[[int], str], check_digests: bool, max_open: int = 64
    ) -> None:
        """`shards`: the tars by number. `key_of`: the key of a row, for messages.

        `max_open`: files kept open at most; the least recently used is let go.
        """
        self._shards = tuple(shards)
        self._key_of = key_of
        self._check_digests = check_digests
        self._max_open = max_open
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: int, shard: int, offset: int, length: int, digest: bytes) -> npt.NDArray[np.uint8]:
        """The encoded bytes of the sample in this row, uint8 [length].

        `digest`: xxh3-128 of these bytes. Raises BadSampleError where the shard ends too early or the digest does
        not hold, MissingShardError where the shard cannot be opened or read.
        """
        path = self._shards[shard]
        try:
            file = self._file(shard)  # held until the read is over, or an eviction would close it
            data = _read_fully(file.descriptor, offset, length)
        except OSError as error:
            raise MissingShardError(path, error.strerror or type(error).__name__) from error
        if len(data) < length:
            raise BadSampleError(self._key_of(row), path, f"the shard ends {length - len(data)} bytes too early")
        if self._check_digests and xxhash.xxh3_128_digest(data) != digest:
            raise BadSampleError(
                self._key_of(row), path, "its bytes are not those the index was made from (digest differs)"
            )
        return np.frombuffer(data, np.uint8)

    def close(self) -> None:
        """Lets go of all files."""
        with self._lock:
            self._open.clear()

    def _file(self, shard: int) -> _OpenFile:
        with self._lock:
            file = self._open.get(shard)
            if file is None:
                file = self._open[shard] = _OpenFile(self._shards[shard])
                while len(self._open) > self._max_open:
                    self._open.popitem(last=False)
            self._open.move_to_end(shard)
            return file


def _read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, fewer only where the file ends. One pread may give less than asked for."""
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
