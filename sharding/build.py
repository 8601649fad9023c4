"""`cxr shard nih|vindr|folder`: radiographs and their csv files to a shard set."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster import config as configs
from cluster import door
from cluster.files import sha256_file, write_atomic
from cluster.progress import Progress, format_seconds
from cluster.tasks import available_cores, map_tasks
from cluster.version import code_version, release
from sharding.commit import clear_partial, commit, digest_of, hold, is_complete
from sharding.folder import FolderConfig, read_folder
from sharding.index import MANIFEST
from sharding.nih import NihConfig, read_nih
from sharding.options import NOT_IN_MANIFEST, OutputConfig, beside
from sharding.pixels import UnreadableImage
from sharding.privacy import find_key, keep_key, pseudonym
from sharding.sample import KEY_PATTERN, SPLITS, Cohort, Refusal, SourceImage
from sharding.splits import check_patients
from sharding.vindr import VindrConfig, read_vindr
from sharding.writer import Encoding, ShardTask, encode_image, finished, write_shard

NUM_TRIED = 8
"""Images that `--dry_run` encodes for its estimate."""


class TooManyFailures(Exception):
    """More images or rows are unusable than the config allows; what is finished is kept."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb: first word nih, vindr or folder, then its flags. Gives the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    known: dict[str, tuple[type[OutputConfig], Callable[[Any], None]]] = {
        "nih": (NihConfig, run),
        "vindr": (VindrConfig, run),
        "folder": (FolderConfig, run),
    }
    if not words or words[0] not in known:
        asked = words[:1] in (["--help"], ["-h"])
        print(
            "usage: cxr shard nih|vindr|folder --root DIR --out DIR [...]   (cxr shard nih --help tells every field)",
            file=sys.stdout if asked else sys.stderr,
        )
        return 0 if asked else 2
    config_type, function = known[words[0]]
    return door.enter(f"cxr shard {words[0]}", config_type, function, words[1:])


def run(config: OutputConfig) -> None:
    """Makes the shard set that `config` asks for, or goes on with it, or finds it complete.

    Raises ValueError for what the user can repair, TooManyFailures, and what the machine raises.
    """
    out = config.out.absolute()
    started = time.monotonic()
    if not config.root.is_dir():
        raise ValueError(f"root: {config.root} is not a folder")
    cohort, secret = _read(config)
    cohort, stats = look_up(cohort)
    tasks, inputs, sources = _plan(config, cohort, stats, secret)
    if config.dry_run:
        _estimate(config, cohort, sources["images"]["bytes"], secret)
        return
    if is_complete(out, inputs):
        clear_partial(out)
        print(f"{out} is complete already ({len(cohort.images):,} images): nothing to do")
        return
    with hold(out):
        if is_complete(out, inputs):
            return
        keep_key(config.key_path(), secret)
        if isinstance(config, FolderConfig):
            write_atomic(beside(out, ".names.csv"), _names(cohort), mode=0o600)
        refusals = _write(config, cohort, tasks)
        _quarantine(beside(out, ".quarantine.jsonl"), refusals)
        _judge(config, cohort, refusals)
        kept = {k: v for k, v in configs.to_dict(config).items() if k not in NOT_IN_MANIFEST}
        manifest = commit(out, tasks, inputs, kept, sources, len(cohort.refusals), code_version())
    _summary(out, manifest, refusals, time.monotonic() - started)


def _read(config: OutputConfig) -> tuple[Cohort, bytes]:
    key = config.key_path()
    if (config.out / MANIFEST).exists() and not key.exists():
        raise ValueError(f"key_file: {config.out} is a complete shard set, but its key {key} is missing: give it back")
    secret = find_key(key, config.out)
    match config:
        case NihConfig():
            return read_nih(config, secret), secret
        case VindrConfig():
            return read_vindr(config, secret), secret
        case FolderConfig():
            return read_folder(config, secret), secret
    raise AssertionError(config)


