from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding import columns
from sharding.schema import LEVEL_TYPE


def batches_of(column: pa.Array, size: int) -> Iterator[pa.RecordBatch]:
    for begin in range(0, len(column), size):
        yield pa.record_batch([column[begin : begin + size]], ["levels"])


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20), st.integers(0, 5))
def test_digests_are_read_from_hex(digests: list[bytes], skipped: int) -> None:
    column = pa.array([digest.hex() for digest in digests], pa.string())[skipped:]
    found = columns.from_hex(column)
    assert [one.tobytes() for one in found] == digests[skipped:]
    assert columns.digest_words(found).tolist() == [int.from_bytes(digest[:8], "big") for digest in digests[skipped:]]


@pytest.mark.parametrize("digest", [None, "", "0" * 31, "0" * 34, "g" * 32])
def test_what_is_no_digest_is_refused(digest: str | None) -> None:
    with pytest.raises(ValueError, match=r"32 hex digits|[Nn]on-hexadecimal"):
        columns.from_hex(pa.array(["0" * 32, digest], pa.string()))


@given(st.lists(st.none() | st.lists(st.integers(-5, 5), max_size=4), min_size=1, max_size=30), st.data())
def test_lists_of_rows(rows: list[list[int] | None], data: st.DataObject) -> None:
    column = pa.array(rows, pa.list_(pa.int16()))
    found = columns.lists(batches_of(column, data.draw(st.integers(1, 31))), len(rows), {"": np.int16})
    wanted = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=40)), np.int64)
    assert found.known.tolist() == [row is not None for row in rows]
    place, row = found.of(wanted)
    taken: list[list[int]] = [[] for _ in wanted]
    for number, value in zip(row.tolist(), found.values[""][place].tolist(), strict=True):
        taken[number].append(value)
    assert taken == [rows[number] or [] for number in wanted.tolist()]


def level_column(num_rows: int, num_levels: int, length: int = 9) -> pa.Array:
    one = {"shard": 1, "length": length, "height": 3, "width": 4}
    rows = [
        [{**one, "offset": 10 * row + level, "digest": f"{row:031x}{level:x}"} for level in range(num_levels)]
        for row in range(num_rows)
    ]
    return pa.array(rows, pa.list_(LEVEL_TYPE))


@given(st.integers(1, 30), st.integers(1, 3), st.integers(1, 31), st.data())
def test_levels_of_rows(num_rows: int, num_levels: int, size: int, data: st.DataObject) -> None:
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, num_rows - 1)))), np.int64)
    found = columns.levels(batches_of(level_column(num_rows, num_levels), size), num_levels, rows)
    for number, level in enumerate(found):
        assert level.offset.tolist() == [10 * row + number for row in rows.tolist()]
        assert [one.tobytes().hex() for one in level.digest] == [f"{row:031x}{number:x}" for row in rows.tolist()]
        assert (level.height == 3).all()
        assert (level.width == 4).all()


def test_a_broken_index_is_named() -> None:
    with pytest.raises(ValueError, match="a row has 2 levels instead of 3"):
        columns.levels(batches_of(level_column(4, 2), 4), 3, np.arange(4))
    uneven = pa.concat_arrays([level_column(2, 2), level_column(1, 1), level_column(1, 3)])
    with pytest.raises(ValueError, match="a row has 1 levels instead of 2"):
        columns.levels(batches_of(uneven, 4), 2, np.arange(4))
    unknown = pa.array([*level_column(1, 4).to_pylist(), None], uneven.type)
    with pytest.raises(ValueError, match="a row has 4 levels instead of 2"):
        columns.levels(batches_of(unknown, 4), 2, np.arange(2))
    with pytest.raises(ValueError, match="2147483648 bytes, more than 2 GiB"):
        columns.levels(batches_of(level_column(4, 1, 1 << 31), 4), 1, np.arange(4))


def test_an_index_without_rows_has_empty_columns() -> None:
    found = columns.lists(iter([]), 0, {"": np.int16})
    assert [len(part) for part in found.of(np.empty(0, np.int64))] == [0, 0]
