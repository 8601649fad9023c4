"""A PNG or JPEG file to gray pixels, whatever its mode.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sharding.pixels import Gray, UnreadableImage, check_size

EXIF_ORIENTATION = 0x0112


def read_image(path: Path) -> Gray:
    """Pixels [H, W] uint8 of a PNG or JPEG, upright as its EXIF tag says.

    Colour becomes luma (ITU-R 601, as Pillow's `convert("L")`), transparency is ignored. More than 8 bits are shifted
    down by as many bits as the largest value has above 8, so 12 bits in a 16-bit file come out as bright as 16 do.

    Raises UnreadableImage for what is empty, truncated, damaged, too large or something else.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns at 89 and refuses at 179 megapixels: check_size is the limit here, before any decoding.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG", "JPEG"))
        with image:
            check_size(image.height, image.width)
            image.draft("L", image.size)
            return _to_gray(image)
    except (UnreadableImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too large to decode: {error}") from error
    except Exception as error:
        # Decoders raise nearly anything on a damaged file, and one file must not end the run.
        raise UnreadableImage(_reason(path, error)) from error


def _to_gray(image: Image.Image) -> Gray:
    orientation = image.getexif().get(EXIF_ORIENTATION, 1) if image.format != "PNG" else 1
    image.load()
    upright = image if orientation == 1 else ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        wide = np.asarray(upright).astype(np.int64)
        shift = max(0, int(wide.max()).bit_length() - 8)
        return np.asarray(np.clip(wide, 0, None) >> shift, dtype=np.uint8)
    if upright.mode == "P":
        upright = upright.convert("RGB")
    return np.asarray(upright.convert("L"), dtype=np.uint8)


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file has gone"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG or JPEG, whatever its name says"
    # Messages may carry the path; the quarantine list already names the file.
    return f"cannot be decoded: {str(error).replace(str(path), 'the file')}"


def read_size(path: Path) -> tuple[int, int]:
    """(rows, columns) that the header of a PNG or JPEG states. Raises UnreadableImage."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            return image.height, image.width
    except Exception as error:
        raise UnreadableImage(_reason(path, error)) from error
