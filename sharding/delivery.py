"""What a shard set that is there already says to a run: it is done, it is another one, or what `--append` may add."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.target import Target
from sharding.arrange import Placement
from sharding.manifest import MANIFEST, index_names, parse_manifest
from sharding.options import OutputConfig
from sharding.shards import Job, kept_config, key_print

MAY_DIFFER = frozenset(
    (
        "findings",
        "split",
        "valid_share",
        "test_share",
        "folds",
        "subsets",
        "only",
        "keep_normals",
        "shard_mb",
        "samples_per_shard",
    )
)
"""Fields that a later delivery may have otherwise than the first: which images it takes and how it deals them."""


def find_manifest(target: Target) -> dict[str, Any] | None:
    """The manifest of the shard set in the target, None where there is none. Raises ValueError for a wrong one."""
    if MANIFEST not in target.sizes():
        return None
    return parse_manifest(target.read(MANIFEST), f"{target.place}/{MANIFEST}")


def check_room(config: OutputConfig, target: Target, unfinished: bool) -> None:
    """Raises ValueError where the target holds something else than a shard set, finished or (`unfinished`) begun."""
    if Path(target.place).exists() and not Path(target.place).is_dir():
        raise ValueError(f"out: {config.out} is a file; give a folder")
    if target.sizes() and not unfinished:
        raise ValueError(f"out: {config.out} holds other files; give an absent or empty folder")


def check_same(config: OutputConfig, manifest: Mapping[str, Any], inputs: str) -> None:
    """Raises ValueError, which tells why, where the complete set is not the one that these inputs give."""
    first = manifest["deliveries"][0]
    if first["inputs"] == inputs:
        return
    changed = _changed(kept_config(config), first["config"], frozenset())
    why = f" ({'; '.join(changed)})" if changed else " (other source files, tables, code or key file)"
    raise ValueError(
        f"out: {config.out} is a complete shard set of another config or other inputs{why}: "
        "give another --out, add new images with --append, or remove it first"
    )


def check_joins(job: Job, manifest: Mapping[str, Any]) -> None:
    """Raises ValueError where what a run would add does not fit the set: other findings, encoding or key."""
    first = manifest["deliveries"][0]
    if first["key_print"] != key_print(job.secret):
        raise ValueError(
            f"key_file: {job.config.out} was made with another key than {job.config.key_path()}; "
            "patients would get other pseudonyms: give the first one"
        )
    changed = _changed(kept_config(job.config), first["config"], MAY_DIFFER)
    if changed:
        raise ValueError(f"append: {job.config.out} was made otherwise ({'; '.join(changed)}); give the same values")
    mine, theirs = list(job.findings), list(manifest["findings"])
    if mine != theirs:
        names = [line for line in difflib.ndiff(theirs, mine) if line[0] in "+-"]
        raise ValueError(f"append: {job.config.out} has other findings ({', '.join(names)}): leave --findings away")


def _changed(mine: Mapping[str, Any], theirs: Mapping[str, Any], but: frozenset[str]) -> list[str]:
    fields = sorted((mine.keys() | theirs.keys()) - but)
    return [f"{f}: {theirs.get(f)} there, {mine.get(f)} here" for f in fields if mine.get(f) != theirs.get(f)]


def known_keys(target: Target, manifest: Mapping[str, Any], keys: Collection[str]) -> set[str]:
    """Those of the keys that the set has. The index is read batch by batch."""
    wanted = pa.array(sorted(keys), pa.string())
    found: set[str] = set()
    for name in index_names(manifest):
        with target.local(name) as path:
            for batch in pq.ParquetFile(path).iter_batches(columns=["key"]):
                there = batch.column("key")
                found.update(there.filter(pc.is_in(there, value_set=wanted)).to_pylist())
    return found


def placements(target: Target, manifest: Mapping[str, Any], patients: Collection[str]) -> dict[str, Placement]:
    """Where those of the patients that the set has are, so that their new images go there too."""
    wanted = pa.array(sorted(patients), pa.string())
    found: dict[str, Placement] = {}
    columns = ["patient", "split", "fold", "subset"]
    for name in index_names(manifest):
        with target.local(name) as path:
            for batch in pq.ParquetFile(path).iter_batches(columns=columns):
                mine = batch.filter(pc.is_in(batch.column("patient"), value_set=wanted))
                for row in mine.to_pylist():
                    found[row["patient"]] = Placement(row["split"], row["fold"], row["subset"])
    return found
