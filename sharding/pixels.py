"""What DICOM, PNG and JPEG have in common as pixels: one error, one size limit, one way to shrink, one digest.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]
"""A radiograph as it is stored: [H, W] uint8, 0 black to 255 white, bone bright."""

MAX_PIXELS = 200_000_000
"""A header that promises more rows times columns than this is refused before anything is decoded."""


class UnreadableImage(Exception):
    """A file whose pixels cannot be had; the message says why, for the quarantine list."""


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
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_jpeg(gray: Gray, quality: int) -> bytes:
    """The image as a one-channel baseline JPEG; the same pixels give the same bytes."""
    done, encoded = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, gray.shape
    return bytes(encoded.tobytes())


def decode_jpeg(data: bytes) -> Gray | None:
    """Pixels of a one-channel JPEG, or None where it does not decode."""
    if not data:
        return None
    gray = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if gray is None else np.asarray(gray, dtype=np.uint8)


def pixel_digest(gray: Gray, key: str) -> str:
    """blake2b-128 (32 hex digits) of the key, the shape and the pixels: it seeds the augmentation of the sample."""
    digest = hashlib.blake2b(f"{key}\0{gray.shape[0]}\0{gray.shape[1]}\0".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(gray).data)
    return digest.hexdigest()


def bytes_digest(data: bytes) -> str:
    """blake2b-128 (32 hex digits) of encoded bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
