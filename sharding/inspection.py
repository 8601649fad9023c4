"""What is wrong with a shard set: every file, sample and row looked at, shard by shard, in bounded memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.progress import Progress
from cluster.target import LocalTarget, Target, open_target
from cluster.tasks import map_tasks
from sharding.manifest import (
    MANIFEST,
    earlier_manifest,
    index_name,
    index_names,
    parse_manifest,
    read_manifest,
    shard_name,
)
from sharding.sample import KEY_PATTERN, SPLITS
from sharding.schema import INDEX_SCHEMA
from sharding.shard_check import Hash, ShardCheck, check_file, check_shard
from sharding.splits import PatientSides


@dataclass(slots=True)
class Inspection:
    """What was found."""

    problems: list[str] = field(default_factory=list)
    """One line each."""
    shards: set[int] = field(default_factory=set)
    """Shards that are not as they were written."""
    indexes: set[int] = field(default_factory=set)
    """Deliveries whose parquet index is not as it was written."""
    unfinished: bool = False
    """Files of a delivery that is not committed lie there too."""
    hashes_N4: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 4), np.uint64))
    """Perceptual hashes, one per row that decodes, where asked for."""
    rows: list[tuple[str, str]] = field(default_factory=list)
    """Key and split of these rows."""


def load_manifest(place: str | Path) -> tuple[Target, dict[str, Any]]:
    """A shard set's folder, which may be in an object store, and its manifest. Raises ValueError where it is none."""
    target = open_target(place)
    if isinstance(target, LocalTarget):
        return target, read_manifest(Path(target.place))[0]
    if MANIFEST not in target.sizes():
        raise ValueError(f"{place} is not a complete shard set (no {MANIFEST})")
    return target, parse_manifest(target.read(MANIFEST), f"{place}/{MANIFEST}")


def find_problems(directory: str | Path, processes: int = 1) -> list[str]:
    """What is wrong with a shard set, empty if nothing. Raises ValueError where there is no manifest to go by."""
    return inspect(directory, processes).problems


def inspect(directory: str | Path, processes: int = 1, hashed: bool = False) -> Inspection:
    """Looks at all of a shard set; `hashed`: takes perceptual hashes of its images too."""
    target, manifest = load_manifest(directory)
    found = Inspection()
    sizes = target.sizes()
    for name in sorted(sizes.keys() - manifest["files"].keys() - {MANIFEST}):
        if _is_of_next_delivery(name, manifest):
            found.unfinished = True
        else:
            found.problems.append(f"{name}: not a file of this shard set")
    for name in manifest["files"]:
        if name.startswith("manifest-"):
            found.problems += check_file(target, name, manifest["files"])
    if not _check_indexes(target, manifest, sizes, found):
        return found
    taken: list[Hash] = []
    numbers: list[tuple[int, int]] = []

    def checks() -> Iterator[ShardCheck]:
        for shard, rows in shard_rows(target, manifest):
            numbers.append((shard, len(rows)))
            yield ShardCheck(
                target,
                str(manifest["name"]),
                shard,
                tuple(manifest["findings"]),
                {n: manifest["files"][n] for n in _files_of(manifest, shard) if n in manifest["files"]},
                rows,
                bool(manifest["keep_names"]),
                manifest["codec"],
                manifest["bits"],
                hashed,
            )

    with Progress(manifest["num_samples"], "verify", "samples") as progress:
        for done, result in enumerate(map_tasks(check_shard, checks(), processes)):
            shard, num_rows = numbers[done]
            found.problems += result.problems
            if result.problems:
                found.shards.add(shard)
            taken += result.hashes
            progress.update(num_rows)
    missing = {int(entry["shard"]) for entry in manifest["shards"]} - {shard for shard, _ in numbers}
    found.problems += [f"{shard_name(manifest['name'], shard)}: no row is in it" for shard in sorted(missing)]
    found.rows = [(key, split) for key, split, _ in taken]
    found.hashes_N4 = np.stack([bits for _, _, bits in taken]) if taken else np.zeros((0, 4), np.uint64)
    return found


def _is_of_next_delivery(name: str, manifest: dict[str, Any]) -> bool:
    """Whether an `--append` that is at work, or was killed, may have put it there: what is committed stays whole."""
    version = int(manifest["version"])
    first = 1 + max((int(entry["shard"]) for entry in manifest["shards"]), default=-1)
    tar = re.fullmatch(rf"{re.escape(manifest['name'])}-(\d{{6}})\.(tar|idx)", name)
    if tar is not None:
        return int(tar[1]) >= first
    return name in (index_name(version), earlier_manifest(version)) or re.fullmatch(r"\..*\.tmp", name) is not None


