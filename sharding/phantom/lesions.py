"""The findings as drawings: each changes the thorax and gives the box of what it drew.

A drawer takes the thorax, the image's generator and a strength (0 faint and small, 1 plain and large) and returns a
`Drawn`, or None where it found no room. Sizes are in body units (1 = half the cage), attenuation in units of 1.0;
both come from what such findings measure in VinDr-CXR's boxes. Heart and knob are drawn with the thorax.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sharding.findings import VINDR_FINDINGS
from sharding.phantom.deposits import Drawn, between, blob, deposit, hilum, in_lungs, place, strokes
from sharding.phantom.raster import UNIT, blank, cloud, disc, extent, fill, oval, smooth, stroke, weigh
from sharding.phantom.thorax import Thorax


def atelectasis(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """A wedge with its tip at the hilum side and straight plates in it."""
    unit = thorax.frame.unit_px
    centre = place(thorax, rng, 0.15, 0.95)
    toward = hilum(thorax, centre) - centre
    toward = toward / max(1.0, float(np.hypot(*toward)))
    across = np.array([-toward[1], toward[0]])
    long, wide = between(strength, 0.28, 0.52) * unit, between(strength, 0.10, 0.22) * unit
    tip, foot = centre + toward * long / 2, centre - toward * long / 2
    wedge = fill(blank(thorax.frame.shape), np.array([tip, foot + across * wide, foot - across * wide]))
    plates = blank(thorax.frame.shape)
    for _ in range(int(rng.integers(2, 5))):
        shift = across * wide * float(rng.uniform(-0.8, 0.8))
        stroke(plates, np.array([tip, foot + shift]), 0.022 * unit)
    field = weigh(smooth(wedge, 0.015 * unit), between(strength, 0.16, 0.60))
    field += weigh(smooth(plates, 0.006 * unit, 1), between(strength, 0.16, 0.40))
    return deposit(thorax, in_lungs(thorax, field), "wedge", 0.22)


def calcification(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """A crowd of very dense specks, or one dense grain."""
    unit, mask = thorax.frame.unit_px, blank(thorax.frame.shape)
    centre = place(thorax, rng, 0.02, 0.8)
    crowd = between(strength, 0.02, 0.13)
    for _ in range(int(rng.integers(3, 6 + round(10 * strength)))):
        spot = centre + crowd * unit * rng.uniform(-1, 1, size=2)
        disc(mask, spot, unit * float(rng.uniform(0.008, 0.015 + 0.014 * strength)))
    field = weigh(smooth(mask, 0.004 * unit, 1), between(strength, 0.7, 1.7))
    return deposit(thorax, field, "specks")


def consolidation(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """A dense area with a fluffy edge and dark air bronchograms."""
    unit, shape = thorax.frame.unit_px, thorax.frame.shape
    centre = place(thorax, rng, 0.1, 0.95)
    size = between(strength, 0.12, 0.29)
    edge = blob(thorax, rng, centre, size * float(rng.uniform(0.8, 1.2)), size * float(rng.uniform(0.8, 1.3)), 0.6)
    mask = smooth(fill(blank(shape), edge), 0.05 * unit)
    bronchi = strokes(thorax, rng, centre, size, round(4 + 5 * strength), 0.022, centre - hilum(thorax, centre))
    amount = between(strength, 0.28, 0.95)
    field = weigh(mask, amount) * (UNIT + cloud(rng, shape, 0.04 * unit)) // UNIT
    field -= weigh(mask * smooth(bronchi, 0.005 * unit, 1) // 255, 0.30 * amount)
    return deposit(thorax, in_lungs(thorax, field), "consolidation")


def ild(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """A fine net with small knots over much of one lung, taller than wide."""
    unit, shape = thorax.frame.unit_px, thorax.frame.shape
    centre = place(thorax, rng, 0.3, 0.75)
    edge = blob(thorax, rng, centre, between(strength, 0.18, 0.30), between(strength, 0.28, 0.55), 0.3)
    mask = smooth(fill(blank(shape), edge), 0.04 * unit)
    net = np.maximum(0, 120 - np.abs(cloud(rng, shape, 0.030 * unit))) * 2
    knots = np.clip(cloud(rng, shape, 0.025 * unit) - 380, 0, 255)
    field = weigh(np.minimum(255, net + knots) * mask // 255, between(strength, 0.25, 0.62))
    drawn = deposit(thorax, in_lungs(thorax, field), "net", 0.45)
    return drawn


def infiltration(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """Patches like cotton, of moderate density, without a clear edge."""
    unit, shape = thorax.frame.unit_px, thorax.frame.shape
    centre = place(thorax, rng, 0.1, 0.9)
    size = between(strength, 0.15, 0.30)
    edge = blob(thorax, rng, centre, size, size * float(rng.uniform(0.8, 1.3)), 0.5)
    mask = smooth(fill(blank(shape), edge), 0.06 * unit)
    patches = np.clip(cloud(rng, shape, 0.065 * unit) + 60, 0, 420)
    field = weigh(patches * mask // 420, between(strength, 0.32, 0.95))
    return deposit(thorax, in_lungs(thorax, field), "patches", 0.25)


def lung_opacity(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """An even veil (ground glass): vessels stay visible through it."""
    unit = thorax.frame.unit_px
    centre = place(thorax, rng, 0.1, 0.95)
    size = between(strength, 0.14, 0.30)
    edge = blob(thorax, rng, centre, size * float(rng.uniform(0.8, 1.25)), size * float(rng.uniform(0.7, 1.1)), 0.25)
    mask = smooth(fill(blank(thorax.frame.shape), edge), 0.035 * unit)
    return deposit(thorax, in_lungs(thorax, weigh(mask, between(strength, 0.18, 0.55))), "veil", 0.35)


def nodule_or_mass(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """A ball: below 0.11 in radius (about 3 cm across) a nodule, else a mass."""
    unit = thorax.frame.unit_px
    mass = rng.random() < 0.2 + 0.55 * strength
    radius = float(rng.uniform(0.115, 0.21)) if mass else float(rng.uniform(0.035, 0.045 + 0.05 * strength))
    centre = place(thorax, rng, 0.03, 0.97)
    mask = fill(blank(thorax.frame.shape), blob(thorax, rng, centre, radius, radius, 0.22 if mass else 0.1))
    ball = smooth(mask, 0.35 * radius * unit) * mask // 255
    field = weigh(smooth(ball, 0.006 * unit, 1), between(strength, 0.30, 0.95))
    return deposit(thorax, field, "mass" if mass else "nodule", 0.25)


def other_lesion(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """A cavity with a fluid level, a thin-walled bulla, or a hernia behind the heart."""
    unit, shape = thorax.frame.unit_px, thorax.frame.shape
    pick = rng.random()
    if pick < 0.2:
        radius = between(strength, 0.13, 0.22)
        centre = thorax.frame.px(np.array([float(rng.uniform(-0.12, 0.22)), float(rng.uniform(0.34, 0.48))]))
        outer = fill(blank(shape), oval(centre, radius * unit, radius * unit * 0.85))
        gas = fill(blank(shape), oval(centre, radius * unit * 0.8, radius * unit * 0.66))
        gas[int(centre[1] + 0.12 * radius * unit) :] = 0
        field = weigh(smooth(outer, 0.01 * unit), 0.30) - weigh(smooth(gas, 0.006 * unit, 1), 0.9)
        return deposit(thorax, field, "hernia", 0.15)
    if pick < 0.5:
        radius = between(strength, 0.13, 0.27)
        centre = place(thorax, rng, 0.05, 0.85, 0.08)
        edge = blob(thorax, rng, centre, radius, radius * float(rng.uniform(0.8, 1.2)), 0.15)
        hole = fill(blank(shape), edge)
        wall = stroke(blank(shape), np.concatenate([edge, edge[:1]]), 0.016 * unit)
        gone = thorax.vessels_HW * in_lungs(thorax, smooth(hole, 2)) // 255
        thorax.vessels_HW -= gone
        field = weigh(smooth(wall, 1, 1), between(strength, 0.2, 0.42)) - weigh(hole, between(strength, 0.12, 0.34))
        return deposit(thorax, in_lungs(thorax, field), "bulla", 0.25)
    radius = between(strength, 0.09, 0.20)
    centre = place(thorax, rng, 0.05, 0.9, 0.08)
    edge = blob(thorax, rng, centre, radius, radius, 0.25)
    wall = stroke(blank(shape), np.concatenate([edge, edge[:1]]), 0.05 * unit)
    inside = fill(blank(shape), edge)
    fluid = inside.copy()
    fluid[: int(centre[1] + radius * unit * float(rng.uniform(0.0, 0.5)))] = 0
    field = weigh(smooth(wall, 0.01 * unit, 1), between(strength, 0.3, 0.8)) - weigh(inside, 0.15)
    field += weigh(fluid, between(strength, 0.2, 0.6))
    return deposit(thorax, field, "cavity", 0.25)


def pleural_effusion(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """Fluid at the base: a meniscus that climbs the side wall and hides the angle."""
    unit, shape = thorax.frame.unit_px, thorax.frame.shape
    side = int(rng.integers(0, 2))
    lung = thorax.lungs[side]
    box = extent(lung > 128)
    if box is None:
        return None
    left, _, right, bottom = box
    outer, inner = (left, right) if side == 0 else (right, left)
    rise = between(strength, 0.14, float(rng.uniform(0.45, 0.95))) * unit
    climb = float(rng.uniform(0.12, 0.35)) * unit
    span = inner - outer
    level = bottom - rise + 0.06 * unit
    curve = [(outer + span * t, level - climb * (1 - t) ** 3 + 0.03 * unit * t) for t in np.linspace(-0.05, 1.05, 14)]
    pool = fill(blank(shape), np.array([*curve, (inner, bottom + unit), (outer, bottom + unit)], dtype=np.float64))
    mask = smooth(np.minimum(pool, lung), 0.02 * unit) * (40 + thorax.air_HW * 215 // 255) // 255
    return deposit(thorax, weigh(mask, between(strength, 0.70, 1.35)), "effusion", 0.3)


def pleural_thickening(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """A dense rim along the side wall, or a cap on the apex."""
    unit, shape = thorax.frame.unit_px, thorax.frame.shape
    side = int(rng.integers(0, 2))
    wall = thorax.lateral_walls[side]
    apical = rng.random() < 0.5
    count = len(wall)
    length = max(5, round(count * between(strength, 0.14, 0.34)))
    start = 0 if apical else int(rng.integers(count // 4, max(count // 4 + 1, count - length)))
    part = wall[start : start + length]
    if apical:
        part = np.concatenate([thorax.outlines[side][-4:], part])
    rim = stroke(blank(shape), part, between(strength, 0.09, 0.20) * unit)
    rim = np.minimum(rim, thorax.lungs[side])
    field = weigh(smooth(rim, 0.012 * unit), between(strength, 0.40, 0.95))
    return deposit(thorax, field, "apical cap" if apical else "rim")


def pneumothorax(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """Air without vessels between the wall and a fine white line, widest at the apex."""
    unit, shape = thorax.frame.unit_px, thorax.frame.shape
    side = int(rng.integers(0, 2))
    outline, sign = thorax.outlines[side], -1.0 if side == 0 else 1.0
    root = thorax.frame.px(np.array([0.20 * sign, 0.30]))
    keep = np.array([between(strength, 0.91, 0.66), between(strength, 0.93, 0.72)])
    collapsed = root + (outline - root) * keep
    inner = fill(blank(shape), collapsed)
    gap = np.minimum(thorax.lungs[side], 255 - inner)
    gap[int(root[1] + 0.25 * unit) :] = 0
    edge = np.minimum(
        stroke(blank(shape), np.concatenate([collapsed, collapsed[:1]]), 0.018 * unit), thorax.lungs[side]
    )
    edge[int(root[1] + 0.25 * unit) :] = 0
    thorax.vessels_HW -= thorax.vessels_HW * gap // 255
    field = -weigh(smooth(gap, 0.006 * unit, 1), between(strength, 0.22, 0.48))
    squeezed = weigh(np.minimum(inner, thorax.lungs[side]), between(strength, 0.04, 0.2))
    drawn = deposit(thorax, field, "air", 0.4)
    thorax.attenuation_HW += squeezed + weigh(smooth(edge, 1, 1), 0.40)
    return drawn


def fibrosis(thorax: Thorax, rng: np.random.Generator, strength: float) -> Drawn | None:
    """Coarse strands that pull towards the hilum, mostly in the upper zones."""
    unit = thorax.frame.unit_px
    upper = rng.random() < 0.7
    centre = place(thorax, rng, 0.04 if upper else 0.4, 0.4 if upper else 0.9)
    reach = between(strength, 0.12, 0.24)
    inward = hilum(thorax, centre) - centre
    lines = strokes(thorax, rng, centre, reach, round(18 + 24 * strength), 0.011, inward)
    haze = fill(blank(thorax.frame.shape), blob(thorax, rng, centre, reach, reach, 0.5))
    field = weigh(smooth(lines, 0.004 * unit, 1), between(strength, 0.22, 0.50))
    field += weigh(smooth(haze, 0.06 * unit), between(strength, 0.06, 0.18))
    return deposit(thorax, in_lungs(thorax, field), "strands", 0.3)


Drawer = Callable[[Thorax, np.random.Generator, float], Drawn | None]

DRAWERS: dict[int, Drawer] = {
    VINDR_FINDINGS.index(name): drawer
    for name, drawer in {
        "Atelectasis": atelectasis,
        "Calcification": calcification,
        "Consolidation": consolidation,
        "ILD": ild,
        "Infiltration": infiltration,
        "Lung Opacity": lung_opacity,
        "Nodule/Mass": nodule_or_mass,
        "Other lesion": other_lesion,
        "Pleural effusion": pleural_effusion,
        "Pleural thickening": pleural_thickening,
        "Pneumothorax": pneumothorax,
        "Pulmonary fibrosis": fibrosis,
    }.items()
}
"""One drawer per finding of VINDR_FINDINGS (by position), but for the two that are the thorax's own shape."""
