import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cluster.world import World
from loaders.batches import DetectBatch, PretrainBatch
from loaders.config import DataConfig
from loaders.failures import BadSampleError, MissingShardError
from loaders.loader import (
    open_classify_loader,
    open_classify_predict_loader,
    open_detect_loader,
    open_predict_loader,
    open_pretrain_loader,
)
from loaders.placement import boxes_to_original
from loaders.views import ClassifyViewConfig, DetectViewConfig, PlainViewConfig, TwoViewConfig, WholeViewConfig
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


@pytest.mark.parametrize("size", [2, 3, 4])
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
        state = loader.state_dict()
        assert state == {"epoch": 0, "step": 0, "plan": state["plan"], "given_up": []}
        for number in range(NUM_STEPS + 2):
            next(loader)
            assert loader.last_wait_seconds >= 0
            state = loader.state_dict()
            assert (state["epoch"], state["step"]) == divmod(number + 1, NUM_STEPS)
        first = [next(loader) for _ in range(2)]
        loader.load_state_dict({"epoch": 1, "step": 2})
        assert pixels([next(loader) for _ in range(2)]) == pixels(first)
        assert [(batch.epoch, batch.step) for batch in loader.epoch()] == [(2, step) for step in range(NUM_STEPS)]
        next(loader)
        assert [(batch.epoch, batch.step) for batch in loader.epoch()] == [(3, step) for step in range(1, NUM_STEPS)]
        with pytest.raises(ValueError, match="an epoch has 4 steps here"):
            loader.load_state_dict({"epoch": 0, "step": NUM_STEPS})
        with pytest.raises(ValueError, match="no whole number step"):
            loader.load_state_dict({"epoch": 0})
        state = loader.state_dict()
    data = DataConfig(shards=(shard_set,))
    for changed, batch, seed in ((data, 7, 5), (data, BATCH, 6), (replace(data, splits=("valid",)), BATCH, 5)):
        with (
            open_pretrain_loader(changed, VIEW, batch, seed, ALONE) as loader,
            pytest.raises(ValueError, match="other shards, splits, weights, seed or global batch"),
        ):
            loader.load_state_dict(state)
    with open_pretrain_loader(data, VIEW, BATCH, 5, world(1, 3)) as loader:
        loader.load_state_dict(state)


def test_a_last_batch_is_kept_on_request(shard_set: Path) -> None:
    data = DataConfig(shards=(shard_set,), drop_last=False)
    batch = 16  # 37 = 2 * 16 + 5
    ranks = []
    for rank in range(3):
        with open_pretrain_loader(data, VIEW, batch, 0, world(rank, 3)) as loader:
            assert (loader.num_steps, loader.smallest_batch) == (3, 5)
            ranks.append([next(loader) for _ in range(7)])
    assert sorted(len(batches[2].rows) for batches in ranks) == [1, 2, 2]
    assert {batches[2].global_size for batches in ranks} == {5}
    assert [batch.step for batch in ranks[0]] == [0, 1, 2, 0, 1, 2, 0]
    first_epoch = pixels([batch for batches in ranks for batch in batches[:3]])
    assert len(first_epoch) == NUM_TRAIN
    with pytest.raises(ValueError, match="the last batch of an epoch has 1 images for 3 ranks"):
        open_pretrain_loader(data, VIEW, 12, 0, world(0, 3))


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


