"""Which images a loader reads, in which mixture, and with what means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loaders.strata import check_weights
from sharding.filters import parse


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which images are read, and with what means."""

    shards: tuple[str | Path, ...]
    """Shard sets, folders or s3:// or gs:// URLs; their images are joined."""
    splits: tuple[str, ...] = ("train",)
    """Splits taken: train, valid, test, or "" for images in none."""
    only: tuple[str, ...] = ()
    """Only images whose field has such a value: view_position=PA,AP subset=10 fold!=0 (as `cxr shard --only`)."""
    weights: tuple[float, ...] = ()
    """One for each of `shards`: how often an epoch has each of its images; 2 is twice, 0.5 every second one; 1,000 at
    most. None: each image once."""
    repeat_threshold: float = 0.0
    """Findings that fewer than this share of the images have are seen more often, by the square root of how much
    fewer (repeat-factor sampling). 0: off."""
    drop_last: bool = True
    """Leave out the last, smaller batch of an epoch."""
    num_threads: int = 2
    """Threads that read, and again as many that decode, per rank."""
    prefetch: int = 2
    """Batches worked on ahead, at each stage."""
    shards_per_block: int = 8
    """Shards whose images are shuffled with each other: more is better mixed, fewer reads nearer together."""
    check_digests: bool = True
    """Check each image's bytes against the index before they are decoded."""
    on_bad: Literal["stop", "skip"] = "stop"
    """At an image that cannot be used (wrong bytes, does not decode): stop and name it, or go on without it, on all
    ranks from the same step on. Prediction always stops."""
    max_skipped: int = 100
    """With `on_bad` skip: stop all the same where more images than this cannot be used."""
    cache: Path | None = None
    """Folder on a local disk that keeps what is read: of object stores always (None: below ~/.cache), of other shard
    sets where it is named, for slow network disks."""
    cache_gb: float = 100.0
    """Gigabytes (10^9 bytes) that the cache may take, over all processes that use it; 0 keeps nothing."""
    max_samples: int = 0
    """Take at most so many images, always the same ones (those with the lowest digests). 0 is all."""
    hw_decoder_load: float = 0.65
    """Share of a batch's JPEGs that a GPU's hardware decoder takes, where it has one; its other cores take the rest."""

    def __post_init__(self) -> None:
        if isinstance(self.shards, str | Path):
            raise ValueError(f"shards = {self.shards!r}: give a tuple of them, as ({str(self.shards)!r},)")
        if self.on_bad not in ("stop", "skip"):
            raise ValueError(f'on_bad = {self.on_bad!r}: must be "stop" or "skip"')
        for name in ("shards", "splits"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one")
        for name in ("num_threads", "prefetch", "shards_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        parse(self.only)  # refuses what is no filter
        check_weights(len(self.shards), self.weights, self.repeat_threshold)
        for name in ("max_samples", "max_skipped"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 0 or more")
        if not 0 <= self.cache_gb < math.inf:
            raise ValueError(f"cache_gb = {self.cache_gb}: must be 0 or more")
        if not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(f"hw_decoder_load = {self.hw_decoder_load}: must be from 0 to 1")
