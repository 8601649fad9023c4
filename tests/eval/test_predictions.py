"""The predictions file: what goes in comes out, and what cannot be scored is refused by name."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from eval import predictions as files
from eval.predictions import Origin, Predictions
from tests.eval.cases import random_predictions, random_truth


def example(image_scores: bool = False) -> Predictions:
    rng = np.random.default_rng(0)
    truth = random_truth(rng)
    found = random_predictions(rng, truth)
    origin = Origin(
        "valid", ({"directory": "vindr", "digest": "ab" * 32},), {"step": 7}, {"model": {"size_px": 224}}, "abc"
    )
    scores = rng.random((len(truth.keys), len(truth.findings))).astype(np.float32) if image_scores else None
    return dataclasses.replace(found, origin=origin, image_scores_NF=scores)


@pytest.mark.parametrize("image_scores", [False, True])
def test_round_trip(tmp_path: Path, image_scores: bool) -> None:
    before = example(image_scores)
    files.write(tmp_path / "predictions.parquet", before)
    after = files.read(tmp_path / "predictions.parquet")
    for field in dataclasses.fields(Predictions):
        a, b = getattr(before, field.name), getattr(after, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, strict=field.name != "offsets")
        else:
            assert a == b
    first = (tmp_path / "predictions.parquet").read_bytes()
    files.write(tmp_path / "predictions.parquet", before)
    assert (tmp_path / "predictions.parquet").read_bytes() == first


def test_the_columns_are_plain_lists(tmp_path: Path) -> None:
    files.write(tmp_path / "p.parquet", example())
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["key", "findings", "scores", "boxes"]
    assert len(table.column("boxes")[0].as_py()[0]) == 4


def test_no_box_anywhere(tmp_path: Path) -> None:
    empty = Predictions(
        ("A",),
        ("x", "y"),
        np.zeros(3, np.int64),
        np.zeros(0, np.int16),
        np.zeros(0, np.float32),
        np.zeros((0, 4), np.float32),
    )
    files.write(tmp_path / "p.parquet", empty)
    assert files.read(tmp_path / "p.parquet").boxes_D4.shape == (0, 4)


@pytest.mark.parametrize(
    ("field", "change", "told"),
    [
        ("score_D", lambda a: np.where(np.arange(len(a)) == 3, np.nan, a), "scores of image"),
        ("score_D", lambda a: a * 9, "scores of image"),
        ("boxes_D4", lambda a: np.where(np.arange(len(a))[:, None] == 3, np.inf, a), "boxes of image"),
        ("boxes_D4", lambda a: a[:, [2, 1, 0, 3]], "has no area"),
        ("finding_D", lambda a: a + 3, "findings of image"),
        ("finding_D", lambda a: a - 3, "is not 0..4"),
        ("keys", lambda a: (a[0], *a[:-1]), "image00000 stands twice"),
        ("offsets", lambda a: a[:-1], "offsets"),
    ],
)
def test_refused(tmp_path: Path, field: str, change, told: str) -> None:
    bad = dataclasses.replace(example(), **{field: change(getattr(example(), field))})
    with pytest.raises(ValueError, match=told) as error:
        files.write(tmp_path / "predictions.parquet", bad)
    assert "predictions.parquet" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_names_the_image() -> None:
    p = example()
    bad = p.score_D.copy()
    bad[p.offsets[4]] = np.nan
    with pytest.raises(ValueError, match=f"scores of image {p.keys[p.image_D[p.offsets[4]]]}: nan"):
        files.check(dataclasses.replace(p, score_D=bad), "file")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such predictions file"):
        files.read(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ValueError, match="not a Parquet file"):
        files.read(tmp_path / "text.parquet")
    files.write(tmp_path / "p.parquet", example())
    table = pq.read_table(tmp_path / "p.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match="no `cxr` entry"):
        files.read(tmp_path / "bare.parquet")
    pq.write_table(table.drop_columns(["scores"]), tmp_path / "less.parquet")
    with pytest.raises(ValueError, match="column scores is missing"):
        files.read(tmp_path / "less.parquet")
    pq.write_table(
        table.set_column(2, "scores", table.column("scores").take([*range(1, 12), 0])),
        tmp_path / "uneven.parquet",
    )
    with pytest.raises(ValueError, match="scores of image"):
        files.read(tmp_path / "uneven.parquet")


def test_several_row_groups(tmp_path: Path) -> None:
    files.write(tmp_path / "p.parquet", example())
    pq.write_table(pq.read_table(tmp_path / "p.parquet"), tmp_path / "groups.parquet", row_group_size=5)
    np.testing.assert_array_equal(files.read(tmp_path / "groups.parquet").boxes_D4, example().boxes_D4)
