"""What a shard set holds: its manifest (the commit point) and its index, one row per sample.

A shard set is a folder of `<name>-000000.tar` ... with `<name>-000000.idx` ... (for DALI's own reader),
`index.parquet` and `manifest.json`, which is written last. Each later delivery (`--append`) adds tars, an
`index-000001.parquet` of its own and a manifest that names all; the manifest before it stays as `manifest-000000.json`.

Shapes: N samples, K boxes of one sample, B boxes of all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA_VERSION = 2
"""Raised when an older reader would misread what is written."""

MANIFEST = "manifest.json"
INDEX = "index.parquet"

BOX_TYPE = pa.struct(
    [
        ("finding", pa.int16()),
        ("x_min", pa.float64()),
        ("y_min", pa.float64()),
        ("x_max", pa.float64()),
        ("y_max", pa.float64()),
    ]
)
LEVEL_TYPE = pa.struct(
    [
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("digest", pa.string()),
    ]
)
INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("source_digest", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("patient", pa.string()),
        pa.field("sex", pa.string()),
        pa.field("age_band", pa.string()),
        pa.field("view_position", pa.string()),
        pa.field("scanner", pa.string()),
        pa.field("fold", pa.int16()),
        pa.field("subset", pa.float64()),
        pa.field("findings", pa.list_(pa.int16())),
        pa.field("boxes", pa.list_(BOX_TYPE)),
        pa.field("levels", pa.list_(LEVEL_TYPE), nullable=False),
    ]
)
"""Columns of `index.parquet`.

