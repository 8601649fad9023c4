"""Reading alone, as a program: a store's bytes of the images in random order, digests checked, nothing decoded.

`about`: shards (folders), batch, seed, threads. A batch is the encoded images, cut to the shortest of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.peers.serve import About, Batch, serve
from loaders.failures import BadSampleError
from loaders.selection import Selection, select
from loaders.store import Reading, Store, StoreOptions, Wanted

AHEAD = 2
"""Batches that are being read while one is used."""


def batches(about: About, passes: int) -> Iterator[Batch]:
    """The stream of this program."""
    selection = select([Path(folder) for folder in about["shards"]], ("train",), None, True, 0)
    store = Store(selection.shards, selection.key_of, StoreOptions(about["threads"]))
    random, number = np.random.default_rng(about["seed"]), len(selection.rows_N)
    under_way: deque[Reading] = deque()
    taken = 0
    while passes == 0 or taken < passes:
        order_N = random.permutation(number)
        for begin in range(0, number, about["batch"]):
            under_way.append(store.submit(wanted_of(selection, order_N[begin : begin + about["batch"]])))
            if len(under_way) > AHEAD:
                yield finish(under_way.popleft())
        taken += 1
    while under_way:
        yield finish(under_way.popleft())
    store.close()


def wanted_of(selection: Selection, positions_n: npt.NDArray[np.int64]) -> Wanted:
    """The full-size images of these samples."""
    level = selection.levels[0]
    return Wanted(
        rows_n=selection.rows_N[positions_n],
        shard_n=level.shard_N[positions_n],
        offset_n=level.offset_N[positions_n],
        length_n=level.length_N[positions_n].astype(np.int64),
        digest_n16=level.digest_N16[positions_n],
    )


def finish(reading: Reading) -> Batch:
    """The bytes of a batch as one array."""
    results = reading.result()
    bad = [result for result in results if isinstance(result, BadSampleError)]
    if bad:
        raise bad[0]
    images = [result for result in results if not isinstance(result, BadSampleError)]
    shortest = min(map(len, images))
    return [np.stack([image[:shortest] for image in images])]


if __name__ == "__main__":
    serve(batches)
