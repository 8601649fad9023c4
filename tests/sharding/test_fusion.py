from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from ensemble_boxes import nms, soft_nms, weighted_boxes_fusion
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.fusion import FusionConfig, fuse_readers
from sharding.sample import Box
from sharding.vindr import VindrConfig, assign_splits
from sharding.vindr_layout import find_layout
from sharding.vindr_rows import Readings, read_boxes, read_sizes
from tests.references.fusion import nms_slowly

HEIGHT, WIDTH = 300, 200

corner_pairs = st.tuples(st.integers(0, 150), st.integers(0, 240), st.integers(1, 50), st.integers(1, 60))
some_boxes = st.lists(st.tuples(st.integers(0, 2), corner_pairs), max_size=8).map(
    lambda found: [Box(finding, x, y, x + w, y + h) for finding, (x, y, w, h) in found]
)
Row = tuple[float, ...]


def rows(boxes: tuple[Box, ...]) -> list[Row]:
    return [(b.finding, b.x_min, b.y_min, b.x_max, b.y_max) for b in boxes]


def by_library(
    boxes: list[Box], call: Callable[[list[list[float]], list[float]], npt.NDArray[np.float64]]
) -> list[Row]:
    """Each finding by itself in reverse order, with scores that fall by a hair, so that no order hangs on ties."""
    expected: list[Row] = []
    for finding in sorted({box.finding for box in boxes}):
        mine = [(b.x_min, b.y_min, b.x_max, b.y_max) for b in boxes if b.finding == finding][::-1]
        scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
        scores = [1 - 1e-13 * number for number in range(len(mine))]
        fused = call((np.array(mine) / scale).tolist(), scores)
        expected += [(finding, *row) for row in np.round(fused * scale, 1).tolist()]
    return expected


@settings(max_examples=60, deadline=None)
@given(some_boxes)
def test_weighted_fusion_equals_the_library_fed_in_reverse_order(boxes: list[Box]) -> None:
    def call(mine: list[list[float]], scores: list[float]) -> npt.NDArray[np.float64]:
        zeros = [0] * len(mine)
        return np.asarray(weighted_boxes_fusion([mine], [scores], [zeros], iou_thr=0.5, skip_box_thr=1e-4)[0])

    found = rows(fuse_readers(boxes, ["R1"] * len(boxes), HEIGHT, WIDTH))
    assert np.allclose(np.array(sorted(found)), np.array(sorted(by_library(boxes, call))), atol=0.1001)


@settings(max_examples=60, deadline=None)
@given(some_boxes, st.sampled_from([0.0, 0.3001, 0.5003]))
def test_nms_equals_the_library_and_a_plain_loop(boxes: list[Box], iou: float) -> None:
    def call(mine: list[list[float]], scores: list[float]) -> npt.NDArray[np.float64]:
        return np.asarray(nms([mine], [scores], [[0] * len(mine)], iou_thr=iou)[0])

    found = rows(fuse_readers(boxes, ["R1"] * len(boxes), HEIGHT, WIDTH, FusionConfig(method="nms", iou=iou)))
    assert sorted(found) == sorted(by_library(boxes, call)) == sorted(nms_slowly(rows(tuple(boxes)), iou))


@settings(max_examples=60, deadline=None)
@given(some_boxes, st.sampled_from([1e-4, 0.3, 0.6]))
def test_soft_nms_equals_the_library(boxes: list[Box], skip_below: float) -> None:
    def call(mine: list[list[float]], scores: list[float]) -> npt.NDArray[np.float64]:
        return np.asarray(soft_nms([mine], [scores], [[0] * len(mine)], sigma=0.4, thresh=skip_below)[0])

    fusion = FusionConfig(method="soft_nms", sigma=0.4, skip_below=skip_below)
    found = rows(fuse_readers(boxes, ["R1"] * len(boxes), HEIGHT, WIDTH, fusion))
    assert sorted(found) == sorted(by_library(boxes, call))


