"""Which parts of tars are asked for together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

GAP_BYTES = 256 << 10
"""Two images no farther than this from each other in a tar may be one request. An object store takes tens of
milliseconds to the first byte of an answer; at the tens of megabytes a second that one connection gives, so many bytes
take a few. What lies between is thrown away, and is never more than what is wanted."""

MOST_BYTES = 8 << 20
"""A joined request ends here, so that many connections have something to do."""


def joined(
    shard_n: npt.NDArray[np.int32], offset_n: npt.NDArray[np.int64], length_n: npt.NDArray[np.int32]
) -> Iterator[tuple[int, int, int, slice]]:
    """Requests as (shard, offset, length, which samples) for samples in the order of (shard, offset).

    Every sample is wholly in its request, and a request is at most twice its samples. Samples may overlap.
    """
    end_n = offset_n + length_n
    first = 0
    while first < len(shard_n):
        begin, end, after = int(offset_n[first]), int(end_n[first]), first + 1
        spare = end - begin  # how much more may be thrown away
        while (
            after < len(shard_n)
            and shard_n[after] == shard_n[first]
            and offset_n[after] - end <= min(GAP_BYTES, spare)
            and end_n[after] <= begin + MOST_BYTES
        ):
            spare += min(0, end - int(offset_n[after])) + int(length_n[after])
            end = max(end, int(end_n[after]))
            after += 1
        yield int(shard_n[first]), begin, end - begin, slice(first, after)
        first = after
