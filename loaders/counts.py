"""What a store did, as running totals."""

from __future__ import annotations

import threading
from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """What a store did so far."""

    bytes_read: int = 0
    """Encoded images handed out."""
    bytes_fetched: int = 0
    """Asked of object stores, or of disks before which a cache lies: what lies between images included."""
    cache_hits: int = 0
    """Images the cache had."""
    cache_misses: int = 0
    """Images it had not."""
    cache_unkept: int = 0
    """Of those, images it did not take in: it is full, or cannot be written."""

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Counts(*(mine + yours for mine, yours in pairs))


class StoreCounters:
    """Running totals, from any thread."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._lock = threading.Lock()

    def add(self, counts: Counts) -> None:
        """Adds to the totals."""
        with self._lock:
            self._counts += counts

    def snapshot(self) -> Counts:
        """The totals up to now."""
        return self._counts