def look_up(cohort: Cohort) -> tuple[Cohort, dict[str, os.stat_result]]:
    """The cohort without the images whose files are not there or no plain files, which are refused; stats by key."""
    stats: dict[str, os.stat_result] = {}
    refusals = list(cohort.refusals)
    for image in cohort.images:
        try:
            found = os.stat(image.path)
        except OSError as error:
            what = "a link to nothing" if os.path.islink(image.path) else "the file cannot be found"
            refusals.append(Refusal(image.name, f"{what}: {error.strerror}"))
            continue
        if stat.S_ISREG(found.st_mode):
            stats[image.key] = found
        else:
            refusals.append(Refusal(image.name, "is not a plain file"))
    images = tuple(image for image in cohort.images if image.key in stats)
    return dataclasses.replace(cohort, images=images, refusals=tuple(refusals)), stats


def _plan(
    config: OutputConfig, cohort: Cohort, stats: dict[str, os.stat_result], secret: bytes
) -> tuple[list[ShardTask], str, dict[str, Any]]:
    """Tasks (no shard crosses a split), a digest of all that decides the bytes, and the sources for the manifest."""
    if not cohort.images:
        some = "; ".join(f"{refusal.name}: {refusal.reason}" for refusal in cohort.refusals[:3])
        raise ValueError(f"root: {config.root} gives no usable image ({len(cohort.refusals)} refused: {some})")
    check_patients((image.patient for image in cohort.images), (image.split for image in cohort.images))
    keys = Counter(image.key for image in cohort.images)
    assert all(KEY_PATTERN.fullmatch(key) for key in keys), [key for key in keys if not KEY_PATTERN.fullmatch(key)][:3]
    assert keys.total() == len(keys), keys.most_common(3)
    encoding = _encoding(config)
    settings = {
        "config": {k: v for k, v in configs.to_dict(config).items() if k not in NOT_IN_MANIFEST},
        "findings": cohort.findings,
        # The release, not the commit: a set made by yesterday's commit is not another one.
        "release": release(),
        "key": pseudonym(secret, "key of", "this shard set"),
    }
    tasks: list[ShardTask] = []
    described: list[str] = []
    num_bytes = 0
    for split in SPLITS:
        images = [image for image in cohort.images if image.split == split]
        for begin in range(0, len(images), config.samples_per_shard):
            part = tuple(images[begin : begin + config.samples_per_shard])
            num_bytes += sum(stats[image.key].st_size for image in part)
            about = [_about(image, stats[image.key].st_size) for image in part]
            described.append(digest_of(about))
            digest = digest_of([settings, len(tasks), about, [stats[image.key].st_mtime_ns for image in part]])
            tasks.append(
                ShardTask(
                    len(tasks), config.name, config.out.absolute(), cohort.findings, part, encoding, secret, digest
                )
            )
    sources: dict[str, Any] = {
        "tables": [
            {
                # What the user has called a file may name people; NIH's and VinDr's names are published.
                "name": "csv" if isinstance(config, FolderConfig) else path.name,
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
            for path in cohort.tables
        ],
        "images": {"number": len(cohort.images), "bytes": num_bytes},
    }
    return tasks, digest_of([settings, described, sources]), sources


def _about(image: SourceImage, num_bytes: int) -> dict[str, Any]:
    about = dataclasses.asdict(image)
    del about["path"]
    return about | {"bytes": num_bytes}


def _write(config: OutputConfig, cohort: Cohort, tasks: list[ShardTask]) -> list[Refusal]:
    """Makes every shard that is not finished; gives all refusals, the reader's first."""
    refusals = list(cohort.refusals)
    _judge(config, cohort, refusals)
    earlier = [finished(task) for task in tasks]
    results = {result.shard: result for result in earlier if result is not None}
    missing = [task for task in tasks if task.shard not in results]
    num_left = sum(len(task.images) for task in missing)
    if len(missing) < len(tasks):
        print(f"{len(tasks) - len(missing)} of {len(tasks)} shards are there from an earlier run", file=sys.stderr)
    with Progress(num_left, f"shard {config.name}") as progress:
        for result in map_tasks(write_shard, missing, config.processes):
            results[result.shard] = result
            progress.update(result.num_images)
            _judge(config, cohort, [*refusals, *(refusal for done in results.values() for refusal in done.refusals)])
    return refusals + [refusal for task in tasks for refusal in results[task.shard].refusals]


def _judge(config: OutputConfig, cohort: Cohort, refusals: Sequence[Refusal]) -> None:
    """Raises TooManyFailures where the refusals so far are more than the config allows."""
    num_all = len(cohort.images) + len(cohort.refusals)
    if not refusals or (not config.strict and len(refusals) <= config.max_bad_share * num_all):
        return
    listed = beside(config.out, ".quarantine.jsonl")
    _quarantine(listed, refusals)
    first = refusals[0]
    if config.strict:
        raise TooManyFailures(f"{first.name}: {first.reason} (--strict stops at the first)")
    raise TooManyFailures(
        f"{len(refusals):,} of {num_all:,} images and rows are unusable, more than --max_bad_share "
        f"{config.max_bad_share:g}; the first: {first.name}: {first.reason}. All are listed in {listed}"
    )


def _quarantine(path: Path, refusals: Sequence[Refusal]) -> None:
    """The list of what was set aside, with original names: beside the shard set, for its owner's eyes (0600)."""
    lines = [json.dumps({"name": refusal.name, "reason": refusal.reason}) + "\n" for refusal in refusals]
    write_atomic(path, "".join(lines), mode=0o600)


def _names(cohort: Cohort) -> str:
    """The way back from keys to files, as csv: for the owner of the files alone."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["key", "name"])
    lines.writerows((image.key, image.name) for image in cohort.images)
    return text.getvalue()


def _estimate(config: OutputConfig, cohort: Cohort, source_bytes: int, secret: bytes) -> None:
    """Prints what a run would do, from a handful of images spread over the cohort."""
    encoding = _encoding(config)
    step = max(1, len(cohort.images) // NUM_TRIED)
    tried = cohort.images[::step][:NUM_TRIED]
    num_bytes, num_done = 0, 0
    started = time.monotonic()
    for image in tried:
        try:
            members, _ = encode_image(image, cohort.findings, encoding, secret)
        except UnreadableImage as error:
            print(f"would be set aside: {image.name}: {error}")
            continue
        num_bytes += sum(512 + -(-len(data) // 512) * 512 for data in members.values())
        num_done += 1
    seconds = (time.monotonic() - started) / len(tried)
    processes = config.processes or available_cores()
    splits = Counter(image.split or "(none)" for image in cohort.images)
    print(configs.describe(config))
    print(f"images      {len(cohort.images):,} ({', '.join(f'{n:,} {split}' for split, n in splits.items())})")
    print(f"set aside   {len(cohort.refusals):,} before any is opened")
    print(f"source      {source_bytes / 1e9:.3f} GB")
    if num_done:
        print(f"shard set   about {num_bytes / num_done * len(cohort.images) / 1e9:.3f} GB")
    print(f"time        about {format_seconds(seconds * len(cohort.images) / processes)} with {processes} processes")


def _encoding(config: OutputConfig) -> Encoding:
    return Encoding(config.max_side_px, config.levels, config.quality, config.keep_burned_in)


def _summary(out: Path, manifest: dict[str, Any], refusals: Sequence[Refusal], seconds: float) -> None:
    num_bytes = sum(entry["bytes"] for entry in manifest["files"].values())
    print(
        f"{out}: {manifest['num_samples']:,} images in {len(manifest['shards'])} shards, "
        f"{num_bytes / 1e6:,.1f} MB, {format_seconds(seconds)}"
    )
    for split, counts in manifest["counts"].items():
        print(
            f"  {split or '(no split)'}: " + ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items())
        )
    if manifest["num_patients_on_two_sides"]:
        print(
            f"  warning: by DICOM headers {manifest['num_patients_on_two_sides']:,} patients are in several splits; "
            "give the split by patient in a csv file (cxr shard folder --csv), or do not compare these splits"
        )
    if refusals:
        print(f"  set aside: {len(refusals):,}, listed in {beside(out, '.quarantine.jsonl')}")
        for reason, number in Counter(re.sub(r"\d+", "#", refusal.reason) for refusal in refusals).most_common(5):
            print(f"    {number:,} x {reason}")


if __name__ == "__main__":
    from sharding.build import main as imported_main

    sys.exit(imported_main())
