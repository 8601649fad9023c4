"""Columns of an index as NumPy arrays, a batch of rows at a time and without a Python object per row.

Shapes: N rows, n rows of a batch, L levels, V values of the lists of all rows.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class LevelColumns:
    """Where the encoded images of one level lie, one entry per row."""

    shard: npt.NDArray[np.int32]
    """[N] number of the tar."""
    offset: npt.NDArray[np.int64]
    """[N] first byte of the image in the tar."""
    length: npt.NDArray[np.int32]
    """[N] bytes of the encoded image."""
    sizes: npt.NDArray[np.int32]
    """[N, 2] rows and columns of the stored image."""
    digest: npt.NDArray[np.uint8]
    """[N, 16] xxh3-128 of the encoded image."""

    @property
    def height(self) -> npt.NDArray[np.int32]:
        """[N] rows of the stored image."""
        return self.sizes[:, 0]

    @property
    def width(self) -> npt.NDArray[np.int32]:
        """[N] columns of the stored image."""
        return self.sizes[:, 1]


@dataclass(frozen=True, slots=True)
class Lists:
    """A column of lists: that of row i is `values[ends[i - 1] : ends[i]]`."""

    known: npt.NDArray[np.bool_]
    """[N] whether there is a list at all; where not, it is as if empty."""
    ends: npt.NDArray[np.int64]
    """[N] where each row's values end."""
    values: dict[str, npt.NDArray[Any]]
    """[V] by the name of the field; "" where the values have no fields."""

    def of(self, rows_n: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Places in `values` of these rows' lists, one after another, and which of the rows each belongs to."""
        ends_n = self.ends[rows_n]
        lengths_n = ends_n - np.where(rows_n > 0, self.ends[rows_n - 1], 0)
        row_V = np.repeat(np.arange(len(rows_n)), lengths_n)
        first_n = ends_n - np.cumsum(lengths_n)  # of each list, less the values of the lists before it
        return np.arange(len(row_V)) + first_n[row_V], row_V


def from_hex(column: pa.Array) -> npt.NDArray[np.uint8]:
    """128-bit digests of a string column of 32 hex digits each, uint8 [n, 16]. Raises ValueError for other strings."""
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    if len(column) == 0:
        return np.empty((0, _DIGEST_BYTES), np.uint8)
    if column.null_count or (np.diff(offsets) != 2 * _DIGEST_BYTES).any():
        raise ValueError("digests are not 32 hex digits each")
    digits = memoryview(column.buffers()[2])[int(offsets[0]) : int(offsets[-1])]
    return np.frombuffer(binascii.unhexlify(digits), np.uint8).reshape(-1, _DIGEST_BYTES)


def digest_words(digests_n16: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """First 64 bits of each digest, uint64 [n]."""
    return digests_n16[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)


def numbers(column: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A column of numbers without unknown ones as an array."""
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(dtype, copy=False)


def lists(batches: Iterable[pa.RecordBatch], num_rows: int, fields: Mapping[str, npt.DTypeLike]) -> Lists:
    """The one column of these batches, of lists of structs with these fields, or of numbers (one field, "")."""
    known_N, lengths_N = np.zeros(num_rows, np.bool_), np.zeros(num_rows, np.int64)
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [np.empty(0, dtype)] for name, dtype in fields.items()}
    begin = 0
    for batch in batches:
        column = batch.column(0)
        rows = slice(begin, begin + len(column))
        known_N[rows] = column.is_valid().to_numpy(zero_copy_only=False)
        lengths_N[rows] = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        flat = column.flatten()
        for name, dtype in fields.items():
            parts[name].append(numbers(flat.field(name) if name else flat, dtype))
        begin = rows.stop
    return Lists(known_N, np.cumsum(lengths_N), {name: np.concatenate(arrays) for name, arrays in parts.items()})


def levels(
    batches: Iterable[pa.RecordBatch], num_levels: int, rows_n: npt.NDArray[np.int64]
) -> tuple[LevelColumns, ...]:
    """Every level of these rows (ascending), of batches that hold `levels`. Raises ValueError where an image is larger
    than 2 GiB or a row has other levels than the set."""
    n = len(rows_n)
    found = tuple(
        LevelColumns(
            shard=np.empty(n, np.int32),
            offset=np.empty(n, np.int64),
            length=np.empty(n, np.int32),
            sizes=np.empty((n, 2), np.int32),
            digest=np.empty((n, _DIGEST_BYTES), np.uint8),
        )
        for _ in range(num_levels)
    )
    for batch, taken, local in chosen(batches, rows_n):
        column = batch.column("levels")
        num_levels_N = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        if (num_levels_N != num_levels).any():
            wrong = num_levels_N[num_levels_N != num_levels][0]
            raise ValueError(f"a row has {wrong} levels instead of {num_levels}")
        flat = column.flatten()
        length_NL = numbers(flat.field("length"), np.int64)
        if length_NL.max() >= 1 << 31:
            raise ValueError(f"an encoded image has {length_NL.max()} bytes, more than 2 GiB")
        digest_NL = from_hex(flat.field("digest"))
        for number, level in enumerate(found):
            mine = local * num_levels + number
            level.shard[taken] = numbers(flat.field("shard"), np.int32)[mine]
            level.offset[taken] = numbers(flat.field("offset"), np.int64)[mine]
            level.length[taken] = length_NL[mine]
            level.sizes[taken, 0] = numbers(flat.field("height"), np.int32)[mine]
            level.sizes[taken, 1] = numbers(flat.field("width"), np.int32)[mine]
            level.digest[taken] = digest_NL[mine]
    return found


def chosen(
    batches: Iterable[pa.RecordBatch], rows_n: npt.NDArray[np.int64]
) -> Iterator[tuple[pa.RecordBatch, slice, npt.NDArray[np.int64]]]:
    """Batches with those of these rows (ascending) that are in them: which of `rows_n`, and their places in the batch.
    Batches without any are left out."""
    begin = 0
    for batch in batches:
        end = begin + len(batch)
        taken = slice(*(int(place) for place in np.searchsorted(rows_n, [begin, end])))
        if taken.start < taken.stop:
            yield batch, taken, rows_n[taken] - begin
        begin = end
