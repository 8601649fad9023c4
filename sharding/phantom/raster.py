"""Drawing in whole numbers, so that a phantom has the same pixels on every CPU.

Coordinates are float64 and end as 1/16 px; everything that holds a pixel is an integer and every filter sums integers.
Attenuation (thickness times mu, natural logarithm) is fixed-point: UNIT stands for 1.0.
Shapes: H, W of the canvas; N points, each x, y in px.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.uint8]
Points: TypeAlias = NDArray[np.float64]
Shape: TypeAlias = tuple[int, int]
Pair: TypeAlias = Sequence[float] | Points

UNIT = 1024
_FRACTION_BITS = 4
_COARSE = 4


def spline(points_N2: Sequence[Pair] | Points, closed: bool = False, steps: int = 8) -> Points:
    """A Catmull-Rom curve through the points, `steps` per piece. Two equal points in a row make a corner."""
    knots = np.asarray(points_N2, dtype=np.float64)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        padded = np.concatenate([knots[:1], knots, knots[-1:]])
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (padded[i : len(padded) - 3 + i, None, :] for i in range(4))
    curve = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t * t + (3 * p1 - p0 - 3 * p2 + p3) * t * t * t
    )
    flat = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, knots[-1:]])


def bezier(start: Pair, middle: Pair, end: Pair, num_points: int = 14) -> Points:
    """A quadratic Bezier curve."""
    t = np.linspace(0.0, 1.0, num_points)[:, None]
    a, b, c = (np.asarray(p, dtype=np.float64)[None] for p in (start, middle, end))
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c


def _fixed(points_N2: Points) -> NDArray[np.int32]:
    return np.round(points_N2 * (1 << _FRACTION_BITS)).astype(np.int32).reshape(-1, 1, 2)


def fill(mask: Mask, points_N2: Points, value: int = 255) -> Mask:
    """Paints the polygon into the mask (antialiased) and returns it."""
    cv2.fillPoly(mask, [_fixed(points_N2)], value, lineType=cv2.LINE_AA, shift=_FRACTION_BITS)
    return mask


def stroke(mask: Mask, points_N2: Points, width_px: float, value: int = 255) -> Mask:
    """Paints the open line into the mask. Below 1 px of width it gets fainter instead of thinner."""
    shade = value if width_px >= 1 else max(1, int(value * max(width_px, 0.15)))
    cv2.polylines(
        mask,
        [_fixed(points_N2)],
        False,
        shade,
        thickness=max(1, round(width_px)),
        lineType=cv2.LINE_AA,
        shift=_FRACTION_BITS,
    )
    return mask


def disc(mask: Mask, centre_px: Pair, radius_px: float, value: int = 255) -> Mask:
    """Paints a filled circle."""
    return fill(mask, oval(centre_px, radius_px, radius_px), value)


def oval(centre_px: Pair, rx_px: float, ry_px: float, angle: float = 0.0, num_points: int = 32) -> Points:
    """An ellipse turned by `angle` radians, as a closed polygon."""
    t = np.arange(num_points) * (2 * np.pi / num_points)
    return np.asarray(turned(np.stack([rx_px * np.cos(t), ry_px * np.sin(t)], axis=1), angle) + np.asarray(centre_px))


def turned(points_N2: Points, angle: float) -> Points:
    """The points turned about the origin by `angle` radians (clockwise on the screen)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points_N2 @ np.array([[cos, sin], [-sin, cos]]))


def blank(shape: Shape) -> Mask:
    """An empty mask, 0 to 255."""
    return np.zeros(shape, dtype=np.uint8)


