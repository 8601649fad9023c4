"""The samples a loader draws from: rows of one or more shard sets as columns, and where their bytes lie.

Rows are numbered through: those of the second set begin where the first set's end, whatever splits are chosen.

Shapes: N samples chosen, L levels (0 is full size, the others smaller copies), n samples of a batch, F findings, B
boxes and V findings of several samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from cluster.storage import Place
from loaders.levels import Level, join, join_levels, level_of
from loaders.strata import Findings
from sharding.filters import Filter
from sharding.index import ShardSet


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
    `max_samples`: at most so many, those with the lowest digests (of equal ones, the first), so that a smaller choice
    lies within a larger one; 0 is all. `cache`: folder for the indexes of sets in object stores, None the default one.
    Raises ValueError where a set cannot be opened or nothing is left.
    """
    sets = _open_each(places, cache)
    chosen = [_rows(shard_set, splits, has_boxes, keep_empty, only) for shard_set in sets]
    if sum(map(len, chosen)) == 0:
        raise ValueError(_nothing_left(sets, splits, has_boxes, only))
    identities = [shard_set.identities(rows) for shard_set, rows in zip(sets, chosen, strict=True)]
    if 0 < max_samples < sum(map(len, chosen)):
        keep = _lowest([words for words, _ in identities], max_samples)
        chosen = [rows[mine] for rows, mine in zip(chosen, keep, strict=True)]
        identities = [(words[mine], sizes[mine]) for (words, sizes), mine in zip(identities, keep, strict=True)]
    starts = tuple(int(start) for start in np.cumsum([0, *map(len, sets[:-1])]))
    shards, shard_digests, levels = _levels(sets, chosen)
    return Selection(
        sets=sets,
        starts=starts,
        num_samples=tuple(map(len, chosen)),
        shards=shards,
        shard_digests=shard_digests,
        rows_N=join([rows + start if start else rows for rows, start in zip(chosen, starts, strict=True)]),
        digests_N=join([words for words, _ in identities]),
        originals_N2=join([sizes for _, sizes in identities]),
        levels=levels,
    )


def _open_each(places: Sequence[Place], cache: Path | None) -> tuple[ShardSet, ...]:
    sets = tuple(ShardSet.open(place, cache=cache) for place in places)
    for number, shard_set in enumerate(sets):
        if any(shard_set.digest == other.digest for other in sets[:number]):
            raise ValueError(f"shards: {shard_set.place} holds the same shard set as another one: name it once")
    return sets


def _rows(
    shard_set: ShardSet, splits: Sequence[str], has_boxes: bool | None, keep_empty: bool, only: Filter | None
) -> npt.NDArray[np.int64]:
    """Rows of one set, in its own numbering."""
    rows_n = shard_set.rows(splits, has_boxes, only)
    if has_boxes and not keep_empty:
        rows_n = rows_n[np.diff(shard_set.boxes.ends, prepend=0)[rows_n] > 0]
    return rows_n


def _lowest(words: Sequence[npt.NDArray[np.uint64]], num: int) -> list[npt.NDArray[np.bool_]]:
    """Which of each set's samples are the `num` lowest of all, ordered by (digest, place): one image may lie in two
    sets."""
    words_N = np.concatenate(words)
    last = np.partition(words_N, num - 1)[num - 1]
    keep_N = words_N < last
    keep_N[np.flatnonzero(words_N == last)[: num - np.count_nonzero(keep_N)]] = True
    return np.split(keep_N, np.cumsum([len(mine) for mine in words])[:-1])


def _levels(
    sets: Sequence[ShardSet], chosen: Sequence[npt.NDArray[np.int64]]
) -> tuple[tuple[Place, ...], tuple[str, ...], tuple[Level, ...]]:
    """The tars of all sets, their digests, and where the chosen rows' images lie in them."""
    shards: list[Place] = []
    shard_digests: list[str] = []
    levels: list[list[Level]] = []
    num_levels = max(shard_set.num_levels for shard_set in sets)
    for shard_set, rows in zip(sets, chosen, strict=True):
        mine = [level_of(columns, len(shards)) for columns in shard_set.levels(rows)]
        levels.append(mine + mine[-1:] * (num_levels - len(mine)))  # a set without small copies: the smallest it has
        num_shards = 1 + max((int(level.shard_N.max()) - len(shards) for level in mine if len(rows)), default=-1)
        shards += [shard_set.shard_place(number) for number in range(num_shards)]
        shard_digests += [shard_set.shard_digest(number) for number in range(num_shards)]
    return tuple(shards), tuple(shard_digests), tuple(join_levels(parts) for parts in zip(*levels, strict=True))


def _renumber(shard_set: ShardSet, names: Sequence[str]) -> npt.NDArray[np.int16]:
    """Places of a set's findings in `names`."""
    return np.array([names.index(name) for name in shard_set.findings], np.int16)


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
