from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from loaders.rng import GOLDEN, Stream, sort_keys, states, uniforms, words

MASK = 2**64 - 1
IDENTITIES = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
# What other programs give for SplitMix64 from the seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def mix64(word: int) -> int:
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
    return word ^ word >> 31


def plain_state(seed: int, visit: int, identity: int, stream: int) -> int:
    base = mix64(mix64(seed + GOLDEN & MASK) + stream & MASK)
    return mix64(mix64(base + visit * GOLDEN & MASK) ^ identity)


def plain_word(seed: int, visit: int, identity: int, stream: int, draw: int) -> int:
    return mix64(plain_state(seed, visit, identity, stream) + (draw + 1) * GOLDEN & MASK)


def drawn(seed: int, visit: int, identity: int, stream: int, draw: int) -> int:
    return int(words(states(seed, visit, np.array([identity], np.uint64), stream), draw, 1)[0, 0])


def test_draws_are_splitmix64_s_outputs() -> None:
    assert words(np.array([1234567], np.uint64), 0, 5)[:, 0].tolist() == PUBLISHED
    assert words(np.array([1234567], np.uint64), 2, 2)[:, 0].tolist() == PUBLISHED[2:4]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ((0, 0, 0, 16, 0), 8145426271773004117),
        ((7, 3, 0x0123456789ABCDEF, 17, 5), 8586006292290875023),
        ((2**64 - 1, 2**63 - 1, 2**64 - 1, 65535, 1000), 13435874589702639026),
    ],
)
def test_known_answers(address: tuple[int, int, int, int, int], expected: int) -> None:
    assert drawn(*address) == plain_word(*address) == expected


def test_one_draw_alone_is_the_same_among_others() -> None:
    visit = np.arange(len(IDENTITIES)) % 5
    whole = words(states(7, visit, IDENTITIES, Stream.VIEW), 0, 9)
    keys = sort_keys(7, visit, IDENTITIES, Stream.VIEW)
    assert (keys == whole[0]).all()
    assert (sort_keys(7, 3, IDENTITIES, Stream.VIEW)[visit == 3] == keys[visit == 3]).all()
    for number in (0, 1, 8191, 8192, 19_999):
        some = np.array([number])
        state = states(7, int(visit[number]), IDENTITIES[some], Stream.VIEW)
        assert (state == states(7, visit[some], IDENTITIES[some], Stream.VIEW)).all()
        for draw in range(9):
            assert words(state, draw, 1)[0, 0] == whole[draw, number]


@pytest.mark.parametrize(("bits", "first"), [(32, 4), (16, 8)])
def test_uniforms_are_parts_of_words_upper_first(bits: Literal[16, 32], first: int) -> None:
    visit = np.arange(len(IDENTITIES)) % 5
    state = states(7, visit, IDENTITIES, Stream.VIEW)
    drawn = uniforms(state, first, 7, bits)
    for number in (0, 1, 19_999):
        whole = words(state[[number]], 0, 8)[:, 0].tolist()
        parts = [word >> shift & (1 << bits) - 1 for word in whole for shift in range(64 - bits, -1, -bits)]
        expected = [(part >> 8) / 2**24 if bits == 32 else part / 2**16 for part in parts[first : first + 7]]
        assert drawn[:, number].tolist() == expected
        assert uniforms(state[[number]], first, 7, bits)[:, 0].tolist() == expected
        assert uniforms(state[[number]], first, 1, bits)[:, 0].tolist() == expected[:1]


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("identities", [IDENTITIES, np.arange(20_000, dtype=np.uint64)], ids=["digests", "numbers"])
def test_uniforms_are_uniform(identities: npt.NDArray[np.uint64], bits: Literal[16, 32]) -> None:
    drawn_DN = uniforms(states(5, 0, identities, Stream.VIEW), 0, 8, bits)
    assert drawn_DN.min() >= 0
    assert drawn_DN.max() < 1
    steps = np.arange(1, len(identities) + 1) / len(identities)
    for line in drawn_DN:
        counts = np.histogram(line, bins=20, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 60  # chi-square, 19 degrees of freedom: p < 1e-5
        gap = np.abs(np.sort(line) - steps).max()  # Kolmogorov-Smirnov: p < 1e-5
        assert gap * np.sqrt(len(identities)) < 2.5
    assert np.abs(np.corrcoef(drawn_DN) - np.eye(8)).max() < 0.04  # 5 standard errors: 5 / sqrt(20000)


def test_addresses_beside_each_other_are_independent() -> None:
    one = np.uint64(1)
    lines = [
        uniforms(states(seed, visit, identities, stream), 0, 2)[draw]
        for seed, visit, identities, stream, draw in [
            (0, 0, IDENTITIES, 16, 0),
            (1, 0, IDENTITIES, 16, 0),
            (1 << 40, 0, IDENTITIES, 16, 0),
            (0, 1, IDENTITIES, 16, 0),
            (0, 1 << 40, IDENTITIES, 16, 0),
            (0, 0, IDENTITIES + one, 16, 0),
            (0, 0, IDENTITIES ^ one << np.uint64(40), 16, 0),
            (0, 0, np.roll(IDENTITIES, 1), 16, 0),
            (0, 0, IDENTITIES, 17, 0),
            (0, 0, IDENTITIES, 16, 1),
        ]
    ]
    assert np.abs(np.corrcoef(lines) - np.eye(len(lines))).max() < 0.04


ADDRESS: dict[str, tuple[int, Callable[[int], tuple[int, int, int, int, int]]]] = {
    "seed": (64, lambda flip: (99 ^ flip, 4, 0x9D3A, 16, 3)),
    "visit": (40, lambda flip: (99, 4 ^ flip, 0x9D3A, 16, 3)),
    "digest": (64, lambda flip: (99, 4, 0x9D3A ^ flip, 16, 3)),
    "stream": (16, lambda flip: (99, 4, 0x9D3A, 16 ^ flip, 3)),
    "draw": (16, lambda flip: (99, 4, 0x9D3A, 16, 3 ^ flip)),
}


@pytest.mark.parametrize("part", ADDRESS)
def test_each_bit_of_an_address_changes_half_of_the_bits(part: str) -> None:
    bits, address = ADDRESS[part]
    base = drawn(*address(0))
    changed = [bin(base ^ drawn(*address(1 << bit))).count("1") for bit in range(bits)]
    assert min(changed) >= 14  # 64 fair coins: 4.5 standard deviations of 4 below 32
    assert max(changed) <= 50
    assert abs(np.mean(changed) - 32) < 5 * 4 / np.sqrt(bits)


def test_each_bit_of_a_digest_changes_each_bit_of_a_draw_half_of_the_time() -> None:
    before = words(states(3, 1, IDENTITIES[:4000], Stream.VIEW), 0, 1)[0]
    for bit in range(0, 64, 7):
        flipped = IDENTITIES[:4000] ^ np.uint64(1 << bit)
        difference = before ^ words(states(3, 1, flipped, Stream.VIEW), 0, 1)[0]
        share = np.unpackbits(difference.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        assert np.abs(share - 0.5).max() < 0.04  # 5 standard errors: 5 * 0.5 / sqrt(4000)


def test_sort_keys_use_64_bits() -> None:
    keys = sort_keys(0, 0, np.arange(1000, dtype=np.uint64), Stream.SAMPLE_ORDER)
    assert keys.dtype == np.uint64
    assert (keys >> np.uint64(60)).max() == 15
    assert len(np.unique(keys & np.uint64(0xFFFFFFFF))) == 1000