def test_many_equal_boxes_leave_the_last_of_the_file() -> None:
    """More than a sort's small-array threshold, so that an unstable order of ties would show."""
    boxes = [Box(0, 10, 10, 60, 60 + n / 100) for n in range(40)]
    for method in ("nms", "soft_nms"):
        fusion = FusionConfig(method=method, skip_below=0.3)  # type: ignore[arg-type]
        assert fuse_readers(boxes, ["R1"] * 40, HEIGHT, WIDTH, fusion) == (boxes[-1],)


def test_the_only_box_of_a_finding_passes_unchanged() -> None:
    boxes = [Box(1, 3.123, 4, 50, 60), Box(0, 1, 1, 9, 9)]
    for method in ("wbf", "nms", "soft_nms", "none"):
        fusion = FusionConfig(method=method)  # type: ignore[arg-type]
        assert fuse_readers(boxes, ["R1", "R2"], HEIGHT, WIDTH, fusion) == (boxes[1], boxes[0])
        assert fuse_readers([], [], HEIGHT, WIDTH, fusion) == ()


def test_none_and_one_reader() -> None:
    boxes = [Box(1, 0, 0, 10, 10), Box(0, 0, 0, 10, 10), Box(1, 0, 0, 10, 11)]
    readers = ["R1", "R1", "R2"]
    assert fuse_readers(boxes, readers, HEIGHT, WIDTH, FusionConfig(method="none")) == (boxes[1], boxes[0], boxes[2])
    one = FusionConfig(method="reader", reader="R2")
    assert fuse_readers(boxes, readers, HEIGHT, WIDTH, one) == (boxes[2],)


def test_readers_are_counted_not_boxes() -> None:
    near = [Box(0, 10, 10, 60, 60), Box(0, 10, 10, 60, 61), Box(0, 10, 10, 60, 62)]
    alone = [Box(0, 100, 100, 150, 150), Box(1, 10, 10, 60, 60)]
    for method, wanted in (("wbf", Box(0, 10, 10, 60, 61)), ("nms", near[-1])):
        for readers, least, number in ((["R1", "R2", "R2"], 2, 1), (["R1", "R2", "R2"], 3, 0), (["R1"] * 3, 2, 0)):
            fusion = FusionConfig(method=method, min_readers=least)  # type: ignore[arg-type]
            found = fuse_readers([*near, *alone], [*readers, "R3", "R3"], HEIGHT, WIDTH, fusion)
            assert found == (wanted,) * number


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"iou": 1.0}, "fusion.iou: 1.0"),
        ({"iou": float("nan")}, "fusion.iou: nan"),
        ({"skip_below": -0.1}, "fusion.skip_below"),
        ({"sigma": 0.0}, "fusion.sigma"),
        ({"min_readers": 0}, "fusion.min_readers: 0"),
        ({"min_readers": 2, "method": "soft_nms"}, "soft_nms counts no readers"),
        ({"reader": "R9"}, "fusion.reader"),
        ({"method": "reader"}, "fusion.reader"),
    ],
)
def test_nonsense_is_refused(options: dict[str, object], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        FusionConfig(**options)  # type: ignore[arg-type]


def test_real_annotations_give_the_references_counts(real_data: Path) -> None:
    """Boxes and their order, bit for bit, are in test_coco."""
    layout = find_layout(real_data / "vindr", files_needed=False)
    readings: Readings = {}
    assert read_boxes(layout.parts[0].boxes, readings) == []
    sizes, wrong = read_sizes(layout.sizes[0])
    assert len(readings) == len(sizes) == 15_000
    assert not wrong
    assert not [key for key, reading in readings.items() if reading.wrong]
    assert len({who for reading in readings.values() for who in reading.readers}) == 17
    assert {len(reading.readers) for reading in readings.values()} == {3}
    splits = assign_splits(readings, VindrConfig(root="x", out="y", split="reference"))
    per_finding: Counter[int] = Counter()
    for key, reading in readings.items():
        if splits[key] == "train" and reading.drawn:
            readers = [drawn.reader for drawn in reading.drawn]
            per_finding.update(box.finding for box in fuse_readers(reading.boxes, readers, *sizes[key]))
    assert [per_finding[finding] for finding in range(14)] == [
        *(2358, 154, 532, 1687, 293, 496, 654, 1388, 1289, 1255, 1255, 2831, 90, 2345)
    ]
