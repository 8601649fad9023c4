from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loaders.selection import covering_level, select
from sharding.index import ShardSet
from tests.loaders.conftest import NUM_BOXED, NUM_HEALTHY, NUM_TRAIN, NUM_VALID


def test_columns_are_the_index_s(shard_set: Path) -> None:
    index = ShardSet.open(shard_set)
    chosen = select([shard_set], ("train",), None, True, 0)
    assert len(chosen.rows_N) == NUM_TRAIN
    keys = index.column("key")
    for position in (0, 11, NUM_TRAIN - 1):
        row = int(chosen.rows_N[position])
        assert chosen.key_of(row) == keys[row]
        assert int(chosen.digests_N[position]) == int(index.column("digest")[row][:16], 16)
        level = chosen.levels[0]
        data = chosen.shards[level.shard_N[position]].read_bytes()
        begin = int(level.offset_N[position])
        assert data[begin : begin + 2] == b"\xff\xd8"
        assert level.digest_N16[position].tobytes().hex() == index.level(0).digest[row]


def test_several_sets_are_numbered_through(
    shard_set: Path, make_set: Callable[[str, range, tuple[int, ...]], Path]
) -> None:
    other = make_set("other", range(3, 15), (96,))
    chosen = select([shard_set, other], ("train",), None, True, 0)
    assert len(chosen.rows_N) == NUM_TRAIN + 12
    first = len(ShardSet.open(shard_set))
    assert chosen.rows_N[NUM_TRAIN:].tolist() == list(range(first, first + 12))
    assert chosen.locate(first + 2)[1] == 2
    assert chosen.locate(first - 1)[0].directory == shard_set
    assert len(chosen.levels) == 2
    assert (chosen.levels[0].sizes_N2[:NUM_TRAIN] == chosen.levels[1].sizes_N2[:NUM_TRAIN]).all()
    assert (chosen.levels[1].sizes_N2[NUM_TRAIN:].max(axis=1) == 96).all()
    shard = int(chosen.levels[0].shard_N[-1])
    assert chosen.shards[shard].parent == other
    assert chosen.shards[shard].is_file()


def test_boxes_choose(shard_set: Path) -> None:
    assert len(select([shard_set], ("train",), True, False, 0).rows_N) == NUM_BOXED
    assert len(select([shard_set], ("train",), True, True, 0).rows_N) == NUM_BOXED + NUM_HEALTHY


def test_a_smaller_choice_lies_within_a_larger_one(shard_set: Path) -> None:
    choices = [select([shard_set], ("train",), None, True, n).rows_N.tolist() for n in (5, 20, 0)]
    assert list(map(len, choices)) == [5, 20, NUM_TRAIN]
    assert set(choices[0]) < set(choices[1]) < set(choices[2])
    assert all(sorted(choice) == choice for choice in choices)


def test_nothing_left_names_what_there_is(shard_set: Path) -> None:
    with pytest.raises(ValueError, match=rf"'train' {NUM_TRAIN} images, 28 read .*'valid' {NUM_VALID} images"):
        select([shard_set], ("test",), None, True, 0)


def test_the_same_set_twice_is_refused(shard_set: Path) -> None:
    with pytest.raises(ValueError, match="name it once"):
        select([shard_set, shard_set], ("train",), None, True, 0)


def test_the_smallest_level_that_covers() -> None:
    sizes = [np.array([[1000, 800]] * 5), np.array([[500, 400]] * 5), np.array([[250, 200]] * 5)]
    windows = np.array([[1, 1], [0.5, 0.7], [0.448, 0.56], [0.44, 1], [0.1, 0.1]])
    output = np.full((5, 2), 224)
    assert covering_level(sizes, windows, output).tolist() == [1, 1, 1, 0, 0]
    assert covering_level(sizes, windows, output // 2).tolist() == [2, 2, 2, 1, 0]
