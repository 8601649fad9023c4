"""Shard sets of any number of rows: a real index by the real schema, over the bytes of one small real tar.

The tar is there once; the others are links to it, so that ten million rows take the disk of their index alone. Every
row has a digest of its own; the images repeat. Shapes: N rows, n rows of a piece, T images of the tar.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.progress import Progress
from sharding.build import run
from sharding.folder import FolderConfig
from sharding.index import ShardSet
from sharding.manifest import INDEX, MANIFEST, shard_name
from sharding.schema import INDEX_SCHEMA, LEVEL_TYPE

PER_TAR = 1000
"""Images of a tar."""
SIDE_PX = 64
PIECE = 500_000
"""Rows that are made at a time."""


def make_rows(work: Path, number: int, seed: int) -> Path:
    """A shard set of `number` rows below `work`, one level, made unless it is there."""
    out = work / f"rows-{number}-{seed}"
    if (out / MANIFEST).exists():
        return out
    small = _small_set(work / f"tar-{seed}", seed)
    real = ShardSet.open(small)
    out.mkdir(parents=True, exist_ok=True)
    name = str(real.manifest["name"])
    num_tars = -(-number // PER_TAR)
    files: dict[str, Any] = {}
    for tar in range(num_tars):
        for ending in (".tar", ".idx"):
            source = (small / shard_name(name, 0)).with_suffix(ending)
            link = (out / shard_name(name, tar)).with_suffix(ending)
            if not link.exists():
                link.symlink_to(source)
            files[link.name] = dict(real.manifest["files"][source.name])
    index = out / INDEX
    _write_index(index, real, number, seed)
    files[INDEX] = {"bytes": index.stat().st_size, "sha256": _sha256(index)}
    manifest = {**real.manifest, "num_samples": number, "files": files, "version": 1}
    (out / MANIFEST).write_text(json.dumps(manifest))
    return out


def _small_set(folder: Path, seed: int) -> Path:
    out = folder / "set"
    if not (out / MANIFEST).exists():
        images = folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        for number in range(PER_TAR):
            coarse = random.integers(0, 256, (8, 8)).astype(np.float32)
            image = np.clip(cv2.resize(coarse, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC), 0, 255)
            cv2.imwrite(str(images / f"{number:05d}.png"), image.astype(np.uint8))
        config = FolderConfig(root=images, out=out, split="none", samples_per_shard=PER_TAR, processes=1)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run(config)
    return out


def _write_index(path: Path, real: ShardSet, number: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    row = real.table([field.name for field in INDEX_SCHEMA]).slice(0, 1).to_pylist()[0]
    level = pa.Table.from_pylist([levels[0] for levels in real.table(["levels"]).column("levels").to_pylist()])
    with pq.ParquetWriter(path, INDEX_SCHEMA, compression="zstd") as writer, Progress(number, "bench: rows") as shown:
        for begin in range(0, number, PIECE):
            rows_n = np.arange(begin, min(begin + PIECE, number), dtype=np.int64)
            writer.write_table(_piece(rows_n, row, level, random), row_group_size=65_536)
            shown.update(len(rows_n))


def _piece(
    rows_n: npt.NDArray[np.int64], row: dict[str, Any], level_T: pa.Table, random: np.random.Generator
) -> pa.Table:
    digests = _hex(random.bytes(16 * len(rows_n)), len(rows_n))
    levels_n = level_T.take(pa.array(rows_n % PER_TAR))
    shard = pa.array((rows_n // PER_TAR).astype(np.int32))
    columns = [
        shard if f.name == "shard" else levels_n.column(f.name).combine_chunks().cast(f.type) for f in LEVEL_TYPE
    ]
    structs = pa.StructArray.from_arrays(columns, fields=list(LEVEL_TYPE))
    offsets = pa.array(np.arange(len(rows_n) + 1, dtype=np.int32))
    made: dict[str, Any] = {
        "key": pa.array(np.char.zfill(rows_n.astype("U9"), 9)),
        "digest": digests,
        "source_digest": digests,
        "patient": pa.array(np.char.add("p", (rows_n // 4).astype("U9"))),
        "levels": pa.ListArray.from_arrays(offsets, structs),
    }
    for field in INDEX_SCHEMA:
        if field.name not in made:
            made[field.name] = pa.array([row[field.name]], field.type).take(pa.array(np.zeros(len(rows_n), np.int8)))
    return pa.table([made[field.name] for field in INDEX_SCHEMA], schema=INDEX_SCHEMA)


def _hex(data: bytes, number: int) -> pa.Array:
    offsets = np.arange(number + 1, dtype=np.int32) * 32
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data.hex().encode())]
    return pa.Array.from_buffers(pa.string(), number, buffers)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