def test_weights_mix_sets_and_change_nothing_else(shard_set: Path, make_set: MakeSet) -> None:
    """Two sets, one taken twice and one every second time: the same mixture and pixels at any world and resume."""
    other = make_set("other", range(100, 120), ())
    data = DataConfig((shard_set, other), splits=("train", "valid"), weights=(0.5, 2), shards_per_block=2)
    num_items = (NUM_TRAIN + NUM_VALID) // 2 + 40

    def some(at: World, num: int, start: tuple[int, int] = (0, 0)) -> list[PretrainBatch]:
        with open_pretrain_loader(data, VIEW, BATCH, 5, at) as loader:
            assert loader.num_samples == num_items
            loader.load_state_dict({"epoch": start[0], "step": start[1]})
            return [next(loader) for _ in range(num)]

    steps = num_items // BATCH
    whole = some(ALONE, 2 * steps)
    seen = [batch.views[0][i].numpy().tobytes() for batch in whole for i in range(len(batch.rows))]
    assert len(set(seen)) == len(seen)  # an image that comes twice in an epoch looks different
    rows = torch.cat([batch.rows for batch in whole]).tolist()
    with open_pretrain_loader(data, VIEW, BATCH, 5, ALONE) as loader:
        second = loader.selection.starts[1]
    assert all(1 <= rows.count(row) <= 4 for row in set(rows) if row >= second)
    assert all(rows.count(row) == 1 for row in set(rows) if row < second)
    ranks = [some(world(rank, 3), steps + 1) for rank in range(3)]
    for step in range(steps + 1):
        for number in (0, 1):
            together = torch.cat([batches[step].views[number] for batches in ranks])
            assert torch.equal(together, whole[step].views[number])
    rest = some(ALONE, steps, (0, steps - 2))
    for resumed, undisturbed in zip(rest, whole[steps - 2 :], strict=False):
        assert torch.equal(resumed.views[1], undisturbed.views[1])


def test_rare_findings_come_more_often(shard_set: Path) -> None:
    """Of the images that were read, 20 of 28 have the finding; with a threshold above that share they are repeated."""
    with open_pretrain_loader(DataConfig((shard_set,), repeat_threshold=1.0), VIEW, BATCH, 5, ALONE) as loader:
        assert loader.num_samples == round(NUM_BOXED * (28 / 20) ** 0.5) + NUM_TRAIN - NUM_BOXED


def test_classification_has_findings_and_says_where_nobody_looked(shard_set: Path) -> None:
    view = ClassifyViewConfig(size_px=40)
    with open_classify_loader(DataConfig((shard_set,)), view, NUM_TRAIN, 5, ALONE) as loader:
        batch = next(loader)
        again = next(loader)
        findings = loader.findings
    assert batch.images.shape == (NUM_TRAIN, 40, 40, 1)
    assert (batch.labels.shape, batch.labels.dtype) == ((NUM_TRAIN, len(findings)), torch.float32)
    numbers = [int(ShardSet.open(shard_set).key_of(row)[-3:]) for row in batch.rows.tolist()]
    for number, labels, known in zip(numbers, batch.labels, batch.known, strict=True):
        assert known.all() if number < NUM_BOXED + NUM_HEALTHY else not known.any()
        assert [findings[i] for i in torch.nonzero(labels).flatten()] == ["Nodule/Mass"] * (number < NUM_BOXED)
    order, other = torch.argsort(batch.rows), torch.argsort(again.rows)
    assert not torch.equal(batch.images[order], again.images[other])  # another crop in another epoch


@pytest.mark.parametrize("size", [1, 3])
def test_classification_is_evaluated_on_whole_images_in_order(shard_set: Path, size: int) -> None:
    data = DataConfig(shards=(shard_set,), splits=("valid",))
    batches = []
    for rank in range(size):
        with open_classify_predict_loader(data, WholeViewConfig(size_px=48), 4, world(rank, size)) as loader:
            batches += list(loader)
    rows = torch.cat([batch.rows for batch in batches]).tolist()
    assert rows == list(range(NUM_TRAIN, NUM_TRAIN + NUM_VALID))
    images = torch.cat([batch.images for batch in batches])[..., 0].numpy()
    for row, image in zip(rows, images, strict=True):
        expected = cv2.resize(draw(row)[0], (48, 48), interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - expected)[4:-4, 4:-4].mean() < 3  # all of the image, squeezed


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
    with pytest.raises(ValueError, match=r"global_batch = 38: must be from 1 to the images of an epoch, 37"):
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
        "import sys\nfrom pathlib import Path\nfrom cluster.world import World\nfrom loaders.config import DataConfig\n"
        "from loaders.loader import open_pretrain_loader\nfrom loaders.views import TwoViewConfig\n"
        "loader = open_pretrain_loader(DataConfig(shards=(Path(sys.argv[1]),)), TwoViewConfig(), 8, 0, "
        "World(0, 1, 0, 'cpu'))\nnext(loader)\nprint('done')\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", program, str(shard_set)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
