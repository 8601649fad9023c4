"""Images that look the same and lie in different splits: a perceptual hash, and all pairs within a few bits of it.

The hash is the discrete cosine transform's (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
Functions"), at 256 bits instead of 64, for radiographs of the chest are all alike. It is ten lines here;
imagehash would bring PyWavelets, and Pillow images where there are arrays.

Measured on 57 real radiographs, two of which turned out to be one: copies saved as JPEG at quality 60 or resized to 512
or 224 pixels are at most 6 bits from the original; darker, brighter or with another gamma 24; with half a percent cut
off each side 20, with a whole percent off each or off two sides 34 (one of the 57 is beyond 31). Different radiographs
are at least 68 bits apart (median 118), the nearest of them two views of one patient.

Shapes: H, W rows and columns, N images, P pairs of rows; a hash is 4 words of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from sharding.pixels import Gray

HASH_BITS = 256
DISTANCE_BITS = 31
"""Bits in which the hashes of near duplicates may differ, unless told: under half the way to another image."""

MAX_PAIRS = 1_000_000
"""More pairs than this are no answer."""

_SIDE = 64
"""Pixels of the shrunken image's side."""
_LOW = 16
"""Frequencies of each direction that are looked at."""
_BANDS = 16
_BAND_BITS = HASH_BITS // _BANDS
_CHUNK = 1 << 21
"""Pairs that are compared at a time."""
_BLOCK = 2048
"""Rows and columns of pairs that are compared at a time where all are."""
_COST = 10
"""Times that comparing one pair found by bands takes longer than one pair of a block."""


def perceptual_hash(gray: Gray) -> npt.NDArray[np.uint64]:
    """Hash of an image [H, W], uint64 [4]: which of the 256 lowest frequencies of its 64 x 64 copy exceed the median.

    The mean gray is left out of the median. Brightness and contrast change no bit but by clipping and rounding.
    """
    small = cv2.resize(np.asarray(gray), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_LOW, :_LOW]
    bits = low > np.median(low.ravel()[1:])
    # Each band of 16 bits takes one of each row and of each column: low frequencies alone would be alike everywhere.
    rows = np.arange(_LOW)
    mixed = np.stack([bits[rows, (rows + band) % _LOW] for band in range(_BANDS)])
    return np.packbits(mixed).view("<u8").astype(np.uint64)


def find(
    hashes_N4: npt.NDArray[np.uint64], parts_N: npt.NDArray[np.int64], distance_bits: int = DISTANCE_BITS
) -> list[tuple[int, int, int]]:
    """Every pair of rows in different parts whose hashes differ in at most `distance_bits`: (row, later row, bits).

    In order of the rows. Exact: of 16 bands of 16 bits, at least one differs in no more than a sixteenth of
    the distance (the pigeonhole principle; Norouzi, Punjani and Fleet 2012), so rows are compared whose bands
    agree, or up to 31 bits agree but for one bit. Where that is no gain, since the hashes crowd together or the
    distance is greater, all pairs are compared. Memory is some hundred megabytes, and a hundred bytes a row.

    Raises ValueError where there are more than MAX_PAIRS, as many empty images would give.
    """
    hashes_N4 = np.ascontiguousarray(hashes_N4, dtype=np.uint64)
    assert hashes_N4.shape == (len(parts_N), 4)
    found: list[npt.NDArray[np.int64]] = []
    num_found = 0
    for pairs_P3 in _pairs(hashes_N4, np.asarray(parts_N), distance_bits):
        found.append(pairs_P3)
        num_found += len(pairs_P3)
        if num_found > MAX_PAIRS:
            found = [np.unique(np.concatenate(found), axis=0)]
            num_found = len(found[0])
        if num_found > MAX_PAIRS:
            rows, counts = np.unique(found[0][:, :2], return_counts=True)
            raise ValueError(
                f"near duplicates: more than {MAX_PAIRS:,} pairs of images in different splits differ in at most "
                f"{distance_bits} bits; row {rows[counts.argmax()]} alone is in {counts.max():,}. "
                "Are they pictures of nothing? Leave them out, or ask for fewer bits"
            )
    every = np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 3), np.int64)
    return [(row, other, bits) for row, other, bits in every.tolist()]


