import numpy as np
import pytest

from loaders.rng import Stream, philox_4x32, sort_keys, uniforms, words

# The known answers that the authors publish with Random123 (kat_vectors, philox4x32 10).
KNOWN = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter: list[int], key: tuple[int, int], expected: list[int]) -> None:
    counters = np.repeat(np.array(counter, np.uint32)[:, None], 3, axis=1)
    assert philox_4x32(counters, key).T.tolist() == [expected] * 3


def test_pieces_do_not_show() -> None:
    identity = np.arange(40_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    whole = words(7, 3, identity, Stream.VIEW)
    some = np.array([0, 1, 16_383, 16_384, 16_385, 39_999])
    assert (words(7, 3, identity[some], Stream.VIEW) == whole[:, some]).all()


def test_every_part_of_the_address_counts() -> None:
    identity = np.arange(100, dtype=np.uint64)
    drawn = [
        uniforms(seed, epoch, identity + np.uint64(shift), stream, block)
        for seed, epoch, shift, stream, block in [
            (0, 0, 0, 16, 0),
            (1, 0, 0, 16, 0),
            (1 << 40, 0, 0, 16, 0),
            (0, 1, 0, 16, 0),
            (0, 0, 1 << 40, 16, 0),
            (0, 0, 0, 17, 0),
            (0, 0, 0, 16, 1),
        ]
    ]
    assert all((a != b).all() for i, a in enumerate(drawn) for b in drawn[:i])


def test_uniforms_are_uniform() -> None:
    drawn = uniforms(5, 0, np.arange(50_000, dtype=np.uint64), Stream.VIEW)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for line in drawn:
        counts = np.histogram(line, bins=20, range=(0, 1))[0]
        assert ((counts - 2500) ** 2 / 2500).sum() < 60  # chi-square, 19 degrees of freedom: p < 1e-5
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.02


def test_sort_keys_use_64_bits() -> None:
    keys = sort_keys(0, 0, np.arange(1000, dtype=np.uint64), Stream.SAMPLE_ORDER)
    assert keys.dtype == np.uint64
    assert (keys >> np.uint64(60)).max() == 15
    assert len(np.unique(keys & np.uint64(0xFFFFFFFF))) == 1000
