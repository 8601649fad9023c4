"""Detection metrics as COCO defines them, with whole-number weights per image, so that matching is done once.

Matching and average precision follow pycocotools' COCOeval (area range "all", 100 boxes per image and finding) to the
last tie. A weight of w counts an image w times: average precision with weights is that of the data set in which
image i stands w_i times, and this for B sets of weights at once, which is what a bootstrap needs. Copies of a box
stand directly after it in the ranking.

Shapes: N images, D predicted boxes of one finding, T IoU thresholds, J true positives, B sets of weights, R recalls.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.predictions import Predictions
from eval.truth import Truth

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_BOXES = 100
_EPSILON = np.spacing(1)


@dataclass(frozen=True, slots=True, eq=False)
class FindingMatches:
    """Predicted boxes of one finding, best score first (ties in image order, then in file order), and their fate."""

    image_D: NDArray[np.int64]
    """int64 [D]: number of the image."""
    score_D: NDArray[np.float32]
    """float32 [D], descending."""
    hit_TD: NDArray[np.bool_]
    """bool [T, D]: the box was given a true box at this IoU threshold."""
    num_truth_N: NDArray[np.int64]
    """int64 [N]: true boxes per image."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """All findings of one predictor on one truth."""

    findings: tuple[str, ...]
    per_finding: tuple[FindingMatches, ...]


def match(truth: Truth, predictions: Predictions) -> Matches:
    """Greedy COCO matching of aligned predictions (see `eval.truth.align`), per image and finding.

    Boxes are taken by falling score; each takes the free true box of its finding that overlaps it most, the later
    one where two overlap equally, if their IoU reaches the threshold.
    """
    assert predictions.keys == truth.keys, "predictions must be aligned with the truth"
    order_D = np.lexsort((-predictions.score_D, predictions.image_D, predictions.finding_D))
    finding_D, image_D = predictions.finding_D[order_D].astype(np.int64), predictions.image_D[order_D]
    cell_D = finding_D * len(truth.keys) + image_D
    start_D = np.searchsorted(cell_D, cell_D, side="left")
    kept_D = np.arange(len(cell_D)) - start_D < MAX_BOXES
    order_D, cell_D, finding_D, image_D = order_D[kept_D], cell_D[kept_D], finding_D[kept_D], image_D[kept_D]

    cell_K = truth.finding_K.astype(np.int64) * len(truth.keys) + truth.image_K
    order_K = np.argsort(cell_K, kind="stable")
    cell_K = cell_K[order_K]
    boxes_K4 = truth.boxes_K4[order_K].astype(np.float64)
    boxes_D4 = predictions.boxes_D4[order_D].astype(np.float64)
    hit_TD = np.zeros((len(IOU_THRESHOLDS), len(cell_D)), bool)
    for cell in np.intersect1d(cell_D, cell_K):
        d0, d1 = np.searchsorted(cell_D, [cell, cell + 1])
        k0, k1 = np.searchsorted(cell_K, [cell, cell + 1])
        hit_TD[:, d0:d1] = greedy_hits(box_iou(boxes_D4[d0:d1], boxes_K4[k0:k1]))

    score_D = predictions.score_D[order_D]
    num_truth_NF = truth.num_boxes_NF
    per_finding = []
    for finding in range(len(truth.findings)):
        mine = slice(*np.searchsorted(finding_D, [finding, finding + 1]))
        ranked = np.argsort(-score_D[mine], kind="stable")
        per_finding.append(
            FindingMatches(
                image_D=image_D[mine][ranked],
                score_D=score_D[mine][ranked],
                hit_TD=hit_TD[:, mine][:, ranked],
                num_truth_N=num_truth_NF[:, finding],
            )
        )
    return Matches(truth.findings, tuple(per_finding))


def box_iou(boxes_D4: NDArray[np.float64], boxes_K4: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU [D, K] in 0..1 of corner boxes, in float64.

    Goes through width and height in the order of COCO's own code, so that an IoU on a threshold falls to the same side.
    """
    d_xy, k_xy = boxes_D4[:, None, :2], boxes_K4[None, :, :2]
    d_wh, k_wh = boxes_D4[:, None, 2:] - d_xy, boxes_K4[None, :, 2:] - k_xy
    overlap = np.maximum(np.minimum(d_wh + d_xy, k_wh + k_xy) - np.maximum(d_xy, k_xy), 0.0)
    shared = overlap[..., 0] * overlap[..., 1]
    union = d_wh[..., 0] * d_wh[..., 1] + k_wh[..., 0] * k_wh[..., 1] - shared
    iou: NDArray[np.float64] = shared / union
    return iou


