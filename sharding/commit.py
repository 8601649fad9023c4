"""From finished shards to a shard set: who may write where, and the commit.

An unfinished run keeps its records in a folder of its own (`OutputConfig.records`), so that file names from the source
never lie in the set. The order of the commit: tars and their indexes (each appears when it is whole), the delivery's
parquet index, the manifest under its own name where it is replaced, `manifest.json`, then the records go.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from cluster.files import sha256_file
from cluster.target import Target, lease
from sharding.manifest import MANIFEST, SCHEMA_VERSION, earlier_manifest, index_name, index_names
from sharding.options import OutputConfig
from sharding.records import read_record
from sharding.schema import INDEX_SCHEMA
from sharding.splits import PatientSides
from sharding.task import ShardTask

ROWS_PER_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class Held:
    """A target that nobody else writes to."""

    folder: Path
    """Where the run keeps its records."""
    check: Callable[[], None]
    """Raises RuntimeError where somebody else may have taken the target over, which an object store allows after a
    while without a sign of life. To be called before anything that readers would see."""


@contextmanager
def hold(config: OutputConfig, target: Target) -> Iterator[Held]:
    """Makes the folder of records and keeps every other run off target and folder.

    Raises ValueError where one is at work. The records hold names from the source: their folder is 0700.
    """
    folder = config.records()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError, FileNotFoundError) as error:
        raise ValueError(f"out: {config.out} cannot be made ({error.strerror}: {error.filename})") from None
    lock = folder / "lock"
    try:
        if folder.stat().st_mode & 0o077:  # of an earlier version
            folder.chmod(0o700)
        file = open(lock, "w")  # noqa: SIM115
    except FileNotFoundError:
        raise ValueError(f"out: another run has just ended on {config.out}; start again") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"out: another run is writing {config.out}; wait for it, or give another --out") from None
        if not lock.exists() or os.fstat(file.fileno()).st_ino != lock.stat().st_ino:
            raise ValueError(f"out: another run has just ended on {config.out}; start again")
        if storage.is_remote(config.out):
            with lease(target.place) as check:
                yield Held(folder, check)
        else:
            yield Held(folder, lambda: None)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a run adds to a shard set, as the manifest tells it."""

    reader: str
    """Which reader made it: nih, vindr or folder."""
    inputs: str
    """Digest of all that decides its bytes."""
    config: Mapping[str, Any]
    sources: Mapping[str, Any]
    """Tables with their digests; number and bytes of the images."""
    samples_per_shard: int
    num_refused_by_reader: int
    num_dropped: int
    """Images that the reader found and the config did not want."""
    key_print: str
    """What tells whether another key was used."""
    code_version: str