def _files_of(manifest: dict[str, Any], shard: int) -> list[str]:
    tar = shard_name(manifest["name"], shard)
    return [tar, Path(tar).with_suffix(".idx").name]


def shard_rows(target: Target, manifest: dict[str, Any]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Every shard's number and rows, in the order of the index; no more than a few shards' are in memory."""
    waiting: list[dict[str, Any]] = []
    for name in index_names(manifest):
        with target.local(name) as path:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    if waiting and row["levels"][0]["shard"] != waiting[0]["levels"][0]["shard"]:
                        yield waiting[0]["levels"][0]["shard"], waiting
                        waiting = []
                    waiting.append(row)
    if waiting:
        yield waiting[0]["levels"][0]["shard"], waiting


def _check_indexes(target: Target, manifest: dict[str, Any], sizes: dict[str, int], found: Inspection) -> bool:
    """Whether the indexes can be read; what is wrong in them goes to `found`."""
    readable = True
    hashes: list[npt.NDArray[np.uint64]] = []
    splits: Counter[str] = Counter()
    sides = PatientSides()
    for number, name in enumerate(index_names(manifest)):
        wrong = list(check_file(target, name, manifest["files"]))
        found.problems += wrong
        if wrong:
            found.indexes.add(number)
        if name not in sizes:
            readable = False
            continue
        try:
            with target.local(name) as path:
                index = pq.ParquetFile(path)
                if not index.schema_arrow.equals(INDEX_SCHEMA):
                    found.problems.append(f"{name}: has other columns than this version; nothing more was checked")
                    readable = False
                    continue
                for batch in index.iter_batches():
                    keys = batch.column("key").to_pylist()
                    hashes.append(pd.util.hash_array(np.array(keys, dtype=object)))
                    found.problems += [
                        f"{name}: {key!r} is not a key" for key in keys if not KEY_PATTERN.fullmatch(key)
                    ]
                    splits.update(batch.column("split").to_pylist())
                    sides.see(batch.column("patient").to_pylist(), batch.column("split").to_pylist())
                    if pc.any(
                        pc.not_equal(pc.list_value_length(batch.column("levels")), manifest["num_levels"])
                    ).as_py():
                        found.problems.append(f"{name}: not every row has {manifest['num_levels']} levels")
                        readable = False
        except (OSError, pa.ArrowException):
            found.problems.append(f"{name}: cannot be read, so the samples were not checked")
            found.indexes.add(number)
            readable = False
    if not readable:
        return False
    found.problems += _check_counts(target, manifest, np.concatenate(hashes or [np.zeros(0, np.uint64)]), splits, sides)
    return True


def _check_counts(
    target: Target,
    manifest: dict[str, Any],
    hashes_N: npt.NDArray[np.uint64],
    splits: Counter[str],
    sides: PatientSides,
) -> Iterator[str]:
    order = np.sort(hashes_N)
    doubled = set(order[1:][order[1:] == order[:-1]].tolist())
    if doubled:
        counts: Counter[str] = Counter()
        for _, rows in shard_rows(target, manifest):
            keys = [row["key"] for row in rows]
            marks = pd.util.hash_array(np.array(keys, dtype=object)).tolist()
            counts.update(key for key, mark in zip(keys, marks, strict=True) if mark in doubled)
        yield from (f"index: {key} has {number} rows" for key, number in counts.items() if number > 1)
    if len(hashes_N) != manifest["num_samples"]:
        yield f"index: {len(hashes_N)} rows, the manifest says {manifest['num_samples']}"
    for split in sorted(set(splits) - set(SPLITS)):
        yield f"index: {split!r} is not a split"
    counted = {split: entry["images"] for split, entry in manifest["counts"].items()}
    if dict(splits) != counted:
        yield f"index: images per split are {dict(splits)}, the manifest says {counted}"
    torn = sides.torn()
    if len(torn) != manifest["num_patients_on_two_sides"]:
        yield (
            f"index: {len(torn)} patients are on two sides of a split ({', '.join(sorted(torn)[:5])}), "
            f"the manifest says {manifest['num_patients_on_two_sides']}"
        )
