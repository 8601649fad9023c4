"""Who lies before the detector: a patient's build, and how it stands in one image.

Body coordinates: x to the image's right, y down, 1.0 = half the width of the rib cage, the origin on the midline at
mid-lung. `Frame` carries them to pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sharding.phantom.raster import Points, Shape, turned

ViewPosition = Literal["PA", "AP"]


@dataclass(frozen=True, slots=True)
class Patient:
    """What stays the same over a patient's images."""

    number: int
    age_years: int
    sex: Literal["M", "F"]
    size: float
    stretch: float
    heart_ratio: float
    knob: float
    rib_pitch: float
    rib_slope: float
    fat: float
    breast: float
    clavicle_tilt: float
    vessels: float
    vessel_seed: int


@dataclass(frozen=True, slots=True)
class Pose:
    """What changes from image to image."""

    view_position: ViewPosition
    scale: float
    shift_x: float
    shift_y: float
    tilt: float
    lean: float
    breath: float


@dataclass(frozen=True, slots=True)
class Frame:
    """Body coordinates to canvas pixels: stretch, turn, scale, shift."""

    shape: Shape
    unit_px: float
    centre_x_px: float
    centre_y_px: float
    tilt: float
    stretch: float

    def px(self, points_N2: object) -> Points:
        """Body coordinates [N, 2] (or [2]) to pixels."""
        points = np.asarray(points_N2, dtype=np.float64)
        flat = np.atleast_2d(points) * np.array([1.0, self.stretch])
        moved = turned(flat, self.tilt) * self.unit_px + np.array([self.centre_x_px, self.centre_y_px])
        return np.asarray(moved.reshape(points.shape))


def draw_patient(rng: np.random.Generator, number: int) -> Patient:
    """A random adult."""
    sex: Literal["M", "F"] = "M" if rng.random() < 0.56 else "F"
    age = int(18 + 70 * (rng.random() + rng.random() + rng.random()) / 3)
    return Patient(
        number=number,
        age_years=age,
        sex=sex,
        size=float(rng.uniform(0.84, 1.07)),
        stretch=float(rng.uniform(0.88, 1.13)),
        heart_ratio=float(rng.uniform(0.39, 0.475)),
        knob=float(rng.uniform(0.08, 0.11)) + 0.0003 * (age - 50),
        rib_pitch=float(rng.uniform(0.150, 0.176)),
        rib_slope=float(rng.uniform(0.8, 1.35)),
        fat=float(rng.random() ** 1.5),
        breast=float(rng.uniform(0.35, 1.0)) if sex == "F" else 0.0,
        clavicle_tilt=float(rng.uniform(-0.10, 0.10)),
        vessels=float(rng.uniform(0.75, 1.25)),
        vessel_seed=int(rng.integers(0, 2**31)),
    )


def draw_pose(rng: np.random.Generator, view_position: ViewPosition) -> Pose:
    """How the patient stands (PA) or lies (AP: nearer, less breath, more crooked) in one image."""
    crooked = 1.0 if view_position == "PA" else 1.6
    return Pose(
        view_position=view_position,
        scale=float(rng.uniform(0.94, 1.05)) * (1.0 if view_position == "PA" else 1.04),
        shift_x=float(rng.uniform(-0.06, 0.06)),
        shift_y=float(rng.uniform(-0.07, 0.07)),
        tilt=float(rng.uniform(-0.05, 0.05)) * crooked,
        lean=float(rng.uniform(-0.06, 0.06)) * crooked,
        breath=float(rng.uniform(-0.08, 0.10)) - (0.0 if view_position == "PA" else 0.08),
    )


def frame_of(patient: Patient, pose: Pose, shape: Shape, reach: float) -> Frame:
    """The frame on a canvas of `shape`; `reach` is half the cage's width as a share of the image's width."""
    height, width = shape
    return Frame(
        shape=shape,
        unit_px=reach * width * patient.size * pose.scale,
        centre_x_px=width * (0.5 + pose.shift_x),
        centre_y_px=height * (0.455 + pose.shift_y),
        tilt=pose.tilt,
        stretch=patient.stretch,
    )
