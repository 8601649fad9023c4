import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.world import World
from loaders.loader import (
    DataConfig,
    DetectBatch,
    PretrainBatch,
    open_detect_loader,
    open_predict_loader,
    open_pretrain_loader,
)
from loaders.placement import boxes_to_original
from loaders.store import BadSampleError, MissingShardError
from loaders.views import DetectViewConfig, PlainViewConfig, TwoViewConfig
from sharding.index import ShardSet
from tests.loaders.conftest import NUM_BOXED, NUM_HEALTHY, NUM_TRAIN, NUM_VALID, draw

ALONE = World(0, 1, 0, "cpu")
VIEW = TwoViewConfig(size_px=48)
BATCH = 8
NUM_STEPS = NUM_TRAIN // BATCH
MakeSet = Callable[[str, range, tuple[int, ...]], Path]


def world(rank: int, size: int) -> World:
    return World(rank, size, rank, "cpu")


def pixels(batches: list[PretrainBatch]) -> dict[tuple[int, int], bytes]:
    """Pixels of both views by (epoch, row)."""
    found: dict[tuple[int, int], bytes] = {}
    for batch in batches:
        for i, row in enumerate(batch.rows.tolist()):
            assert (batch.epoch, row) not in found
            found[batch.epoch, row] = b"".join(view[i].numpy().tobytes() for view in batch.views)
    return found


def take(data: DataConfig, num: int, at: World = ALONE, start: tuple[int, int] = (0, 0)) -> list[PretrainBatch]:
    with open_pretrain_loader(data, VIEW, BATCH, 5, at) as loader:
        loader.load_state_dict({"epoch": start[0], "step": start[1]})
        return [next(loader) for _ in range(num)]


@pytest.fixture(scope="module")
def levelled(make_set: MakeSet) -> Path:
    """The training images with a smaller copy of each."""
    return make_set("levelled", range(NUM_TRAIN), (100,))


@pytest.fixture(scope="module", params=["one level", "two levels"])
def data(request: pytest.FixtureRequest, shard_set: Path, levelled: Path) -> DataConfig:
    return DataConfig(shards=(shard_set if request.param == "one level" else levelled,), shards_per_block=2)


@pytest.fixture(scope="module")
def whole(data: DataConfig) -> list[PretrainBatch]:
    """Two epochs at one rank."""
    return take(data, 2 * NUM_STEPS)


def test_batches_are_what_they_say(whole: list[PretrainBatch]) -> None:
    assert [(batch.epoch, batch.step) for batch in whole] == [(e, s) for e in range(2) for s in range(NUM_STEPS)]
    for batch in whole:
        assert batch.global_size == len(batch.rows) == BATCH
        assert batch.rows.dtype == torch.int64
        for view in batch.views:
            assert view.shape == (BATCH, 48, 48, 1)
            assert view.dtype == torch.uint8
    found = pixels(whole)
    assert len(found) == 2 * NUM_STEPS * BATCH
    assert len(set(found.values())) == len(found)  # no two alike, so neither epoch nor sample is forgotten


@pytest.mark.parametrize("size", [2, 3])
def test_pixels_are_the_same_at_any_world_size(data: DataConfig, whole: list[PretrainBatch], size: int) -> None:
    ranks = [take(data, NUM_STEPS + 1, world(rank, size)) for rank in range(size)]
    for step in range(NUM_STEPS + 1):
        shares = [batches[step] for batches in ranks]
        assert torch.cat([share.rows for share in shares]).tolist() == whole[step].rows.tolist()
        assert {share.global_size for share in shares} == {BATCH}
        assert max(len(share.rows) for share in shares) - min(len(share.rows) for share in shares) <= 1
    together = pixels([batch for batches in ranks for batch in batches])
    alone = pixels(whole[: NUM_STEPS + 1])
    assert together == alone


@pytest.mark.parametrize("at", [(0, 3), (1, 0), (1, 2)])
def test_a_resumed_run_goes_on_as_the_whole_one(
    data: DataConfig, whole: list[PretrainBatch], at: tuple[int, int]
) -> None:
    done = at[0] * NUM_STEPS + at[1]
    rest = take(data, 2 * NUM_STEPS - done, start=at)
    assert pixels(rest) == pixels(whole[done:])
    assert [batch.rows.tolist() for batch in rest] == [batch.rows.tolist() for batch in whole[done:]]