def commit(
    target: Target,
    held: Held,
    tasks: Sequence[ShardTask],
    delivery: Delivery,
    before: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Writes the index and then the manifest from the records of all shards; gives the manifest.

    `before` is the manifest that the delivery is added to. Without a sample nothing is written, and None given.
    Tars that no record names (left by a killed run of another config) are removed.
    """
    folder = held.folder
    number = 0 if before is None else int(before["version"])
    files: dict[str, dict[str, Any]] = {} if before is None else dict(before["files"])
    shards: list[dict[str, Any]] = []
    num_refused, num_left_out = delivery.num_refused_by_reader, delivery.num_dropped
    sizes = target.sizes()
    index = folder / index_name(number)

    def rows() -> Iterator[Sequence[dict[str, Any]]]:
        nonlocal num_refused, num_left_out
        for task in tasks:
            record = read_record(folder, task, sizes)
            assert record is not None, task.shard
            files.update(record.files)
            num_refused += len(record.refusals)
            num_left_out += record.num_left_out
            if record.rows:
                about = {"shard": task.shard, "split": task.images[0].split, "samples": len(record.rows)}
                shards.append(about | {"source_xxh3_128": record.source_digest})
            yield record.rows

    write_index(index, rows())
    num_samples = sum(shard["samples"] for shard in shards)
    if num_samples == 0:
        return None
    files[index.name] = {"bytes": index.stat().st_size, "sha256": sha256_file(index)}
    held.check()
    target.put(index.name, index)
    ours = re.compile(rf"{re.escape(tasks[0].name)}-\d{{6}}\.(tar|idx)|\.{re.escape(tasks[0].name)}-.*\.tmp")
    for name in sizes:
        if name not in files and ours.fullmatch(name):
            target.remove(name)
    deliveries = [] if before is None else list(before["deliveries"])
    deliveries.append(
        {
            "num_samples": num_samples,
            "num_quarantined": num_refused,
            "num_left_out": num_left_out,
            "samples_per_shard": delivery.samples_per_shard,
            "config": dict(delivery.config),
            "sources": dict(delivery.sources),
            "inputs": delivery.inputs,
            "reader": delivery.reader,
            "key_print": delivery.key_print,
            "code_version": delivery.code_version,
        }
    )
    if before is not None:
        files[earlier_manifest(number)] = _keep_manifest(target, number)
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "version": number + 1,
        "name": tasks[0].name,
        "findings": list(tasks[0].findings),
        "num_samples": sum(entry["num_samples"] for entry in deliveries),
        "num_levels": 1 + len(tasks[0].encoding.levels),
        "num_quarantined": sum(entry["num_quarantined"] for entry in deliveries),
        "num_left_out": sum(entry["num_left_out"] for entry in deliveries),
        "codec": tasks[0].encoding.codec,
        "bits": tasks[0].encoding.rendering.bits,
        "keep_names": bool(delivery.config.get("keep_names", True)),
    }
    manifest |= count_rows(target, index_names(manifest))
    manifest["shards"] = ([] if before is None else list(before["shards"])) + shards
    manifest["files"] = dict(sorted(files.items()))
    manifest["deliveries"] = deliveries
    held.check()
    target.write(MANIFEST, json.dumps(manifest, indent=1) + "\n")
    clear(folder)
    return manifest


def write_index(path: Path, rows: Iterable[Sequence[dict[str, Any]]]) -> None:
    """A parquet index of the rows of one shard after another; the same rows give the same bytes.

    Raises RuntimeError for rows that are none: pyarrow's own error would pass for a mistake of the user's.
    """
    try:
        _write_rows(path, rows)
    except pa.ArrowException as error:
        raise RuntimeError(f"{path.name}: {error}") from error


def _write_rows(path: Path, rows: Iterable[Sequence[dict[str, Any]]]) -> None:
    with pq.ParquetWriter(path, INDEX_SCHEMA, compression="zstd") as writer:
        waiting: list[dict[str, Any]] = []
        for more in rows:
            waiting += more
            if len(waiting) >= ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, schema=INDEX_SCHEMA))
                waiting = []
        writer.write_table(pa.Table.from_pylist(waiting, schema=INDEX_SCHEMA))


def _keep_manifest(target: Target, version: int) -> dict[str, Any]:
    """The manifest stays under a name of its own when the next one takes its place."""
    data = target.read(MANIFEST)
    target.write(earlier_manifest(version), data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def clear_leftovers(config: OutputConfig, target: Target, manifest: Mapping[str, Any]) -> None:
    """Removes the records of a run that was killed when its set was complete; those of an unfinished delivery stay."""
    folder = config.records()
    if not folder.is_dir():
        return
    with suppress(ValueError), hold(config, target):
        if all(path.stem in manifest["files"] for path in folder.glob("*.json")):
            clear(folder)


def clear(folder: Path) -> None:
    """Removes what an unfinished run keeps."""
    shutil.rmtree(folder, ignore_errors=True)


def count_rows(target: Target, indexes: Sequence[str]) -> dict[str, Any]:
    """Per split: images, images annotated with boxes, boxes, patients (0 where none is named); and the patients that
    are in several splits. (Tables are refused for that before; DICOM headers are read too late to refuse.)

    The indexes are read batch by batch.
    """
    counts: dict[str, dict[str, int]] = {}
    sides = PatientSides()
    for name in indexes:
        with target.local(name) as path:
            for batch in pq.ParquetFile(path).iter_batches(columns=["split", "boxes", "patient"]):
                splits, boxes = batch.column("split"), batch.column("boxes")
                sides.see(batch.column("patient").to_pylist(), splits.to_pylist())
                for split in pc.unique(splits).to_pylist():
                    mine = boxes.filter(pc.equal(splits, split))
                    entry = counts.setdefault(split, {"images": 0, "images_with_annotation": 0, "boxes": 0})
                    entry["images"] += len(mine)
                    entry["images_with_annotation"] += len(mine) - mine.null_count
                    entry["boxes"] += pc.sum(pc.list_value_length(mine)).as_py() or 0
    patients = sides.num_patients()
    return {
        "num_patients_on_two_sides": len(sides.torn()),
        "counts": {s: entry | {"patients": patients.get(s, 0)} for s, entry in sorted(counts.items())},
    }
