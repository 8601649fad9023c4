"""What each task does to an image, as parameters drawn outside the pixels: pure functions of (seed, epoch, digest).

Two views for pretraining. The defaults are Barlow Twins' (Zbontar et al. 2021), as BarlowTwins-CXR uses them
(arXiv 2402.06499). Its saturation, hue and random grayscale do nothing to a gray image, so they are not there.
For detection, an image keeps its ratio and is fitted into a square canvas.

Shapes: n samples, V views. Positions are (y, x), sizes (height, width), both in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from loaders.placement import Placement, place
from loaders.rng import Stream, uniforms

Interpolation = Literal["linear", "cubic"]

SOLARIZE_THRESHOLD = 128
"""Gray levels from here up are inverted by solarization, as in torchvision and Pillow."""

_CROP_TRIES = 10
_COLOR_BLOCK = 32
_FILTER_BLOCK = 33
_PLACEMENT_BLOCK = 0


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
    interpolation: Interpolation = "cubic"
    """Filter of the resize, antialiased. "linear" is faster on a CPU."""

    def __post_init__(self) -> None:
        check_size(self.size_px)
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise ValueError(f"area = {self.area}: must be (from, to) with 0 < from <= to <= 1")
        check_range("aspect", self.aspect)
        check_range("blur_sigma_px", self.blur_sigma_px)
        chances = {"flip": [self.flip], "jitter": [self.jitter], "blur": self.blur, "solarize": self.solarize}
        for name, values in chances.items():
            for value in values:
                check_probability(name, value)
        for name, value in (("brightness", self.brightness), ("contrast", self.contrast)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} = {value}: must be from 0 to 1")


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
    """One view of each of n samples. The order of work: crop, resize, flip, brightness and contrast, blur, solarize.

    Brightness times b and contrast times c about the view's mean m give b * (m + c * (x - m)), in whichever order they
    are applied, save for clipping in between: the reference clips between them, in random order, we clip once.
    """

    window_start_n2: npt.NDArray[np.int64]
    """Upper left corner (y, x) of the crop."""
    window_size_n2: npt.NDArray[np.int64]
    """Height and width of the crop, at least 1."""
    flip_n: npt.NDArray[np.bool_]
    """Whether left and right change places."""
    brightness_n: npt.NDArray[np.float32]
    """Factor of the brightness, 1 leaves it."""
    contrast_n: npt.NDArray[np.float32]
    """Factor of the contrast, 1 leaves it."""
    blur_sigma_n: npt.NDArray[np.float32]
    """Standard deviation of the blur, pixels of the view; 0 leaves it out."""
    solarize_n: npt.NDArray[np.bool_]
    """Whether levels from SOLARIZE_THRESHOLD up are inverted."""


def draw_view(
    config: TwoViewConfig,
    view: int,
    seed: int,
    epoch: int,
    digests_n: npt.NDArray[np.uint64],
    sizes_n2: npt.NDArray[np.int64],
) -> ViewParameters:
    """Parameters of view 0 or 1 of samples with these digests and these sizes (height, width) of the stored image."""
    stream = Stream.VIEW + view
    start_n2, size_n2 = draw_crop(config.area, config.aspect, seed, epoch, digests_n, sizes_n2, stream)
    flip, jitter, brightness, contrast = uniforms(seed, epoch, digests_n, stream, _COLOR_BLOCK)
    blur, sigma, solarize, _ = uniforms(seed, epoch, digests_n, stream, _FILTER_BLOCK)
    jittered = jitter < config.jitter
    low, high = config.blur_sigma_px
    return ViewParameters(
        window_start_n2=start_n2,
        window_size_n2=size_n2,
        flip_n=flip < config.flip,
        brightness_n=np.where(jittered, 1 + config.brightness * (2 * brightness - 1), 1).astype(np.float32),
        contrast_n=np.where(jittered, 1 + config.contrast * (2 * contrast - 1), 1).astype(np.float32),
        blur_sigma_n=np.where(blur < config.blur[view], low + (high - low) * sigma, 0).astype(np.float32),
        solarize_n=solarize < config.solarize[view],
    )


def draw_placement(
    config: DetectViewConfig,
    seed: int,
    epoch: int,
    digests_n: npt.NDArray[np.uint64],
    originals_n2: npt.NDArray[np.int64],
) -> Placement:
    """Where images with these digests and original sizes (height, width) lie on the canvas in this epoch."""
    scale, y, x, flip = uniforms(seed, epoch, digests_n, Stream.VIEW, _PLACEMENT_BLOCK)
    scale_n = config.scale[0] + (config.scale[1] - config.scale[0]) * scale
    return place(originals_n2, config.size_px, scale_n, np.stack([y, x], axis=1), flip < config.flip)


def plain_placement(config: PlainViewConfig, originals_n2: npt.NDArray[np.int64]) -> Placement:
    """Where images of these original sizes (height, width) lie on the canvas without augmentation."""
    n = len(originals_n2)
    return place(originals_n2, config.size_px, np.ones(n), np.zeros((n, 2)), np.zeros(n, bool))


def draw_crop(
    area: tuple[float, float],
    aspect: tuple[float, float],
    seed: int,
    epoch: int,
    digests_n: npt.NDArray[np.uint64],
    sizes_n2: npt.NDArray[np.int64],
    stream: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Crops by the law of torchvision's RandomResizedCrop: starts (y, x) and sizes (height, width), int64 [n, 2] each.

    Area and log aspect are uniform; up to ten tries until the crop fits into the image, which is then placed uniformly.
    After that: the largest central crop within `aspect`.
    """
    start_n2, size_n2 = _central_crop(aspect, sizes_n2)
    left = np.arange(len(digests_n))  # samples without a crop yet
    for attempt in range(_CROP_TRIES):
        if len(left) == 0:
            break
        u_area, u_aspect, u_y, u_x = uniforms(seed, epoch, digests_n[left], stream, attempt)
        height, width = sizes_n2[left].T
        pixels = height * width * (area[0] + (area[1] - area[0]) * u_area)
        ratio = np.exp(math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * u_aspect)
        crop_height = np.rint(np.sqrt(pixels / ratio)).astype(np.int64)
        crop_width = np.rint(np.sqrt(pixels * ratio)).astype(np.int64)
        fits = (crop_height >= 1) & (crop_height <= height) & (crop_width >= 1) & (crop_width <= width)
        y = (u_y * (height - crop_height + 1)).astype(np.int64)
        x = (u_x * (width - crop_width + 1)).astype(np.int64)
        done = left[fits]
        start_n2[done] = np.stack([y, x], axis=1)[fits]
        size_n2[done] = np.stack([crop_height, crop_width], axis=1)[fits]
        left = left[~fits]
    return start_n2, size_n2


def _central_crop(
    aspect: tuple[float, float], sizes_n2: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    height, width = sizes_n2.T
    too_tall, too_wide = width / height < aspect[0], width / height > aspect[1]
    crop_height = np.where(too_tall, np.minimum(np.rint(width / aspect[0]), height), height)
    crop_width = np.where(too_wide, np.minimum(np.rint(height * aspect[1]), width), width)
    size_n2 = np.maximum(np.stack([crop_height, crop_width], axis=1).astype(np.int64), 1)
    return (sizes_n2 - size_n2) // 2, size_n2


def check_size(size_px: int) -> None:
    """Raises ValueError where an output size is not 1 to 8192 pixels."""
    if not 1 <= size_px <= 8192:
        raise ValueError(f"size_px = {size_px}: must be from 1 to 8192 pixels")


def check_range(name: str, values: tuple[float, float]) -> None:
    """Raises ValueError where `values` is not (from, to) with 0 < from <= to."""
    low, high = values
    if not (0 < low <= high and math.isfinite(high)):
        raise ValueError(f"{name} = {values}: must be (from, to) with 0 < from <= to")


def check_probability(name: str, value: float) -> None:
    """Raises ValueError where `value` is not 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value}: a probability must be from 0 to 1")
