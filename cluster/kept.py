"""Whole files of object stores, kept on this machine by their digest: fetched once, whoever asks and how often."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import threading
from pathlib import Path

from cluster import storage
from cluster.alone import alone_in
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
    alone = False
    with contextlib.ExitStack() as while_alone:
        with contextlib.suppress(OSError):  # a folder that cannot be written or knows no locks
            alone = while_alone.enter_context(alone_in(folder, _WAIT_SECONDS))
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