def _pairs(
    hashes_N4: npt.NDArray[np.uint64], parts_N: npt.NDArray[np.int64], distance_bits: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Chunks [P, 3] of (row, later row, bits); a pair may come more than once."""
    size = len(hashes_N4)
    bands_NB = hashes_N4.astype("<u8", copy=False).view("<u2")
    flips = (0, *(1 << bit for bit in range(_BAND_BITS))) if distance_bits >= _BANDS else (0,)
    if distance_bits >= 2 * _BANDS or _num_candidates(bands_NB, flips) * _COST > size * (size - 1) // 2:
        yield from _all_pairs(hashes_N4, parts_N, distance_bits)
        return
    for band_N in (column.astype(np.int64) for column in bands_NB.T):
        order_N = np.argsort(band_N, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(band_N, minlength=1 << _BAND_BITS))])
        sorted_N = band_N[order_N]
        for flip in flips:
            partner_N = sorted_N ^ flip
            first_N = np.arange(1, size + 1) if flip == 0 else ends[partner_N]
            last_N = np.where(partner_N >= sorted_N, ends[partner_N + 1], first_N)  # each pair from one side alone
            for left_P, right_P in _expand(first_N, last_N):
                rows_P, others_P = order_N[left_P], order_N[right_P]
                apart = parts_N[rows_P] != parts_N[others_P]
                rows_P, others_P = rows_P[apart], others_P[apart]
                bits_P = np.bitwise_count(hashes_N4[rows_P] ^ hashes_N4[others_P]).sum(axis=1, dtype=np.int64)
                near = bits_P <= distance_bits
                yield _sorted_pairs(rows_P[near], others_P[near], bits_P[near])


def _num_candidates(bands_NB: npt.NDArray[np.uint16], flips: tuple[int, ...]) -> int:
    """Pairs of rows that the bands would have compared."""
    total = 0
    for band_N in bands_NB.T:
        counts = np.bincount(band_N, minlength=1 << _BAND_BITS)
        values = np.arange(len(counts))
        total += int((counts * (counts - 1)).sum()) // 2
        total += sum(int((counts * counts[values ^ flip]).sum()) // 2 for flip in flips if flip)
    return total


def _expand(
    first_N: npt.NDArray[np.int64], last_N: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Pairs (i, j) of positions with first_N[i] <= j < last_N[i], about _CHUNK at a time (or those of one i)."""
    sums_N = np.cumsum(np.maximum(last_N - first_N, 0))
    begin, size = 0, len(first_N)
    while begin < size:
        done = int(sums_N[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(sums_N, done + _CHUNK, side="right")))
        counts = np.diff(sums_N[begin:end], prepend=done)
        left_P = np.repeat(np.arange(begin, end), counts)
        starts = np.repeat(first_N[begin:end] - (np.cumsum(counts) - counts), counts)
        yield left_P, starts + np.arange(len(left_P))
        begin = end


def _all_pairs(
    hashes_N4: npt.NDArray[np.uint64], parts_N: npt.NDArray[np.int64], distance_bits: int
) -> Iterator[npt.NDArray[np.int64]]:
    """As `_pairs`, by a matrix product: of bits as -1 and 1 it is 256 less twice the bits that differ."""
    size = len(hashes_N4)
    for begin in range(0, size, _BLOCK):
        left = _signs(hashes_N4[begin : begin + _BLOCK])
        for other in range(begin, size, _BLOCK):
            agree = left @ _signs(hashes_N4[other : other + _BLOCK]).T
            rows_P, others_P = np.nonzero(agree >= HASH_BITS - 2 * distance_bits)
            bits_P = ((HASH_BITS - agree[rows_P, others_P]) / 2).astype(np.int64)
            rows_P, others_P = rows_P + begin, others_P + other
            wanted = (rows_P < others_P) & (parts_N[rows_P] != parts_N[others_P])
            yield _sorted_pairs(rows_P[wanted], others_P[wanted], bits_P[wanted])


def _signs(hashes_N4: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    bits = np.unpackbits(np.ascontiguousarray(hashes_N4).view(np.uint8).reshape(len(hashes_N4), -1), axis=1)
    return np.asarray(bits * np.float32(2) - np.float32(1), dtype=np.float32)


def _sorted_pairs(
    rows_P: npt.NDArray[np.int64], others_P: npt.NDArray[np.int64], bits_P: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    return np.stack([np.minimum(rows_P, others_P), np.maximum(rows_P, others_P), bits_P], axis=1)
