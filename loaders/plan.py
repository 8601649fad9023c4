"""Which samples a step holds, and which of them a rank takes: pure functions of (index, seed, epoch, step, world).

Samples are numbered 0 to N-1 by their place in the arrays the plan was given ("positions"); what lies behind a position
is `loaders.selection`'s. An epoch is shuffled by blocks: shards in random order, then the samples of each run of
`shards_per_block` shards in random order, so that reads stay near each other. Where an epoch takes samples several
times, each turn of a shard (see `loaders.passes`) has a place of its own in the order, so that copies lie apart. The
world's size plays no part in it.

Nothing of the size of the data is worked out for an epoch, save for strata of which it takes a part of a pass: an epoch
costs one sort of the shards, a step what the blocks cost that it touches.

Shapes: N samples, S shards, U units (a shard in a turn), B items of a global batch, n candidates of some blocks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from loaders.passes import Passes, Taken
from loaders.rng import Stream, sort_keys, states, words
from loaders.strata import Strata

T = TypeVar("T")

_SPAN_ITEMS = 1 << 13
"""Blocks are worked out together until they have about so many items, so that small shards cost no more than large."""
_EPOCHS_KEPT = 3
_SPANS_KEPT = 3


@dataclass(frozen=True, slots=True)
class Items:
    """What a step or a part of an epoch holds, in order."""

    positions_B: npt.NDArray[np.int64]
    """Which samples."""
    visits_B: npt.NDArray[np.int64]
    """How often the run sees each before."""


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The order of an epoch's units, and where spans of whole blocks begin in it."""

    taken: Taken
    shard_U: npt.NDArray[np.int64]
    turn_U: npt.NDArray[np.int64]
    span_units: npt.NDArray[np.int64]
    """First unit of each span, and the number of units."""
    span_items: npt.NDArray[np.int64]
    """First item of each span, and the number of items."""


