"""The samples a loader draws from: rows of one or more shard sets as columns, and where their bytes lie.

Rows are numbered through: those of the second set begin where the first set's end, whatever splits are chosen.

Shapes: N samples chosen, L levels (0 is full size, the others smaller copies), n samples of a batch, F findings, B
boxes and V findings of several samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from cluster.storage import Place
from loaders.strata import Findings
from sharding.columns import LevelColumns
from sharding.filters import Filter
from sharding.index import ShardSet

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


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen samples, in index order. With two levels 104 bytes each; boxes, findings and keys come into memory
    when they are asked for."""

    sets: tuple[ShardSet, ...]
    starts: tuple[int, ...]
    """First row of each set in the numbering through."""
    num_samples: tuple[int, ...]
    """Chosen samples of each set; those of one lie together."""
    shards: tuple[Place, ...]
    """Every tar of every set: a Path, or a URL."""
    shard_digests: tuple[str, ...]
    """sha256 of each tar, 64 hex digits."""
    rows_N: npt.NDArray[np.int64]
    """Row numbers, ascending."""
    digests_N: npt.NDArray[np.uint64]
    """First 64 bits of each sample's digest."""
    originals_N2: npt.NDArray[np.int32]
    """Height and width of the original image, pixels."""
    levels: tuple[Level, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings: those of the first set, then what the others name besides."""
        return tuple(dict.fromkeys(name for shard_set in self.sets for name in shard_set.findings))

    def locate(self, row: int) -> tuple[ShardSet, int]:
        """The set a row is in, and its row number there."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.sets[number], row - self.starts[number]

    def key_of(self, row: int) -> str:
        """Key of a row."""
        shard_set, local = self.locate(row)
        return shard_set.key_of(local)

    def boxes_of(
        self, rows_n: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Boxes of rows, one row's after another's: corners in original pixels float32 [B, 4], findings as numbered in
        their own set int64 [B], and which of `rows_n` each is of int64 [B]."""
        parts = []
        for shard_set, mine, local in self._by_set(rows_n):
            corners_B4, finding_B, row_B = shard_set.boxes_of_rows(local)
            parts.append((corners_B4, finding_B, mine[row_B]))
        if not parts:
            return np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.int64)
        corners_B4, finding_B, row_B = (np.concatenate(part) for part in zip(*parts, strict=True))
        order_B = np.argsort(row_B, kind="stable")
        return corners_B4[order_B], finding_B[order_B], row_B[order_B]

    def labels_of(self, rows_n: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """1 where a row shows the finding with this place in `findings` and else 0, float32 [n, F]; and whether that is
        known, bool [n, F]: somebody looked at the image, and its set names that finding at all."""
        names = self.findings
        labels_nF = np.zeros((len(rows_n), len(names)), np.float32)
        known_nF = np.zeros((len(rows_n), len(names)), np.bool_)
        for shard_set, mine, local in self._by_set(rows_n):
            found, place_F = shard_set.found, _renumber(shard_set, names)
            place_V, row_V = found.of(local)
            labels_nF[mine[row_V], place_F[found.values[""][place_V]]] = 1
            known_nF[np.ix_(mine, place_F)] = found.known[local][:, None]
        return labels_nF, known_nF

    def found(self) -> Findings:
        """Findings of all samples, numbered as in `findings`."""
        names = self.findings
        known, lengths, number_V = [], [], []
        ends = np.cumsum(self.num_samples)
        for shard_set, start, num, end in zip(self.sets, self.starts, self.num_samples, ends, strict=True):
            local, lists = self.rows_N[end - num : end] - start, shard_set.found
            length_N = np.diff(lists.ends, prepend=0)
            chosen_N = np.zeros(len(length_N), np.bool_)
            chosen_N[local] = True
            known.append(lists.known[local])
            lengths.append(length_N[local])
            number_V.append(_renumber(shard_set, names)[lists.values[""][np.repeat(chosen_N, length_N)]])
        return Findings(names, np.concatenate(known), np.cumsum(np.concatenate(lengths)), np.concatenate(number_V))

    def sizes_of(self, positions_n: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Height and width of every level of the samples at these positions, int32 [L, n, 2], column by column in
        memory."""
        sizes_L2n = np.empty((len(self.levels), 2, len(positions_n)), np.int32)
        for number, level in enumerate(self.levels):
            sizes_n2 = level.sizes_N2.take(positions_n, axis=0)
            sizes_L2n[number, 0], sizes_L2n[number, 1] = sizes_n2[:, 0], sizes_n2[:, 1]
        return sizes_L2n.transpose(0, 2, 1)

    def _by_set(
        self, rows_n: npt.NDArray[np.int64]
    ) -> Iterator[tuple[ShardSet, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Sets that have any of these rows: which of `rows_n`, and their row numbers there."""
        set_n = np.searchsorted(self.starts, rows_n, side="right") - 1
        for number, (shard_set, start) in enumerate(zip(self.sets, self.starts, strict=True)):
            mine = np.flatnonzero(set_n == number)
            if len(mine):
                yield shard_set, mine, rows_n[mine] - start


def select(
    places: Sequence[Place],
    splits: Sequence[str],
    has_boxes: bool | None,
    keep_empty: bool,
    max_samples: int,
    only: Filter | None = None,
    cache: Path | None = None,
) -> Selection:
    """The samples of these shard sets in these splits that the filter takes.

    `has_boxes` True: only images that were annotated with boxes; and `keep_empty` False: only those with a box.
    `max_samples`: at most so many, those with the lowest digests, so that a smaller choice lies within a larger one; 0
    is all. `cache`: folder for the indexes of sets in object stores, None the default one. Raises ValueError where a
    set cannot be opened or nothing is left.
    """
    sets = tuple(ShardSet.open(place, cache=cache) for place in places)
    for number, shard_set in enumerate(sets):
        if any(shard_set.digest == other.digest for other in sets[:number]):
            raise ValueError(f"shards: {shard_set.place} holds the same shard set as another one: name it once")
    starts = tuple(int(start) for start in np.cumsum([0, *(len(shard_set) for shard_set in sets)]))
    chosen = [shard_set.rows(splits, has_boxes) for shard_set in sets]
    if has_boxes and not keep_empty:
        chosen = [
            rows[np.diff(shard_set.boxes.ends, prepend=0)[rows] > 0]
            for shard_set, rows in zip(sets, chosen, strict=True)
        ]
    if only is not None and only.terms:
        chosen = [rows[_taken(shard_set, only)[rows]] for shard_set, rows in zip(sets, chosen, strict=True)]
    if sum(len(rows) for rows in chosen) == 0:
        raise ValueError(_nothing_left(sets, splits, has_boxes, only))
    identities = [shard_set.identities(rows) for shard_set, rows in zip(sets, chosen, strict=True)]
    if max_samples < sum(map(len, chosen)) and max_samples:
        lowest = np.sort(np.concatenate([words for words, _ in identities]))[max_samples - 1]
        keep = [words <= lowest for words, _ in identities]
        chosen = [rows[mine] for rows, mine in zip(chosen, keep, strict=True)]
        identities = [(words[mine], sizes[mine]) for (words, sizes), mine in zip(identities, keep, strict=True)]
    shards: list[Place] = []
    shard_digests: list[str] = []
    levels: list[list[Level]] = []
    num_levels = max(shard_set.num_levels for shard_set in sets)
    for shard_set, rows in zip(sets, chosen, strict=True):
        mine = [_level(columns, len(shards)) for columns in shard_set.levels(rows)]
        levels.append(mine + mine[-1:] * (num_levels - len(mine)))  # a set without small copies: the smallest it has
        num_shards = 1 + max((int(level.shard_N.max()) - len(shards) for level in mine if len(rows)), default=-1)
        shards += [shard_set.shard_place(number) for number in range(num_shards)]
        shard_digests += [shard_set.shard_digest(number) for number in range(num_shards)]
    return Selection(
        sets=sets,
        starts=starts[:-1],
        num_samples=tuple(map(len, chosen)),
        shards=tuple(shards),
        shard_digests=tuple(shard_digests),
        rows_N=_join([rows + start if start else rows for rows, start in zip(chosen, starts[:-1], strict=True)]),
        digests_N=_join([words for words, _ in identities]),
        originals_N2=_join([sizes for _, sizes in identities]),
        levels=tuple(_join_levels(parts) for parts in zip(*levels, strict=True)),
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
    """Height and width at each sample's level, int32 [n, 2]; both as Selection.sizes_of lays them out."""
    sizes_L2n = np.ascontiguousarray(sizes_Ln2.transpose(0, 2, 1)).reshape(-1)
    num = len(level_n)
    place_n = level_n * (2 * num) + np.arange(num)
    stored_2n = np.empty((2, num), np.int32)
    sizes_L2n.take(place_n, out=stored_2n[0], mode="clip")  # which is faster than the default; no place is outside
    sizes_L2n[num:].take(place_n, out=stored_2n[1], mode="clip")
    return stored_2n.T


def _taken(shard_set: ShardSet, only: Filter) -> npt.NDArray[np.bool_]:
    return only.mask(shard_set.table(only.columns), shard_set.findings)


def _renumber(shard_set: ShardSet, names: Sequence[str]) -> npt.NDArray[np.int16]:
    """Places of a set's findings in `names`."""
    return np.array([names.index(name) for name in shard_set.findings], np.int16)


def _level(columns: LevelColumns, first_shard: int) -> Level:
    columns.shard.__iadd__(np.int32(first_shard))
    return Level(columns.shard, columns.offset, columns.length, columns.sizes, columns.digest)


def _join(parts: Sequence[npt.NDArray[T]]) -> npt.NDArray[T]:
    """The parts one after another; a single one is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _join_levels(parts: Sequence[Level]) -> Level:
    return Level(
        shard_N=_join([part.shard_N for part in parts]),
        offset_N=_join([part.offset_N for part in parts]),
        length_N=_join([part.length_N for part in parts]),
        sizes_N2=_join([part.sizes_N2 for part in parts]),
        digest_N16=_join([part.digest_N16 for part in parts]),
    )


def _nothing_left(sets: Sequence[ShardSet], splits: Sequence[str], has_boxes: bool | None, only: Filter | None) -> str:
    wanted = "images with boxes" if has_boxes else "images"
    if only is not None and only.terms:
        wanted += " that `only` takes"
    lines = [f"no {wanted} in splits = {tuple(splits)} of these shard sets; choose others:"]
    for shard_set in sets:
        names = sorted(pc.unique(shard_set.table(["split"]).column("split")).to_pylist())
        found = [f"{n!r} {len(shard_set.rows(n))} images, {len(shard_set.rows(n, True))} read for boxes" for n in names]
        lines.append(f"  {shard_set.place}: {'; '.join(found) or 'empty'}")
    return "\n".join(lines)
