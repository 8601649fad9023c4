"""From values to gray: every step is a function of the value alone, so it is worked out once per value that occurs.

Shapes: H, W rows and columns; P values that occur in an image, ascending as cells are read without sign.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from sharding.pixels import Gray, Rendering

Float_P = npt.NDArray[np.float64]

_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)
"""ITU-R 601 weights of red, green and blue in 65536ths, as Pillow rounds them."""


def tally(cells: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Which values occur in uint8 or uint16 cells [H, W], ascending [P], and how many pixels have each [P]."""
    size = 256 if cells.dtype == np.uint8 else 65536
    # Counts are float32 inside OpenCV: beyond 2^24 pixels of one value they are rounded, to 1e-7 of them.
    counts = cv2.calcHist([cells], [0], None, [size], [0, size]).ravel()
    codes = np.flatnonzero(counts)
    return codes, counts[codes].astype(np.float64)


def look_up(cells: npt.NDArray[Any], codes: npt.NDArray[np.int64], gray: Gray) -> Gray:
    """Each cell (uint8 or uint16 [H, W]) that is `codes[i]` becomes `gray[i]`; all that occur must be in `codes`."""
    table = np.zeros(256 if cells.dtype == np.uint8 else 65536, dtype=gray.dtype)
    table[codes] = gray
    # Seven times as fast as NumPy's indexing.
    shown: Gray = np.asarray(cv2.LUT(cells, table))
    return shown


def stretch(values: Float_P, counts: Float_P, used: npt.NDArray[np.bool_], rendering: Rendering) -> Float_P:
    """Brightness of values by percentile, where that is asked for and tells at least two grays apart, else by range.

    Only `used` ones decide what is black and white. A constant image is black.
    """
    if rendering.intensity == "percentile":
        low, high = percentiles(values[used], counts[used], rendering.percentiles)
        if high > low:
            return np.clip((values - low) / (high - low), 0.0, 1.0)
    low, high = float(values[used].min()), float(values[used].max())
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values)


def percentiles(values: Float_P, counts: Float_P, of: tuple[float, float]) -> tuple[float, float]:
    """Percentiles of `values`, each as often as `counts` says, linear between neighbours, as numpy.percentile."""
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(counts[order])
    ranks = np.array(of) / 100.0 * (ends[-1] - 1)
    below = np.floor(ranks)
    at = np.searchsorted(ends, [below, np.minimum(below + 1, ends[-1] - 1)], side="right")
    lower, upper = values[order][np.minimum(at, len(values) - 1)]
    low, high = lower + (upper - lower) * (ranks - below)
    return float(low), float(high)


def quantise(brightness: Float_P, bits: Literal[8, 16]) -> Gray:
    """0 to 1 becomes 0 to 255 (uint8) or 0 to 65535 (uint16), rounded, halves up; what is outside is clipped.

    NaN is black.
    """
    top = 2**bits - 1
    shown = np.nan_to_num(np.clip(brightness, 0.0, 1.0))  # which integer NaN becomes depends on the machine
    rounded: Gray = np.floor(shown * top + 0.5).astype(np.uint8 if bits == 8 else np.uint16)
    return rounded


def luma(colour: npt.NDArray[Any]) -> Gray:
    """Gray [H, W] of red, green, blue [H, W, 3 or 4], uint8 or uint16 as it comes; equals Pillow's `convert("L")`."""
    weighted = colour[..., 0] * _LUMA[0]
    weighted += colour[..., 1] * _LUMA[1]
    weighted += colour[..., 2] * _LUMA[2]
    weighted += np.uint32(0x8000)
    shades: Gray = (weighted >> 16).astype(colour.dtype)
    return shades
