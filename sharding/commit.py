"""From finished shards to a shard set: who may write where, what is still to do, and the commit.

An unfinished run keeps its records in `<out>.partial` beside the set, so that file names from the source never lie in
it. The order of the commit: tars and their indexes (each renamed into place), `index.parquet`, `manifest.json`, then
`<out>.partial` goes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.files import sha256_file, sync_folder, write_atomic
from sharding.index import INDEX, INDEX_SCHEMA, MANIFEST, SCHEMA_VERSION, partial_directory, read_manifest
from sharding.splits import torn_patients
from sharding.writer import ShardTask, record_path

ROWS_PER_GROUP = 65_536


def digest_of(value: Any) -> str:
    """blake2b-128 (32 hex digits) of plain data, as JSON with sorted keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def is_complete(out: Path, inputs: str) -> bool:
    """True where `out` already holds the shard set that these inputs give; False where it is still to be made.

    Raises ValueError, touching nothing, where `out` holds another shard set or other files.
    """
    if (out / MANIFEST).exists():
        manifest, _ = read_manifest(out)
        if manifest["inputs"] == inputs:
            return True
        raise ValueError(
            f"out: {out} is a complete shard set of another config, of other source files or with another key file: "
            "give another --out, or remove it first"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not partial_directory(out).is_dir():
        raise ValueError(f"out: {out} holds other files; give an absent or empty folder")
    return False


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Makes `out` and `<out>.partial`, and keeps every other run off them. Raises ValueError where one is at work.

    The records in `<out>.partial` hold names from the source, so that folder is its owner's alone (0700).
    """
    partial = partial_directory(out)
    partial.mkdir(mode=0o700, parents=True, exist_ok=True)
    if partial.stat().st_mode & 0o077:  # of an earlier version
        partial.chmod(0o700)
    lock = partial / "lock"
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"out: another run is writing {out}; wait for it, or give another --out") from None
        if not lock.exists() or os.fstat(file.fileno()).st_ino != lock.stat().st_ino:
            raise ValueError(f"out: another run has just ended on {out}; start again")
        out.mkdir(parents=True, exist_ok=True)
        yield


def commit(
    out: Path,
    tasks: Sequence[ShardTask],
    inputs: str,
    config: Mapping[str, Any],
    sources: Mapping[str, Any],
    num_refused_by_reader: int,
    code_version: str,
) -> dict[str, Any]:
    """Writes the index and then the manifest from the records of all shards; gives the manifest.

    Tars that no record names (left by a killed run of another config) are removed.
    """
    files: dict[str, dict[str, Any]] = {}
    shards: list[dict[str, Any]] = []
    num_refused = num_refused_by_reader
    temporary = partial_directory(out) / INDEX
    with pq.ParquetWriter(temporary, INDEX_SCHEMA, compression="zstd") as writer:
        waiting: list[dict[str, Any]] = []
        for task in tasks:
            record = json.loads(record_path(out, task.name, task.shard).read_bytes())
            assert record["digest"] == task.digest, task.shard
            files.update(record["files"])
            num_refused += len(record["refusals"])
            if record["rows"]:
                shards.append({"shard": task.shard, "split": task.images[0].split, "samples": len(record["rows"])})
            waiting += record["rows"]
            if len(waiting) >= ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, schema=INDEX_SCHEMA))
                waiting = []
        writer.write_table(pa.Table.from_pylist(waiting, schema=INDEX_SCHEMA))
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, out / INDEX)
    files[INDEX] = {"bytes": (out / INDEX).stat().st_size, "sha256": sha256_file(out / INDEX)}
    for path in sorted(out.iterdir()):
        if path.name not in files and re.search(r"(-\d{6}\.(tar|idx)|\.tmp)$", path.name):
            path.unlink()
    sync_folder(out)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": tasks[0].name,
        "findings": list(tasks[0].findings),
        "num_samples": sum(shard["samples"] for shard in shards),
        "num_levels": 1 + len(tasks[0].encoding.levels),
        "num_quarantined": num_refused,
        "num_patients_on_two_sides": _num_torn(out / INDEX),
        "counts": _counts(out / INDEX),
        "shards": shards,
        "files": dict(sorted(files.items())),
        "config": dict(config),
        "sources": dict(sources),
        "inputs": inputs,
        "code_version": code_version,
    }
    write_atomic(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    clear_partial(out)
    return manifest


def clear_partial(out: Path) -> None:
    """Removes what an unfinished run keeps."""
    shutil.rmtree(partial_directory(out), ignore_errors=True)


def _num_torn(index: Path) -> int:
    """Patients in several splits. Tables are refused for that before; DICOM headers are read too late to refuse."""
    table = pq.read_table(index, columns=["split", "patient"])
    return len(torn_patients(table.column("patient").to_pylist(), table.column("split").to_pylist()))


def _counts(index: Path) -> dict[str, dict[str, int]]:
    """Per split: images, images annotated with boxes, boxes, patients (0 where none is named)."""
    table = pq.read_table(index, columns=["split", "boxes", "patient"])
    counts: dict[str, dict[str, int]] = {}
    for split in sorted(pc.unique(table.column("split")).to_pylist()):
        part = table.filter(pc.equal(table.column("split"), split))
        counts[split] = {
            "images": part.num_rows,
            "images_with_annotation": part.num_rows - part.column("boxes").null_count,
            "boxes": pc.sum(pc.list_value_length(part.column("boxes"))).as_py() or 0,
            "patients": pc.count_distinct(part.column("patient")).as_py(),
        }
    return counts
