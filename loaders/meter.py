"""What a loader has done so far, for the run's log: counters that only grow, and what they say of some steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass

from loaders.counts import Counts
from loaders.store import Store


class Totals:
    """Counters of one loader. One thread adds to them, others may read."""

    def __init__(self) -> None:
        self.images = 0
        """Images that became pixels on this rank."""
        self.work_seconds = 0.0
        """Time in which the loader was not waiting for someone to take a batch: reading, decoding, augmenting."""
        self._store: Store | None = None
        self._before = Counts()

    def counts(self) -> Counts:
        """What was read, by all stores of this loader."""
        store = self._store
        return self._before + store.counters.snapshot() if store is not None else self._before

    @contextmanager
    def reading(self, store: Store) -> Iterator[None]:
        """Counts what this store reads."""
        self._store = store
        try:
            yield
        finally:
            self._before, self._store = self._before + store.counters.snapshot(), None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts the time within as work."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.work_seconds += time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the counters stood."""

    steps: int
    wait_seconds: float
    images: int
    work_seconds: float
    counts: Counts


def between(before: Mark, now: Mark) -> dict[str, float]:
    """Of the steps between two marks: what the run's log says of them. Only of this rank.

    data_wait_seconds: mean time a step waited for its batch. decode_images_per_second: images made over the time in
    which the loader read and decoded, that is, did not wait for someone to take a batch: what it could give. DALI works
    a chunk or two ahead while it waits, which counts for nothing. read_bytes: encoded bytes that were
    read, per step; fetched_bytes: asked of the source behind a cache. cache_hit_share: images found in the cache,
    0 to 1; cache_unkept: images for which it had no room. These three only where there is a cache.
    """
    steps = max(now.steps - before.steps, 1)
    seconds = now.work_seconds - before.work_seconds
    counts = Counts(*(b - a for a, b in zip(astuple(before.counts), astuple(now.counts), strict=True)))
    told = {
        "data_wait_seconds": (now.wait_seconds - before.wait_seconds) / steps,
        "decode_images_per_second": (now.images - before.images) / seconds if seconds > 0 else 0.0,
        "read_bytes": counts.bytes_read / steps,
    }
    if counts.cache_hits + counts.cache_misses:
        told["fetched_bytes"] = counts.bytes_fetched / steps
        told["cache_unkept"] = float(counts.cache_unkept)
        told["cache_hit_share"] = counts.cache_hits / (counts.cache_hits + counts.cache_misses)
    return told
