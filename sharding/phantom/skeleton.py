"""The bones: bands with dense edges, the back halves of the ribs above the front ones."""

from __future__ import annotations

import numpy as np

from sharding.phantom.anatomy import Frame, Patient, Pose
from sharding.phantom.raster import Ints, Mask, bezier, blank, disc, fill, oval, smooth, spline, stroke, weigh

CAGE_V = (-0.86, -0.72, -0.42, -0.05, 0.35, 0.70, 1.10)
CAGE_O = (0.36, 0.64, 0.83, 0.93, 0.985, 1.0, 1.0)


def cage(v: float) -> float:
    """Half the width of the rib cage at height v."""
    return float(np.interp(v, CAGE_V, CAGE_O))


def draw_bones(frame: Frame, patient: Patient, pose: Pose, body_HW: Mask) -> Ints:
    """Ribs (back and front), clavicles, shoulder blades, upper arms and spine as fixed-point attenuation [H, W]."""
    unit = frame.unit_px
    back, front = blank(frame.shape), blank(frame.shape)
    marrow_back, marrow_front = blank(frame.shape), blank(frame.shape)
    wide = 0.058 * unit
    for side in (-1, 1):
        for rib in range(1, 12):
            start = -0.98 + patient.rib_pitch * rib
            low = start + (0.10 + 0.020 * rib) * patient.rib_slope
            reach = cage(low) * (0.8 if rib == 1 else 1.0)
            arc = bezier((0.08, start), (0.92 * reach, start - 0.10), (reach, low)) * [side, 1]
            stroke(back, frame.px(arc), wide)
            stroke(marrow_back, frame.px(arc), wide * 0.62)
            if rib <= 8:
                end = (0.36 + 0.025 * rib, low + 0.30 * patient.rib_slope)
                arc = bezier((reach, low), (1.0 * reach, low + 0.20 * patient.rib_slope), end) * [side, 1]
                stroke(front, frame.px(arc), wide * 1.1)
                stroke(marrow_front, frame.px(arc), wide * 0.72)
        tilt = patient.clavicle_tilt + 0.5 * pose.tilt * side
        bone = spline([(0.09, -0.54), (0.32, -0.55), (0.62, -0.68 - tilt), (0.92, -0.72 - tilt), (1.25, -0.82)])
        stroke(back, frame.px(bone * [side, 1]), 0.085 * unit)
        stroke(marrow_back, frame.px(bone * [side, 1]), 0.055 * unit)
    ribs = weigh(smooth(back, 0.006 * unit, 1), 0.36) - weigh(smooth(marrow_back, 0.01 * unit, 1), 0.16)
    ribs += weigh(smooth(front, 0.01 * unit, 1), 0.21) - weigh(smooth(marrow_front, 0.012 * unit, 1), 0.10)

    shoulder, blade = blank(frame.shape), blank(frame.shape)
    for side in (-1, 1):
        plate = [(0.98, -0.76), (1.04, -0.2), (1.00, 0.16), (1.10, 0.02), (1.20, -0.35), (1.28, -0.70)]
        fill(blade, frame.px(spline(np.array(plate) * [side, 1], closed=True)))
        disc(shoulder, frame.px(np.array([1.30 * side, -0.76])), 0.13 * unit)
        stroke(shoulder, frame.px(np.array([[1.32 * side, -0.72], [1.50 * side, 0.6]])), 0.13 * unit)
    ribs += weigh(smooth(blade, 0.012 * unit), 0.22) + weigh(smooth(shoulder, 0.02 * unit), 0.38)

    column = blank(frame.shape)
    for level in range(-6, 18):
        v = 0.128 * level - 0.4
        tall, broad = 0.052, 0.088 + 0.0022 * level
        block = np.array(
            [(-broad, v - tall), (broad, v - tall), (broad * 0.9, v), (broad, v + tall), (-broad, v + tall)]
        )
        fill(column, frame.px(np.concatenate([block, [(-broad * 0.9, v)]])), 205)
        for edge in (v - tall, v + tall):
            stroke(column, frame.px(np.array([(-broad, edge), (broad, edge)])), 0.012 * unit, 255)
        for side in (-1, 1):
            disc(column, frame.px(np.array([side * broad * 0.55, v])), 0.018 * unit, 255)
        fill(column, frame.px(oval((pose.lean * 0.6, v + 0.03), 0.014, 0.035)), 250)
    return (ribs + weigh(smooth(column, 0.008 * unit, 1), 0.40)) * body_HW // 255
