"""What looks like a finding and is none: nipples, electrodes, tubes, folds, crossings, buttons. Drawn without a box."""

from __future__ import annotations

import numpy as np

from sharding.phantom.raster import bezier, blank, disc, fill, oval, smooth, spline, stroke, weigh
from sharding.phantom.thorax import Thorax


def nipples(thorax: Thorax, rng: np.random.Generator) -> None:
    """Two faint discs, one on each side at much the same height: too even for nodules."""
    unit, mask = thorax.frame.unit_px, blank(thorax.frame.shape)
    x, y, radius = float(rng.uniform(0.42, 0.66)), float(rng.uniform(0.24, 0.44)), float(rng.uniform(0.025, 0.04))
    for side in (-1, 1):
        disc(mask, thorax.frame.px(np.array([side * x, y + float(rng.uniform(-0.03, 0.03))])), radius * unit)
    thorax.attenuation_HW += weigh(smooth(mask, 0.006 * unit), float(rng.uniform(0.15, 0.40)))


def electrodes(thorax: Thorax, rng: np.random.Generator) -> None:
    """Two to four ECG electrodes: a metal stud, a ring, a wire that leaves the image."""
    unit, frame = thorax.frame.unit_px, thorax.frame
    metal, pad = blank(frame.shape), blank(frame.shape)
    for _ in range(int(rng.integers(2, 5))):
        spot = np.array([float(rng.uniform(-0.85, 0.85)), float(rng.uniform(-0.75, 0.75))])
        disc(metal, frame.px(spot), 0.022 * unit)
        ring = frame.px(spot) + 0.05 * unit * np.stack(
            [np.cos(np.arange(17) * 0.3927), np.sin(np.arange(17) * 0.3927)], 1
        )
        stroke(pad, ring, 0.014 * unit)
        side = 1.0 if spot[0] > 0 else -1.0
        away = (side * float(rng.uniform(0.9, 1.4)), spot[1] + float(rng.uniform(-0.4, 0.4)))
        stroke(pad, frame.px(bezier(spot, away, (side * float(rng.uniform(0.5, 1.2)), 2.4))), 0.014 * unit)
    thorax.attenuation_HW += weigh(metal, 1.6) + weigh(pad, 0.45)


def tube(thorax: Thorax, rng: np.random.Generator) -> None:
    """A tube in the windpipe, a feeding tube down to the stomach, or a central line from the neck."""
    unit, frame = thorax.frame.unit_px, thorax.frame
    mask = blank(frame.shape)
    pick = int(rng.integers(0, 3))
    side = -1.0 if rng.random() < 0.7 else 1.0
    if pick == 0:
        path = spline([(0.0, -1.6), (0.01, -0.9), (0.02, -0.40)])
    elif pick == 1:
        path = spline([(0.03, -1.6), (0.0, -0.5), (0.06, 0.3), (0.22, 0.75), (0.42, 0.88)])
    else:
        path = spline(
            [(0.42 * side, -1.3), (0.36 * side, -0.85), (-0.16, -0.55), (-0.17, float(rng.uniform(-0.1, 0.2)))]
        )
    stroke(mask, frame.px(path), 0.034 * unit)
    core = stroke(blank(frame.shape), frame.px(path), 0.016 * unit)
    thorax.attenuation_HW += weigh(mask, 0.42) - weigh(core, 0.22)


def skin_fold(thorax: Thorax, rng: np.random.Generator) -> None:
    """A long edge with a one-sided shade, near the side wall: a pneumothorax's line that is none."""
    unit, frame = thorax.frame.unit_px, thorax.frame
    side = -1.0 if rng.random() < 0.5 else 1.0
    x = float(rng.uniform(0.55, 0.8)) * side
    edge = bezier((x, -0.75), (x + 0.12 * side, 0.1), (x - 0.1 * side, 0.95))
    taper = np.sin(np.linspace(0.0, np.pi, len(edge)))[:, None]
    wide = (edge - taper * [0.16 * side, 0.0])[::-1]
    band = fill(blank(frame.shape), frame.px(np.concatenate([edge, wide])))
    line = smooth(band, 0.05 * unit) * band // 255
    thorax.attenuation_HW += weigh(line, float(rng.uniform(0.16, 0.30)))


def bone_island(thorax: Thorax, rng: np.random.Generator) -> None:
    """Small dense spots where ribs cross, on the bone and not in the lung."""
    unit, frame = thorax.frame.unit_px, thorax.frame
    mask = blank(frame.shape)
    for _ in range(int(rng.integers(1, 4))):
        side = -1.0 if rng.random() < 0.5 else 1.0
        spot = frame.px(np.array([side * float(rng.uniform(0.55, 0.9)), float(rng.uniform(-0.5, 0.6))]))
        fill(mask, oval(spot, 0.045 * unit, 0.028 * unit, float(rng.uniform(-0.7, 0.7))))
    thorax.attenuation_HW += weigh(smooth(mask, 0.014 * unit), 0.26)


def buttons(thorax: Thorax, rng: np.random.Generator) -> None:
    """Clothing left on: a column of discs with holes, dead even."""
    unit, frame = thorax.frame.unit_px, thorax.frame
    x, step = float(rng.uniform(-0.35, 0.35)), float(rng.uniform(0.28, 0.4))
    mask = blank(frame.shape)
    for i in range(5):
        centre = np.array([x, -0.7 + i * step])
        disc(mask, frame.px(centre), 0.035 * unit)
        for hole in (-0.012, 0.012):
            disc(mask, frame.px(centre + np.array([hole, 0.0])), 0.007 * unit, 0)
    thorax.attenuation_HW += weigh(mask, 0.35)


LOOKALIKES = {
    "nipples": (nipples, 0.22),
    "electrodes": (electrodes, 0.14),
    "tube": (tube, 0.14),
    "skin fold": (skin_fold, 0.10),
    "bone island": (bone_island, 0.20),
    "buttons": (buttons, 0.05),
}
"""Name -> drawer and how often it appears."""
