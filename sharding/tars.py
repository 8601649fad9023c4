"""The tars of a shard set: where their members lie, DALI's index of them, a digest while they are written."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import BinaryIO

DALI_INDEX_VERSION = "v1.2"


def read_members(tar: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Of each key in a tar, in order: member name -> (offset of its first byte, bytes)."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            places.setdefault(key, {})[ending] = (member.offset_data, member.size)
    return places


def dali_index(places: dict[str, dict[str, tuple[int, int]]]) -> str:
    """The text that DALI's `wds2idx` would write for these members."""
    lines = [f"{DALI_INDEX_VERSION} {len(places)}"]
    for key, members in places.items():
        lines.append(" ".join(f"{ending} {offset} {size} {key}.{ending}" for ending, (offset, size) in members.items()))
    return "\n".join(lines) + "\n"


class HashedFile:
    """A file that is written in one go, its sha256 taken on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """The file below is closed by who opened it."""