def greedy_hits(iou_DK: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of D boxes, best score first, get one of K true boxes: bool [T, D]."""
    num_boxes, num_truth = iou_DK.shape
    floor_T1 = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    free_TK = np.ones((len(IOU_THRESHOLDS), num_truth), bool)
    hit_TD = np.zeros((len(IOU_THRESHOLDS), num_boxes), bool)
    for d in np.flatnonzero(iou_DK.max(axis=1) >= floor_T1[0, 0]):
        wanted_TK = np.where(free_TK & (iou_DK[d] >= floor_T1), iou_DK[d], -1.0)
        last_best_T = num_truth - 1 - np.argmax(wanted_TK[:, ::-1], axis=1)
        hit_T = wanted_TK[np.arange(len(wanted_TK)), last_best_T] >= 0
        hit_TD[:, d] = hit_T
        free_TK[hit_T, last_best_T[hit_T]] = False
    return hit_TD


def average_precision(
    matches: FindingMatches, weights_BN: NDArray[np.int32], thresholds: slice = slice(None)
) -> NDArray[np.float64]:
    """COCO's average precision over 101 recalls, float64 [B, T] in 0..1; NaN where the weighted truth has no box.

    weights_BN: whole numbers >= 0, how often each image counts. `thresholds` picks among IOU_THRESHOLDS.
    Precision is only ever read where a true positive stands, so only those are carried through.
    """
    weight_BD = weights_BN[:, matches.image_D]
    rank_BD = np.cumsum(weight_BD, axis=1, dtype=np.int64)
    num_truth_B = weights_BN @ matches.num_truth_N
    needed_BR = _needed_hits(num_truth_B)
    columns = []
    for hit_D in matches.hit_TD[thresholds]:
        place_J = np.flatnonzero(hit_D)
        hits_BJ = np.cumsum(weight_BD[:, place_J], axis=1, dtype=np.int64)
        precision_BJ = hits_BJ / (rank_BD[:, place_J] + _EPSILON)
        best_BJ = np.maximum.accumulate(precision_BJ[:, ::-1], axis=1)[:, ::-1]
        columns.append(_at_recalls(best_BJ, hits_BJ, needed_BR))
    ap_BT = np.stack(columns, axis=1)
    ap_BT[num_truth_B == 0] = np.nan
    return ap_BT


def recall(matches: FindingMatches, weights_BN: NDArray[np.int32]) -> NDArray[np.float64]:
    """Share of the true boxes found with all boxes kept (COCO's AR at 100), [B, T] in 0..1; NaN without a true box."""
    num_images = weights_BN.shape[1]
    hits_TN = np.stack([np.bincount(matches.image_D[hit_D], minlength=num_images) for hit_D in matches.hit_TD])
    return _share(weights_BN @ hits_TN.T, (weights_BN @ matches.num_truth_N)[:, None])


def sensitivity_at(
    matches: FindingMatches, weights_BN: NDArray[np.int32], false_per_image: float = 1.0
) -> NDArray[np.float64]:
    """Share of the true boxes found (IoU .5) at the lowest score threshold that lets through at most
    `false_per_image` false positives of this finding per image: one point of the FROC curve.

    [B] in 0..1; NaN without a true box. Boxes of equal score pass a threshold together.
    """
    weight_BD = weights_BN[:, matches.image_D]
    hit_D = matches.hit_TD[0]
    tie_end_D = np.searchsorted(-matches.score_D, -matches.score_D, side="right") - 1
    false_BD = np.cumsum(weight_BD * ~hit_D, axis=1, dtype=np.int64)[:, tie_end_D]
    passes_BD = false_BD <= false_per_image * weights_BN.sum(axis=1, dtype=np.int64)[:, None]
    return _share((weight_BD * (hit_D & passes_BD)).sum(axis=1), weights_BN @ matches.num_truth_N)


def _needed_hits(num_truth_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """[B, R]: the fewest true positives whose recall, as float division gives it, reaches each of RECALLS."""
    total_B1 = np.maximum(num_truth_B, 1)[:, None]
    needed_BR = np.ceil(RECALLS * total_B1).astype(np.int64)
    needed_BR -= (needed_BR - 1) / total_B1 >= RECALLS
    needed_BR += needed_BR / total_B1 < RECALLS
    return np.maximum(needed_BR, 0)


def _at_recalls(
    best_BJ: NDArray[np.float64], hits_BJ: NDArray[np.int64], needed_BR: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[B]: mean over the recalls of the best precision at that recall or beyond, 0 where it is never reached."""
    num_sets, num_hits = hits_BJ.shape
    if not num_hits:
        return np.zeros(num_sets)
    # One search for all B rows: each row's counts are shifted beyond those of the row before it.
    stride = max(int(hits_BJ.max()), int(needed_BR.max())) + 1
    shift_B1 = np.arange(num_sets, dtype=np.int64)[:, None] * stride
    place_BR = np.searchsorted((hits_BJ + shift_B1).ravel(), (needed_BR + shift_B1).ravel()).reshape(needed_BR.shape)
    place_BR -= np.arange(num_sets)[:, None] * num_hits
    reached_BR = place_BR < num_hits
    precision_BR = np.take_along_axis(best_BJ, np.minimum(place_BR, num_hits - 1), axis=1)
    mean_B: NDArray[np.float64] = np.where(reached_BR, precision_BR, 0.0).mean(axis=1)
    return mean_B


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return share
