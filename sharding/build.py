"""`cxr shard nih|vindr|folder`: radiographs and their csv files to a shard set."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import door, storage
from cluster.failure import Failure
from cluster.files import sha256_bytes
from cluster.target import Target, open_target
from cluster.version import code_version
from sharding import filters, shards
from sharding.coco import write_annotations
from sharding.commit import Delivery, Held, clear, clear_leftovers, commit, hold
from sharding.delivery import check_joins, check_room, check_same, find_manifest
from sharding.folder import FolderConfig
from sharding.known import write_way_back
from sharding.make_shards import make_shards
from sharding.options import OutputConfig
from sharding.prepare import READERS, Work, prepare, read, with_vocabulary
from sharding.privacy import find_key, keep_key
from sharding.quarantine import judge, write_quarantine
from sharding.sample import Cohort, SourceImage
from sharding.summary import print_estimate, print_summary
from sharding.task import ShardTask
from sharding.vindr import VindrConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The verb: first word nih, vindr or folder, then its flags. Gives the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in READERS:
        asked = words[:1] in (["--help"], ["-h"])
        print(
            "usage: cxr shard nih|vindr|folder --root DIR --out DIR [...]   (cxr shard nih --help tells every field)",
            file=sys.stdout if asked else sys.stderr,
        )
        return 0 if asked else 2
    return door.enter(f"cxr shard {words[0]}", READERS[words[0]], run, words[1:])


def run(config: OutputConfig) -> None:
    """Makes the shard set that `config` asks for, or goes on with it, or adds to it, or finds it complete.

    Raises ValueError for what the user can repair, TooManyFailures, and what the machine raises.
    """
    if isinstance(config, VindrConfig) and config.annotations_only:
        write_annotations(config)
        return
    started = time.monotonic()
    if not storage.is_folder(config.root):
        raise ValueError(f"root: {config.root} is not a folder")
    target = open_target(config.out)
    before = find_manifest(target)
    secret = _find_secret(config, before is not None)
    if before is None:
        check_room(config, target, config.records().is_dir())
    if config.dry_run or (before is not None and not config.append):
        _look(config, target, secret, before)
        return
    with hold(config, target) as held:
        if find_manifest(target) != before:
            raise ValueError(f"out: another run has just finished {config.out}; start again")
        begun = any(held.folder.glob("*.json"))
        try:
            plan = _plan(config, target, secret, before)
        except ValueError:
            if not begun:  # nothing is lost, and the mistake leaves nothing behind
                clear(held.folder)
            raise
        _make(plan, held, before, started)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All that is settled before the first image is encoded."""

    job: shards.Job
    work: Work
    trial: shards.Trial
    per_shard: int
    tasks: list[ShardTask]
    sources: dict[str, Any]
    inputs: str


def _plan(config: OutputConfig, target: Target, secret: bytes, before: Mapping[str, Any] | None) -> Plan:
    cohort = read(with_vocabulary(config, before), secret)
    job = shards.Job(config, cohort.findings, secret, target, filters.parse(config.only))
    adds_to = before if config.append else None
    if adds_to is not None:
        check_joins(job, adds_to)
    work = prepare(job, cohort, adds_to)
    recorded = 0 if before is None or config.append else int(before["deliveries"][0]["samples_per_shard"])
    known = config.samples_per_shard or recorded
    trial = shards.try_some(job, work.images) if config.dry_run or not known else shards.Trial()
    per_shard = known or shards.samples_per_shard(config, len(work.images), trial)
    tasks, described = shards.make_tasks(job, work.images, per_shard, work.first_shard)
    sources = _sources(config, cohort, work.images)
    return Plan(job, work, trial, per_shard, tasks, sources, shards.digest_of([job.settings(), described, sources]))


def _look(config: OutputConfig, target: Target, secret: bytes, before: Mapping[str, Any] | None) -> None:
    """A dry run, or a set that is complete already. Nothing is written."""
    plan = _plan(config, target, secret, before)
    if config.dry_run:
        print_estimate(plan.job, plan.work, plan.trial, plan.sources["images"]["bytes"], plan.per_shard)
        return
    assert before is not None
    check_same(config, before, plan.inputs)
    clear_leftovers(config, target, before)
    print(f"{config.out} is complete already ({before['num_samples']:,} images): nothing to do")


def _make(plan: Plan, held: Held, before: Mapping[str, Any] | None, started: float) -> None:
    job, work = plan.job, plan.work
    config = job.config
    if before is not None and not work.images:
        judge(config, work.refusals, work.num_known + len(work.refusals))
        write_quarantine(config, work.refusals)
        clear(held.folder)
        aside = f"; {len(work.refusals):,} set aside" if work.refusals else ""
        print(f"{config.out} has all {work.num_known:,} images already: nothing to do{aside}")
        return
    job.target.make()
    keep_key(config.key_path(), job.secret)
    if isinstance(config, FolderConfig):
        write_way_back(config.private(".names.csv"), work.images)
    refusals = make_shards(config, plan.tasks, work.refusals, len(work.images) + work.num_known, held.folder)
    delivery = Delivery(
        reader=next(name for name, kind in READERS.items() if isinstance(config, kind)),
        inputs=plan.inputs,
        config=shards.kept_config(config),
        sources=plan.sources,
        samples_per_shard=plan.per_shard,
        num_refused_by_reader=len(work.refusals),
        num_dropped=work.num_dropped,
        key_print=shards.key_print(job.secret),
        code_version=code_version(),
    )
    manifest = commit(job.target, held, plan.tasks, delivery, before)
    if manifest is None:
        clear(held.folder)
        aside = f"{len(refusals):,} were set aside, the others left out by --only"
        if before is None:
            raise Failure(f"{config.out}: none of the {len(work.images):,} images could be taken: {aside}")
        print(f"{config.out}: none of the {len(work.images):,} new images could be taken ({aside}); it stays as it is")
        manifest = dict(before)
    print_summary(config, manifest, refusals, work.num_known, time.monotonic() - started)


def _find_secret(config: OutputConfig, is_complete: bool) -> bytes:
    key = config.key_path()
    if is_complete and not key.exists():
        raise ValueError(f"key_file: {config.out} is a complete shard set, but its key {key} is missing: give it back")
    return find_key(key, Path(config.out))


def _sources(config: OutputConfig, cohort: Cohort, images: Sequence[SourceImage]) -> dict[str, Any]:
    tables = []
    for place in cohort.tables:
        data = storage.read(place)
        # What the user has called a file may name people; NIH's and VinDr's names are published.
        name = "csv" if isinstance(config, FolderConfig) else storage.name_of(place)
        tables.append({"name": name, "bytes": len(data), "sha256": sha256_bytes(data)})
    num_bytes = sum(image.stat.num_bytes for image in images if image.stat is not None)
    return {"tables": tables, "images": {"number": len(images), "bytes": num_bytes}}


if __name__ == "__main__":
    from sharding.build import main as imported_main

    sys.exit(imported_main())