def test_state_is_that_of_the_next_batch(shard_set: Path) -> None:
    with open_pretrain_loader(DataConfig(shards=(shard_set,)), VIEW, BATCH, 5, ALONE) as loader:
        assert loader.state_dict() == {"epoch": 0, "step": 0}
        for number in range(NUM_STEPS + 2):
            next(loader)
            assert loader.last_wait_seconds >= 0
            assert loader.state_dict() == {"epoch": (number + 1) // NUM_STEPS, "step": (number + 1) % NUM_STEPS}
        first = [next(loader) for _ in range(2)]
        loader.load_state_dict({"epoch": 1, "step": 2})
        assert pixels([next(loader) for _ in range(2)]) == pixels(first)
        assert [(batch.epoch, batch.step) for batch in loader.epoch()] == [(2, step) for step in range(NUM_STEPS)]
        next(loader)
        assert [(batch.epoch, batch.step) for batch in loader.epoch()] == [(3, step) for step in range(1, NUM_STEPS)]
        with pytest.raises(ValueError, match="an epoch has 4 steps here"):
            loader.load_state_dict({"epoch": 0, "step": NUM_STEPS})


def test_a_kept_last_batch_may_leave_a_rank_nothing(shard_set: Path) -> None:
    data = DataConfig(shards=(shard_set,))
    batch = 12  # 37 = 3 * 12 + 1
    ranks = []
    for rank in range(3):
        with open_pretrain_loader(data, VIEW, batch, 0, world(rank, 3), drop_last=False) as loader:
            assert loader.num_steps == 4
            ranks.append([next(loader) for _ in range(9)])
    assert sorted(len(batches[3].rows) for batches in ranks) == [0, 0, 1]
    empty = next(batches[3] for batches in ranks if not len(batches[3].rows))
    assert empty.views[0].shape == (0, 48, 48, 1)
    assert empty.global_size == 1
    assert [batch.step for batch in ranks[0]] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    first_epoch = pixels([batch for batches in ranks for batch in batches[:4]])
    assert len(first_epoch) == NUM_TRAIN


def test_a_subset_has_the_same_pixels(shard_set: Path) -> None:
    with open_pretrain_loader(DataConfig(shards=(shard_set,), max_samples=10), VIEW, 5, 5, ALONE) as loader:
        some = pixels([next(loader) for _ in range(2)])
    with open_pretrain_loader(DataConfig(shards=(shard_set,)), VIEW, NUM_TRAIN, 5, ALONE) as loader:
        everything = pixels([next(loader)])
    assert len(some) == 10
    assert some.items() <= everything.items()


def test_a_smaller_level_changes_pixels_little(shard_set: Path, levelled: Path) -> None:
    """Both sets have the same samples, so the same views; one decodes the small copy wherever that covers the crop.

    The smooth pictures, resampled twice, differ by less than two levels on average; at the rectangle's edges by more.
    """
    found = []
    for folder in (shard_set, levelled):
        with open_pretrain_loader(DataConfig(shards=(folder,)), VIEW, NUM_TRAIN, 5, ALONE) as loader:
            batch = next(loader)
            keys = [loader.selection.key_of(row) for row in batch.rows.tolist()]
        order = sorted(range(NUM_TRAIN), key=keys.__getitem__)
        found.append(torch.stack(batch.views)[:, order].to(torch.float32))
    gaps = (found[0] - found[1]).abs().mean(dim=(0, 2, 3, 4))
    assert (gaps == 0).any()  # small crops need the full size
    assert (gaps > 0).sum() > NUM_TRAIN // 4
    assert gaps.max() < 2


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.6, 1.4)])
def test_boxes_follow_the_pixels(shard_set: Path, scale: tuple[float, float]) -> None:
    """The images have one bright rectangle each: it must be where the box says, flipped and scaled as it may be."""
    data = DataConfig(shards=(shard_set,))
    view = DetectViewConfig(size_px=160, scale=scale)
    names = ShardSet.open(shard_set).column("key").tolist()
    flips, kept = [], 0
    with open_detect_loader(data, view, 10, 3, ALONE) as loader:
        assert loader.num_samples == NUM_BOXED
        for batch in loader.epoch():
            assert batch.images.shape == (10, 160, 160, 1)
            for i, row in enumerate(batch.rows.tolist()):
                height, width = batch.sizes[i].tolist()
                picture = batch.images[i, :, :, 0].numpy()
                assert not picture[height:].any()
                assert not picture[:, width:].any()
                flips.append(bool(batch.placement.flip_n[i]))
                if len(batch.boxes[i]) == 0:
                    assert scale[1] > 1
                    continue
                kept += 1
                ys, xs = np.nonzero(picture > 150)
                seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                assert np.abs(batch.boxes[i][0].numpy() - seen).max() <= 1
                assert [loader.findings[number] for number in batch.findings[i].tolist()] == ["Nodule/Mass"]
                back = boxes_to_original(batch.boxes[i].numpy(), np.array([i]), batch.placement)
                if scale[1] == 1:
                    original, box = draw(int(names[row][-3:]))
                    assert back[0].tolist() == pytest.approx(box, abs=0.01)
                    ratios = [width / original.shape[1], height / original.shape[0]]
                    assert batch.scales[i].tolist() == pytest.approx(ratios)
    assert kept >= NUM_BOXED - 4
    assert 3 <= sum(flips) <= NUM_BOXED - 3


