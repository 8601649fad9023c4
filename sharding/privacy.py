"""Keyed pseudonyms: the same key and the same name always give the same one, and without the key nobody gets back."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

KEY_BYTES = 32


def pseudonym(secret: bytes, kind: str, name: str) -> str:
    """First 16 hex digits of HMAC-SHA256(secret, kind and name). `kind` keeps patients and file names apart."""
    return hmac.new(secret, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()[:16]


def open_key(path: Path, shard_set: Path) -> bytes:
    """The secret in `path` (64 hex digits), made there with mode 0600 if the file is absent.

    Raises ValueError where the file is something else, or lies inside the shard set, where it would be given away.
    """
    if path.resolve().is_relative_to(shard_set.resolve()):
        raise ValueError(f"key_file: {path} lies inside the shard set {shard_set}; keep it elsewhere")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(path)
    except FileNotFoundError:
        raise ValueError(f"key_file: the folder {path.parent} does not exist; make it or name another file") from None
    secret = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(handle, "w") as file:
        file.write(secret.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return secret


def read_key(path: Path) -> bytes:
    """The secret in an existing key file. Raises ValueError where it does not hold 64 hex digits."""
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (UnicodeDecodeError, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ValueError(f"key_file: {path} does not hold {2 * KEY_BYTES} hex digits; name another file or remove it")
    return secret
