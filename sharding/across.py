"""What only shows when several shard sets are taken together: keys that two have, patients in different splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.target import Target
from sharding.inspection import load_manifest
from sharding.manifest import index_names
from sharding.splits import PatientSides

NUM_NAMED = 5


def across_sets(places: Sequence[str]) -> list[str]:
    """What is wrong with these sets together, one line each; nothing for a single one.

    Eight bytes a row are kept in memory. Pseudonyms of sets with different keys cannot be compared, and are not.
    """
    if len(places) < 2:
        return []
    opened = [load_manifest(place) for place in places]
    problems: list[str] = []
    marks = [_marks(target, manifest) for target, manifest in opened]
    for second in range(1, len(opened)):
        for first in range(second):
            shared = np.intersect1d(marks[first], marks[second])
            if len(shared):
                keys = _keys_of(*opened[second], shared)
                named = ", ".join(keys[:NUM_NAMED])
                problems.append(f"{len(keys):,} keys are in {places[first]} and in {places[second]}: {named}")
    for key_print in dict.fromkeys(_key_print(manifest) for _, manifest in opened):
        sides = PatientSides()
        for target, manifest in opened:
            if _key_print(manifest) == key_print:
                for batch in _batches(target, manifest, ["patient", "split"]):
                    sides.see(batch.column(0).to_pylist(), batch.column(1).to_pylist())
        torn = sides.torn()
        if torn:
            some = ", ".join(f"{patient} ({' and '.join(torn[patient])})" for patient in sorted(torn)[:NUM_NAMED])
            problems.append(f"{len(torn):,} patients are on two sides of these sets together: {some}")
    return problems


def _key_print(manifest: dict[str, Any]) -> str:
    return str(manifest["deliveries"][0]["key_print"])


def _batches(target: Target, manifest: dict[str, Any], columns: list[str]) -> Iterator[pa.RecordBatch]:
    for name in index_names(manifest):
        with target.local(name) as path:
            for batch in pq.ParquetFile(path).iter_batches(columns=columns):
                yield batch.select(columns)


def _mark(keys: pa.Array) -> npt.NDArray[np.uint64]:
    return np.asarray(pd.util.hash_array(keys.to_numpy(zero_copy_only=False)), dtype=np.uint64)


def _marks(target: Target, manifest: dict[str, Any]) -> npt.NDArray[np.uint64]:
    found = [_mark(batch.column("key")) for batch in _batches(target, manifest, ["key"])]
    return np.unique(np.concatenate([*found, np.zeros(0, np.uint64)]))


def _keys_of(target: Target, manifest: dict[str, Any], marks: npt.NDArray[np.uint64]) -> list[str]:
    keys: list[str] = []
    for batch in _batches(target, manifest, ["key"]):
        column = batch.column("key")
        keys += pc.filter(column, pa.array(np.isin(_mark(column), marks))).to_pylist()
    return keys
