"""Random numbers that depend on what they are for, not on when they are drawn.

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a 128-bit
counter and a 64-bit key into 128 random bits. The key is the run's seed; the counter says which sample, which epoch and
which draw. So any draw can be made alone, by any rank, in any order, and adding samples changes nothing for the others.

Shapes: N samples.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)
_CHUNK = 1 << 14


class Stream(IntEnum):
    """What draws are for. Numbers are part of the meaning of a seed: never reuse one."""

    SAMPLE_ORDER = 0
    SHARD_ORDER = 1
    VIEW = 16
    """View v draws from VIEW + v."""


def philox_4x32(counter_4N: npt.NDArray[np.uint32], key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Ten rounds of Philox: counters uint32 [4, N] and two 32-bit key words to random words uint32 [4, N]."""
    out_4N = np.empty_like(counter_4N)
    for begin in range(0, counter_4N.shape[1], _CHUNK):  # pieces that stay in the processor's cache
        piece = slice(begin, begin + _CHUNK)
        c0, c1, c2, c3 = counter_4N[:, piece].astype(np.uint64)
        k0, k1 = key
        for _ in range(10):
            product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
            c0 = (product_1 >> _SHIFT_32) ^ c1 ^ np.uint64(k0)
            c2 = (product_0 >> _SHIFT_32) ^ c3 ^ np.uint64(k1)
            c1, c3 = product_1 & _LOW_32, product_0 & _LOW_32
            k0, k1 = (k0 + _WEYL_0) & 0xFFFFFFFF, (k1 + _WEYL_1) & 0xFFFFFFFF
        out_4N[:, piece] = c0, c1, c2, c3
    return out_4N


def words(
    seed: int, epoch: int, identity_N: npt.NDArray[np.uint64], stream: int, block: int = 0
) -> npt.NDArray[np.uint32]:
    """Four random 32-bit words for each identity, uint32 [4, N].

    `identity_N`: 64 bits that name a sample (of its digest) or a shard. `stream`: what for, see Stream. `block`: which
    four of that stream's draws, 0 to 65535. `seed`: 0 to 2**64 - 1. `epoch`: 0 to 2**32 - 1.
    """
    assert 0 <= seed < 1 << 64
    assert 0 <= epoch < 1 << 32
    assert 0 <= stream < 1 << 16
    assert 0 <= block < 1 << 16
    counter_4N = np.empty((4, len(identity_N)), np.uint32)
    counter_4N[0] = identity_N & _LOW_32
    counter_4N[1] = identity_N >> _SHIFT_32
    counter_4N[2] = epoch
    counter_4N[3] = stream << 16 | block
    return philox_4x32(counter_4N, (seed & 0xFFFFFFFF, seed >> 32))


def uniforms(
    seed: int, epoch: int, identity_N: npt.NDArray[np.uint64], stream: int, block: int = 0
) -> npt.NDArray[np.float64]:
    """Four numbers uniform in [0, 1) for each identity, float64 [4, N], multiples of 2**-32. Arguments as in words."""
    return words(seed, epoch, identity_N, stream, block).astype(np.float64) * 2.0**-32


def sort_keys(seed: int, epoch: int, identity_N: npt.NDArray[np.uint64], stream: int) -> npt.NDArray[np.uint64]:
    """One random 64-bit number for each identity, uint64 [N]: sorting by it shuffles."""
    drawn_4N = words(seed, epoch, identity_N, stream)
    key_N: npt.NDArray[np.uint64] = drawn_4N[0].astype(np.uint64)
    key_N <<= _SHIFT_32
    key_N |= drawn_4N[1]
    return key_N
