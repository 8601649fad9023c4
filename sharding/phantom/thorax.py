"""The healthy thorax as an attenuation map, layer on layer: soft tissue, lungs, vessels, heart, bones.

Body coordinates and pixels as in anatomy.py; H, W is the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharding.phantom.anatomy import Frame, Patient, Pose
from sharding.phantom.raster import (
    Ints,
    Mask,
    Points,
    blank,
    cloud,
    fill,
    oval,
    smooth,
    spline,
    stroke,
    weigh,
)
from sharding.phantom.skeleton import draw_bones


@dataclass(slots=True)
class Thorax:
    """A body on the canvas. Lesions change `attenuation_HW` and, where lung is gone, `vessels_HW`."""

    frame: Frame
    attenuation_HW: Ints
    vessels_HW: Ints
    lungs: tuple[Mask, Mask]
    clear_HW: Mask
    air_HW: Ints
    body_HW: Mask
    lateral_walls: tuple[Points, Points]
    outlines: tuple[Points, Points]
    domes_y: tuple[float, float]
    heart: Points
    knob: Points

    def both_lungs(self) -> Mask:
        """The union of the two lung masks."""
        return np.maximum(self.lungs[0], self.lungs[1])


def _lung(side: int, pose: Pose) -> tuple[Points, Points, float]:
    """Outline, lateral wall (apex to angle) and dome height of one lung; side -1 is the patient's right, image left."""
    dome = (0.50 if side < 0 else 0.57) + pose.breath
    angle = dome + 0.27
    lateral = [
        (0.33, -0.83),
        (0.52, -0.78),
        (0.70, -0.60),
        (0.82, -0.36),
        (0.90, 0.0),
        (0.945, 0.34),
        (0.955, angle - 0.1),
    ]
    corner = [(0.94, angle), (0.94, angle)]
    base = [(0.82, dome + 0.08), (0.62, dome), (0.42, dome + 0.01), (0.24, dome + 0.08), (0.18, dome + 0.10)]
    lean = pose.lean * side
    medial = [(0.14 + lean, 0.30), (0.12 + lean, 0.0), (0.14 + lean, -0.35), (0.17, -0.62), (0.22, -0.78)]
    flip = np.array([side, 1.0])
    wall = spline(lateral + corner[:1]) * flip
    return spline(lateral + corner + base + medial, closed=True) * flip, wall, dome


def _heart(ratio: float, pose: Pose) -> Points:
    width = ratio * 1.91
    left, right = 0.66 * width, -0.34 * width
    drop = pose.breath
    points = [
        (-0.10, -1.05),
        (-0.15, -0.70),
        (-0.17, -0.34),
        (right * 0.80, -0.04),
        (right, 0.22 + drop),
        (right * 0.9, 0.46 + drop),
        (-0.08, 0.66 + drop),
        (left * 0.45, 0.71 + drop),
        (left * 0.90, 0.62 + drop),
        (left, 0.45 + drop),
        (left * 0.86, 0.22 + drop),
        (left * 0.55, 0.0),
        (0.21, -0.20),
        (0.16, -0.40),
        (0.12, -0.70),
        (0.10, -1.05),
    ]
    return np.asarray(spline(points, closed=True) + np.array([pose.lean, 0.0]))


def heart_box_points(thorax: Thorax) -> Points:
    """The ventricles' outline down to the diaphragm, px [N, 2]: what a reader boxes as cardiomegaly."""
    points, floor = thorax.heart, thorax.domes_y[1] + 0.05 * thorax.frame.unit_px
    low, high = points[:, 1].min(), points[:, 1].max()
    lower = points[points[:, 1] >= low + 0.62 * (high - low)]
    return np.stack([lower[:, 0], np.minimum(lower[:, 1], floor)], axis=1)


