import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
from ensemble_boxes import weighted_boxes_fusion
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.fusion import fuse_readers
from sharding.sample import Box
from sharding.tables import read_table
from sharding.vindr import COLUMNS, assign_splits, read_readings, read_sizes

HEIGHT, WIDTH = 300, 200

corner_pairs = st.tuples(st.integers(0, 150), st.integers(0, 240), st.integers(1, 50), st.integers(1, 60))
some_boxes = st.lists(st.tuples(st.integers(0, 2), corner_pairs), max_size=8).map(
    lambda found: [Box(finding, x, y, x + w, y + h) for finding, (x, y, w, h) in found]
)


@settings(max_examples=60, deadline=None)
@given(some_boxes)
def test_equals_the_library_fed_in_reverse_order(boxes: list[Box]) -> None:
    """Scores that fall by a hair make the library process the boxes in an order that does not hang on ties."""
    expected: list[tuple[float, ...]] = []
    for finding in sorted({box.finding for box in boxes}):
        mine = [(b.x_min, b.y_min, b.x_max, b.y_max) for b in boxes if b.finding == finding][::-1]
        scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
        scores = [1 - 1e-13 * number for number in range(len(mine))]
        fused, _, _ = weighted_boxes_fusion(
            [(np.array(mine) / scale).tolist()], [scores], [[0] * len(mine)], iou_thr=0.5, skip_box_thr=1e-4
        )
        expected += [(finding, *row) for row in np.round(fused * scale, 1).tolist()]
    found = [(b.finding, b.x_min, b.y_min, b.x_max, b.y_max) for b in fuse_readers(boxes, HEIGHT, WIDTH)]
    assert np.allclose(np.array(sorted(found)), np.array(sorted(expected)), atol=0.1001)


def test_the_only_box_of_a_finding_passes_unchanged() -> None:
    boxes = [Box(1, 3.123, 4, 50, 60), Box(0, 1, 1, 9, 9)]
    assert fuse_readers(boxes, HEIGHT, WIDTH) == (boxes[1], boxes[0])
    assert fuse_readers([], HEIGHT, WIDTH) == ()


def test_real_annotations_give_the_references_boxes_to_the_bit(real_data: Path) -> None:
    folder = real_data / "vindr"
    readings = read_readings(read_table(folder / "train.csv.gz", COLUMNS))
    sizes = read_sizes(read_table(folder / "train_meta.csv", ["image_id", "dim0", "dim1"]))
    assert len(readings) == 15_000
    assert not [key for key, reading in readings.items() if reading.wrong]
    splits = assign_splits(readings, "reference")
    fused = {key: fuse_readers(reading.boxes, *sizes[key]) for key, reading in readings.items() if reading.boxes}
    assert Counter(splits[key] for key in fused) == {"train": 3_075, "valid": 659, "test": 660}
    num_boxes = Counter({split: 0 for split in ("train", "valid", "test")})
    per_finding = Counter(box.finding for key, boxes in fused.items() for box in boxes if splits[key] == "train")
    for key, boxes in fused.items():
        num_boxes[splits[key]] += len(boxes)
    assert num_boxes == {"train": 16_627, "valid": 3_627, "test": 3_680}
    assert [per_finding[finding] for finding in range(14)] == [
        *(2358, 154, 532, 1687, 293, 496, 654, 1388, 1289, 1255, 1255, 2831, 90, 2345)
    ]

    with gzip.open(folder / "fused_valid.json.gz") as file:
        reference = json.load(file)
    keys = {image["id"]: image["file_name"].split(".")[0] for image in reference["images"]}
    assert set(keys.values()) == {key for key in fused if splits[key] == "valid"}
    assert {keys[i["id"]]: (i["height"], i["width"]) for i in reference["images"]} == {
        key: sizes[key] for key in keys.values()
    }
    expected = Counter((keys[a["image_id"]], a["category_id"], *a["bbox"], a["area"]) for a in reference["annotations"])
    found = Counter(
        (key, b.finding, b.x_min, b.y_min, w, h, round((b.x_max - b.x_min) * (b.y_max - b.y_min), 1))
        for key in keys.values()
        for b in fused[key]
        for w, h in [(round(b.x_max - b.x_min, 1), round(b.y_max - b.y_min, 1))]
    )
    assert found == expected
