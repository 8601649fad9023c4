"""From a cohort to the shards to be made: which image goes into which tar, and a digest of all that decides the bytes.

No shard crosses a split. The number of images in a tar is settled before any is encoded, so that every tar is a task of
its own that can run anywhere and be repeated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster import config as configs
from cluster import storage
from cluster.target import Target
from cluster.version import release
from sharding.filters import Filter
from sharding.options import NOT_IN_MANIFEST, OutputConfig
from sharding.pixels import UnreadableImage
from sharding.privacy import pseudonym
from sharding.sample import KEY_PATTERN, SPLITS, Cohort, Refusal, SourceImage
from sharding.source import read_source
from sharding.task import Encoding, ShardTask
from sharding.writer import encode_image

NUM_TRIED = 8
"""Images that are encoded to tell how many a tar of the wanted size holds."""
FEWEST, PARTS = 64, 8
"""A set of more than FEWEST x PARTS images has at least PARTS tars, so that the cores have work."""
USUAL = 512
"""Images in a tar where none of those tried could be read."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is the same for all shards of a run."""

    config: OutputConfig
    findings: tuple[str, ...]
    secret: bytes
    target: Target
    only: Filter

    def settings(self) -> dict[str, Any]:
        """All but the images that decides the bytes, as plain data."""
        return {
            "config": kept_config(self.config),
            "findings": self.findings,
            # The release, not the commit: a set made by yesterday's commit is not another one.
            "release": release(),
            "key": key_print(self.secret),
        }

    def task(self, shard: int, images: tuple[SourceImage, ...], digest: str = "") -> ShardTask:
        """The task of one shard."""
        c = self.config
        encoding = Encoding(c.max_side_px, c.levels, c.codec, c.quality, c.rendering(), c.gpu_decode, c.keep_burned_in)
        return ShardTask(
            shard,
            c.name,
            self.target,
            self.findings,
            images,
            encoding,
            self.only,
            self.secret,
            c.records(),
            c.strict,
            digest,
        )


def kept_config(config: OutputConfig) -> dict[str, Any]:
    """The part of a config that a manifest tells."""
    return {k: v for k, v in configs.to_dict(config).items() if k not in NOT_IN_MANIFEST}


def key_print(secret: bytes) -> str:
    """What tells that two sets have the same key, and nothing about it."""
    return pseudonym(secret, "key of", "this shard set")


def look_up(cohort: Cohort) -> Cohort:
    """The cohort with the size and time of every file; those that are not there or no plain files are refused.

    Raises OSError for a disk or network that fails, which may pass.
    """
    images: list[SourceImage] = []
    refusals = list(cohort.refusals)
    asked = [image for image in cohort.images if image.stat is None]
    stats = dict(zip((image.key for image in asked), storage.stats([image.path for image in asked]), strict=True))
    for image in cohort.images:
        found = image.stat or stats[image.key]
        if isinstance(found, OSError):
            if not storage.lasting(found):
                raise found
            what = "a link to nothing" if os.path.islink(image.path) else "the file cannot be found"
            refusals.append(Refusal(image.name, f"{what}: {found.strerror}"))
        elif found.is_plain:
            images.append(image if image.stat is not None else dataclasses.replace(image, stat=found))
        else:
            refusals.append(Refusal(image.name, "is not a plain file"))
    return dataclasses.replace(cohort, images=tuple(images), refusals=tuple(refusals))


@dataclass(frozen=True, slots=True)
class Trial:
    """What encoding a few images of a cohort told."""

    num_bytes: float = 0.0
    """Mean bytes of a sample in its tar."""
    seconds: float = 0.0
    """Mean of an image that could be used."""
    refusals: tuple[Refusal, ...] = ()
    """Those of them that could not be used."""


def try_some(job: Job, images: Sequence[SourceImage]) -> Trial:
    """Encodes NUM_TRIED images spread over a cohort."""
    step = max(1, len(images) // NUM_TRIED)
    task = job.task(0, ())
    num_bytes, num_done, refusals = 0, 0, []
    started = time.monotonic()
    for image in images[::step][:NUM_TRIED]:
        try:
            made = encode_image(image, read_source(image, task.records), task)
        except UnreadableImage as error:
            refusals.append(Refusal(image.name, str(error)))
            continue
        if made is not None:
            num_bytes += sum(512 + -(-len(data) // 512) * 512 for data in made[0].values())
            num_done += 1
    seconds = time.monotonic() - started
    return Trial(num_bytes / max(1, num_done), seconds / max(1, num_done), tuple(refusals))


def samples_per_shard(config: OutputConfig, num_images: int, trial: Trial) -> int:
    """Images in a tar of about `config.shard_mb`."""
    wanted = USUAL if trial.num_bytes == 0 else max(1, round(config.shard_mb * 1e6 / trial.num_bytes))
    return min(wanted, max(FEWEST, math.ceil(num_images / PARTS)))


def digest_of(value: Any) -> str:
    """blake2b-128 (32 hex digits) of plain data, as JSON with sorted keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def make_tasks(job: Job, images: Sequence[SourceImage], per_shard: int, first: int) -> tuple[list[ShardTask], str]:
    """The tasks, numbered from `first`, and a digest of all images that does not hang on where and when they lie."""
    keys = Counter(image.key for image in images)
    assert all(KEY_PATTERN.fullmatch(key) for key in keys), [key for key in keys if not KEY_PATTERN.fullmatch(key)][:3]
    assert keys.total() == len(keys), keys.most_common(3)
    settings = digest_of(job.settings())
    tasks: list[ShardTask] = []
    described: list[str] = []
    for split in SPLITS:
        mine = [image for image in images if image.split == split]
        for begin in range(0, len(mine), per_shard):
            part = tuple(mine[begin : begin + per_shard])
            about = digest_of([_about(image) for image in part])
            described.append(about)
            times = [image.stat.mtime_ns for image in part if image.stat is not None]
            number = first + len(tasks)
            tasks.append(job.task(number, part, digest_of([settings, number, about, times])))
    return tasks, digest_of(described)


def _about(image: SourceImage) -> list[Any]:
    """All that decides a sample but the bytes of its file, whose number is here."""
    boxes = None if image.boxes is None else [[b.finding, b.x_min, b.y_min, b.x_max, b.y_max] for b in image.boxes]
    num_bytes = 0 if image.stat is None else image.stat.num_bytes
    people = [image.patient, image.sex, image.age_band, image.view_position]
    place = [image.source, image.split, image.fold, image.subset]
    return [image.key, image.kind, image.name, *place, image.findings, boxes, *people, image.size_hint, num_bytes]
