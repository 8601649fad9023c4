"""What the drawers of findings share: where to put one, its outline, and adding it to the thorax with its box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharding.phantom.raster import (
    UNIT,
    Ints,
    Mask,
    Points,
    bezier,
    blank,
    extent,
    oval,
    smooth,
    spline,
    stroke,
    turned,
)
from sharding.phantom.thorax import Thorax


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finding that was drawn: `box` is x_min, y_min, x_max, y_max in canvas px; `kind` says which form it took."""

    kind: str
    box: tuple[float, float, float, float]


def between(strength: float, low: float, high: float) -> float:
    """`low` at strength 0, `high` at strength 1."""
    return low + (high - low) * strength


def deposit(thorax: Thorax, delta_HW: Ints, kind: str, share: float = 0.3) -> Drawn | None:
    """Adds the attenuation; the box is where it exceeds `share` of its peak. None if that is next to nothing."""
    size = np.abs(delta_HW)
    box = extent(size >= max(int(size.max() * share), UNIT // 50))
    if box is None or min(box[2] - box[0], box[3] - box[1]) < 4:
        return None
    thorax.attenuation_HW += delta_HW
    return Drawn(kind, (float(box[0]), float(box[1]), float(box[2]), float(box[3])))


def place(thorax: Thorax, rng: np.random.Generator, low: float = 0.0, high: float = 1.0, inset: float = 0.0) -> Points:
    """A random spot of clear lung, its height between shares `low` (apex) and `high` (base) of the lung's; px [2]."""
    side = int(rng.integers(0, 2))
    inside = np.minimum(thorax.lungs[side], thorax.clear_HW)
    if inset > 0:
        inside = np.where(smooth(inside, inset * thorax.frame.unit_px) > 235, 255, 0).astype(np.uint8)
    rows = np.flatnonzero((inside > 128).any(axis=1))
    if not len(rows):
        rows = np.flatnonzero((thorax.lungs[side] > 128).any(axis=1))
        inside = thorax.lungs[side]
    top, bottom = int(rows[0]), int(rows[-1])
    # a row first, so that apex and base are as likely as the broad middle
    for _ in range(20):
        y = int(top + (bottom - top) * rng.uniform(low, high))
        columns = np.flatnonzero(inside[y] > 128)
        if len(columns):
            return np.array([float(columns[int(rng.integers(0, len(columns)))]), float(y)])
    return np.array([float(np.flatnonzero(inside[top] > 128)[0]), float(top)])


def blob(thorax: Thorax, rng: np.random.Generator, centre: Points, rx: float, ry: float, wobble: float) -> Points:
    """An irregular closed outline about `centre`; radii in body units, `wobble` the share by which they vary."""
    unit = thorax.frame.unit_px
    edge = oval((0, 0), rx * unit, ry * unit, 0.0, 14)
    edge *= (1 + wobble * (rng.random(14) - 0.5))[:, None]
    return spline(turned(edge, float(rng.uniform(-0.5, 0.5))), closed=True) + centre


def in_lungs(thorax: Thorax, field_HW: Ints) -> Ints:
    """The field where there is lung, weaker where the heart lies before it."""
    soft = smooth(thorax.both_lungs(), 0.01 * thorax.frame.unit_px, 1)
    return field_HW * (soft * (64 + thorax.air_HW * 3 // 4) // 255) // 255


def strokes(
    thorax: Thorax, rng: np.random.Generator, centre: Points, reach: float, count: int, width: float, away: Points
) -> Mask:
    """Coarse lines within `reach` of the centre, most of them pointing along `away`."""
    unit, mask = thorax.frame.unit_px, blank(thorax.frame.shape)
    main = float(np.arctan2(away[1], away[0]))
    for _ in range(count):
        angle = main + float(rng.uniform(-1.2, 1.2))
        start = centre + reach * unit * rng.uniform(-0.75, 0.75, size=2)
        length = reach * unit * float(rng.uniform(0.5, 1.1))
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        bend = (start + end) / 2 + reach * unit * rng.uniform(-0.15, 0.15, size=2)
        stroke(mask, bezier(start, bend, end, 6), width * unit * float(rng.uniform(0.6, 1.4)))
    return mask


def hilum(thorax: Thorax, centre: Points) -> Points:
    """The hilum of the side on which `centre` lies, px [2]."""
    side = -1.0 if centre[0] < thorax.frame.px(np.array([0.0, 0.0]))[0] else 1.0
    return thorax.frame.px(np.array([0.22 * side, -0.04]))
