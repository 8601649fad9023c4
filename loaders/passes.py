"""How often an epoch takes each sample, where samples are weighted: what it takes of each stratum, pass by pass.

A stratum with N_k samples gives n_k = round(weight * N_k) items to each epoch, at least 1. It has an endless stream of
passes over its samples, each pass in an order of its own; epoch e takes places e * n_k to (e + 1) * n_k of the stream.
So no sample comes again before all of its stratum came once, and how often each was taken differs by one at most.

An epoch takes a stratum in turns: the rest of the pass it begins in, whole passes, the beginning of the one it ends in.
For a whole pass nothing of the size of the stratum is worked out. For a part of one the N_k random numbers of its order
are drawn and partitioned, once or twice an epoch.

Shapes: N samples, S shards, K strata, J turns, M samples of one stratum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.rng import Stream, sort_keys
from loaders.strata import Strata

_LAST_KEY = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True)
class Taken:
    """What one epoch takes.

    A pass is ordered by (random number, position). `low` and `high` are where the part that is taken begins and ends in
    it: the number and position of the first sample taken and of the first one not taken any more.
    """

    pass_JK: npt.NDArray[np.int64]
    """The pass that this turn takes from the stratum; -1 where it takes nothing."""
    partial_JK: npt.NDArray[np.bool_]
    """Whether it takes a part of it only."""
    low_key_JK: npt.NDArray[np.uint64]
    low_position_JK: npt.NDArray[np.int64]
    high_key_JK: npt.NDArray[np.uint64]
    high_position_JK: npt.NDArray[np.int64]
    counts_JS: npt.NDArray[np.int64]
    """Items of each turn in each shard."""

    @property
    def everything(self) -> int | None:
        """The pass, where the epoch takes the whole of one and nothing else; else None."""
        return int(self.pass_JK[0, 0]) if self.pass_JK.size == 1 and not self.partial_JK[0, 0] else None


class Passes:
    """What epochs take of the strata: a pure function of its arguments. May be used from several threads."""

    def __init__(
        self,
        digests: npt.NDArray[np.uint64],
        shard: npt.NDArray[np.int32],
        strata: Strata | None,
        seed: int,
        num_shards: int,
    ) -> None:
        """As in `loaders.plan.Plan`; without `strata`, each epoch takes each sample once."""
        self._digests_N = digests
        self._shard_N = shard
        self._stratum_N = None if strata is None or len(strata.weights) == 1 else strata.number_N
        self._seed = seed
        self._weights = (1.0,) if strata is None else strata.weights
        self._counts_KS = np.stack(
            [np.bincount(shard[self._members(k)], minlength=num_shards) for k in range(len(self._weights))]
        )
        self.num_samples_K = [int(count) for count in self._counts_KS.sum(axis=1)]
        self.num_items_K = [
            max(1, int(weight * count + 0.5)) if count else 0
            for weight, count in zip(self._weights, self.num_samples_K, strict=True)
        ]

    def taken(self, epoch: int) -> Taken:
        """What an epoch takes."""
        parts = [list(_parts(epoch, n, size)) for n, size in zip(self.num_items_K, self.num_samples_K, strict=True)]
        shape = max(map(len, parts)), len(parts)
        taken = Taken(
            pass_JK=np.full(shape, -1, np.int64),
            partial_JK=np.zeros(shape, np.bool_),
            low_key_JK=np.zeros(shape, np.uint64),
            low_position_JK=np.zeros(shape, np.int64),
            high_key_JK=np.full(shape, _LAST_KEY),
            high_position_JK=np.full(shape, len(self._shard_N), np.int64),
            counts_JS=np.zeros((shape[0], self._counts_KS.shape[1]), np.int64),
        )
        for k, turns in enumerate(parts):
            for j, (number, low, high) in enumerate(turns):
                taken.pass_JK[j, k] = number
                if high - low == self.num_samples_K[k]:
                    taken.counts_JS[j] += self._counts_KS[k]
                else:
                    self._take_part(taken, j, k, low, high)
        return taken

    def pick(
        self, taken: Taken, turn_n: npt.NDArray[np.int64], position_n: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Of samples at these positions, in these turns: which are taken, bool [n], and their visits, int64 [n]."""
        stratum_n = 0 if self._stratum_N is None else self._stratum_N[position_n]
        visit_n = taken.pass_JK[turn_n, stratum_n]
        picked_n = visit_n >= 0
        some = np.flatnonzero(taken.partial_JK[turn_n, stratum_n])
        if len(some):
            where = turn_n[some], 0 if self._stratum_N is None else self._stratum_N[position_n[some]]
            key = sort_keys(self._seed, visit_n[some], self._digests_N[position_n[some]], Stream.PASS_ORDER)
            low = _before(key, position_n[some], taken.low_key_JK[where], taken.low_position_JK[where])
            high = _before(key, position_n[some], taken.high_key_JK[where], taken.high_position_JK[where])
            picked_n[some] = high & ~low
        return picked_n, visit_n

    def _take_part(self, taken: Taken, j: int, k: int, low: int, high: int) -> None:
        members = self._members(k)
        key_M = sort_keys(self._seed, int(taken.pass_JK[j, k]), self._digests_N[members], Stream.PASS_ORDER)
        member_M = np.arange(len(key_M), dtype=np.int64) if isinstance(members, slice) else members
        taken.partial_JK[j, k] = True
        if low > 0:
            taken.low_key_JK[j, k], taken.low_position_JK[j, k] = _place(key_M, member_M, low)
        if high < len(key_M):
            taken.high_key_JK[j, k], taken.high_position_JK[j, k] = _place(key_M, member_M, high)
        before_low = _before(key_M, member_M, taken.low_key_JK[j, k], taken.low_position_JK[j, k])
        before_high = _before(key_M, member_M, taken.high_key_JK[j, k], taken.high_position_JK[j, k])
        shard = self._shard_N[member_M[before_high & ~before_low]]
        assert len(shard) == high - low
        taken.counts_JS[j] += np.bincount(shard, minlength=taken.counts_JS.shape[1])

    def _members(self, k: int) -> slice | npt.NDArray[np.int64]:
        """Positions of a stratum's samples, ascending."""
        return slice(None) if self._stratum_N is None else np.flatnonzero(self._stratum_N == k)


def _parts(epoch: int, num_items: int, num_samples: int) -> list[tuple[int, int, int]]:
    """Passes an epoch takes from, and the places it takes in each: (number, from, to)."""
    if num_samples == 0:
        return []
    begin, end = epoch * num_items, (epoch + 1) * num_items
    passes = range(begin // num_samples, (end - 1) // num_samples + 1)
    return [(n, max(begin - n * num_samples, 0), min(end - n * num_samples, num_samples)) for n in passes]


def _place(key_M: npt.NDArray[np.uint64], member_M: npt.NDArray[np.int64], rank: int) -> tuple[np.uint64, np.int64]:
    """Random number and position of the sample with this rank in a pass, 0 the first."""
    key: np.uint64 = np.partition(key_M, rank)[rank]
    same = member_M[key_M == key]  # several where the same image lies in two sets
    return key, same[rank - np.count_nonzero(key_M < key)]


def _before(
    key_n: npt.NDArray[np.uint64],
    position_n: npt.NDArray[np.int64],
    key: np.uint64 | npt.NDArray[np.uint64],
    position: np.int64 | npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    before_n: npt.NDArray[np.bool_] = (key_n < key) | ((key_n == key) & (position_n < position))
    return before_n
