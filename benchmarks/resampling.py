"""Antialiased resizing in float64, written out: what every library's filter is compared with.

A filter's support grows with the shrinking, as in Pillow, torchvision (antialias) and DALI. Shapes: H, W, S pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SUPPORT = {"linear": 1.0, "cubic": 2.0}
"""Half the width of a filter, source pixels where nothing shrinks."""
_A = -0.5  # of the cubic, as Keys (1981) has it; Pillow, torchvision and DALI take the same


def kernel(x: npt.NDArray[np.float64], kind: str) -> npt.NDArray[np.float64]:
    """A filter's value at distances `x`: the triangle, or Keys' cubic."""
    x = np.abs(x)
    if kind == "linear":
        return np.clip(1 - x, 0, None)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def weights(length: int, start: float, size: float, output: int, kind: str) -> npt.NDArray[np.float64]:
    """The matrix [output, length] that resizes the part start .. start + size of a line; outside is not looked at."""
    scale = size / output
    wide = max(scale, 1.0)
    centre = start + (np.arange(output) + 0.5) * scale
    places = np.arange(length) + 0.5
    inside = (places > start) & (places < start + size)
    matrix = kernel((places[None, :] - centre[:, None]) / wide, kind) * inside
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


def resize(
    image_HW: npt.NDArray[Any], start_2: npt.NDArray[Any], size_2: npt.NDArray[Any], output: int, kind: str
) -> npt.NDArray[np.float64]:
    """A window (y, x) of an image to [output, output], float64, cut to 0 .. 255 and not rounded."""
    rows = weights(image_HW.shape[0], start_2[0], size_2[0], output, kind)
    columns = weights(image_HW.shape[1], start_2[1], size_2[1], output, kind)
    return np.clip(rows @ image_HW.astype(np.float64) @ columns.T, 0, 255)
