"""What DICOM, PNG and JPEG have in common as pixels: one error, one size limit, one way to shrink, one digest.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NoReturn

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

from cluster import storage

Gray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""A radiograph as it is stored: [H, W], 0 black to 255 (uint8) or 65535 (uint16) white, bone bright."""

Intensity = Literal["voi", "window", "percentile", "range"]


@dataclass(frozen=True, slots=True)
class Rendering:
    """What the values of a file become. `sharding.options` says it in full."""

    intensity: Intensity = "voi"
    """Which values become black and white."""
    window: int = 0
    """Which of a DICOM's windows."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Percentiles of the values that are not padding, where `intensity` is percentile."""
    bits: Literal[8, 16] = 8
    """8 gives uint8, 16 gives uint16."""


DEFAULT = Rendering()

MAX_PIXELS = 200_000_000
"""A header that promises more rows times columns than this is refused before anything is decoded."""


class UnreadableImage(Exception):
    """A file whose pixels cannot be had; the message says why, for the quarantine list."""


def refuse(error: OSError) -> NoReturn:
    """Raises UnreadableImage for an error of a file that would last, and any other (a network's, say) as it is: nothing
    about the image follows from that, so it must not become a refusal."""
    if not storage.lasting(error):
        raise error
    if isinstance(error, FileNotFoundError):
        raise UnreadableImage("the file has gone") from error
    if isinstance(error, PermissionError):
        raise UnreadableImage(f"may not be read ({error.strerror or 'permission denied'})") from error
    raise UnreadableImage(f"cannot be read: {error.strerror or error}") from error


def check_size(height: int, width: int) -> None:
    """Refuses, by UnreadableImage, an image of no pixels or of more than MAX_PIXELS."""
    if height <= 0 or width <= 0:
        raise UnreadableImage(f"the header says {height} rows and {width} columns")
    if height * width > MAX_PIXELS:
        raise UnreadableImage(
            f"the header says {height} rows and {width} columns; more than {MAX_PIXELS:,} pixels are not decoded"
        )


def shrink(gray: Gray, max_side_px: int) -> Gray:
    """The image with its longer side at `max_side_px`, ratio kept to the nearest pixel, by area averaging.

    An image that already fits, and any image if `max_side_px` is 0, comes back as it is.
    """
    height, width = gray.shape
    longer = max(height, width)
    if max_side_px == 0 or longer <= max_side_px:
        return gray
    size = (max(1, round(width * max_side_px / longer)), max(1, round(height * max_side_px / longer)))
    smaller: Gray = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA))
    return smaller


def pixel_digest(gray: Gray, key: str) -> str:
    """xxh3-128 (32 hex digits) of the key, the shape and the pixels: it seeds the augmentation of the sample."""
    digest = xxhash.xxh3_128(f"{key}\0{gray.shape[0]}\0{gray.shape[1]}\0".encode())
    digest.update(np.ascontiguousarray(gray).data)
    return digest.hexdigest()


def bytes_digest(data: bytes) -> str:
    """xxh3-128 (32 hex digits) of encoded bytes: it tells damage. Against forgery stand the manifest's sha256."""
    return xxhash.xxh3_128_hexdigest(data)
