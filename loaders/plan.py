"""Which samples a step holds, and which of them a rank takes: pure functions of (index, seed, epoch, step, world).

Samples are numbered 0 to N-1 by their place in the arrays the plan was given ("positions"); what lies behind a position
is `loaders.selection`'s. An epoch is shuffled by blocks: shards in random order, then the samples of each run of
`shards_per_block` shards in random order, so that reads stay near each other. The world's size plays no part in it.

Shapes: N samples, S shards, B samples of a global batch.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from loaders.rng import Stream, sort_keys

_BLOCK_BITS = 24
_EPOCHS_KEPT = 2


class Plan:
    """The order of the samples, epoch by epoch. May be used from several threads."""

    def __init__(
        self,
        digests: npt.NDArray[np.uint64],
        shard: npt.NDArray[np.int32],
        seed: int,
        global_batch: int,
        drop_last: bool,
        shards_per_block: int,
    ) -> None:
        """`digests` [N]: 64 bits of each sample's digest. `shard` [N]: the shard it lies in, numbered through all sets.

        Raises ValueError where the global batch is not 1 to N, a block holds no shard or the seed is not 64 bits.
        """
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed = {seed}: must be from 0 to 2**64 - 1")
        if not 1 <= global_batch <= len(digests):
            raise ValueError(
                f"global_batch = {global_batch}: must be from 1 to the number of samples, {len(digests)}; "
                "take a smaller batch, or more shards or splits"
            )
        if shards_per_block < 1:
            raise ValueError(f"shards_per_block = {shards_per_block}: must be at least 1")
        self._digests_N = digests
        self._shard_N = shard
        self._seed = seed
        self._shards_per_block = shards_per_block
        self._orders: dict[int, npt.NDArray[np.int64]] = {}
        self._lock = threading.Lock()
        self.global_batch = global_batch
        self.num_samples = len(digests)
        whole, rest = divmod(len(digests), global_batch)
        self.num_steps = whole if drop_last or rest == 0 else whole + 1

    def rows(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """Positions of the samples of a global batch, int64 [B]; fewer than `global_batch` in a kept last one."""
        if not 0 <= step < self.num_steps:
            raise ValueError(f"step = {step}: an epoch has steps 0 to {self.num_steps - 1}")
        begin = step * self.global_batch
        return self.order(epoch)[begin : begin + self.global_batch]

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """All positions in the order of an epoch, int64 [N]; kept for the last two epochs asked for."""
        with self._lock:
            if epoch not in self._orders:
                while len(self._orders) >= _EPOCHS_KEPT:
                    del self._orders[next(iter(self._orders))]
                order_N = block_shuffle(self._digests_N, self._shard_N, self._seed, epoch, self._shards_per_block)
                order_N.flags.writeable = False
                self._orders[epoch] = order_N
            return self._orders[epoch]


def block_shuffle(
    digests_N: npt.NDArray[np.uint64],
    shard_N: npt.NDArray[np.int32],
    seed: int,
    epoch: int,
    shards_per_block: int,
) -> npt.NDArray[np.int64]:
    """Positions 0 to N-1 shuffled by blocks of shards, int64 [N]: each exactly once."""
    filled_S = np.bincount(shard_N) > 0
    shard_key_S = sort_keys(seed, epoch, np.arange(len(filled_S), dtype=np.uint64), Stream.SHARD_ORDER)
    block_S = np.zeros(len(filled_S), np.uint64)
    in_order = np.argsort(np.where(filled_S, shard_key_S, np.uint64(2**64 - 1)), kind="stable")
    block_S[in_order] = np.arange(len(filled_S), dtype=np.uint64) // np.uint64(shards_per_block)
    assert len(filled_S) < 1 << _BLOCK_BITS
    # One sort by (block, random number) at once: the block in the upper bits. Equal keys keep the order of the index.
    key_N = sort_keys(seed, epoch, digests_N, Stream.SAMPLE_ORDER) >> np.uint64(_BLOCK_BITS)
    key_N |= block_S[shard_N] << np.uint64(64 - _BLOCK_BITS)
    return np.argsort(key_N, kind="stable").astype(np.int64, copy=False)


def share(num_rows: int, rank: int, size: int) -> slice:
    """The part of a batch of `num_rows` that a rank of `size` takes: in order, and shares differ by one at most."""
    assert 0 <= rank < size
    return slice(num_rows * rank // size, num_rows * (rank + 1) // size)


def next_position(epoch: int, step: int, num_steps: int) -> tuple[int, int]:
    """The (epoch, step) after this one."""
    return (epoch, step + 1) if step + 1 < num_steps else (epoch + 1, 0)
