"""What each task does to an image, as parameters drawn outside the pixels (by `loaders.draws`).

Two views for pretraining. The defaults are Barlow Twins' (Zbontar et al. 2021), as BarlowTwins-CXR uses them
(arXiv 2402.06499). Its saturation, hue and random grayscale do nothing to a gray image, so they are not there.
For detection, an image keeps its ratio and is fitted into a square canvas.

Shapes: n samples. Positions are (y, x), sizes (height, width), both in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Interpolation = Literal["linear", "cubic"]

SOLARIZE_THRESHOLD = 128
"""Gray levels from here up are inverted by solarization, as in torchvision and Pillow."""


@dataclass(frozen=True, slots=True)
class TwoViewConfig:
    """Two random views of each image, for pretraining."""

    size_px: int = 224
    """Height and width of a view, pixels."""
    area: tuple[float, float] = (0.08, 1.0)
    """Area of the crop as a share of the image, from .. to, above 0 to 1."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop, from .. to; its logarithm is uniform."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    jitter: float = 0.8
    """Probability that brightness and contrast change."""
    brightness: float = 0.4
    """Brightness is multiplied by 1 - this .. 1 + this."""
    contrast: float = 0.4
    """Differences to the view's mean are multiplied by 1 - this .. 1 + this."""
    blur: tuple[float, float] = (1.0, 0.1)
    """Probability of a Gaussian blur, in the first and in the second view."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur, from .. to, pixels of the view."""
    solarize: tuple[float, float] = (0.0, 0.2)
    """Probability that gray levels of 128 and more are inverted, in the first and in the second view."""
    affine: float = 0.0
    """Probability of a rotation and a shear, done together. The authors of BarlowTwins-CXR found them to do worse."""
    rotate_degrees: float = 10.0
    """Rotation about the view's center, from -this .. this, uniform."""
    shear_degrees: float = 10.0
    """Shear along x, from -this .. this, uniform."""
    interpolation: Interpolation = "cubic"
    """Filter of the resize, antialiased. "linear" is faster on a CPU."""

    def __post_init__(self) -> None:
        check_size(self.size_px)
        check_area(self.area)
        check_range("aspect", self.aspect)
        check_range("blur_sigma_px", self.blur_sigma_px)
        if not 0 <= self.rotate_degrees <= 180:
            raise ValueError(f"rotate_degrees = {self.rotate_degrees}: must be from 0 to 180")
        if not 0 <= self.shear_degrees <= 60:
            raise ValueError(f"shear_degrees = {self.shear_degrees}: must be from 0 to 60")
        chances = {
            "flip": [self.flip],
            "jitter": [self.jitter],
            "affine": [self.affine],
            "blur": self.blur,
            "solarize": self.solarize,
        }
        for name, values in chances.items():
            for value in values:
                check_probability(name, value)
        for name, value in (("brightness", self.brightness), ("contrast", self.contrast)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} = {value}: must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class ClassifyViewConfig:
    """One random crop of each image, sometimes flipped, for training a classifier."""

    size_px: int = 224
    """Height and width of a view, pixels."""
    area: tuple[float, float] = (0.08, 1.0)
    """Area of the crop as a share of the image, from .. to, above 0 to 1."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop, from .. to; its logarithm is uniform."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    interpolation: Interpolation = "cubic"
    """Filter of the resize, antialiased."""

    def __post_init__(self) -> None:
        check_size(self.size_px)
        check_area(self.area)
        check_range("aspect", self.aspect)
        check_probability("flip", self.flip)


@dataclass(frozen=True, slots=True)
class WholeViewConfig:
    """The whole image resized to a square and nothing else, for evaluating a classifier.

    Not a center crop, as for photographs: what a radiograph shows at its border (the angle between rib and diaphragm,
    the apex, a device) decides findings. Sides that differ are squeezed, as crops are in training.
    """

    size_px: int = 224
    """Height and width of a view, pixels: as in training."""
    interpolation: Interpolation = "cubic"
    """Filter of the resize, antialiased: as in training."""

    def __post_init__(self) -> None:
        check_size(self.size_px)


@dataclass(frozen=True, slots=True)
class DetectViewConfig:
    """One view of an image with boxes, for training a detector: fitted into a square canvas, sometimes flipped."""

    size_px: int = 224
    """Height and width of the canvas, pixels. The reference uses 224 and 640."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Size of the content relative to a full fit, from .. to, uniform; above 1 part of the image is left out."""
    interpolation: Interpolation = "linear"
    """Filter of the resize, antialiased."""

    def __post_init__(self) -> None:
        check_size(self.size_px)
        check_probability("flip", self.flip)
        check_range("scale", self.scale)


@dataclass(frozen=True, slots=True)
class PlainViewConfig:
    """An image fitted into a square canvas and nothing else, for prediction."""

    size_px: int = 224
    """Height and width of the canvas, pixels: as in training."""
    interpolation: Interpolation = "linear"
    """Filter of the resize, antialiased: as in training."""

    def __post_init__(self) -> None:
        check_size(self.size_px)


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """One view of each of n samples. The order of work: crop, resize, flip, rotate and shear, brightness and contrast,
    blur, solarize. Classification takes the first three only.

    Brightness times b and contrast times c about the view's mean m give b * (m + c * (x - m)), in whichever order they
    are applied, save for clipping in between: the reference clips between them, in random order, we clip once. Measured
    on radiographs, that and Pillow's cutting off where we round come to a mean of 0.9 gray levels where contrast comes
    first there, 1.4 where brightness does.
    """

    window_start_n2: npt.NDArray[np.int32]
    """Upper left corner (y, x) of the crop."""
    window_size_n2: npt.NDArray[np.int32]
    """Height and width of the crop, at least 1."""
    flip_n: npt.NDArray[np.bool_]
    """Whether left and right change places."""
    rotate_n: npt.NDArray[np.float32]
    """Rotation about the view's center, degrees, clockwise; 0 leaves it."""
    shear_n: npt.NDArray[np.float32]
    """Shear along x, degrees; 0 leaves it."""
    brightness_n: npt.NDArray[np.float32]
    """Factor of the brightness, 1 leaves it."""
    contrast_n: npt.NDArray[np.float32]
    """Factor of the contrast, 1 leaves it."""
    blur_sigma_n: npt.NDArray[np.float32]
    """Standard deviation of the blur, pixels of the view; 0 leaves it out."""
    solarize_n: npt.NDArray[np.bool_]
    """Whether levels from SOLARIZE_THRESHOLD up are inverted."""


def check_size(size_px: int) -> None:
    """Raises ValueError where an output size is not 1 to 8192 pixels."""
    if not 1 <= size_px <= 8192:
        raise ValueError(f"size_px = {size_px}: must be from 1 to 8192 pixels")


def check_area(area: tuple[float, float]) -> None:
    """Raises ValueError where `area` is not (from, to) with 0 < from <= to <= 1."""
    low, high = area
    if not 0 < low <= high <= 1:
        raise ValueError(f"area = {area}: must be (from, to) with 0 < from <= to <= 1")


def check_range(name: str, values: tuple[float, float]) -> None:
    """Raises ValueError where `values` is not (from, to) with 0 < from <= to."""
    low, high = values
    if not (0 < low <= high and math.isfinite(high)):
        raise ValueError(f"{name} = {values}: must be (from, to) with 0 < from <= to")


def check_probability(name: str, value: float) -> None:
    """Raises ValueError where `value` is not 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value}: a probability must be from 0 to 1")
