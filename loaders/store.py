"""Bytes of samples, a batch at a time, checked against the digests in the index.

A local tar is read where it lies. Of a tar in an object store, or of any where a cache is named, what the cache has not
is fetched in few requests, many at once, and kept.

Shapes: n samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from cluster.kept import cache_folder
from cluster.storage import Place, is_remote
from loaders.cache import Cache
from loaders.counts import Counts, StoreCounters
from loaders.failures import BadSampleError
from loaders.objects import RemoteTars
from loaders.ranges import joined
from loaders.tars import LocalTars

Encoded = npt.NDArray[np.uint8]
Result = Encoded | BadSampleError
_Sample = tuple[int, int, int, int, bytes]
"""Row, shard, offset, length, digest."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store reads."""

    num_threads: int = 2
    """Threads that read and check."""
    check_digests: bool = True
    """Compare bytes of local tars with the digest in the index. What is fetched or cached is always compared."""
    max_open: int = 64
    """Tars kept open at most."""
    cache: Path | None = None
    """Folder to keep what is read in, also of local tars; None: the default one, of object stores' tars alone."""
    cache_bytes: int = 100_000_000_000
    """What that may take of the disk, over all processes that use the folder; 0 keeps nothing."""
    num_requests: int = 32
    """Requests to object stores at a time."""
    retry_seconds: float = 120.0
    """How long a store that does not answer is asked again."""

    def __post_init__(self) -> None:
        for name, least in (("num_threads", 1), ("max_open", 1), ("num_requests", 1), ("cache_bytes", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {least}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Samples to read. Each is `length` bytes of a tar."""

    rows_n: npt.NDArray[np.int64]
    """Row numbers, for messages."""
    shard_n: npt.NDArray[np.int32]
    """Number of the tar."""
    offset_n: npt.NDArray[np.int64]
    length_n: npt.NDArray[np.int32]
    digest_n16: npt.NDArray[np.uint8]
    """xxh3-128 of the bytes."""


_Fetch = tuple[list[int], Future[list[Result]]]
"""Places in the batch, and what is being fetched for them."""


class Reading:
    """A batch that is being read."""

    def __init__(self, num_samples: int, parts: Sequence[Future[tuple[dict[int, Result], list[_Fetch]]]]) -> None:
        self._num_samples = num_samples
        self._parts = tuple(parts)

    def result(self) -> list[Result]:
        """The encoded bytes of each sample in order, uint8 [length], or what is wrong with it. Waits.

        Raises MissingShardError where a shard cannot be read.
        """
        results: dict[int, Result] = {}
        fetches: list[_Fetch] = []
        for part in self._parts:
            read, under_way = part.result()
            results |= read
            fetches += under_way
        for places, fetch in fetches:
            results.update(zip(places, fetch.result(), strict=True))
        return [results[place] for place in range(self._num_samples)]


class Store:
    """Reads samples from shards on threads of its own."""

    def __init__(
        self,
        shards: Sequence[Place],
        key_of: Callable[[int], str],
        options: StoreOptions,
        digests: Sequence[str] = (),
    ) -> None:
        """`shards`: the tars by number. `key_of`: the key of a row, for messages.

        `digests`: sha256 of each tar, by which the cache knows it; without, it is known by its place. Raises ValueError
        where the cache folder that `options` names cannot be written.
        """
        self.counters = StoreCounters()
        self._shards = tuple(shards)
        self._key_of = key_of
        self._check_digests = options.check_digests
        self._remote = [is_remote(shard) for shard in shards]
        self._far = [remote or (options.cache is not None and options.cache_bytes > 0) for remote in self._remote]
        self._local = LocalTars(shards, options.max_open)
        self._objects = RemoteTars(shards, options.max_open, options.retry_seconds)
        self._cache: Cache | None = None
        if any(self._far) and options.cache_bytes:
            folder = cache_folder(options.cache)
            if folder is not None:
                self._cache = Cache(folder, shards, digests, options.cache_bytes, options.max_open)
        self._threads = ThreadPoolExecutor(options.num_threads, thread_name_prefix="cxr-read")
        self._requests = ThreadPoolExecutor(options.num_requests, thread_name_prefix="cxr-fetch")
        self._num_parts = options.num_threads

    def submit(self, wanted: Wanted) -> Reading:
        """Starts to read; never waits. What is in memory is what was submitted and not let go of."""
        order = np.lexsort((wanted.offset_n, wanted.shard_n))  # each thread goes forward through its tars
        if not len(order):
            return Reading(0, ())
        read_bytes = np.cumsum(wanted.length_n[order])
        shares = np.arange(1, self._num_parts) * (read_bytes[-1] / self._num_parts)
        pieces = np.split(order, np.searchsorted(read_bytes, shares))
        return Reading(len(order), [self._threads.submit(self._read, wanted, piece) for piece in pieces if len(piece)])

    def close(self) -> None:
        """Ends the threads and lets go of all files. What has not begun is not read."""
        self._objects.close()
        self._threads.shutdown(cancel_futures=True)
        self._requests.shutdown(cancel_futures=True)
        self._local.close()
        if self._cache is not None:
            self._cache.close()

    def _read(self, wanted: Wanted, places: npt.NDArray[np.int64]) -> tuple[dict[int, Result], list[_Fetch]]:
        results: dict[int, Result] = {}
        columns = (wanted.rows_n, wanted.shard_n, wanted.offset_n, wanted.length_n)
        digests = [digest.tobytes() for digest in wanted.digest_n16[places]]
        samples: list[_Sample] = list(zip(*(column[places].tolist() for column in columns), digests, strict=True))
        for _, shard, offset, length, _ in samples:
            if not self._far[shard]:
                self._local.advise(shard, offset, length)
            elif self._cache is not None:
                self._cache.advise(shard, offset, length)
        missed: list[int] = []
        num_hits = 0
        for number, (place, sample) in enumerate(zip(places.tolist(), samples, strict=True)):
            _, shard, offset, length, digest = sample
            if not self._far[shard]:
                results[place] = self._checked(sample, self._local.read(shard, offset, length), self._check_digests)
            elif self._cache is not None and (data := self._cache.find(shard, offset, length, digest)) is not None:
                results[place] = np.frombuffer(data, np.uint8)
                num_hits += 1
            else:
                missed.append(number)
        num_misses = len(missed) if self._cache is not None else 0
        self.counters.add(Counts(_num_bytes(results.values()), 0, num_hits, num_misses))
        lost = places[missed]
        return results, [
            (lost[part].tolist(), self._requests.submit(self._fetch, place, [samples[n] for n in missed[part]]))
            for *place, part in joined(wanted.shard_n[lost], wanted.offset_n[lost], wanted.length_n[lost])
        ]

    def _fetch(self, place: list[int], samples: list[_Sample]) -> list[Result]:
        """What these samples hold, which lie in the same part of a tar, and writes it to the cache."""
        shard, begin, num_bytes = place
        source = self._objects if self._remote[shard] else self._local
        data = memoryview(source.read(shard, begin, num_bytes))
        results: list[Result] = []
        num_unkept = 0
        for sample in samples:
            _, _, offset, length, _ = sample
            image = data[offset - begin : offset - begin + length]
            results.append(self._checked(sample, image, True))
            if self._cache is not None and isinstance(results[-1], np.ndarray):
                num_unkept += not self._cache.keep(shard, offset, image)
        self.counters.add(Counts(_num_bytes(results), len(data), 0, 0, num_unkept))
        return results

    def _checked(self, sample: _Sample, data: bytes | memoryview, check: bool) -> Result:
        row, shard, _, length, digest = sample
        if len(data) < length:
            reason = f"the shard ends {length - len(data)} bytes too early"
        elif check and xxhash.xxh3_128_digest(data) != digest:
            reason = "its bytes are not those the index was made from (digest differs)"
        else:
            return np.frombuffer(data, np.uint8)
        return BadSampleError(self._key_of(row), self._shards[shard], reason)


def _num_bytes(results: Iterable[Result]) -> int:
    return sum(len(result) for result in results if isinstance(result, np.ndarray))
