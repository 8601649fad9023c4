"""Samples that cannot be used: named, or left out by all ranks from the same step on, and counted."""

import logging
import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.world import World
from loaders.agreement import TooManyGivenUp, agree
from loaders.config import DataConfig
from loaders.loader import open_predict_loader, open_pretrain_loader
from loaders.pipeline import CHUNK
from loaders.store import BadSampleError
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


@pytest.fixture(params=[True, False], ids=["told by digests", "told by the decoder"])
def damaged(request: pytest.FixtureRequest, shard_set: Path, tmp_path: Path) -> Damaged:
    """Three training images that cannot be used, two of them in one batch of the first epoch."""
    copy = tmp_path / "copy"
    shutil.copytree(shard_set, copy)
    data = DataConfig((copy,), shards_per_block=2, check_digests=request.param)
    with open_pretrain_loader(data, VIEW, BATCH, 5, ALONE) as loader:
        rows = [next(loader).rows.tolist() for _ in range(NUM_STEPS)]
        keys = [loader.selection.key_of(row) for row in (rows[1][2], rows[1][6], rows[3][0])]
    for key, how in zip(keys, ("bytes" if request.param else "cut", "garbage", "cut"), strict=True):
        damage(copy, key, how)
    return Damaged(data, replace(data, on_bad="skip"), tuple(keys))


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


def test_ranks_agree(damaged: Damaged, tmp_path: Path) -> None:
    alone = run(ALONE, damaged.skipping, NUM_STEPS + 2)
    ranks = run_ranks(run, 3, tmp_path / "ranks", damaged.skipping, NUM_STEPS + 2)
    together: Pixels = {}
    for one in ranks:
        assert one["sizes"] == alone["sizes"]
        assert not together.keys() & one["pixels"].keys()
        together |= one["pixels"]
        assert [sorted(s["given_up"]) for s in one["states"]] == [sorted(s["given_up"]) for s in alone["states"]]
    assert together == alone["pixels"]


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


@pytest.mark.parametrize("damaged", [True], indirect=True)
def test_all_ranks_end_alike(damaged: Damaged, tmp_path: Path) -> None:
    """Where too many samples are given up, and where a rank has none left in a step."""
    ends = run_ranks(end_twice, 2, tmp_path / "ranks", damaged.skipping)
    assert ends[0] == ends[1]
    assert "2 samples cannot be used, more than max_skipped = 1" in ends[0][0]
    assert "none of the 1 images of rank" in ends[0][1]


def end_twice(world: World, data: DataConfig) -> list[str]:
    ends = []
    for changed, batch in ((replace(data, max_skipped=1), BATCH), (data, 2)):
        with (
            open_pretrain_loader(changed, VIEW, batch, 5, world) as loader,
            pytest.raises(TooManyGivenUp) as raised,
        ):
            list(loader.epoch())
        ends.append(str(raised.value))
    return ends


def test_ranks_that_cannot_ask_each_other_are_told() -> None:
    with pytest.raises(ValueError, match="needs a process group"):
        agree([], World(0, 2, 0, "cpu"))


def test_errors_travel_between_processes() -> None:
    error = BadSampleError("a", Path("b.tar"), "it is bad")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.key, again.shard) == (str(error), "a", Path("b.tar"))
