"""Image-level AUC against scikit-learn, with and without weights."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from eval import auc
from tests.eval.cases import random_predictions, random_truth


@pytest.mark.parametrize("seed", range(20))
def test_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_images = int(rng.integers(4, 60))
    score_N = (rng.integers(0, rng.choice([2, 5, 1000]), num_images) / 1000).astype(np.float32)
    positive_N = rng.random(num_images) < 0.4
    positive_N[:2] = [True, False]
    weights_BN = rng.integers(0, 4, (5, num_images)).astype(np.int32)
    weights_BN[0] = 1
    ours = auc.area_under_roc(score_N, positive_N, weights_BN)
    for weights_N, area in zip(weights_BN, ours, strict=True):
        drawn = np.repeat(np.arange(num_images), weights_N)
        if len(set(positive_N[drawn])) < 2:
            assert np.isnan(area)
        else:
            assert area == pytest.approx(roc_auc_score(positive_N[drawn], score_N[drawn]), abs=1e-12)


def test_image_scores_are_the_highest_boxes() -> None:
    rng = np.random.default_rng(3)
    truth = random_truth(rng)
    found = random_predictions(rng, truth)
    score_NF = auc.image_scores(found)
    for image in range(len(truth.keys)):
        for finding in range(len(truth.findings)):
            mine = (found.image_D == image) & (found.finding_D == finding)
            assert score_NF[image, finding] == found.score_D[mine].max(initial=0)
    own = rng.random(score_NF.shape).astype(np.float32)
    assert auc.image_scores(dataclasses.replace(found, image_scores_NF=own)) is own
