"""The samples a loader draws from: rows of one or more shard sets as columns, and where their bytes lie.

Rows are numbered through: those of the second set begin where the first set's end, whatever splits are chosen.

Shapes: N samples chosen, L levels (0 is full size, the others smaller copies), n samples of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from sharding.filters import Filter
from sharding.index import LevelColumns, ShardSet


@dataclass(frozen=True, slots=True)
class Level:
    """Where the chosen samples' encoded images of one size lie. Shards are numbered through all sets."""

    shard_N: npt.NDArray[np.int32]
    offset_N: npt.NDArray[np.int64]
    length_N: npt.NDArray[np.int64]
    sizes_N2: npt.NDArray[np.int64]
    """Height and width, pixels."""
    digest_N16: npt.NDArray[np.uint8]
    """xxh3-128 of the encoded image."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen samples, in index order."""

    sets: tuple[ShardSet, ...]
    starts: tuple[int, ...]
    """First row of each set in the numbering through."""
    shards: tuple[Path, ...]
    """Every tar of every set."""
    rows_N: npt.NDArray[np.int64]
    """Row numbers, ascending."""
    digests_N: npt.NDArray[np.uint64]
    """First 64 bits of each sample's digest."""
    originals_N2: npt.NDArray[np.int64]
    """Height and width of the original image, pixels."""
    levels: tuple[Level, ...]

    def locate(self, row: int) -> tuple[ShardSet, int]:
        """The set a row is in, and its row number there."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.sets[number], row - self.starts[number]

    def key_of(self, row: int) -> str:
        """Key of a row."""
        shard_set, local = self.locate(row)
        return shard_set.key_of(local)

    def boxes_of(self, row: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Boxes of a row, original pixels float32 [K, 4], and their findings int64 [K]."""
        shard_set, local = self.locate(row)
        return shard_set.boxes_of(local)


def select(
    directories: Sequence[Path],
    splits: Sequence[str],
    has_boxes: bool | None,
    keep_empty: bool,
    max_samples: int,
    only: Filter | None = None,
) -> Selection:
    """The samples of these shard sets in these splits that the filter takes.

    `has_boxes` True: only images that were annotated with boxes; and `keep_empty` False: only those with a box.
    `max_samples`: at most so many, those with the lowest digests, so that a smaller choice lies within a larger one; 0
    is all. Raises ValueError where a set cannot be opened or nothing is left.
    """
    sets = tuple(ShardSet.open(directory) for directory in directories)
    for number, shard_set in enumerate(sets):
        if any(shard_set.digest == other.digest for other in sets[:number]):
            raise ValueError(f"shards: {shard_set.directory} holds the same shard set as another one: name it once")
    starts = tuple(int(start) for start in np.cumsum([0, *(len(shard_set) for shard_set in sets)]))
    chosen = [shard_set.rows(splits, has_boxes) for shard_set in sets]
    if has_boxes and not keep_empty:
        chosen = [rows[_num_boxes(shard_set)[rows] > 0] for shard_set, rows in zip(sets, chosen, strict=True)]
    if only is not None and only.terms:
        chosen = [rows[_taken(shard_set, only)[rows]] for shard_set, rows in zip(sets, chosen, strict=True)]
    if sum(len(rows) for rows in chosen) == 0:
        raise ValueError(_nothing_left(sets, splits, has_boxes, only))
    digests = [_digest_words(shard_set)[rows] for shard_set, rows in zip(sets, chosen, strict=True)]
    if max_samples:
        lowest = np.sort(np.concatenate(digests))[:max_samples][-1]
        chosen = [rows[words <= lowest] for rows, words in zip(chosen, digests, strict=True)]
        digests = [words[words <= lowest] for words in digests]
    shards: list[Path] = []
    levels: list[list[Level]] = []
    num_levels = max(shard_set.num_levels for shard_set in sets)
    for shard_set, rows in zip(sets, chosen, strict=True):
        columns = [shard_set.level(number) for number in range(shard_set.num_levels)]
        mine = [_pick(level, rows, len(shards)) for level in columns]
        levels.append(mine + mine[-1:] * (num_levels - len(mine)))  # a set without small copies: the smallest it has
        num_shards = 1 + max((int(level.shard.max()) for level in columns if len(level.shard)), default=-1)
        shards += [shard_set.shard_path(number) for number in range(num_shards)]
    sizes = [np.stack([s.column("height"), s.column("width")], axis=1)[r] for s, r in zip(sets, chosen, strict=True)]
    return Selection(
        sets=sets,
        starts=starts[:-1],
        shards=tuple(shards),
        rows_N=np.concatenate([rows + start for rows, start in zip(chosen, starts[:-1], strict=True)]),
        digests_N=np.concatenate(digests),
        originals_N2=np.concatenate(sizes).astype(np.int64),
        levels=tuple(_join(parts) for parts in zip(*levels, strict=True)),
    )