def _box_mean(field_HW: Ints | Mask, radius_px: int) -> Ints | Mask:
    """Means of squares, rounded down; masks stay masks (their sums fit 16 bits, which is several times faster)."""
    width = 2 * radius_px + 1
    depth = cv2.CV_16U if field_HW.dtype == np.uint8 and width <= 255 else cv2.CV_32S
    for kernel in ((width, 1), (1, width)):
        sums = cv2.boxFilter(field_HW, depth, kernel, normalize=False, borderType=cv2.BORDER_REPLICATE)
        field_HW = (sums // sums.dtype.type(width)).astype(field_HW.dtype)
    return field_HW


def smooth(field_HW: Ints | Mask, radius_px: float, passes: int = 2) -> Ints:
    """Box means, repeated (near a Gaussian of sigma radius * sqrt(passes / 3)); wide ones on a quarter grid."""
    height, width = field_HW.shape
    if radius_px >= 4 * _COARSE and min(height, width) >= 16 * _COARSE:
        small: Ints | Mask = shrink(field_HW, _COARSE)
        for _ in range(passes):
            small = _box_mean(small, max(1, round(radius_px / _COARSE)))
        return enlarge(small.astype(np.int32), (height, width))
    if radius_px >= 0.5:
        for _ in range(passes):
            field_HW = _box_mean(field_HW, max(1, round(radius_px)))
    return field_HW.astype(np.int32)


def shrink(field_HW: Ints | Mask, factor: int) -> Ints:
    """Means of factor x factor blocks; what is left over at the right and lower border is dropped."""
    height, width = (side // factor for side in field_HW.shape)
    whole = field_HW[: height * factor, : width * factor]
    rows = whole.reshape(height, factor, width * factor).sum(axis=1, dtype=np.int32)
    means = rows.reshape(height, width, factor).sum(axis=2, dtype=np.int32) // np.int32(factor * factor)
    return np.asarray(means, dtype=np.int32)


def enlarge(field_HW: Ints, shape: Shape) -> Ints:
    """Bilinear, in OpenCV's bit-exact form (four times faster on 16 bits, so on these where the values allow)."""
    narrow = int(field_HW.min()) >= -(2**15) and int(field_HW.max()) < 2**15
    field = field_HW.astype(np.int16) if narrow else field_HW
    return np.asarray(cv2.resize(field, shape[::-1], interpolation=cv2.INTER_LINEAR_EXACT), dtype=np.int32)


def look_up(table: Ints, index_HW: Ints) -> Ints:
    """`table[index]`, indices beyond its ends taken at the ends."""
    return np.take(table, index_HW, mode="clip")


def weigh(mask_HW: Mask | Ints, attenuation: float) -> Ints:
    """A mask of 0 to 255 as fixed-point attenuation, `attenuation` (in units of 1.0) where the mask is full."""
    return mask_HW.astype(np.int32) * round(attenuation * UNIT) // 255


def bell(rng: np.random.Generator, shape: Shape) -> Ints:
    """Noise near normal, mean 0, sigma about 147.8: four random bytes summed, hence exact anywhere."""
    raw = np.frombuffer(rng.bytes(4 * shape[0] * shape[1]), dtype=np.uint8).reshape(4, *shape)
    return np.asarray(raw[0].astype(np.int32) + raw[1] + raw[2] + raw[3] - 510)


def cloud(rng: np.random.Generator, shape: Shape, grain_px: float) -> Ints:
    """A smooth random field, mean near 0, sigma about 256, with details of `grain_px`."""
    step = max(1, round(grain_px))
    grid = (shape[0] // step + 3, shape[1] // step + 3)
    field = _box_mean(bell(rng, grid) * 5, 1).astype(np.int32)
    big = enlarge(field, (grid[0] * step, grid[1] * step))
    top, left = (int(v) for v in rng.integers(0, step, size=2))
    return np.ascontiguousarray(big[top : top + shape[0], left : left + shape[1]])


def extent(inside_HW: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """x_min, y_min, x_max, y_max (px, max exclusive) of what is true, or None."""
    columns = np.flatnonzero(inside_HW.any(axis=0))
    rows = np.flatnonzero(inside_HW.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
