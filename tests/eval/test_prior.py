"""The location prior: mean boxes and frequencies, and nothing of the image but its size."""

import numpy as np
import pytest

from eval import prior
from eval.truth import Truth


def truth_of(boxes: list[list[list[float]]], sizes: list[tuple[int, int]]) -> Truth:
    """One finding, a list of boxes per image."""
    flat = np.array([box for image in boxes for box in image], np.float32).reshape(-1, 4)
    return Truth(
        ("Cardiomegaly", "Pneumothorax"),
        tuple(f"i{i}" for i in range(len(boxes))),
        np.array(sizes),
        np.cumsum([0, *map(len, boxes)]),
        np.zeros(len(flat), np.int16),
        flat,
        np.arange(len(boxes)),
    )


def test_mean_box_and_frequency() -> None:
    train = truth_of([[[0, 0, 100, 200]], [[100, 50, 200, 100]], [], []], [(200, 100), (100, 200), (50, 50), (50, 50)])
    fitted = prior.fit(train)
    np.testing.assert_allclose(fitted.boxes_M4, [[0.25, 0.25, 1.0, 1.0]])
    np.testing.assert_allclose(fitted.score_M, [0.5])
    found = prior.predict(fitted, truth_of([[], []], [(40, 80), (400, 800)]))
    np.testing.assert_allclose(found.boxes_D4, [[20, 10, 80, 40], [200, 100, 800, 400]])
    assert found.finding_D.tolist() == [0, 0]
    assert found.offsets.tolist() == [0, 1, 2]


def test_two_places_are_found() -> None:
    rng = np.random.default_rng(0)
    left = [[x, 40, x + 20, 60] for x in rng.uniform(5, 10, 30)]
    right = [[x, 40, x + 20, 60] for x in rng.uniform(70, 75, 10)]
    train = truth_of([[box] for box in left + right], [(100, 100)] * 40)
    fitted = prior.fit(train, num_places=2)
    order = np.argsort(fitted.boxes_M4[:, 0])
    np.testing.assert_allclose(fitted.score_M[order], [0.75, 0.25])
    np.testing.assert_allclose(
        fitted.boxes_M4[order, 0], [np.mean(left, axis=0)[0] / 100, np.mean(right, axis=0)[0] / 100], rtol=1e-6
    )


def test_more_places_than_boxes() -> None:
    assert len(prior.fit(truth_of([[[0, 0, 10, 10]] * 3], [(20, 20)]), num_places=4).finding_M) == 1
    with pytest.raises(ValueError, match="num_places 0"):
        prior.fit(truth_of([[]], [(5, 5)]), num_places=0)
