"""Samples that cannot be used: named, or left out by all ranks from the same step on, and counted."""

import logging
import pickle
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from cluster.world import World
from loaders.agreement import TooManyGivenUp, agree
from loaders.config import DataConfig
from loaders.failures import BadSampleError
from loaders.loader import open_predict_loader, open_pretrain_loader
from loaders.making import Making
from loaders.options import CHUNK
from loaders.store import Reading, Result
from loaders.views import PlainViewConfig, TwoViewConfig
from sharding.index import ShardSet
from tests.loaders.conftest import NUM_TRAIN
from tests.loaders.ranks import run_ranks

ALONE = World(0, 1, 0, "cpu")
VIEW = TwoViewConfig(size_px=32)
BATCH = 8
NUM_STEPS = NUM_TRAIN // BATCH
Pixels = dict[tuple[int, str], bytes]


@dataclass(frozen=True)
class Damaged:
    """A shard set with samples that cannot be used."""

    data: DataConfig
    """Stops at them."""
    skipping: DataConfig
    """Leaves them out."""
    keys: tuple[str, ...]


def damage(path: Path, key: str, how: str) -> None:
    """Overwrites a sample: "bytes" flips a bit, which only its digest tells; "cut" leaves a header, "garbage" none."""
    index = ShardSet.open(path)
    row = index.column("key").tolist().index(key)
    level = index.level(0)
    offset, length = int(level.offset[row]), int(level.length[row])
    with open(index.shard_path(int(level.shard[row])), "r+b") as file:
        match how:
            case "bytes":
                file.seek(offset + length // 2)
                byte = file.read(1)[0]
                file.seek(offset + length // 2)
                file.write(bytes([byte ^ 1]))
            case "garbage":
                file.seek(offset)
                file.write(b"\0" * length)
            case "cut":
                file.seek(offset + 30)
                file.write(b"\0" * (length - 30))


def damage_three(shard_set: Path, copy: Path, check_digests: bool) -> Damaged:
    """A copy with three training images that cannot be used, two of them in one batch of the first epoch."""
    shutil.copytree(shard_set, copy)
    data = DataConfig((copy,), shards_per_block=2, check_digests=check_digests)
    with open_pretrain_loader(data, VIEW, BATCH, 5, ALONE) as loader:
        rows = [next(loader).rows.tolist() for _ in range(NUM_STEPS)]
        keys = [loader.selection.key_of(row) for row in (rows[1][2], rows[1][6], rows[3][0])]
    for key, how in zip(keys, ("bytes" if check_digests else "cut", "garbage", "cut"), strict=True):
        damage(copy, key, how)
    return Damaged(data, replace(data, on_bad="skip"), tuple(keys))


@pytest.fixture(scope="module")
def by_digest(shard_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """Its digest tells of each."""
    return damage_three(shard_set, tmp_path_factory.mktemp("damaged") / "copy", True)


@pytest.fixture(scope="module")
def by_decoder(shard_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """Only the decoder tells of them."""
    return damage_three(shard_set, tmp_path_factory.mktemp("damaged") / "copy", False)


@pytest.fixture(params=["by_digest", "by_decoder"])
def damaged(request: pytest.FixtureRequest) -> Damaged:
    found: Damaged = request.getfixturevalue(request.param)
    return found


def run(world: World, data: DataConfig, num: int, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """What one rank saw in `num` steps."""
    found: Pixels = {}
    sizes, states = [], []
    with open_pretrain_loader(data, VIEW, BATCH, 5, world) as loader:
        if state is not None:
            loader.load_state_dict(state)
        for _ in range(num):
            batch = next(loader)
            for i, row in enumerate(batch.rows.tolist()):
                name = batch.epoch, loader.selection.key_of(row)
                assert name not in found
                found[name] = b"".join(view[i].numpy().tobytes() for view in batch.views)
            sizes.append(batch.global_size)
            states.append(loader.state_dict())
        told = loader.metrics()
    return {"pixels": found, "sizes": sizes, "states": states, "metrics": told}


@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_the_run_goes_on_without_them(
    damaged: Damaged, shard_set: Path, chunk: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK, "cpu", chunk)
    undamaged = run(ALONE, replace(damaged.data, shards=(shard_set,)), 2 * NUM_STEPS)
    with caplog.at_level(logging.WARNING):
        found = run(ALONE, damaged.skipping, 2 * NUM_STEPS)
    wanted = {name: pixels for name, pixels in undamaged["pixels"].items() if name[1] not in damaged.keys}
    assert found["pixels"] == wanted  # nothing else moved
    assert found["sizes"][:NUM_STEPS] == [8, 6, 8, 7]
    assert sum(found["sizes"]) == len(wanted)
    given_up = found["states"][-1]["given_up"]
    assert [(epoch, step) for _, epoch, step, _ in given_up] == [(0, 1), (0, 1), (0, 3)]
    assert {key for key in damaged.keys for *_, reason in given_up if repr(key) in reason} == set(damaged.keys)
    assert found["metrics"]["num_given_up"] == 3
    assert len([record for record in caplog.records if "left out from now on" in record.message]) == 3


def test_ranks_agree_and_end_alike(by_digest: Damaged, by_decoder: Damaged, tmp_path: Path) -> None:
    """Three ranks, of which one or two see a bad image, against one; and what ends them ends all of them."""
    both = (by_digest.skipping, by_decoder.skipping)
    ranks = run_ranks(runs_and_ends, 3, tmp_path / "ranks", both)
    for number, data in enumerate(both):
        alone = run(ALONE, data, NUM_STEPS + 2)
        together: Pixels = {}
        for found, *_ in ranks:
            one = found[number]
            assert one["sizes"] == alone["sizes"]
            assert not together.keys() & one["pixels"].keys()
            together |= one["pixels"]
            assert [sorted(s["given_up"]) for s in one["states"]] == [sorted(s["given_up"]) for s in alone["states"]]
        assert together == alone["pixels"]
    ends = [end for _, end, _ in ranks]
    assert ends[0] == ends[1] == ends[2]
    assert "2 image(s) cannot be used, more than max_skipped = 1" in ends[0]
    lone = [rows for *_, rows in ranks]
    in_steps = [sum(len(rows[step]) for rows in lone) for step in range(NUM_TRAIN // 3)]
    assert min(in_steps) < 3  # a rank had nothing in that step
    assert sum(in_steps) == len({row for rows in lone for step in rows for row in step})
    assert 3 * len(in_steps) - sum(in_steps) in (2, 3)  # the third may be the one image that no batch of three has


def runs_and_ends(world: World, datas: tuple[DataConfig, ...]) -> tuple[list[dict[str, Any]], str, list[list[int]]]:
    """What a rank saw of each set; what ended it where too many samples were given up; the rows of each step of an
    epoch with one image a rank, where a rank may be left with none."""
    found = [run(world, data, NUM_STEPS + 2) for data in datas]
    with open_pretrain_loader(replace(datas[0], max_skipped=1), VIEW, BATCH, 5, world) as loader:
        with pytest.raises(TooManyGivenUp) as raised:
            list(loader.epoch())
        step = loader.state_dict()["step"]
        with pytest.raises(TooManyGivenUp):  # and it stays so
            next(loader)
        assert loader.state_dict()["step"] == step
    with open_pretrain_loader(replace(datas[1], splits=("train",)), VIEW, world.size, 5, world) as loader:
        rows = [batch.rows.tolist() for batch in loader.epoch()]
    return found, str(raised.value), rows


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("check_digests", [True, False])
def test_where_nothing_can_be_used_it_ends_at_once(
    shard_set: Path, tmp_path: Path, on_bad: Literal["stop", "skip"], check_digests: bool
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shard_set, copy)
    for tar in copy.glob("*.tar"):
        tar.write_bytes(b"\0" * tar.stat().st_size)
    data = DataConfig((copy,), on_bad=on_bad, check_digests=check_digests, max_skipped=20)
    with open_pretrain_loader(data, VIEW, BATCH, 5, ALONE) as loader:
        error = BadSampleError if on_bad == "stop" else TooManyGivenUp
        message = "none of the 8 images of epoch 0, step 0 can be used" if on_bad == "skip" else "sample 'image"
        with pytest.raises(error, match=message):
            next(loader)


@pytest.mark.parametrize("at", [1, 2, NUM_STEPS + 1])
def test_a_resumed_run_leaves_out_the_same(damaged: Damaged, at: int) -> None:
    data = damaged.skipping
    whole = run(ALONE, data, 2 * NUM_STEPS)
    rest = run(ALONE, data, 2 * NUM_STEPS - at, whole["states"][at - 1])
    assert rest["sizes"] == whole["sizes"][at:]
    assert rest["states"] == whole["states"][at:]
    done = run(ALONE, data, at)["pixels"]
    assert rest["pixels"] | done == whole["pixels"]


def test_what_was_given_up_stays_so_though_it_was_repaired(damaged: Damaged, shard_set: Path) -> None:
    state = run(ALONE, damaged.skipping, NUM_STEPS)["states"][-1]
    for data in (damaged.data, damaged.skipping):
        repaired = run(ALONE, replace(data, shards=(shard_set,)), NUM_STEPS, state)
        assert len(repaired["pixels"]) == sum(repaired["sizes"])
        assert not {key for _, key in repaired["pixels"]} & set(damaged.keys)


def test_by_default_it_stops_and_names_it(damaged: Damaged) -> None:
    with open_pretrain_loader(damaged.data, VIEW, BATCH, 5, ALONE) as loader:
        next(loader)  # what comes before is whole
        for _ in range(2):  # and it stays so
            with pytest.raises(BadSampleError) as raised:
                next(loader)
            assert raised.value.key in damaged.keys[:2]
            assert str(raised.value.shard) in str(raised.value)
            assert "cxr verify" in str(raised.value)


def test_prediction_stops_whatever_it_is_told(damaged: Damaged) -> None:
    with (
        open_predict_loader(damaged.skipping, PlainViewConfig(size_px=32), 8, ALONE) as loader,
        pytest.raises(BadSampleError),
    ):
        list(loader)


def test_one_image_in_two_places_counts_once(by_digest: Damaged) -> None:
    """With a weight of 2 an epoch may hold it twice in one batch."""
    data = replace(by_digest.skipping, weights=(2.0,), max_skipped=3)
    with open_pretrain_loader(data, VIEW, 2 * NUM_TRAIN, 5, ALONE) as loader:
        batch = next(loader)
        assert batch.global_size == len(batch.rows) == 2 * NUM_TRAIN - 6
        assert len(loader.given_up) == 3


def test_another_error_is_not_taken_for_a_bad_image(by_decoder: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    """While DALI works at an image that does not decode, the next batch fails for a reason of its own."""
    made = []

    def fails(*given: Any, **named: Any) -> Making:
        made.append(given)
        if len(made) == 3:
            raise MemoryError("no room for a batch")
        return Making(*given, **named)

    monkeypatch.setattr("loaders.stream.Making", fails)
    with open_pretrain_loader(by_decoder.skipping, VIEW, BATCH, 5, ALONE) as loader:
        for _ in range(2):
            with pytest.raises(MemoryError, match="no room for a batch"):
                list(loader.epoch())


def test_a_slow_disk_shows_in_what_the_loader_could_give(shard_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Reading.result

    def slowly(reading: Reading) -> list[Result]:
        time.sleep(0.3)
        return read(reading)

    monkeypatch.setattr(Reading, "result", slowly)
    with open_pretrain_loader(DataConfig((shard_set,)), VIEW, BATCH, 5, ALONE) as loader:
        for _ in range(3 * NUM_STEPS):
            next(loader)
        assert 0 < loader.metrics()["decode_images_per_second"] <= BATCH / 0.3


def test_ranks_that_cannot_ask_each_other_are_told() -> None:
    with pytest.raises(ValueError, match="needs a process group"):
        agree([], World(0, 2, 0, "cpu"))


def test_errors_travel_between_processes() -> None:
    error = BadSampleError("a", Path("b.tar"), "it is bad")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.key, again.shard) == (str(error), "a", Path("b.tar"))
