"""The boxes of several readers to consensus boxes by weighted boxes fusion, as the BarlowTwins-CXR reference does.

Solovyev et al., Weighted boxes fusion, 2021 (arXiv 1910.13302), with the arithmetic of the ensemble-boxes library.

Shapes: K boxes in, M boxes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ensemble_boxes.ensemble_boxes_wbf import find_matching_box_fast, get_weighted_box

from sharding.sample import Box

IOU = 0.5
"""Boxes that overlap by more than this are one."""


def fuse_readers(boxes: Sequence[Box], height: int, width: int, iou: float = IOU) -> tuple[Box, ...]:
    """Consensus boxes of one image, finding after finding, corners in pixels rounded to .1.

    `boxes` are all readers' boxes in the order of the csv file. The only box of a finding passes unchanged. Others
    are fused in reverse order of the file: since all scores tie, the order decides which boxes meet.
    """
    fused: list[Box] = []
    for finding in sorted({box.finding for box in boxes}):
        mine = [box for box in boxes if box.finding == finding]
        if len(mine) == 1:
            fused.extend(mine)
            continue
        corners_K4 = np.array([[box.x_min, box.y_min, box.x_max, box.y_max] for box in reversed(mine)])
        scale_4 = np.array([width, height, width, height], dtype=np.float64)
        for corners_4 in _fuse(np.clip(corners_K4 / scale_4, 0.0, 1.0), iou) * scale_4:
            fused.append(Box(finding, *(round(float(value), 1) for value in corners_4)))
    return tuple(fused)


def _fuse(corners_K4: npt.NDArray[np.float64], iou: float) -> npt.NDArray[np.float64]:
    """Weighted boxes fusion [M, 4] of equally scored boxes in the given order.

    The library's own loop sorts by score first, and how it orders ties depends on the processor; so the loop is here.
    """
    clusters: list[list[npt.NDArray[Any]]] = []
    fused_M8 = np.empty((0, 8))
    for corners_4 in corners_K4:
        # The library's row: finding, score, weight, reader, then the corners.
        box_8 = np.concatenate([[0.0, 1.0, 1.0, 0.0], corners_4])
        match, _ = find_matching_box_fast(fused_M8, box_8, iou)
        if match == -1:
            clusters.append([box_8])
            fused_M8 = np.vstack((fused_M8, box_8))
        else:
            clusters[match].append(box_8)
            fused_M8[match] = get_weighted_box(clusters[match])
    return np.asarray(fused_M8[:, 4:], dtype=np.float64)
