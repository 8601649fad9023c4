"""All shards of a run, over a machine or a cluster: resumable, counted, with progress and rate."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.progress import Progress
from cluster.tasks import map_tasks
from sharding.manifest import shard_name
from sharding.options import OutputConfig
from sharding.quarantine import judge, write_quarantine
from sharding.records import keep_record, read_record
from sharding.sample import Refusal
from sharding.task import ShardResult, ShardTask
from sharding.writer import write_shard

LOOK_SECONDS = 1.0


def make_shards(
    config: OutputConfig,
    tasks: Sequence[ShardTask],
    refused: Sequence[Refusal],
    num_images: int,
    folder: Path,
) -> list[Refusal]:
    """Makes every shard that has no record in `folder` yet; gives all refusals, `refused` (the reader's) first.

    The list of refusals is written, also where they are too many: TooManyFailures is raised then.
    `num_images` is what `max_bad_share` is a share of.
    """
    refusals = list(refused)
    num_all = num_images + len(refused)
    judge(config, refusals, num_all)
    sizes = tasks[0].target.sizes() if tasks else {}
    results: dict[int, ShardResult] = {}
    for task in tasks:
        earlier = read_record(folder, task, sizes)
        if earlier is not None:
            results[task.shard] = _light(earlier)
    missing = [task for task in tasks if task.shard not in results]
    if results:
        print(f"{len(results)} of {len(tasks)} shards are there from an earlier run", file=sys.stderr)
    refusals += [refusal for result in results.values() for refusal in result.refusals]
    for path in (*folder.glob("*.count"), *folder.glob("*.tmp")):  # of a killed run
        path.unlink()
    by_number = {task.shard: task for task in missing}
    num_left = sum(len(task.images) for task in missing)
    with Progress(num_left, f"shard {config.name}") as progress, _watched(folder, progress):
        for result in map_tasks(write_shard, missing, config.processes):
            keep_record(folder, by_number[result.shard], result)
            (folder / f"{shard_name(config.name, result.shard)}.count").unlink(missing_ok=True)
            results[result.shard] = _light(result)
            refusals += result.refusals
            progress.finish(result.num_images)
            judge(config, refusals, num_all)
    refusals = [*refused, *(refusal for task in tasks for refusal in results[task.shard].refusals)]
    write_quarantine(config, refusals)
    return refusals


def _light(result: ShardResult) -> ShardResult:
    """Without the rows: those of all shards need not be in memory."""
    return dataclasses.replace(result, rows=())


@contextmanager
def _watched(folder: Path, progress: Progress) -> Iterator[None]:
    """Shows the images that are done inside shards under way, which their writers count in files of `folder`."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            progress.under_way(sum(_num_bytes(path) for path in folder.glob("*.count")))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        progress.under_way(0)


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # its shard has just been finished
        return 0