`digest`: xxh3-128 (32 hex digits) of the stored full-size gray pixels, their shape and the key; augmentation is
seeded by it. `source_digest`: xxh3-128 of the file that it came from. `fold`, `subset`: see `sharding.arrange`.
`height`, `width`: of the original image, whose pixels `boxes` are in. `levels`: level 0 is the full-size image, the
others smaller copies; `offset` and `length` are the encoded bytes inside the tar, `digest` their xxh3-128.
"""


@dataclass(frozen=True, slots=True)
class LevelColumns:
    """Where the encoded images of one level lie, one entry per row."""

    shard: npt.NDArray[np.int32]
    """[N] number of the tar."""
    offset: npt.NDArray[np.int64]
    """[N] first byte of the image in the tar."""
    length: npt.NDArray[np.int64]
    """[N] bytes of the encoded image."""
    height: npt.NDArray[np.int32]
    """[N] rows of the stored image."""
    width: npt.NDArray[np.int32]
    """[N] columns of the stored image."""
    digest: list[str]
    """[N] xxh3-128 of the encoded image, 32 hex digits."""


class ShardSet:
    """A complete shard set, opened for reading. Columns of its index come into memory when they are asked for."""

    def __init__(self, directory: Path, manifest: dict[str, Any], digest: str) -> None:
        self.directory = directory
        self.manifest = manifest
        self.digest = digest
        self.findings: tuple[str, ...] = tuple(manifest["findings"])
        self.num_levels: int = manifest["num_levels"]
        self._columns: dict[str, pa.ChunkedArray] = {}

    @staticmethod
    def open(directory: Path, version: int | None = None) -> ShardSet:
        """The shard set in `directory`, as it is or as it was with its first `version` deliveries.

        Raises ValueError, with the repair, where there is none, where it is incomplete or has lost files, or where a
        newer program wrote it. Digests of whole files are `sharding.verify`'s work.
        """
        directory = Path(directory)
        manifest, digest = read_manifest(directory)
        if version is not None and version != manifest["version"]:
            if not 1 <= version <= manifest["version"]:
                raise ValueError(f"{directory} has versions 1 to {manifest['version']}, not {version}")
            manifest, digest = read_manifest(directory, earlier_manifest(version))
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(directory) if entry.is_file()}
        for name, entry in manifest["files"].items():
            if sizes.get(name) != entry["bytes"]:
                have = f"has {sizes[name]} bytes instead of {entry['bytes']}" if name in sizes else "is missing"
                raise ValueError(
                    f"{directory / name} {have}: copy the shard set again, or run `cxr verify {directory}`"
                )
        for name in index_names(manifest):
            if not pq.read_schema(directory / name).equals(INDEX_SCHEMA):
                raise ValueError(
                    f"{directory / name} has other columns than this version: run `cxr verify {directory}`"
                )
        return ShardSet(directory, manifest, digest)

    def __len__(self) -> int:
        return int(self.manifest["num_samples"])

    def table(self, names: Sequence[str]) -> pa.Table:
        """These columns of the index."""
        missing = [name for name in names if name not in self._columns]
        if missing:
            parts = [pq.read_table(self.directory / name, columns=missing) for name in index_names(self.manifest)]
            whole = pa.concat_tables(parts).combine_chunks()
            self._columns |= {name: whole.column(name) for name in missing}
        return pa.table({name: self._columns[name] for name in names})

    def rows(
        self,
        split: str | Sequence[str] | None,
        has_boxes: bool | None = None,
    ) -> npt.NDArray[np.int64]:
        """Row numbers in index order, of one split, of several, or (None) of all.

        `has_boxes`: True keeps images that were annotated with boxes (also where none was drawn), False the others.
        """
        keep_N = np.ones(len(self), dtype=bool)
        if split is not None:
            wanted = [split] if isinstance(split, str) else list(split)
            column = self.table(["split"]).column("split")
            keep_N &= pc.is_in(column, value_set=pa.array(wanted, pa.string())).to_numpy()
        if has_boxes is not None:
            keep_N &= self._boxes[0] == has_boxes
        return np.flatnonzero(keep_N).astype(np.int64)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the index as NumPy [N]; strings and lists as objects, None where unknown."""
        return np.asarray(self.table([name]).column(name).to_numpy())

    def level(self, number: int) -> LevelColumns:
        """Where the images of a level lie: 0 is full size, up to `num_levels - 1`."""
        if not 0 <= number < self.num_levels:
            raise ValueError(f"{self.directory} has levels 0 to {self.num_levels - 1}, not {number}")
        flat = self.table(["levels"]).column("levels").combine_chunks().flatten()

        def pick(name: str) -> npt.NDArray[Any]:
            column_NL = flat.field(name).to_numpy(zero_copy_only=False)
            return np.ascontiguousarray(column_NL[number :: self.num_levels])

        digests = [str(digest) for digest in pick("digest")]
        return LevelColumns(pick("shard"), pick("offset"), pick("length"), pick("height"), pick("width"), digests)

    @cached_property
    def _boxes(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Whether a row has boxes [N], where its boxes end [N], corners [B, 4], findings [B]."""
        boxes = self.table(["boxes"]).column("boxes").combine_chunks()
        flat = boxes.flatten()
        lengths = pc.fill_null(pc.list_value_length(boxes), 0).to_numpy(zero_copy_only=False)
        corners = [flat.field(name).to_numpy(zero_copy_only=False) for name in ("x_min", "y_min", "x_max", "y_max")]
        return (
            boxes.is_valid().to_numpy(zero_copy_only=False),
            np.cumsum(lengths, dtype=np.int64),
            np.stack(corners, axis=1).astype(np.float32),
            flat.field("finding").to_numpy(zero_copy_only=False).astype(np.int64),
        )

    def boxes_of(self, row: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Boxes of a row: x_min, y_min, x_max, y_max in original pixels float32 [K, 4], and their findings [K].

        K is 0 both where nobody annotated and where nothing was found; `rows(..., has_boxes=True)` tells them apart.
        """
        _, ends_N, corners_B4, findings_B = self._boxes
        begin = int(ends_N[row - 1]) if row > 0 else 0
        end = int(ends_N[row])
        return corners_B4[begin:end].copy(), findings_B[begin:end].copy()

    def key_of(self, row: int) -> str:
        """Key of a row."""
        return str(self.table(["key"]).column("key")[row].as_py())

    def findings_of(self, row: int) -> tuple[int, ...] | None:
        """Findings of a row as positions in `findings`; () is healthy, None unknown."""
        value = self.table(["findings"]).column("findings")[row].as_py()
        return None if value is None else tuple(value)

    def shard_path(self, shard: int) -> Path:
        """The tar with this number."""
        return self.directory / shard_name(str(self.manifest["name"]), shard)


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


def read_manifest(directory: Path, name: str = MANIFEST) -> tuple[dict[str, Any], str]:
    """The manifest of a shard set and the sha256 of the file. Raises ValueError as ShardSet.open does."""
    path = directory / name
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a folder: make a shard set with `cxr shard nih|vindr|folder --out ...`")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if any(directory.glob("*.tar")) or partial_directory(directory).is_dir():
            if not partial_directory(directory).is_dir():
                raise ValueError(
                    f"{directory} has tars but no {name}: copy it back from where the set came from, or, if its making "
                    "was broken off, remove the folder and run `cxr shard` again"
                ) from None
            raise ValueError(
                f"{directory} is an unfinished shard set (no {name}): run the same `cxr shard` again, it goes on"
            ) from None
        raise ValueError(
            f"{directory} is not a shard set (no {name}): make one with `cxr shard nih|vindr|folder --out ...`"
        ) from None
    return parse_manifest(data, str(path)), hashlib.sha256(data).hexdigest()
