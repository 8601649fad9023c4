"""The boxes of several readers to consensus boxes: weighted boxes fusion as the BarlowTwins-CXR reference does, NMS,
soft-NMS, all of them, or one reader's.

Solovyev et al., Weighted boxes fusion, 2021 (arXiv 1910.13302); Bodla et al., Soft-NMS, 2017 (arXiv 1704.04503); with
the arithmetic of the ensemble-boxes library.

Shapes: K boxes in, M boxes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float, nms_float_fast
from ensemble_boxes.ensemble_boxes_wbf import find_matching_box_fast, get_weighted_box

from sharding.sample import Box

HAIR = 1e-9
"""What each box's score is below the one before it, so that no order hangs on ties; boxes of one image are few."""
GAUSSIAN = 2
"""The library's number for soft-NMS with Gaussian decay."""

Corners = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """How several readers' boxes become one opinion. All readers count alike: every box has score 1."""

    method: Literal["wbf", "nms", "soft_nms", "none", "reader"] = "wbf"
    """wbf: boxes of a finding that overlap become their mean; nms: of those that overlap one stays, the last in the csv
    file; soft_nms: overlapping ones lose score and go when it is below `skip_below`; none: every reader's every box;
    reader: the boxes of one reader, and no boxes (not even none) for images that he did not read."""
    iou: float = 0.5
    """Boxes whose intersection over union is above this are one (wbf, nms), 0 to less than 1."""
    skip_below: float = 1e-4
    """Boxes whose score (0 to 1) falls below this go. It matters for soft_nms alone, where a box keeps
    exp(-IoU^2 / sigma) of its score for each better one it overlaps: .0001 keeps nearly all, .3 drops those above an
    IoU of .78 at sigma .5."""
    sigma: float = 0.5
    """Width of soft_nms' decay, above 0; smaller is harder."""
    min_readers: int = 1
    """Keep a consensus box only if boxes of at least so many readers went into it (wbf, nms)."""
    reader: str = ""
    """The reader (`rad_id`, such as R9) whose boxes are taken by `reader`."""

    def __post_init__(self) -> None:
        if not 0 <= self.iou < 1:
            raise ValueError(f"fusion.iou: {self.iou} is not in 0 to less than 1; .5 is the reference's")
        if not 0 <= self.skip_below < 1:
            raise ValueError(f"fusion.skip_below: {self.skip_below} is not in 0 to less than 1, the score of every box")
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"fusion.sigma: {self.sigma} is not a number above 0; .5 is usual")
        if self.min_readers < 1:
            raise ValueError(f"fusion.min_readers: {self.min_readers} is below 1; 1 keeps every consensus box")
        if self.min_readers > 1 and self.method not in ("wbf", "nms"):
            raise ValueError(f"fusion.min_readers: {self.method} counts no readers; take --fusion.method wbf or nms")
        if (self.method == "reader") != bool(self.reader):
            raise ValueError(
                "fusion.reader: name one and take --fusion.method reader, or neither; "
                f"here are method {self.method!r} and reader {self.reader!r}"
            )


def fuse_readers(
    boxes: Sequence[Box],
    readers: Sequence[str],
    height: int,
    width: int,
    fusion: FusionConfig = FusionConfig(),
) -> tuple[Box, ...]:
    """Consensus boxes of one image, finding after finding; fused corners in pixels rounded to .1, others as drawn.

    `boxes` are all readers' in the order of the csv file, `readers` who drew each. The only box of a finding passes
    unchanged. Others are taken in reverse order of the file: since all scores tie, the order decides which boxes meet.
    """
    consensus: list[Box] = []
    for finding in sorted({box.finding for box in boxes}):
        mine = [(box, who) for box, who in zip(boxes, readers, strict=True) if box.finding == finding]
        if fusion.method == "reader":
            mine = [(box, who) for box, who in mine if who == fusion.reader]
        if fusion.method in ("none", "reader"):
            consensus.extend(box for box, _ in mine)
        elif len(mine) == 1:
            consensus.extend(box for box, _ in mine if fusion.min_readers == 1)
        else:
            consensus.extend(_fuse(mine[::-1], height, width, fusion))
    return tuple(consensus)


def _fuse(drawn: Sequence[tuple[Box, str]], height: int, width: int, fusion: FusionConfig) -> list[Box]:
    """Consensus of the boxes of one finding, in the order in which they are to be taken."""
    corners_K4 = np.array([[box.x_min, box.y_min, box.x_max, box.y_max] for box, _ in drawn])
    scale_4 = np.array([width, height, width, height], dtype=np.float64)
    shares_K4 = np.clip(corners_K4 / scale_4, 0.0, 1.0)
    scores_K = 1.0 - HAIR * np.arange(len(drawn))
    match fusion.method:
        case "nms":
            kept = [int(i) for i in nms_float_fast(shares_K4, scores_K, fusion.iou)]
            groups = _suppressed(shares_K4, kept, fusion.iou)
            fused = [drawn[i][0] for i in kept]
        case "soft_nms":
            kept = cpu_soft_nms_float(
                shares_K4, scores_K, fusion.iou, fusion.sigma, fusion.skip_below, GAUSSIAN
            ).tolist()
            return [drawn[i][0] for i in kept]
        case _:
            fused_M4, groups = _weighted(shares_K4, fusion.iou)
            finding = drawn[0][0].finding
            fused = [Box(finding, *(round(float(value), 1) for value in row_4)) for row_4 in fused_M4 * scale_4]
    num_readers = [len({drawn[i][1] for i in group}) for group in groups]
    return [box for box, number in zip(fused, num_readers, strict=True) if number >= fusion.min_readers]


def _weighted(corners_K4: Corners, iou: float) -> tuple[Corners, list[list[int]]]:
    """Weighted boxes fusion [M, 4] of equally scored boxes in the given order, and which boxes went into each.

    The library's own loop sorts by score first, and how it orders ties depends on the processor; so the loop is here.
    """
    clusters: list[list[npt.NDArray[Any]]] = []
    groups: list[list[int]] = []
    fused_M8 = np.empty((0, 8))
    for number, corners_4 in enumerate(corners_K4):
        # The library's row: finding, score, weight, reader, then the corners.
        box_8 = np.concatenate([[0.0, 1.0, 1.0, 0.0], corners_4])
        match, _ = find_matching_box_fast(fused_M8, box_8, iou)
        if match == -1:
            clusters.append([box_8])
            groups.append([number])
            fused_M8 = np.vstack((fused_M8, box_8))
        else:
            clusters[match].append(box_8)
            groups[match].append(number)
            fused_M8[match] = get_weighted_box(clusters[match])
    return np.asarray(fused_M8[:, 4:], dtype=np.float64), groups


def _suppressed(corners_K4: Corners, kept: Sequence[int], iou: float) -> list[list[int]]:
    """For each box that NMS kept, itself and those that it was the first to suppress."""
    left = set(range(len(corners_K4))) - set(kept)
    groups: list[list[int]] = []
    for i in kept:
        group = [i, *(j for j in sorted(left) if _overlap(corners_K4[i], corners_K4[j]) > iou)]
        left -= set(group)
        groups.append(group)
    return groups


def _overlap(a_4: Corners, b_4: Corners) -> float:
    """Intersection over union of two boxes."""
    low_2, high_2 = np.maximum(a_4[:2], b_4[:2]), np.minimum(a_4[2:], b_4[2:])
    shared = float(np.prod(np.maximum(high_2 - low_2, 0.0)))
    return shared / float(np.prod(a_4[2:] - a_4[:2]) + np.prod(b_4[2:] - b_4[:2]) - shared)
