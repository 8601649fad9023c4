"""Image-level area under the ROC curve per finding, with whole-number weights per image, for many weightings at once.

Shapes: N images, F findings, B sets of weights, U distinct scores.
"""

import numpy as np
from numpy.typing import NDArray

from eval.predictions import Predictions


def image_scores(predictions: Predictions) -> NDArray[np.float32]:
    """float32 [N, F] in 0..1: the predictor's own image scores, else the highest box of the finding, 0 without one."""
    if predictions.image_scores_NF is not None:
        return predictions.image_scores_NF
    score_NF = np.zeros((len(predictions.keys), len(predictions.findings)), np.float32)
    np.maximum.at(score_NF, (predictions.image_D, predictions.finding_D.astype(np.int64)), predictions.score_D)
    return score_NF


def area_under_roc(
    score_N: NDArray[np.float32], positive_N: NDArray[np.bool_], weights_BN: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Chance that a positive image scores higher than a negative one, ties counting half: float64 [B] in 0..1.

    NaN where a weighting has no positive or no negative image. Equal to Mann and Whitney's U over the number of pairs.
    """
    _, level_N = np.unique(score_N, return_inverse=True)
    order_N = np.argsort(level_N, kind="stable")
    start_U = np.flatnonzero(np.diff(level_N[order_N], prepend=-1))
    weights_BN = weights_BN[:, order_N]
    positive_BU = np.add.reduceat(weights_BN * positive_N[order_N], start_U, axis=1, dtype=np.int64)
    negative_BU = np.add.reduceat(weights_BN * ~positive_N[order_N], start_U, axis=1, dtype=np.int64)
    below_BU = np.cumsum(negative_BU, axis=1) - negative_BU
    wins_B = (positive_BU * (below_BU + 0.5 * negative_BU)).sum(axis=1)
    pairs_B = positive_BU.sum(axis=1).astype(np.float64) * negative_BU.sum(axis=1)
    area_B: NDArray[np.float64] = np.divide(wins_B, pairs_B, out=np.full(len(wins_B), np.nan), where=pairs_B > 0)
    return area_B