def covering_level(
    sizes_Ln2: Sequence[npt.NDArray[np.int64]], windows_n2: npt.NDArray[np.float64], output_n2: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The smallest level whose part of the image has at least the output's pixels, int64 [n]; 0 where none has.

    `sizes_Ln2`: height and width of each level's images, largest first. `windows_n2`: height and width of what is taken
    of each image, as shares of it. `output_n2`: height and width it becomes.
    """
    level_n = np.zeros(len(windows_n2), np.int64)
    for number, sizes_n2 in enumerate(sizes_Ln2):
        level_n[(windows_n2 * sizes_n2 >= output_n2).all(axis=1)] = number
    return level_n


def _digest_words(shard_set: ShardSet) -> npt.NDArray[np.uint64]:
    return _from_hex(shard_set.column("digest").tolist())[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)


def _from_hex(digests: Sequence[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 16)


def _taken(shard_set: ShardSet, only: Filter) -> npt.NDArray[np.bool_]:
    return only.mask(shard_set.table(only.columns), shard_set.findings)


def _num_boxes(shard_set: ShardSet) -> npt.NDArray[np.int64]:
    lengths = pc.fill_null(pc.list_value_length(shard_set.table(["boxes"]).column("boxes")), 0)
    return np.asarray(lengths.to_numpy(), dtype=np.int64)


def _pick(level: LevelColumns, rows: npt.NDArray[np.int64], first_shard: int) -> Level:
    return Level(
        shard_N=level.shard[rows] + np.int32(first_shard),
        offset_N=level.offset[rows],
        length_N=level.length[rows],
        sizes_N2=np.stack([level.height[rows], level.width[rows]], axis=1).astype(np.int64),
        digest_N16=_from_hex(level.digest)[rows],
    )


def _join(parts: Sequence[Level]) -> Level:
    return Level(
        shard_N=np.concatenate([part.shard_N for part in parts]),
        offset_N=np.concatenate([part.offset_N for part in parts]),
        length_N=np.concatenate([part.length_N for part in parts]),
        sizes_N2=np.concatenate([part.sizes_N2 for part in parts]),
        digest_N16=np.concatenate([part.digest_N16 for part in parts]),
    )


def _nothing_left(sets: Sequence[ShardSet], splits: Sequence[str], has_boxes: bool | None, only: Filter | None) -> str:
    wanted = "images with boxes" if has_boxes else "images"
    if only is not None and only.terms:
        wanted += " that `only` takes"
    lines = [f"no {wanted} in splits = {tuple(splits)} of these shard sets; choose others:"]
    for shard_set in sets:
        names, counts = np.unique(shard_set.column("split").astype(str), return_counts=True)
        annotated = {name: len(shard_set.rows(name, True)) for name in names.tolist()}
        found = [
            f"{n!r} {c} images, {annotated[n]} read for boxes" for n, c in zip(names.tolist(), counts, strict=True)
        ]
        lines.append(f"  {shard_set.directory}: {'; '.join(found) or 'empty'}")
    return "\n".join(lines)
