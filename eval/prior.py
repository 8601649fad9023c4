"""The opponent that a detector must beat: a predictor that never looks at the image.

It knows, from the training boxes, where each finding usually is and how often it occurs, and predicts that everywhere.

Shapes: F findings, M boxes that the prior places on every image, N images, K true boxes of a finding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.predictions import Origin, Predictions
from eval.truth import Truth

_MAX_ROUNDS = 100


@dataclass(frozen=True, slots=True, eq=False)
class LocationPrior:
    """M boxes in relative coordinates, each with its finding and score."""

    findings: tuple[str, ...]
    finding_M: NDArray[np.int16]
    """int16 [M]: position in `findings`."""
    score_M: NDArray[np.float32]
    """float32 [M], 0..1: share of the training images that have this finding in this place."""
    boxes_M4: NDArray[np.float64]
    """float64 [M, 4], 0..1: x_min and x_max over the width, y_min and y_max over the height."""


def fit(truth: Truth, num_places: int = 1) -> LocationPrior:
    """Mean box per finding and its frequency, from training images.

    With `num_places` > 1 a finding's boxes are first parted into that many places (k-means on relative corners, from
    a fixed start), so that a finding at home in both lungs is not placed between them: a stronger opponent.
    Raises ValueError unless `num_places` is at least 1.
    """
    if num_places < 1:
        raise ValueError(f"num_places {num_places}: the prior needs at least one place per finding")
    relative_K4 = truth.boxes_K4.astype(np.float64) / truth.sizes_N2[truth.image_K][:, [1, 0, 1, 0]]
    findings, scores, boxes = [], [], []
    for finding in range(len(truth.findings)):
        mine = truth.finding_K == finding
        if not mine.any():
            continue
        place_K, centres = _places(relative_K4[mine], num_places)
        for place, box_4 in enumerate(centres):
            findings.append(finding)
            scores.append(len(np.unique(truth.image_K[mine][place_K == place])) / len(truth.keys))
            boxes.append(box_4)
    return LocationPrior(
        truth.findings,
        np.array(findings, np.int16),
        np.array(scores, np.float32),
        np.array(boxes, np.float64).reshape(-1, 4),
    )


def predict(prior: LocationPrior, truth: Truth) -> Predictions:
    """The same M boxes on every image of `truth`, whose sizes alone are looked at."""
    num_images, num_boxes = len(truth.keys), len(prior.finding_M)
    height_width = truth.sizes_N2[:, None, [1, 0, 1, 0]].astype(np.float64)
    return Predictions(
        findings=prior.findings,
        keys=truth.keys,
        offsets=np.arange(num_images + 1, dtype=np.int64) * num_boxes,
        finding_D=np.tile(prior.finding_M, num_images),
        score_D=np.tile(prior.score_M, num_images),
        boxes_D4=(prior.boxes_M4 * height_width).reshape(-1, 4).astype(np.float32),
        origin=Origin(split=truth.split, shards=truth.shards, config={"predictor": "location prior"}),
    )


def _places(boxes_K4: NDArray[np.float64], num_places: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lloyd's k-means from the mean and then the farthest boxes: place of each box [K] and centre of each place."""
    centres = boxes_K4.mean(axis=0, keepdims=True)
    while len(centres) < min(num_places, len(np.unique(boxes_K4, axis=0))):
        farthest = _distance(boxes_K4, centres).min(axis=1).argmax()
        centres = np.concatenate([centres, boxes_K4[farthest : farthest + 1]])
    place_K = _distance(boxes_K4, centres).argmin(axis=1)
    for _ in range(_MAX_ROUNDS):
        filled = np.unique(place_K)
        centres = np.stack([boxes_K4[place_K == place].mean(axis=0) for place in filled])
        moved_K = _distance(boxes_K4, centres).argmin(axis=1)
        if len(filled) == filled[-1] + 1 and (moved_K == place_K).all():
            break
        place_K = moved_K
    return place_K, centres


def _distance(boxes_K4: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.square(boxes_K4[:, None] - centres[None]).sum(axis=2)
    return distance
