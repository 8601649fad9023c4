import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharding import near_duplicates
from sharding.near_duplicates import DISTANCE_BITS, find, perceptual_hash
from tests.references.near_pairs import near_pairs

Gray = npt.NDArray[np.uint8]


def crowd(seed: int, size: int, families: int, flips: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hashes that are up to `flips` bits from one of so many random ones, in three parts."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (families, 256), dtype=np.uint8)[rng.integers(0, families, size)]
    rows = np.repeat(np.arange(size), rng.integers(0, flips + 1, size))
    bits[rows, rng.integers(0, 256, len(rows))] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64), rng.integers(0, 3, size)


@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 60), st.integers(0, 40), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_all_pairs_are_found(seed: int, size: int, families: int, flips: int, distance: int) -> None:
    hashes_N4, parts_N = crowd(seed, size, families, flips)
    assert find(hashes_N4, parts_N, distance) == near_pairs(hashes_N4.tolist(), parts_N.tolist(), distance)


@pytest.mark.parametrize("distance", [0, 1, 15, 16, 24, 31])
@pytest.mark.parametrize("chunk", [7, 1 << 21])
def test_bands_lose_no_pair(monkeypatch: pytest.MonkeyPatch, distance: int, chunk: int) -> None:
    """Far from one another but for a few, which is when bands are used: in one piece and in many."""
    hashes_N4, parts_N = crowd(distance, 360, 90, 14)
    monkeypatch.setattr(near_duplicates, "_CHUNK", chunk)
    found = find(hashes_N4, parts_N, distance)
    assert found == near_pairs(hashes_N4.tolist(), parts_N.tolist(), distance)
    assert found


@pytest.mark.parametrize("distance", [0, 31, 100, 256])
def test_comparing_all_loses_no_pair(monkeypatch: pytest.MonkeyPatch, distance: int) -> None:
    """All close to one another, which is when no band helps."""
    hashes_N4, parts_N = crowd(distance, 200, 1, 20)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 64)
    assert find(hashes_N4, parts_N, distance) == near_pairs(hashes_N4.tolist(), parts_N.tolist(), distance)


def test_a_hundred_thousand_in_seconds() -> None:
    hashes_N4, parts_N = crowd(3, 100_000, 99_000, 6)
    started = time.perf_counter()
    found = find(hashes_N4, parts_N)
    seconds = time.perf_counter() - started
    assert seconds < 20  # 2 to 4 on two cores; comparing all pairs takes half a minute
    assert len(found) > 10_000
    rows, others, bits = np.asarray(found).T
    assert (np.bitwise_count(hashes_N4[rows] ^ hashes_N4[others]).sum(axis=1) == bits).all()


def test_pictures_of_nothing_are_told_apart_from_an_answer() -> None:
    """They all look the same; 1,500 times 1,500 pairs help nobody."""
    hashes_N4 = np.zeros((3000, 4), np.uint64)
    with pytest.raises(ValueError, match=r"more than 1,000,000 pairs .* row \d+ alone is in"):
        find(hashes_N4, np.arange(3000) % 2)
    assert find(hashes_N4, np.zeros(3000, np.int64)) == []


def saved_again(gray: Gray) -> Gray:
    data = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)


def resized(gray: Gray) -> Gray:
    share = 512 / max(gray.shape)
    size = (round(gray.shape[1] * share), round(gray.shape[0] * share))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def cropped(gray: Gray) -> Gray:
    """1 % less high and wide."""
    y, x = round(gray.shape[0] * 0.005), round(gray.shape[1] * 0.005)
    return gray[y : gray.shape[0] - y, x : gray.shape[1] - x]


def brightened(gray: Gray) -> Gray:
    return np.clip(gray * 1.1 + 10, 0, 255).astype(np.uint8)


def all_of_it(gray: Gray) -> Gray:
    return brightened(cropped(saved_again(resized(gray))))


@pytest.fixture(scope="module")
def radiographs(real_data: Path) -> dict[str, Gray]:
    """Real ones, in gray, longer side 1024 pixels at most."""
    paths = [*(real_data / "radiographs").glob("*.*"), *(real_data / "nih").glob("*.png")]
    grays = {}
    for path in sorted(paths):
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as opened:
                gray = opened.convert("L")
                gray.thumbnail((1024, 1024))
                grays[path.stem] = np.asarray(gray)
    return grays


# The most bits that any of the radiographs came to lie off by it.
@pytest.mark.parametrize(
    ("change", "most"), [(saved_again, 6), (resized, 6), (brightened, 10), (cropped, 24), (all_of_it, 26)]
)
def test_changed_radiographs_are_found(radiographs: dict[str, Gray], change: Callable[[Gray], Gray], most: int) -> None:
    grays = list(radiographs.values())
    hashes_N4 = np.stack([perceptual_hash(gray) for gray in [*grays, *map(change, grays)]])
    found = find(hashes_N4, np.repeat([0, 1], len(grays)))
    copies = {row: bits for row, other, bits in found if other == row + len(grays)}
    assert len(copies) == len(grays)
    assert max(copies.values()) <= most < DISTANCE_BITS
    # And nothing else, but the one radiograph that the collection holds twice.
    names = list(radiographs)
    others = {(names[row], names[other - len(grays)]) for row, other, _ in found if other != row + len(grays)}
    assert others == {("COVID-00033", "COVID-00037"), ("COVID-00037", "COVID-00033")}


def test_different_radiographs_are_far_apart(radiographs: dict[str, Gray]) -> None:
    """Views of one patient too: the nearest are COVID-00040a and b, more than twice the default off."""
    hashes_N4 = np.stack([perceptual_hash(gray) for gray in radiographs.values()])
    names = list(radiographs)
    bits = {(names[row], names[other]): bits for row, other, bits in find(hashes_N4, np.arange(len(names)), 256)}
    assert bits.pop(("COVID-00033", "COVID-00037")) <= 4
    assert min(bits.values()) > 2 * DISTANCE_BITS
    assert min(bits, key=lambda pair: bits[pair]) == ("COVID-00040a", "COVID-00040b")


def test_sixteen_bits_have_the_hash_of_eight(radiographs: dict[str, Gray]) -> None:
    for gray in list(radiographs.values())[:5]:
        deep = gray.astype(np.uint16) * 257
        assert np.bitwise_count(perceptual_hash(deep) ^ perceptual_hash(gray)).sum() <= 4
    assert perceptual_hash(np.zeros((3, 5), np.uint8)).shape == (4,)
