"""What an unfinished run has done: one record per finished shard, kept by the process that hands out the work.

A record holds names from the source (of what was set aside), so its folder is its owner's alone and lies beside the
shard set, or for an object store beside the key.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from cluster.files import write_atomic
from sharding.manifest import shard_name
from sharding.sample import Refusal
from sharding.task import ShardResult, ShardTask


def _path(folder: Path, task: ShardTask) -> Path:
    return folder / f"{shard_name(task.name, task.shard)}.json"


def keep_record(folder: Path, task: ShardTask, result: ShardResult) -> None:
    """Writes down that a shard is finished."""
    write_atomic(_path(folder, task), json.dumps(dataclasses.asdict(result)))


def read_record(folder: Path, task: ShardTask, sizes: Mapping[str, int]) -> ShardResult | None:
    """The result of a shard that an earlier run has finished, or None where it must be made.

    `sizes`: name -> bytes of the files in the shard set's folder; a record whose files are not there does not count.
    """
    path = _path(folder, task)
    if not path.is_file():
        return None
    kept = json.loads(path.read_bytes())
    if kept["digest"] != task.digest or any(sizes.get(n) != entry["bytes"] for n, entry in kept["files"].items()):
        return None
    kept["refusals"] = tuple(Refusal(**refusal) for refusal in kept["refusals"])
    kept["rows"] = tuple(kept["rows"])
    return ShardResult(**kept)
