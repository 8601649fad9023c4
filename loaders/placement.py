"""Where an image lies on a detector's square canvas, and boxes there and back.

A window of the original image is resized by one ratio and put into the upper left corner of a canvas of zeros; the
flip, if any, is within the content. Coordinates are continuous: pixel i covers i .. i + 1.

Shapes: n samples of a batch, B boxes of all of them. Boxes are x_min, y_min, x_max, y_max.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MIN_BOX_PX = 1.0
"""Boxes narrower or lower than this on the canvas are dropped: their finding is not in the picture any more."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each of n images lies on the canvas."""

    originals_n2: npt.NDArray[np.integer[Any]]
    """Height and width of the original image, pixels."""
    window_start_n2: npt.NDArray[np.float64]
    """Upper left corner (y, x) of the window, original pixels."""
    window_size_n2: npt.NDArray[np.float64]
    """Height and width of the window, original pixels."""
    sizes_n2: npt.NDArray[np.int64]
    """Height and width of the content on the canvas, pixels."""
    flip_n: npt.NDArray[np.bool_]
    """Whether left and right of the content changed places."""

    @property
    def scales_n2(self) -> npt.NDArray[np.float64]:
        """Canvas pixels per original pixel (x, y), float64 [n, 2]; they differ by the content's rounding."""
        return (self.sizes_n2 / self.window_size_n2)[:, ::-1]


def place(
    originals_n2: npt.NDArray[np.integer[Any]],
    size_px: int,
    scale_n: npt.NDArray[np.float64],
    corner_n2: npt.NDArray[np.float64],
    flip_n: npt.NDArray[np.bool_],
) -> Placement:
    """Fits images (height, width) into a canvas of `size_px`, keeping their ratio, times `scale_n`.

    A side s becomes int(s * ratio + .5), as mmdetection 2.28 rounds. What a scale above 1 pushes over the border is
    left out: the window is then smaller than the image, and `corner_n2` in [0, 1) says where between its ends (y, x).
    """
    originals = originals_n2.astype(np.float64)
    ratio_n1 = (size_px * scale_n / originals.max(axis=1))[:, None]
    fits_n2 = originals * ratio_n1 <= size_px + 0.5  # that is, once rounded
    window_size_n2 = np.where(fits_n2, originals, size_px / ratio_n1)
    sizes_n2 = np.clip((window_size_n2 * ratio_n1 + 0.5).astype(np.int64), 1, size_px)
    window_start_n2 = corner_n2 * (originals - window_size_n2)
    return Placement(originals_n2, window_start_n2, window_size_n2, sizes_n2, flip_n)


def boxes_to_canvas(
    boxes_B4: npt.NDArray[np.float32], sample_B: npt.NDArray[np.int64], placement: Placement
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Boxes in original pixels to canvas pixels, float32 [B, 4], clipped to the content; and which to keep, [B].

    `sample_B` says which image of the batch a box is of. Boxes with less than MIN_BOX_PX of a side left are not kept.
    """
    scale_B2 = placement.scales_n2[sample_B]
    start_B2 = placement.window_start_n2[sample_B][:, ::-1]
    size_B2 = placement.sizes_n2[sample_B][:, ::-1].astype(np.float64)
    low_B2 = np.clip((boxes_B4[:, :2] - start_B2) * scale_B2, 0, size_B2)
    high_B2 = np.clip((boxes_B4[:, 2:] - start_B2) * scale_B2, 0, size_B2)
    _mirror(low_B2, high_B2, size_B2, placement.flip_n[sample_B])
    keep_B = np.all(high_B2 - low_B2 >= MIN_BOX_PX, axis=1)
    return np.concatenate([low_B2, high_B2], axis=1).astype(np.float32), keep_B


def boxes_to_original(
    boxes_B4: npt.NDArray[np.float32], sample_B: npt.NDArray[np.int64], placement: Placement
) -> npt.NDArray[np.float32]:
    """Boxes in canvas pixels to original pixels, float32 [B, 4], clipped to the image: undoes boxes_to_canvas."""
    scale_B2 = placement.scales_n2[sample_B]
    start_B2 = placement.window_start_n2[sample_B][:, ::-1]
    size_B2 = placement.sizes_n2[sample_B][:, ::-1].astype(np.float64)
    low_B2, high_B2 = boxes_B4[:, :2].astype(np.float64), boxes_B4[:, 2:].astype(np.float64)
    _mirror(low_B2, high_B2, size_B2, placement.flip_n[sample_B])
    limit_B2 = placement.originals_n2[sample_B][:, ::-1]
    low_B2 = np.clip(low_B2 / scale_B2 + start_B2, 0, limit_B2)
    high_B2 = np.clip(high_B2 / scale_B2 + start_B2, 0, limit_B2)
    return np.concatenate([low_B2, high_B2], axis=1).astype(np.float32)


def _mirror(
    low_B2: npt.NDArray[np.float64],
    high_B2: npt.NDArray[np.float64],
    size_B2: npt.NDArray[np.float64],
    flip_B: npt.NDArray[np.bool_],
) -> None:
    """Mirrors boxes, given as corners (x, y), left to right within the content, in place."""
    mirrored_low = size_B2[:, 0] - high_B2[:, 0]
    high_B2[:, 0] = np.where(flip_B, size_B2[:, 0] - low_B2[:, 0], high_B2[:, 0])
    low_B2[:, 0] = np.where(flip_B, mirrored_low, low_B2[:, 0])