class Plan:
    """The order of the samples, epoch by epoch: a pure function of its arguments. May be used from several threads.

    `num_items`: items of an epoch, those of a dropped last batch included. `num_steps`: batches of an epoch. `digest`:
    16 hex digits that plans of the same arguments share.
    """

    def __init__(
        self,
        digests: npt.NDArray[np.uint64],
        shard: npt.NDArray[np.int32],
        seed: int,
        global_batch: int,
        drop_last: bool,
        shards_per_block: int,
        strata: Strata | None = None,
    ) -> None:
        """`digests` [N]: 64 bits of each sample's digest. `shard` [N]: the shard it lies in, numbered through all sets.

        `strata`: how often samples are taken; None: each once an epoch. Raises ValueError where the global batch is not
        1 to the items of an epoch, a block holds no shard or the seed is not 64 bits.
        """
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed = {seed}: must be from 0 to 2**64 - 1")
        if shards_per_block < 1:
            raise ValueError(f"shards_per_block = {shards_per_block}: must be at least 1")
        self._digests_N = digests
        self._seed = seed
        self._shards_per_block = shards_per_block
        self._counts_S = np.bincount(shard)
        self._starts_S = np.cumsum(self._counts_S) - self._counts_S
        in_order = bool((shard[1:] >= shard[:-1]).all())
        self._by_shard_N = None if in_order else np.argsort(shard, kind="stable")
        self._passes = Passes(digests, shard, strata, seed, len(self._counts_S))
        self.num_items = sum(self._passes.num_items_K)
        if not 1 <= global_batch <= self.num_items:
            raise ValueError(
                f"global_batch = {global_batch}: must be from 1 to the images of an epoch, {self.num_items}; "
                "take a smaller batch, or more shards or splits"
            )
        self.global_batch = global_batch
        whole, rest = divmod(self.num_items, global_batch)
        self.num_steps = whole if drop_last or rest == 0 else whole + 1
        self.digest = _digest(digests, shard, strata, (seed, global_batch, drop_last, shards_per_block))
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._spans: OrderedDict[tuple[int, int], Items] = OrderedDict()
        self._lock = threading.Lock()

    def items(self, epoch: int, step: int) -> Items:
        """What a global batch holds; fewer than `global_batch` in a kept last one."""
        if not 0 <= step < self.num_steps:
            raise ValueError(f"step = {step}: an epoch has steps 0 to {self.num_steps - 1}")
        begin = step * self.global_batch
        end = min(begin + self.global_batch, self.num_items)
        bounds = self._epoch(epoch).span_items
        spans = range(int(np.searchsorted(bounds, begin, "right")) - 1, int(np.searchsorted(bounds, end)))
        parts = []
        for number in spans:
            span, start = self._span(epoch, number), int(bounds[number])
            mine = slice(max(begin - start, 0), end - start)
            parts.append(Items(span.positions_B[mine], span.visits_B[mine]))
        if len(parts) == 1:
            return parts[0]
        return Items(
            np.concatenate([part.positions_B for part in parts]), np.concatenate([part.visits_B for part in parts])
        )

    def prepare(self, epoch: int) -> None:
        """Does the work that an epoch needs as a whole, so that its first items come as fast as the others."""
        self._epoch(epoch)

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:
            found = self._epochs.get(epoch)
        if found is None:  # two threads may both do the work, with the same result
            found = self._order_units(epoch)
            with self._lock:
                _keep(self._epochs, epoch, found, _EPOCHS_KEPT)
        return found

    def _span(self, epoch: int, number: int) -> Items:
        with self._lock:
            found = self._spans.get((epoch, number))
        if found is None:
            found = self._order_span(self._epoch(epoch), epoch, number)
            with self._lock:
                _keep(self._spans, (epoch, number), found, _SPANS_KEPT)
        return found

    def _order_units(self, epoch: int) -> _Epoch:
        taken = self._passes.taken(epoch)
        identity_S = np.arange(len(self._counts_S), dtype=np.uint64)
        key_JS = words(states(self._seed, epoch, identity_S, Stream.SHARD_ORDER), 0, len(taken.counts_JS))
        turn_U, shard_U = np.nonzero(taken.counts_JS)
        order_U = np.argsort(key_JS[turn_U, shard_U], kind="stable")
        turn_U, shard_U = turn_U[order_U], shard_U[order_U]
        ends_U = np.cumsum(taken.counts_JS[turn_U, shard_U])
        first_units = np.arange(0, len(ends_U), self._shards_per_block)  # of each block
        first_items = np.concatenate([[0], ends_U])[first_units]
        spans = np.unique(first_items // _SPAN_ITEMS, return_index=True)[1]
        return _Epoch(
            taken,
            shard_U,
            turn_U,
            span_units=np.append(first_units[spans], len(ends_U)),
            span_items=np.append(first_items[spans], ends_U[-1]),
        )

    def _order_span(self, order: _Epoch, epoch: int, number: int) -> Items:
        units = slice(int(order.span_units[number]), int(order.span_units[number + 1]))
        shards, turns = order.shard_U[units], order.turn_U[units]
        counts = self._counts_S[shards]
        place_n = np.arange(counts.sum()) + np.repeat(self._starts_S[shards] - (np.cumsum(counts) - counts), counts)
        position_n = place_n if self._by_shard_N is None else self._by_shard_N[place_n]
        block_n = np.repeat(np.arange(len(shards), dtype=np.uint64) // np.uint64(self._shards_per_block), counts)
        visit: int | npt.NDArray[np.int64] | None = order.taken.everything
        if visit is None:
            picked_n, visit_n = self._passes.pick(order.taken, np.repeat(turns, counts), position_n)
            position_n, visit, block_n = position_n[picked_n], visit_n[picked_n], block_n[picked_n]
        assert len(position_n) == order.span_items[number + 1] - order.span_items[number]
        key_n = sort_keys(self._seed, visit, self._digests_N.take(position_n), Stream.SAMPLE_ORDER)
        order_n = _order_in_blocks(block_n, key_n)
        visit_n = np.full(len(position_n), visit) if isinstance(visit, int) else visit.take(order_n)
        items = Items(position_n.take(order_n), visit_n)
        items.positions_B.flags.writeable = items.visits_B.flags.writeable = False
        return items


def _digest(
    digests_N: npt.NDArray[np.uint64], shard_N: npt.NDArray[np.int32], strata: Strata | None, rest: tuple[Any, ...]
) -> str:
    found = xxhash.xxh3_64(repr((rest, strata and strata.weights)).encode())
    for values in (digests_N, shard_N, *((strata.number_N,) if strata is not None else ())):
        found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


def share(num_rows: int, rank: int, size: int) -> slice:
    """The part of a batch of `num_rows` that a rank of `size` takes: in order, and shares differ by one at most."""
    assert 0 <= rank < size
    return slice(num_rows * rank // size, num_rows * (rank + 1) // size)


def next_position(epoch: int, step: int, num_steps: int) -> tuple[int, int]:
    """The (epoch, step) after this one."""
    return (epoch, step + 1) if step + 1 < num_steps else (epoch + 1, 0)


def _order_in_blocks(block_n: npt.NDArray[np.uint64], key_n: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Places ordered by (block, key, place). One plain sort of block, upper bits of the key and place in one number:
    faster than sorting places by keys."""
    place_bits = max(len(key_n) - 1, 1).bit_length()
    block_bits = int(block_n[-1]).bit_length()
    packed_n = key_n >> np.uint64(place_bits + block_bits)
    packed_n <<= np.uint64(place_bits)
    packed_n |= np.arange(len(key_n), dtype=np.uint64)
    if block_bits:
        packed_n |= block_n << np.uint64(64 - block_bits)
    packed_n.sort()
    packed_n &= np.uint64((1 << place_bits) - 1)
    return packed_n.view(np.int64)


K = TypeVar("K")


def _keep(kept: OrderedDict[K, T], key: K, value: T, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
