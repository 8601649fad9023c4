"""One radiograph to two views, three ways: as the reference does it, with torchvision's tensors, with OpenCV.

The probabilities and ranges are the reference's. Its saturation, hue and random grayscale do nothing to a gray image,
so only the reference's own way pays for them. Shapes: S the side of a view.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from benchmarks.peers.serve import end_with_parent

Filter = Literal["cubic", "linear"]
TwoViews = Callable[[bytes], tuple[Any, Any]]
"""Encoded bytes to two views of that image."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLUR, SOLARIZE, SIGMA_PX = (1.0, 0.1), (0.0, 0.2), (0.1, 2.0)
KERNEL_PX = 13
"""Of torchvision's blur: three deviations to each side at the largest sigma."""
MODES = {"cubic": InterpolationMode.BICUBIC, "linear": InterpolationMode.BILINEAR}


class _PillowBlur:
    def __init__(self, chance: float) -> None:
        self.chance = chance

    def __call__(self, image: Image.Image) -> Image.Image:
        if np.random.rand() >= self.chance:
            return image
        return image.filter(ImageFilter.GaussianBlur(np.random.uniform(*SIGMA_PX)))


class _PillowSolarize:
    def __init__(self, chance: float) -> None:
        self.chance = chance

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if np.random.rand() < self.chance else image


def reference(size_px: int) -> TwoViews:
    """Pillow and torchvision's first transforms on three channels: float32 [3, S, S], normalised."""

    def chain(number: int) -> Any:
        jitter = v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
        return v1.Compose(
            [
                v1.RandomResizedCrop(size_px, interpolation=InterpolationMode.BICUBIC),
                v1.RandomHorizontalFlip(p=0.5),
                jitter,
                v1.RandomGrayscale(p=0.2),
                _PillowBlur(BLUR[number]),
                _PillowSolarize(SOLARIZE[number]),
                v1.ToTensor(),
                v1.Normalize(MEAN, STD),
            ]
        )

    first, second = chain(0), chain(1)

    def views(data: bytes) -> tuple[Any, Any]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return first(image), second(image)

    return views


def tensors(size_px: int, kind: Filter) -> TwoViews:
    """torchvision's decoder and second transforms on one channel of bytes, antialiased: uint8 [1, S, S]."""

    def chain(number: int) -> Any:
        blur = v2.GaussianBlur(KERNEL_PX, SIGMA_PX)
        steps = [
            v2.RandomResizedCrop(size_px, interpolation=MODES[kind], antialias=True),
            v2.RandomHorizontalFlip(p=0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4)], p=0.8),
            blur if BLUR[number] == 1 else v2.RandomApply([blur], p=BLUR[number]),
        ]
        return v2.Compose(steps + ([v2.RandomSolarize(128, p=SOLARIZE[number])] if SOLARIZE[number] else []))

    first, second = chain(0), chain(1)

    def views(data: bytes) -> tuple[Any, Any]:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = decode_image(encoded, ImageReadMode.GRAY)
        return first(image), second(image)

    return views


def opencv(size_px: int) -> TwoViews:
    """simplejpeg (JPEG) or OpenCV (PNG), then OpenCV on one channel of bytes: uint8 [S, S, 1].

    cv2.resize with INTER_LINEAR does not antialias: other pixels, and the fastest that OpenCV has.
    """
    import simplejpeg

    def one(image: Any, number: int) -> Any:
        y, x, height, width = window(*image.shape)
        view = cv2.resize(image[y : y + height, x : x + width], (size_px, size_px), interpolation=cv2.INTER_LINEAR)
        if np.random.rand() < 0.5:
            view = cv2.flip(view, 1)
        if np.random.rand() < 0.8:
            brightness, contrast = np.random.uniform(0.6, 1.4, 2)
            view = cv2.convertScaleAbs(view, None, brightness * contrast, brightness * (1 - contrast) * view.mean())
        if np.random.rand() < BLUR[number]:
            view = cv2.GaussianBlur(view, (0, 0), np.random.uniform(*SIGMA_PX))
        if np.random.rand() < SOLARIZE[number]:
            view = np.where(view >= 128, 255 - view, view)
        return view[:, :, None]

    def views(data: bytes) -> tuple[Any, Any]:
        if data[:2] == b"\xff\xd8":
            image = simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0]
        else:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        return one(image, 0), one(image, 1)

    return views


def window(height: int, width: int) -> tuple[int, int, int, int]:
    """A crop by the law of RandomResizedCrop, from NumPy's generator: y, x, height, width."""
    for _ in range(10):
        area, ratio = (
            height * width * np.random.uniform(0.08, 1.0),
            math.exp(math.log(4 / 3) * np.random.uniform(-1, 1)),
        )
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return np.random.randint(height - h + 1), np.random.randint(width - w + 1), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


class Views:
    """reference, tensors or opencv by name; made where it is used, so that it travels to worker processes."""

    def __init__(self, way: str, size_px: int, kind: Filter) -> None:
        self.way, self.size_px, self.kind = way, size_px, kind
        self._made: TwoViews | None = None

    def __call__(self, data: bytes) -> tuple[Any, Any]:
        if self._made is None:
            self._made = self._make()
        return self._made(data)

    def _make(self) -> TwoViews:
        match self.way:
            case "reference":
                return reference(self.size_px)
            case "tensors":
                return tensors(self.size_px, self.kind)
            case "opencv":
                return opencv(self.size_px)
        raise ValueError(f"{self.way!r} is no way to make views")


def seed_worker(worker: int) -> None:
    """Of a DataLoader: NumPy's generator is its own in each worker, and one thread each."""
    end_with_parent()
    np.random.seed(torch.initial_seed() % 2**32)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
