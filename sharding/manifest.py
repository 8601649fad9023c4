"""The manifest of a shard set, its commit point, and the names of its files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import storage
from cluster.storage import Place

SCHEMA_VERSION = 2
"""Raised when an older reader would misread what is written."""

MANIFEST = "manifest.json"
INDEX = "index.parquet"


def shard_name(name: str, shard: int) -> str:
    """File name of a tar, such as `nih-000012.tar`; its DALI index ends in `.idx` instead."""
    return f"{name}-{shard:06d}.tar"


def index_name(delivery: int) -> str:
    """File name of the index of a delivery, 0 the first."""
    return INDEX if delivery == 0 else f"index-{delivery:06d}.parquet"


def index_names(manifest: Mapping[str, Any]) -> list[str]:
    """The index files of a shard set, in order."""
    return [index_name(number) for number in range(manifest["version"])]


def earlier_manifest(version: int) -> str:
    """File name under which the manifest of that version (1 the first) stays when a later one takes its place."""
    return f"manifest-{version - 1:06d}.json"


def partial_directory(directory: str | Path) -> Path:
    """The folder beside a shard set in which an unfinished run keeps its records: `<out>.partial`."""
    return Path(f"{directory}.partial")


def parse_manifest(data: bytes, path: str) -> dict[str, Any]:
    """The manifest in these bytes, read from `path`. Raises ValueError where it is none, or of another version."""
    try:
        manifest: dict[str, Any] = json.loads(data)
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not the manifest of a shard set: copy or make the shard set again") from None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}: "
            f"{'update barlow-cxr' if version > SCHEMA_VERSION else 'make the shard set again'}"
        )
    return manifest


def read_manifest(place: Place, name: str = MANIFEST) -> tuple[dict[str, Any], str]:
    """The manifest of a shard set and the sha256 of the file. Raises ValueError as ShardSet.open does."""
    path = below(place, name)
    if isinstance(place, Path) and not place.is_dir():
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
            raise ValueError(f"{place} is a URL, and this takes a folder on a disk: copy the shard set here")
        raise ValueError(f"{place} is not a folder: make a shard set with `cxr shard nih|vindr|folder --out ...`")
    try:
        data = storage.read(path)
    except FileNotFoundError:
        raise ValueError(_why_no_set(place, name)) from None
    return parse_manifest(data, str(path)), hashlib.sha256(data).hexdigest()


def below(place: Place, name: str) -> Place:
    """A file of a shard set."""
    return place / name if isinstance(place, Path) else storage.join(place, name)


def sizes_in(place: Place) -> dict[str, int]:
    """Bytes of each file; of an object store in one listing."""
    if isinstance(place, Path):
        return {entry.name: entry.stat().st_size for entry in os.scandir(place) if entry.is_file()}
    return {found.name: found.stat.num_bytes for found in storage.files_in(place) if found.stat is not None}


def _why_no_set(place: Place, name: str) -> str:
    unfinished = isinstance(place, Path) and partial_directory(place).is_dir()
    has_tars = any(file.endswith(".tar") for file in sizes_in(place))
    if unfinished:
        return f"{place} is an unfinished shard set (no {name}): run the same `cxr shard` again, it goes on"
    if has_tars:
        return (
            f"{place} has tars but no {name}: copy it back from where the set came from, or, if its making "
            "was broken off, remove the folder and run `cxr shard` again"
        )
    return f"{place} is not a shard set (no {name}): make one with `cxr shard nih|vindr|folder --out ...`"
