"""Files that are either there in full or not at all, and their digests."""

import hashlib
import os
import secrets
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes | str, mode: int = 0o666) -> None:
    """Writes `data` (text as UTF-8) so that `path` holds the old content or the new, never a part.

    A temporary name in the same folder, fsync, rename, fsync of the folder. The folder must exist.
    `mode` (less the umask) is the file's from its first moment on: 0o600 for its owner alone. A failure removes the
    temporary file and leaves `path` untouched; a kill may leave `.<name>.<hex>.tmp` behind.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sha256_file(path: Path) -> str:
    """SHA-256 of the file's bytes as 64 hex digits; memory does not grow with the file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of these bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
