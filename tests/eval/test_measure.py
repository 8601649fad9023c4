"""metrics.json: its shape, its intervals, its comparisons, its refusals."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from eval import measure, prior
from eval.predictions import take
from eval.truth import Truth, align, join
from tests.eval.cases import random_predictions, random_truth


@pytest.fixture(scope="module")
def case() -> tuple[Truth, dict]:
    rng = np.random.default_rng(0)
    truth = random_truth(rng, num_images=60)
    good = random_predictions(rng, truth, num_levels=50, shift_px=2)
    known = prior.predict(prior.fit(truth), truth)
    return truth, measure.evaluate(truth, good, known, num_resamples=200, seed=3, commit="abc")


def test_shape(case: tuple[Truth, dict]) -> None:
    truth, metrics = case
    assert metrics["num_images"] == 60
    assert metrics["num_groups"] == 30
    assert metrics["grouped_by"] == "patient"
    assert set(metrics["metrics"]) == set(measure.METRICS)
    assert list(metrics["per_finding"]) == list(truth.findings)
    for numbers in metrics["per_finding"]["Cardiomegaly"].values():
        if isinstance(numbers, dict):
            assert numbers["low"] <= numbers["value"] <= numbers["high"]
    absent = metrics["per_finding"]["Pleural effusion"]
    assert absent["ap50"] == {"value": None, "low": None, "high": None, "reason": "not defined on these images"}
    better = metrics["difference_to_prior"]["map50"]
    assert better["low"] > 0
    assert better["p"] == pytest.approx(2 / 201)
    assert better["value"] == pytest.approx(
        metrics["metrics"]["map50"]["value"] - metrics["prior"]["metrics"]["map50"]["value"]
    )
    json.dumps(metrics, allow_nan=False)


def test_files_and_tables(case: tuple[Truth, dict], tmp_path: Path) -> None:
    measure.write(tmp_path / "metrics.json", case[1])
    assert measure.read(tmp_path / "metrics.json") == json.loads(json.dumps(case[1]))
    text = measure.table(case[1])
    assert "mAP50 " in text
    assert "p = 0.010" in text
    assert "- (not defined" in text
    with pytest.raises(ValueError, match="cxr evaluate"):
        measure.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="schema version 1"):
        measure.read(tmp_path / "bad.json")


def test_the_seed_decides(case: tuple[Truth, dict]) -> None:
    rng = np.random.default_rng(0)
    truth = random_truth(rng, num_images=20)
    found = random_predictions(rng, truth)
    runs = [measure.evaluate(truth, found, num_resamples=50, seed=seed)["metrics"]["map"] for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0]["low"] != runs[2]["low"]
    assert runs[0]["value"] == runs[2]["value"]


def test_order_of_rows_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    truth = random_truth(rng, num_images=20)
    found = random_predictions(rng, truth)
    mixed = take(found, rng.permutation(20))
    np.testing.assert_array_equal(align(truth, mixed).boxes_D4, found.boxes_D4)
    alike = measure.compare(truth, found, mixed, num_resamples=50)["map50"]
    assert (alike["value"], alike["low"], alike["high"], alike["p"]) == (0, 0, 0, 1)


def test_what_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(2)
    truth = random_truth(rng, num_images=6)
    found = random_predictions(rng, truth)
    with pytest.raises(ValueError, match=r"1 of 6 images .* were not predicted: image00000"):
        align(truth, dataclasses.replace(found, keys=("other", *found.keys[1:])))
    fewer = dataclasses.replace(
        truth,
        keys=truth.keys[:-1],
        offsets=truth.offsets[:-1],
        finding_K=truth.finding_K[: truth.offsets[-2]],
        boxes_K4=truth.boxes_K4[: truth.offsets[-2]],
    )
    with pytest.raises(ValueError, match="1 predicted images are not among the annotated ones"):
        align(fewer, found)
    with pytest.raises(ValueError, match="at position 0 the truth has 'Atelectasis', the predictions 'Cardiomegaly'"):
        align(truth, dataclasses.replace(found, findings=("Cardiomegaly", "Atelectasis", *found.findings[2:])))
    with pytest.raises(ValueError, match="wholly outside"):
        align(truth, dataclasses.replace(found, boxes_D4=found.boxes_D4 + 500))
    with pytest.raises(ValueError, match="num_resamples 1"):
        measure.evaluate(truth, found, num_resamples=1)


def test_join() -> None:
    rng = np.random.default_rng(3)
    one, two = random_truth(rng, 5), random_truth(rng, 4)
    two = dataclasses.replace(two, keys=tuple("b" + key for key in two.keys))
    both = join([one, two])
    assert both.offsets[-1] == len(both.boxes_K4)
    assert both.group_N.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]
    with pytest.raises(ValueError, match="stands in two"):
        join([one, one])
