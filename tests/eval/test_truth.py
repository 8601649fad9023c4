"""Truth out of a shard set's index."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.truth import truth_from_shards
from sharding.index import ShardSet
from sharding.manifest import INDEX
from sharding.schema import INDEX_SCHEMA

FINDINGS = ("Cardiomegaly", "Pneumothorax")


def shard_set(folder: Path, patients: tuple[str | None, ...] = ("p", "q", "p", None)) -> ShardSet:
    """Five images: two annotated with boxes, one annotated and empty, one of another split, one never annotated."""

    def box(finding: int, x: float) -> dict[str, float]:
        return {"finding": finding, "x_min": x, "y_min": 1.5, "x_max": x + 10, "y_max": 20.0}

    boxes = [[box(0, 1), box(1, 2)], [], [box(1, 3)], None, [box(0, 4)]]
    rows = [
        {
            "key": f"k{i}", "digest": "0" * 32, "source_digest": "0" * 32, "source": "test",
            "split": "test" if i < 4 else "train",
            "height": 100 + i, "width": 200 + i, "patient": (*patients, "r")[i], "boxes": boxes[i], "levels": [],
        }
        for i in range(5)
    ]  # fmt: skip
    directory = folder / "vindr"
    directory.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), directory / INDEX)
    manifest = {"findings": list(FINDINGS), "num_levels": 1, "name": "vindr", "counts": {"test": 4, "train": 1}}
    return ShardSet(directory, manifest | {"version": 1, "num_samples": 5}, "ab" * 32)


def test_annotated_images_of_one_split(tmp_path: Path) -> None:
    truth = truth_from_shards(shard_set(tmp_path), "test")
    assert truth.keys == ("k0", "k1", "k2")
    assert truth.findings == FINDINGS
    assert truth.offsets.tolist() == [0, 2, 2, 3]
    assert truth.finding_K.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(truth.boxes_K4[2], np.array([3, 1.5, 13, 20], np.float32))
    assert truth.sizes_N2.tolist() == [[100, 200], [101, 201], [102, 202]]
    assert truth.group_N.tolist() == [0, 1, 0]
    assert truth.grouped_by == "patient"
    assert truth.num_boxes_NF.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert truth.shards == ({"directory": "vindr", "digest": "ab" * 32},)


def test_groups_where_patients_are_unknown(tmp_path: Path) -> None:
    some = truth_from_shards(shard_set(tmp_path, ("p", None, "p", None)), "test")
    assert (some.grouped_by, some.group_N.tolist()) == ("patient where known", [0, 1, 0])
    none = truth_from_shards(shard_set(tmp_path, (None, None, None, None)), "test")
    assert (none.grouped_by, none.group_N.tolist()) == ("image", [0, 1, 2])


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split 'valid' has no image annotated with boxes"):
        truth_from_shards(shard_set(tmp_path), "valid")
    assert truth_from_shards(shard_set(tmp_path), "").keys == ("k0", "k1", "k2", "k4")
