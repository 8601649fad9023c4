"""Keyed pseudonyms: the same key and the same name always give the same one, and without the key nobody gets back."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cluster.files import sync_folder, write_atomic

KEY_BYTES = 32


def pseudonym(secret: bytes, kind: str, name: str) -> str:
    """First 16 hex digits of HMAC-SHA256(secret, kind and name). `kind` keeps patients and file names apart."""
    return hmac.new(secret, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()[:16]


def find_key(path: Path, shard_set: Path) -> bytes:
    """The secret in `path`, or a fresh one if the file is absent; nothing is written.

    Raises ValueError where the file is something else, or lies inside the shard set, where it would be given away.
    """
    if path.resolve().is_relative_to(shard_set.resolve()):
        raise ValueError(f"key_file: {path} lies inside the shard set {shard_set}; keep it elsewhere")
    return read_key(path) if path.exists() else secrets.token_bytes(KEY_BYTES)


def keep_key(path: Path, secret: bytes) -> None:
    """Writes the secret to `path` (64 hex digits, mode 0600) unless it is there already.

    Raises ValueError where the folder is missing or another secret has come to lie there.
    """
    if not path.parent.is_dir():
        raise ValueError(f"key_file: the folder {path.parent} does not exist; make it or name another file")
    whole = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    write_atomic(whole, secret.hex() + "\n", mode=0o600)
    try:
        os.link(whole, path)  # fails where there is one, unlike a rename
    except FileExistsError:
        if read_key(path) != secret:
            raise ValueError(f"key_file: another run has just made {path}; start again") from None
    finally:
        whole.unlink()
        sync_folder(path.parent)


def read_key(path: Path) -> bytes:
    """The secret in an existing key file. Raises ValueError where it does not hold 64 hex digits."""
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (UnicodeDecodeError, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ValueError(f"key_file: {path} does not hold {2 * KEY_BYTES} hex digits; name another file or remove it")
    return secret