def test_healthy_images_are_kept_on_request(shard_set: Path) -> None:
    data = DataConfig(shards=(shard_set,))
    with open_detect_loader(data, DetectViewConfig(size_px=64), 7, 3, ALONE, keep_empty=True) as loader:
        batches: list[DetectBatch] = list(loader.epoch())
    boxes = [len(boxes) for batch in batches for boxes in batch.boxes]
    assert sorted(boxes) == [0] * NUM_HEALTHY + [1] * NUM_BOXED
    assert all(b.shape == (len(f), 4) for batch in batches for b, f in zip(batch.boxes, batch.findings, strict=True))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_prediction_sees_every_row_once_in_order(shard_set: Path, size: int) -> None:
    data = DataConfig(shards=(shard_set,), splits=("train", "valid"))
    batches: list[DetectBatch] = []
    for rank in range(size):
        with open_predict_loader(data, PlainViewConfig(size_px=64), 5, world(rank, size)) as loader:
            mine = list(loader)
            assert len(mine) == loader.num_steps
            with pytest.raises(StopIteration):
                next(loader)
        batches += mine
    assert torch.cat([batch.rows for batch in batches]).tolist() == list(range(NUM_TRAIN + NUM_VALID))
    images = torch.cat([batch.images for batch in batches])
    again = list(open_predict_loader(data, PlainViewConfig(size_px=64), 46, ALONE))
    assert torch.equal(again[0].images, images)


def copied(shard_set: Path, folder: Path) -> tuple[Path, int, str, int, int]:
    """A copy of the set, and where one training image of it lies: row, key, offset, length."""
    copy = folder / "copy"
    shutil.copytree(shard_set, copy)
    index = ShardSet.open(copy)
    level = index.level(0)
    row = int(index.rows("train")[10])
    return copy, int(level.shard[row]), index.key_of(row), int(level.offset[row]), int(level.length[row])


@pytest.mark.parametrize("check", [True, False])
def test_a_damaged_sample_is_named(shard_set: Path, tmp_path: Path, check: bool) -> None:
    copy, shard, key, offset, length = copied(shard_set, tmp_path)
    path = ShardSet.open(copy).shard_path(shard)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\0" * (length if not check else 1))
    reason = "digest differs" if check else "does not decode"
    with open_pretrain_loader(DataConfig(shards=(copy,), check_digests=check), VIEW, BATCH, 5, ALONE) as loader:
        for _ in range(2):  # and it stays so
            with pytest.raises(BadSampleError, match=reason) as raised:
                list(loader.epoch())
            assert (raised.value.key, raised.value.shard) == (key, path)


def test_a_shard_gone_in_mid_run_is_named(shard_set: Path, tmp_path: Path) -> None:
    copy, shard, *_ = copied(shard_set, tmp_path)
    loader = open_pretrain_loader(DataConfig(shards=(copy,)), VIEW, BATCH, 5, ALONE)
    path = ShardSet.open(copy).shard_path(shard)
    path.unlink()
    with loader, pytest.raises(MissingShardError, match=path.name):
        list(loader.epoch())


def test_nonsense_is_refused(shard_set: Path, make_set: MakeSet, tmp_path: Path) -> None:
    data = DataConfig(shards=(shard_set,))
    with pytest.raises(ValueError, match=r"global_batch = 38: must be from 1 to the number of samples, 37"):
        open_pretrain_loader(data, VIEW, 38, 0, ALONE)
    with pytest.raises(ValueError, match="global_batch = 2 is smaller than the 3 ranks"):
        open_pretrain_loader(data, VIEW, 2, 0, world(1, 3))
    with pytest.raises(ValueError, match="'valid' 9 images"):
        open_pretrain_loader(DataConfig(shards=(shard_set,), splits=("test",)), VIEW, 2, 0, ALONE)
    with pytest.raises(ValueError, match="is not a folder"):
        open_pretrain_loader(DataConfig(shards=(tmp_path / "absent",)), VIEW, 2, 0, ALONE)
    with pytest.raises(ValueError, match="batch = 0"):
        open_predict_loader(data, PlainViewConfig(), 0, ALONE)
    unread = make_set("unread", range(NUM_BOXED + NUM_HEALTHY, NUM_TRAIN), ())
    assert ShardSet.open(unread).findings != ShardSet.open(shard_set).findings
    with pytest.raises(ValueError, match="no images with boxes"):
        open_detect_loader(DataConfig(shards=(unread,)), DetectViewConfig(), 2, 0, ALONE)
    both = DataConfig(shards=(shard_set, unread))
    with pytest.raises(ValueError, match="names other findings"):
        open_detect_loader(both, DetectViewConfig(), 2, 0, ALONE)
    num_unread = NUM_TRAIN - NUM_BOXED - NUM_HEALTHY
    assert open_predict_loader(both, PlainViewConfig(), 2, ALONE).num_samples == NUM_TRAIN + num_unread
    for values, message in (({"shards": ()}, "shards is empty"), ({"prefetch": 0}, "prefetch = 0")):
        with pytest.raises(ValueError, match=message):
            DataConfig(**({"shards": (shard_set,)} | values))  # type: ignore[arg-type]


def test_a_program_may_end_with_a_loader_at_work(shard_set: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom cluster.world import World\nfrom loaders.loader import *\n"
        "loader = open_pretrain_loader(DataConfig(shards=(Path(sys.argv[1]),)), TwoViewConfig(), 8, 0, "
        "World(0, 1, 0, 'cpu'))\nnext(loader)\nprint('done')\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", program, str(shard_set)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
