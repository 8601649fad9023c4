"""Whole files of object stores, kept on this machine by their digest: fetched once, whoever asks and how often."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cluster import storage
from cluster.files import sha256_bytes, sha256_file, write_atomic

_WAIT_SECONDS = 300.0

_verified: dict[Path, tuple[int, int, int]] = {}
_told: set[Path] = set()
_lock = threading.Lock()


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/barlow-cxr/shards`, or the same below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if base.startswith("/") else os.path.expanduser("~/.cache")) / "barlow-cxr" / "shards"


def cache_folder(named: Path | None) -> Path | None:
    """The folder to cache in, made where it is absent: `named`, or else the default one.

    None where the default one cannot be written, which is told once on stderr. Raises ValueError where the named one
    cannot be.
    """
    folder = (named or default_cache()).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and folder.is_dir():  # what is there can still be used
            return folder
        reason = error.strerror or type(error).__name__
        if named is not None:
            raise ValueError(f"cache = {named}: cannot be written ({reason}); name another folder") from None
        with _lock:
            if folder not in _told:
                _told.add(folder)
                print(
                    f"cxr: warning: nothing is cached, for {folder} cannot be written ({reason}); "
                    "name a folder on a local disk as the cache",
                    file=sys.stderr,
                )
        return None


def kept(place: str, num_bytes: int, sha256: str, folder: Path | None) -> Path | bytes:
    """A file of an object store as a file in `folder`, fetched if it is not there whole; its bytes where that folder
    cannot be written or is None.

    Processes that ask at once fetch it once. Raises OSError where it cannot be fetched, ValueError where what is
    fetched has another digest.
    """
    if folder is None:
        return _fetched(place, num_bytes, sha256)
    path = folder / f"{sha256}{os.path.splitext(storage.name_of(place))[1]}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as alone:
        if not _holds(path, num_bytes, sha256):
            data = _fetched(place, num_bytes, sha256)
            try:
                for left in folder.glob(f".{path.name}.*.tmp") if alone else ():  # by one that was killed
                    left.unlink()
                write_atomic(path, data)
            except OSError:
                return data
    return path


def _fetched(place: str, num_bytes: int, sha256: str) -> bytes:
    data = storage.read(place)
    if len(data) != num_bytes or sha256_bytes(data) != sha256:
        raise ValueError(f"{place} is not the file its manifest names (digest differs): copy the shard set there again")
    return data


def _holds(path: Path, num_bytes: int, sha256: str) -> bool:
    """Whether the file is there and whole; its bytes are looked at once, and again when it changed."""
    try:
        found = path.stat()
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if _verified.get(path) != state:
            if found.st_size != num_bytes or sha256_file(path) != sha256:
                return False
            _verified[path] = state
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """One process at a time; one that dies makes room, and one that is stopped is not waited for without end.

    Gives whether this one is alone: where the folder knows no locks all go on.
    """
    descriptor, until = -1, time.monotonic() + _WAIT_SECONDS
    locked = False
    try:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            while not locked and time.monotonic() < until:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    locked = True
                except BlockingIOError:
                    time.sleep(0.02)
        yield locked
    finally:
        if descriptor >= 0:
            os.close(descriptor)
