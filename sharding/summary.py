"""What a run of `cxr shard` says at its end, or, with `--dry_run`, would do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cluster import config as configs
from cluster.progress import format_seconds
from cluster.tasks import available_cores
from sharding.options import OutputConfig
from sharding.prepare import Work
from sharding.quarantine import quarantine_path
from sharding.sample import Refusal
from sharding.shards import Job, Trial


def print_estimate(job: Job, work: Work, trial: Trial, source_bytes: int, per_shard: int) -> None:
    """Prints what a run would do, from a handful of images spread over the cohort."""
    for refusal in trial.refusals:
        print(f"would be set aside: {refusal.name}: {refusal.reason}")
    processes = job.config.processes or available_cores()
    splits = Counter(image.split or "(none)" for image in work.images)
    num = len(work.images)
    print(configs.describe(job.config))
    print(f"images      {num:,} ({', '.join(f'{n:,} {split}' for split, n in splits.items())})")
    if work.num_known:
        print(f"there       {work.num_known:,} already")
    print(f"set aside   {len(work.refusals):,} before any is opened")
    print(f"source      {source_bytes / 1e9:.3f} GB")
    print(f"shard set   about {trial.num_bytes * num / 1e9:.3f} GB, {per_shard:,} images a tar")
    print(f"time        about {format_seconds(trial.seconds * num / processes)} with {processes} processes")


def print_summary(
    config: OutputConfig, manifest: Mapping[str, Any], refusals: Sequence[Refusal], num_known: int, seconds: float
) -> None:
    num_bytes = sum(entry["bytes"] for entry in manifest["files"].values())
    added = manifest["deliveries"][-1]["num_samples"]
    more = f" ({added:,} of them new)" if manifest["version"] > 1 else ""
    print(
        f"{config.out}: {manifest['num_samples']:,} images{more} in {len(manifest['shards'])} shards, "
        f"{num_bytes / 1e6:,.1f} MB, {format_seconds(seconds)}"
    )
    for split, counts in manifest["counts"].items():
        print(
            f"  {split or '(no split)'}: " + ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items())
        )
    if num_known:
        print(f"  already there: {num_known:,}")
    if manifest["findings"]:
        print(f"  findings: {', '.join(manifest['findings'])}")
    if manifest["num_patients_on_two_sides"]:
        print(
            f"  warning: by DICOM headers {manifest['num_patients_on_two_sides']:,} patients are in several splits; "
            "take --split patient, or give the split by patient in a csv file (cxr shard folder --csv)"
        )
    left_out = manifest["deliveries"][-1]["num_left_out"]
    if left_out:
        print(f"  left out as asked for by --only or --no-keep_normals: {left_out:,}")
    if refusals:
        print(f"  set aside: {len(refusals):,}, listed in {quarantine_path(config)}")
        for reason, number in Counter(re.sub(r"\d+", "#", refusal.reason) for refusal in refusals).most_common(5):
            print(f"    {number:,} x {reason}")
