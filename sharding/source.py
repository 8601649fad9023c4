"""The bytes of a source image: a whole file or object, or a member of a tar or tar.gz."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

from cluster import storage
from cluster.storage import Stat
from sharding.archives import MAX_FILE_BYTES, index_path, is_gzip, open_gzip
from sharding.pixels import UnreadableImage, refuse
from sharding.sample import SourceImage

NUM_OPEN = 2
"""Archives that a process keeps open, each with its seek points in memory (8 MB for a GB) and a buffer."""

AHEAD_BYTES = 16 << 20
"""What is decompressed at once where members are read in order. Each time starts at a seek point, so less would
decompress much twice."""


class _Archive:
    """An open tar.gz. Members asked for in order, gaps allowed, are decompressed once; others cost a few MB each."""

    def __init__(self, path: str, index: Path | None) -> None:
        self._path = path
        try:
            self._file: Any = open_gzip(path, index)
        except OSError as error:
            if index is None or error.errno is not None:
                raise
            self._file = open_gzip(path, None)  # the seek points are damaged: they are made anew as it is read
        self._plain: Any = None
        self._begin = 0
        self._ahead = b""
        self._end = -1

    def read(self, begin: int, num_bytes: int) -> bytes:
        """Fewer bytes where the archive ends. Raises OSError, EOFError and zlib.error."""
        at = begin - self._begin
        in_order = 0 <= begin - self._end < AHEAD_BYTES
        self._end = begin + num_bytes
        if at >= 0 and at + num_bytes <= len(self._ahead):
            return self._ahead[at : at + num_bytes]
        if self._plain is None:
            try:
                if in_order and num_bytes < AHEAD_BYTES:
                    self._begin, self._ahead = begin, bytes(self._file.pread(AHEAD_BYTES, begin))
                    return self._ahead[:num_bytes]
                return bytes(self._file.pread(num_bytes, begin))
            except OSError:
                # Seek points are made ahead, so damage behind the member stops it: read on from the start instead.
                self._plain = gzip.GzipFile(fileobj=storage.open_input(self._path))
        self._plain.seek(begin)
        parts = [self._plain.read(min(512, num_bytes - done)) for done in range(0, num_bytes, 512)]
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
        if self._plain is not None:
            self._plain.close()


_Key = tuple[str, int, int, Path | None]
"""Archive, its bytes, its time and where its seek points are."""

_open: OrderedDict[_Key, _Archive] = OrderedDict()
_plain: dict[_Key, bool] = {}
"""Which are tars without compression, of which nothing is kept open."""
_lock = threading.Lock()


def read_source(image: SourceImage, index_folder: Path | None = None) -> bytes:
    """All bytes of the image's file.

    `index_folder` is where `sharding.archives.list_archives` has kept its seek points. Without it, or on a machine
    where it is missing, a tar.gz is decompressed once from its start by each process that reads from it.

    Raises UnreadableImage with the reason, also for more than MAX_FILE_BYTES; OSError for what may pass (a network or
    disk that fails), of which nothing about the image follows.
    """
    try:
        if image.span is None:
            num_bytes = _check(image)
            data = storage.read(image.path)
        else:
            num_bytes = image.span[1]
            _check_bytes(num_bytes)
            data = _member(image, image.span, index_folder)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableImage("its archive is damaged") from error
    except OSError as error:
        refuse(error)
    if len(data) < num_bytes:
        what = "it" if image.span is None else "its archive"
        raise UnreadableImage(f"{what} ends {num_bytes - len(data):,} bytes too early")
    return data


def _check(image: SourceImage) -> int:
    """Bytes of the file. Refuses what is no plain file, is too large, or has changed since the reader looked at it."""
    known = image.stat if storage.is_remote(image.path) else None  # asking again would be a request for each image
    stat = known or storage.stat(image.path)
    if not stat.is_plain:
        raise UnreadableImage("is not a plain file")
    _check_bytes(stat.num_bytes)
    if image.stat is not None and image.stat != stat:
        raise UnreadableImage("has changed since this run began")
    return stat.num_bytes


def _check_bytes(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise UnreadableImage(f"holds {num_bytes:,} bytes; more than {MAX_FILE_BYTES:,} are not read")


def _member(image: SourceImage, span: tuple[int, int], index_folder: Path | None) -> bytes:
    key = _key(image, index_folder)
    with _lock:
        if key not in _plain:
            _plain[key] = not is_gzip(image.path)
        if not _plain[key]:
            return _opened(key).read(*span)
    return storage.read(image.path, span)


def _key(image: SourceImage, index_folder: Path | None) -> _Key:
    """Of the archive as it is now; one in an object store is asked after when it is opened."""
    if storage.is_remote(image.path) and image.stat is not None:
        for key in _plain:
            if key[0] == image.path and key[2:] == (image.stat.mtime_ns, index_folder):
                return key
    stat = storage.stat(image.path)
    if image.stat is not None and image.stat.mtime_ns != stat.mtime_ns:
        raise UnreadableImage("its archive has changed since this run began")
    return image.path, stat.num_bytes, stat.mtime_ns, index_folder


def _opened(key: _Key) -> _Archive:
    """The open archive. The oldest of more than NUM_OPEN is closed."""
    if key in _open:
        _open.move_to_end(key)
        return _open[key]
    path, num_bytes, mtime_ns, folder = key
    index = None if folder is None else index_path(path, Stat(num_bytes, mtime_ns), folder)
    _open[key] = _Archive(path, index if index is not None and index.is_file() else None)
    while len(_open) > NUM_OPEN:
        _open.popitem(last=False)[1].close()
    return _open[key]
