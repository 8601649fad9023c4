from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loaders.levels import at_level, covering_level
from loaders.selection import select
from loaders.strata import stratify
from sharding import build
from sharding.folder import FolderConfig
from sharding.index import ShardSet
from tests.loaders.conftest import NUM_BOXED, NUM_HEALTHY, NUM_TRAIN, NUM_VALID, write_images


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
        assert level.digest_N16[position].tobytes().hex() == index.level(0).digest[row].tobytes().hex()


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
    assert Path(chosen.shards[shard]).parent == other
    assert Path(chosen.shards[shard]).is_file()


def test_a_sample_costs_what_the_docstring_says(
    make_set: Callable[[str, range, tuple[int, ...]], Path],
) -> None:
    chosen = select([make_set("two", range(12), (96,))], ("train",), None, True, 0)
    arrays = [chosen.rows_N, chosen.digests_N, chosen.originals_N2]
    arrays += [getattr(level, name) for level in chosen.levels for name in level.__slots__]
    assert sum(array.nbytes for array in arrays) == 12 * 104
    sizes = chosen.sizes_of(np.array([7, 0, 7]))
    assert sizes.shape == (2, 3, 2)
    for number, level in enumerate(chosen.levels):
        assert (sizes[number] == level.sizes_N2[[7, 0, 7]]).all()


@pytest.fixture(scope="module")
def effusions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set like the first 25 images of `shard_set` whose finding has another name."""
    folder = tmp_path_factory.mktemp("effusions")
    write_images(folder / "images", range(25))
    about = folder / "images" / "about.csv"
    about.write_text(about.read_text().replace("Nodule/Mass", "Effusion"))
    where = {"root": about.parent, "out": folder / "set", "csv": about}
    build.run(FolderConfig(keep_names=True, name="effusions", samples_per_shard=8, processes=1, **where))
    return folder / "set"


def test_boxes_and_findings_of_rows_are_those_of_each_row(shard_set: Path, effusions: Path) -> None:
    chosen = select([shard_set, effusions], ("train",), None, True, 0)
    rows = np.random.default_rng(0).permutation(chosen.rows_N)[:50]
    corners, finding, of = chosen.boxes_of(rows)
    labels, known = chosen.labels_of(rows)
    assert labels.dtype == np.float32
    assert labels.shape == (50, len(chosen.findings))
    assert set(chosen.findings) == {*chosen.sets[0].findings, *chosen.sets[1].findings}
    for number, row in enumerate(rows.tolist()):
        one, local = chosen.locate(row)
        expected = one.boxes_of(local)
        assert (corners[of == number] == expected[0]).all()
        assert finding[of == number].tolist() == expected[1].tolist()
        found = one.findings_of(local)
        named = np.isin(chosen.findings, one.findings)
        assert known[number].tolist() == (named & (found is not None)).tolist()
        names = {chosen.findings[place] for place in np.flatnonzero(labels[number])}
        assert names == {one.findings[place] for place in found or ()}
    assert len(corners) > 20
    assert known.any()
    assert (~known).all(axis=1).any()  # nobody read these
    assert (known.any(axis=1) & ~known.all(axis=1)).any()  # no set names all findings
    assert [part.shape for part in chosen.boxes_of(rows[:0])] == [(0, 4), (0,), (0,)]


def test_findings_of_all_samples(shard_set: Path, effusions: Path) -> None:
    chosen = select([shard_set, effusions], ("train",), None, True, 30)
    found = chosen.found()
    labels, known = chosen.labels_of(chosen.rows_N)
    assert found.known_N.tolist() == known.any(axis=1).tolist()
    begins = np.concatenate([[0], found.ends_N[:-1]])
    for begin, end, line in zip(begins, found.ends_N, labels, strict=True):
        assert sorted(found.number_V[begin:end].tolist()) == np.flatnonzero(line).tolist()


def test_weights_are_of_the_chosen_samples_of_a_set(shard_set: Path, effusions: Path) -> None:
    chosen = select([shard_set, effusions], ("train",), None, True, 30)
    first = int(np.count_nonzero(chosen.rows_N < chosen.starts[1]))
    assert chosen.num_samples == (first, 30 - first)
    strata = stratify(chosen.num_samples, (1.0, 2.5), None, 0)
    assert strata is not None
    assert strata.number_N.tolist() == [0] * first + [1] * (30 - first)


def test_boxes_choose(shard_set: Path) -> None:
    assert len(select([shard_set], ("train",), True, False, 0).rows_N) == NUM_BOXED
    assert len(select([shard_set], ("train",), True, True, 0).rows_N) == NUM_BOXED + NUM_HEALTHY


def test_a_smaller_choice_lies_within_a_larger_one(shard_set: Path) -> None:
    choices = [select([shard_set], ("train",), None, True, n).rows_N.tolist() for n in (5, 20, 0)]
    assert list(map(len, choices)) == [5, 20, NUM_TRAIN]
    assert set(choices[0]) < set(choices[1]) < set(choices[2])
    assert all(sorted(choice) == choice for choice in choices)


def test_a_choice_is_exact_where_sets_share_images(
    shard_set: Path, make_set: Callable[[str, range, tuple[int, ...]], Path]
) -> None:
    """An image that both have ties with itself: the first set's comes first."""
    other = make_set("again", range(3, 15), (96,))
    whole = select([shard_set, other], ("train",), None, True, 0)
    assert len(np.unique(whole.digests_N)) == NUM_TRAIN
    order = sorted(range(NUM_TRAIN + 12), key=lambda place: (int(whole.digests_N[place]), place))
    for number in range(1, NUM_TRAIN + 13):
        chosen = select([shard_set, other], ("train",), None, True, number)
        assert chosen.rows_N.tolist() == sorted(whole.rows_N[order[:number]].tolist())
        assert sum(chosen.num_samples) == len(chosen.digests_N) == number


def test_nothing_left_names_what_there_is(shard_set: Path) -> None:
    with pytest.raises(ValueError, match=rf"'train' {NUM_TRAIN} images, 28 read .*'valid' {NUM_VALID} images"):
        select([shard_set], ("test",), None, True, 0)


def test_the_same_set_twice_is_refused(shard_set: Path) -> None:
    with pytest.raises(ValueError, match="name it once"):
        select([shard_set, shard_set], ("train",), None, True, 0)


def test_the_smallest_level_that_covers() -> None:
    sizes = np.array([[[1000, 800]] * 5, [[500, 400]] * 5, [[250, 200]] * 5], np.int32)
    originals = np.full((5, 2), [2000, 1600])
    windows = originals * [[1, 1], [0.5, 0.7], [0.448, 0.56], [0.44, 1], [0.1, 0.1]]
    level = covering_level(sizes, [windows], np.full((5, 2), 224), originals)
    assert level.tolist() == [1, 1, 1, 0, 0]
    assert at_level(sizes, level).tolist() == [sizes[number, place].tolist() for place, number in enumerate(level)]
    assert covering_level(sizes, [windows], 112, originals).tolist() == [2, 2, 2, 1, 0]
    assert covering_level(sizes, [windows, windows[::-1]], 112, originals).tolist() == [0, 1, 2, 1, 0]
    assert covering_level(sizes[:1], [windows], 112, originals).tolist() == [0] * 5