def _soft_tissue(frame: Frame, patient: Patient) -> tuple[Mask, Ints]:
    wide = 1.10 + 0.16 * patient.fat
    right_half = [
        (0.25, -2.4),
        (0.26, -1.30),
        (0.38, -1.06),
        (0.80, -0.98),
        (1.15, -0.88),
        (1.36, -0.66),
        (1.42, -0.30),
        (wide + 0.12, -0.14),
        (wide, 0.10),
        (wide + 0.02, 0.7),
        (wide + 0.05, 1.4),
        (wide, 2.6),
    ]
    half = np.array(right_half)
    torso = blank(frame.shape)
    fill(torso, frame.px(spline(np.concatenate([half, half[::-1] * [-1, 1]]), closed=True)))
    arms = blank(frame.shape)
    for side in (-1, 1):
        arm = [(1.22, -0.86), (1.40, -0.55), (1.52, 0.4), (1.75, 2.0), (1.42, 2.0), (1.30 + 0.1 * patient.fat, 0.35)]
        fill(arms, frame.px(spline(np.array([*arm, (1.18, -0.45)]) * [side, 1], closed=True)))
    depth = smooth(torso, 0.26 * frame.unit_px, passes=2)
    soft = weigh(torso, 0.75 + 0.35 * patient.fat)
    soft += weigh(torso.astype(np.int32) * depth // 255 * depth // 255, 1.05 + 0.3 * patient.fat)
    limbs = weigh(smooth(arms, 0.05 * frame.unit_px), 0.75 + 0.2 * patient.fat)
    return np.maximum(torso, arms), np.maximum(soft, limbs)


def _vessels(frame: Frame, patient: Patient, pose: Pose) -> tuple[Mask, Ints]:
    """The vessel tree of both lungs; it belongs to the patient, so it draws from the patient's own generator."""
    rng = np.random.Generator(np.random.PCG64(patient.vessel_seed))
    tree, hila = blank(frame.shape), blank(frame.shape)
    jobs: list[tuple[int, float, float, float, float, float]] = []
    for side in (-1, 1):
        y = -0.02 if side < 0 else -0.07
        fill(hila, frame.px(oval((side * 0.22 + pose.lean, y), 0.075, 0.16, side * -0.15)))
        for angle in (-1.35, -0.95, -0.5, -0.1, 0.3, 0.65, 0.95, 1.2):
            jobs.append((side, 0.20, y + 0.1 * np.sin(angle), angle + float(rng.uniform(-0.15, 0.15)), 0.027, 0.23))
    while jobs:
        side, x, y, angle, wide, long = jobs.pop(0)
        bend = angle + float(rng.uniform(-0.45, 0.45))
        middle = (x + 0.5 * long * np.cos(angle), y + 0.5 * long * np.sin(angle))
        end = (middle[0] + 0.5 * long * np.cos(bend), middle[1] + 0.5 * long * np.sin(bend))
        line = np.array([(x, y), middle, end]) * [side, 1] + [pose.lean * 0.7, 0.0]
        stroke(tree, frame.px(line), wide * frame.unit_px, int(90 + 165 * min(1.0, wide / 0.03)))
        if wide > 0.006:
            for turn in (float(rng.uniform(0.15, 0.5)), -float(rng.uniform(0.15, 0.5))):
                jobs.append((side, end[0], end[1], bend + turn, wide * 0.68, long * float(rng.uniform(0.62, 0.85))))
    return tree, weigh(smooth(hila, 0.07 * frame.unit_px), 0.46)


def draw_thorax(
    frame: Frame, patient: Patient, pose: Pose, rng: np.random.Generator, heart_ratio: float, knob: float
) -> Thorax:
    """Draws the body; `heart_ratio` is the cardiothoracic ratio and `knob` the aortic knob's radius (body units)."""
    unit = frame.unit_px
    body, attenuation = _soft_tissue(frame, patient)
    shapes = [_lung(side, pose) for side in (-1, 1)]
    outlines = [frame.px(shape[0]) for shape in shapes]
    lungs = (fill(blank(frame.shape), outlines[0]), fill(blank(frame.shape), outlines[1]))
    both = np.maximum(*lungs)

    belly = blank(frame.shape)
    edge = 0.34 + pose.breath
    fill(
        belly,
        frame.px(
            np.array(
                [(-0.9, edge), (0.9, edge), (1.0, 0.6), (1.5, 1.5), (1.5, 2.8), (-1.5, 2.8), (-1.5, 1.5), (-1.0, 0.6)]
            )
        ),
    )
    belly = np.minimum(np.minimum(belly, 255 - both), body)
    attenuation += weigh(smooth(belly, 0.025 * unit), 0.50) + weigh(smooth(belly, 0.16 * unit), 0.40)
    if rng.random() < 0.75:
        bubble = blank(frame.shape)
        x, y = float(rng.uniform(0.32, 0.58)), float(rng.uniform(0.78, 0.95)) + pose.breath
        fill(bubble, frame.px(oval((x, y), float(rng.uniform(0.10, 0.22)), float(rng.uniform(0.05, 0.11)), -0.1)))
        attenuation -= weigh(smooth(np.minimum(bubble, 255 - both), 0.02 * unit), float(rng.uniform(0.5, 0.95)))
    attenuation += np.maximum(0, cloud(rng, frame.shape, 0.12 * unit)) * belly // 1600

    middle = blank(frame.shape)
    lean = pose.lean
    trunk = [(-0.14, -1.3), (-0.15, -0.6), (-0.17 + lean, 0.5), (0.17 + lean, 0.5), (0.15, -0.6), (0.14, -1.3)]
    fill(middle, frame.px(spline(trunk, closed=True)))
    attenuation += weigh(smooth(middle, 0.03 * unit), 0.16)

    heart = frame.px(_heart(heart_ratio, pose))
    heart_mask = fill(blank(frame.shape), heart)
    knob_body = oval((0.10 + 0.62 * knob + lean * 0.6, -0.38 - 0.25 * (knob - 0.1)), knob * 1.22, knob * 1.1, 0.35)
    knob_px = frame.px(knob_body)
    arch = fill(blank(frame.shape), knob_px)
    down = np.array([(0.10 + 1.6 * knob, -0.34), (0.16 + 0.6 * knob, 0.1), (0.15, 0.6), (0.0, 0.6), (0.0, -0.34)])
    aorta = fill(blank(frame.shape), frame.px(down + np.array([lean * 0.6, 0.0])))

    # heart and arch displace air: over lung they weigh much, elsewhere little
    solid = np.maximum(smooth(heart_mask, 0.012 * unit) * 236, smooth(arch, 0.010 * unit) * 226) // 255
    air = 255 - np.maximum(solid, smooth(aorta, 0.02 * unit) * 50 // 255)
    filled = smooth(both, 0.006 * unit, 1) * air // 255
    attenuation -= weigh(filled, 0.58) + weigh(smooth(both, 0.10 * unit) * filled // 255, 0.72)
    attenuation += cloud(rng, frame.shape, 0.02 * unit) * filled // (255 * 10)
    attenuation += weigh(smooth(heart_mask, 0.12 * unit) * heart_mask // 255, 0.22) + weigh(
        smooth(arch, 0.02 * unit), 0.12
    )

    windpipe = blank(frame.shape)
    stroke(windpipe, frame.px(np.array([(0.0, -1.35), (0.01, -0.6), (0.02 + lean, -0.22)])), 0.105 * unit)
    for side in (-1, 1):
        stroke(windpipe, frame.px(np.array([(0.02 + lean, -0.22), (0.02 + lean + side * 0.2, -0.03)])), 0.06 * unit)
    attenuation -= weigh(smooth(windpipe, 0.012 * unit), 0.44)

    tree, hila = _vessels(frame, patient, pose)
    vessels = weigh(smooth(np.minimum(tree, both), 0.005 * unit, 1) * air // 255, 0.33 * patient.vessels)
    attenuation += hila * both // 255
    if patient.breast > 0:
        breasts = blank(frame.shape)
        low = 0.28 + 0.25 * patient.breast
        for side in (-1, 1):
            fill(breasts, frame.px(oval((side * 0.62, low), 0.40, 0.36 + 0.1 * patient.breast, side * 0.2)))
        round_part = smooth(breasts, 0.10 * unit) * breasts // 255
        attenuation += weigh(smooth(breasts, 0.02 * unit), 0.07) + weigh(round_part, 0.30 * patient.breast)
    bones = draw_bones(frame, patient, pose, body)
    attenuation += bones * (255 - smooth(belly, 0.05 * unit) * 7 // 10) // 255
    clear = np.where((both > 200) & (heart_mask < 60) & (arch < 60), 255, 0).astype(np.uint8)
    domes = [float(frame.px(np.array([0.55 * side, shape[2]]))[1]) for side, shape in zip((-1, 1), shapes, strict=True)]
    return Thorax(
        frame=frame,
        attenuation_HW=attenuation,
        vessels_HW=vessels,
        lungs=lungs,
        clear_HW=clear,
        air_HW=air,
        body_HW=body,
        lateral_walls=(frame.px(shapes[0][1]), frame.px(shapes[1][1])),
        outlines=(outlines[0], outlines[1]),
        domes_y=(domes[0], domes[1]),
        heart=heart,
        knob=knob_px,
    )
