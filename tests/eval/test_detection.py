"""Detection metrics against pycocotools, and weights against literally repeated images."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eval import detection, measure
from eval.predictions import Predictions, take
from eval.truth import Truth
from tests.eval.cases import random_predictions, random_truth
from tests.references.coco_ap import average_precision


def coco_numbers(truth: Truth, predictions: Predictions) -> COCOeval:
    """pycocotools' own evaluation of the same boxes, accumulated and summarised."""

    def annotations(image, finding, boxes):
        boxes = boxes.astype(np.float64)
        sizes = boxes[:, 2:] - boxes[:, :2]
        return [
            {
                "id": i + 1,
                "image_id": int(image[i]),
                "category_id": int(finding[i]),
                "iscrowd": 0,
                "bbox": [*boxes[i, :2].tolist(), *sizes[i].tolist()],
                "area": float(sizes[i].prod()),
            }
            for i in range(len(boxes))
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(truth.keys))],
            "categories": [{"id": i, "name": name} for i, name in enumerate(truth.findings)],
            "annotations": annotations(truth.image_K, truth.finding_K, truth.boxes_K4),
        }
        coco.createIndex()
        found = annotations(predictions.image_D, predictions.finding_D, predictions.boxes_D4)
        for row, score in zip(found, predictions.score_D.tolist(), strict=True):
            row["score"] = score
        results = coco.loadRes(found) if found else COCO()
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.params.imgIds = list(range(len(truth.keys)))
        evaluation.params.catIds = list(range(len(truth.findings)))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def our_numbers(truth: Truth, predictions: Predictions, weights: np.ndarray | None = None) -> measure.Scores:
    weights_BN = np.ones((1, len(truth.keys)), np.int32) if weights is None else weights
    matches = detection.match(truth, predictions)
    return measure._score(
        matches, np.zeros((len(truth.keys), len(truth.findings)), np.float32), truth.num_boxes_NF > 0, weights_BN
    )


@pytest.mark.parametrize("seed", range(40))
def test_equals_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, num_images=int(rng.integers(3, 25)))
    predictions = random_predictions(
        rng, truth, num_levels=int(rng.choice([1, 4, 1000])), shift_px=int(rng.integers(1, 15))
    )
    theirs = coco_numbers(truth, predictions)
    ours = our_numbers(truth, predictions)
    means = ours.means(truth.findings)
    for name, stat in {"map": 0, "map50": 1, "map75": 2, "ar100": 8}.items():
        assert means[name][0] == pytest.approx(theirs.stats[stat], abs=1e-12), name
    per_finding_TF = theirs.eval["precision"][:, :, :, 0, 2].mean(axis=1)
    expected = np.where(theirs.eval["precision"][:, 0, :, 0, 2] < 0, np.nan, per_finding_TF).T
    np.testing.assert_allclose(ours.ap_BFT[0], expected, atol=1e-12, rtol=0)


def test_more_than_100_boxes_and_a_recall_on_every_step() -> None:
    rng = np.random.default_rng(5)
    truth = random_truth(rng, num_images=60, findings=("Nodule/Mass",))
    predictions = random_predictions(rng, truth, num_levels=300, max_extra=260)
    theirs = coco_numbers(truth, predictions)
    means = our_numbers(truth, predictions).means(truth.findings)
    assert np.diff(predictions.offsets).max() > 100
    assert [means[n][0] for n in ("map", "map50", "map75", "ar100")] == pytest.approx(
        theirs.stats[[0, 1, 2, 8]], abs=1e-12
    )
    assert "map50_13" in means
    assert np.isnan(means["map50_13"][0])


@pytest.mark.parametrize("seed", range(15))
def test_weights_equal_repeated_images(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    truth = random_truth(rng, num_images=10)
    predictions = random_predictions(rng, truth, num_levels=5)
    weights_BN = rng.integers(0, 4, (7, 10)).astype(np.int32)
    for m in detection.match(truth, predictions).per_finding:
        ap_BT = detection.average_precision(m, weights_BN)
        for t in (0, 5):
            boxes = [
                (m.score_D[m.image_D == i].tolist(), m.hit_TD[t, m.image_D == i].tolist())
                for i in range(len(truth.keys))
            ]
            images = [(int(n), list(zip(*b, strict=True))) for n, b in zip(m.num_truth_N, boxes, strict=True)]
            for weights_N, ap in zip(weights_BN, ap_BT[:, t], strict=True):
                repeated = [image for image, weight in zip(images, weights_N, strict=True) for _ in range(weight)]
                assert ap == pytest.approx(average_precision(repeated), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(10))
def test_weights_equal_pycocotools_on_repeated_images(seed: int) -> None:
    rng = np.random.default_rng(200 + seed)
    truth = random_truth(rng, num_images=8)
    predictions = random_predictions(rng, truth, num_levels=100_000)
    weights_N = rng.integers(0, 4, 8)
    order = np.repeat(np.arange(8), weights_N)
    as_predictions = Predictions(
        truth.findings, truth.keys, truth.offsets, truth.finding_K, np.ones(len(truth.finding_K)), truth.boxes_K4
    )
    again = take(as_predictions, order)
    repeated_truth = Truth(
        truth.findings, again.keys, truth.sizes_N2[order], again.offsets, again.finding_D, again.boxes_D4, order
    )
    theirs = coco_numbers(repeated_truth, take(predictions, order))
    means = our_numbers(truth, predictions, weights_N[None].astype(np.int32)).means(truth.findings)
    ours = [means[name][0] for name in ("map", "map50", "map75", "ar100")]
    assert ours == pytest.approx(theirs.stats[[0, 1, 2, 8]], abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_sensitivity_by_trying_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(300 + seed)
    truth = random_truth(rng, num_images=9)
    m = detection.match(truth, random_predictions(rng, truth, num_levels=6, max_extra=12)).per_finding[0]
    weights_N = rng.integers(0, 4, 9)
    best = 0.0
    for threshold in np.unique(m.score_D):
        passed = m.score_D >= threshold
        hits = sum(weights_N[i] for i, hit in zip(m.image_D[passed], m.hit_TD[0, passed], strict=True) if hit)
        false = sum(weights_N[i] for i, hit in zip(m.image_D[passed], m.hit_TD[0, passed], strict=True) if not hit)
        if false <= 0.5 * weights_N.sum():
            best = max(best, hits / (weights_N @ m.num_truth_N))
    ours = detection.sensitivity_at(m, weights_N[None].astype(np.int32), false_per_image=0.5)
    assert ours[0] == pytest.approx(best, abs=1e-12)


def test_no_boxes_at_all() -> None:
    truth = random_truth(np.random.default_rng(1), num_images=6)
    nothing = Predictions(
        truth.findings,
        truth.keys,
        np.zeros(7, np.int64),
        np.zeros(0, np.int16),
        np.zeros(0, np.float32),
        np.zeros((0, 4), np.float32),
    )
    means = our_numbers(truth, nothing).means(truth.findings)
    assert means["map"][0] == 0
    assert means["ar100"][0] == 0
