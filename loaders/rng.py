"""Random numbers that depend on what they are for, not on when they are drawn.

A draw is a hash of its address: the run's seed, what it is for (a Stream), the sample, the how-manieth visit to it and
the number of the draw. So any draw can be made alone, by any rank, in any order, and adding samples changes nothing for
the others. The hash is that of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014): the address without the number is mixed to a 64-bit state, and the draws are its outputs from that state.

Shapes: N samples, D draws of each, W words for them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

GOLDEN = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio, made odd: SplitMix64's step."""

_MASK = (1 << 64) - 1
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB
_PIECE = 1 << 13
"""Numbers worked on at a time: so many stay in a processor's caches."""


class Stream(IntEnum):
    """What draws are for. Numbers are part of the meaning of a seed: never reuse one."""

    SAMPLE_ORDER = 0
    SHARD_ORDER = 1
    PASS_ORDER = 2
    """Which samples of a pass fall into which epoch, where an epoch holds no whole number of passes."""
    VIEW = 16
    """View v draws from VIEW + v."""


def states(
    seed: int, visit: int | npt.NDArray[np.int64], identity_N: npt.NDArray[np.uint64], stream: int
) -> npt.NDArray[np.uint64]:
    """What the draws of each identity begin from, uint64 [N].

    `seed`: 0 to 2**64 - 1. `visit`: how often the sample was visited before, one number or one for each, 0 to
    2**63 - 1. `identity_N`: 64 bits that name a sample (of its digest) or a shard. `stream`: what for, see Stream.
    """
    assert 0 <= seed <= _MASK
    assert 0 <= stream < 1 << 16
    base = _mix_int(_mix_int(seed + GOLDEN) + stream)
    if not isinstance(visit, int) and len(visit) and (visit == visit[0]).all():  # then one is mixed for all
        visit = int(visit[0])
    if isinstance(visit, int):
        assert 0 <= visit < 1 << 63
        return _mix(identity_N ^ np.uint64(_mix_int(base + visit * GOLDEN & _MASK)))
    state_N = visit.view(np.uint64) * np.uint64(GOLDEN)
    state_N += np.uint64(base)
    _mix(state_N)
    state_N ^= identity_N
    return _mix(state_N)


def words(state_N: npt.NDArray[np.uint64], first: int, num_draws: int) -> npt.NDArray[np.uint64]:
    """Draws `first` to `first + num_draws - 1` from each state, uint64 [D, N]: SplitMix64's outputs, from 0 on."""
    assert first >= 0
    steps_D = np.arange(first + 1, first + num_draws + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return _mix(state_N + steps_D[:, None])


def uniforms(
    state_N: npt.NDArray[np.uint64], first: int, num_draws: int, bits: Literal[16, 32] = 32
) -> npt.NDArray[np.float32]:
    """Draws `first` to `first + num_draws - 1` uniform in [0, 1), float32 [D, N].

    A word gives two draws of 32 bits, of which float32 takes 24, or four of 16 (enough where 65,536 steps are), the
    upper ones first. `first` is a multiple of that number: the draw after a word's last is the next word's first.
    """
    per_word = 64 // bits
    assert first % per_word == 0
    uniform_DN = np.empty((num_draws, len(state_N)), np.float32)
    at_once = per_word * max(1, _PIECE // max(len(state_N), 1))
    for begin in range(0, num_draws, at_once):
        some_DN = uniform_DN[begin : begin + at_once]
        word_WN = words(state_N, (first + begin) // per_word, -(-len(some_DN) // per_word))
        part_WP = word_WN.view(f"<u{bits // 8}")  # the parts of a word lie beside each other, the lowest first
        if bits == 32:
            part_WP >>= np.uint32(8)
        for place in range(min(per_word, len(some_DN))):
            out_WN = some_DN[place::per_word]
            part_WN = part_WP[: len(out_WN), per_word - 1 - place :: per_word]
            np.multiply(part_WN, np.float32(2.0 ** -min(bits, 24)), out=out_WN, dtype=np.float32, casting="unsafe")
    return uniform_DN


def sort_keys(
    seed: int,
    visit: int | npt.NDArray[np.int64],
    identity_N: npt.NDArray[np.uint64],
    stream: int,
) -> npt.NDArray[np.uint64]:
    """One random 64-bit number for each identity, uint64 [N]: sorting by it shuffles. Arguments as in `states`."""
    key_N = np.empty(len(identity_N), np.uint64)
    for begin in range(0, len(identity_N), _PIECE):
        piece = slice(begin, begin + _PIECE)
        some = visit if isinstance(visit, int) else visit[piece]
        key_N[piece] = words(states(seed, some, identity_N[piece], stream), 0, 1)[0]
    return key_N


def _mix(word_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser, in place: each bit of the result depends on each bit of the word."""
    word_N ^= word_N >> np.uint64(30)
    word_N *= np.uint64(_MULTIPLIER_1)
    word_N ^= word_N >> np.uint64(27)
    word_N *= np.uint64(_MULTIPLIER_2)
    word_N ^= word_N >> np.uint64(31)
    return word_N


def _mix_int(word: int) -> int:
    """The same for one number."""
    word &= _MASK
    word = (word ^ word >> 30) * _MULTIPLIER_1 & _MASK
    word = (word ^ word >> 27) * _MULTIPLIER_2 & _MASK
    return word ^ word >> 31
