"""Where the stored images of one size lie, and which size serves a view.

Shapes: N samples chosen, L levels (0 is full size, the others smaller copies), n samples of a batch, V views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sharding.columns import LevelColumns

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Level:
    """Where the chosen samples' encoded images of one size lie. Shards are numbered through all sets."""

    shard_N: npt.NDArray[np.int32]
    offset_N: npt.NDArray[np.int64]
    length_N: npt.NDArray[np.int32]
    sizes_N2: npt.NDArray[np.int32]
    """Height and width, pixels."""
    digest_N16: npt.NDArray[np.uint8]
    """xxh3-128 of the encoded image."""


def level_of(columns: LevelColumns, first_shard: int) -> Level:
    """A level whose shards are numbered from `first_shard` on; the columns become its own."""
    columns.shard.__iadd__(np.int32(first_shard))
    return Level(columns.shard, columns.offset, columns.length, columns.sizes, columns.digest)


def join(parts: Sequence[npt.NDArray[T]]) -> npt.NDArray[T]:
    """The parts one after another; a single one is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def join_levels(parts: Sequence[Level]) -> Level:
    """The samples of several sets one after another."""
    return Level(
        shard_N=join([part.shard_N for part in parts]),
        offset_N=join([part.offset_N for part in parts]),
        length_N=join([part.length_N for part in parts]),
        sizes_N2=join([part.sizes_N2 for part in parts]),
        digest_N16=join([part.digest_N16 for part in parts]),
    )


def covering_level(
    sizes_Ln2: npt.NDArray[np.int32],
    windows_Vn2: Sequence[npt.NDArray[np.number[Any]]],
    output_n2: int | npt.NDArray[np.integer[Any]],
    windows_of_n2: npt.NDArray[np.integer[Any]],
) -> npt.NDArray[np.int64]:
    """The smallest level whose part of the image has at least the output's pixels in every view, int64 [n]; 0 where
    none has.

    `sizes_Ln2`: height and width of each level's images, largest first. `windows_Vn2`: height and width of what each
    view takes of images of the sizes `windows_of_n2`. `output_n2`: height and width it becomes; one number for all.
    """
    level_n = np.zeros(len(windows_of_n2), np.int64)
    windows_Vn2 = [window_n2.astype(np.float32) for window_n2 in windows_Vn2]
    needed_n2 = windows_of_n2.astype(np.float32) * np.asarray(output_n2, np.float32)
    for number, sizes_n2 in enumerate(sizes_Ln2[1:].astype(np.float32), start=1):
        covers_n = np.ones(len(level_n), np.bool_)
        for window_n2 in windows_Vn2:
            covers_n2 = window_n2 * sizes_n2 >= needed_n2
            covers_n &= covers_n2[:, 0]
            covers_n &= covers_n2[:, 1]
        level_n[covers_n] = number
    return level_n


def at_level(sizes_Ln2: npt.NDArray[np.int32], level_n: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Height and width at each sample's level, int32 [n, 2]; both as `Selection.sizes_of` lays them out."""
    sizes_L2n = np.ascontiguousarray(sizes_Ln2.transpose(0, 2, 1)).reshape(-1)
    num = len(level_n)
    place_n = level_n * (2 * num) + np.arange(num)
    stored_2n = np.empty((2, num), np.int32)
    sizes_L2n.take(place_n, out=stored_2n[0], mode="clip")  # which is faster than the default; no place is outside
    sizes_L2n[num:].take(place_n, out=stored_2n[1], mode="clip")
    return stored_2n.T
