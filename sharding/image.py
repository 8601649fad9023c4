"""A PNG or JPEG file to gray pixels, whatever its mode.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from sharding import codestreams
from sharding.codestreams import Frame
from sharding.grayscale import look_up, luma, quantise, stretch, tally
from sharding.pixels import DEFAULT, Gray, Rendering, UnreadableImage, check_size

EXIF_ORIENTATION = 0x0112

Values = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def read_image(data: bytes, rendering: Rendering = DEFAULT) -> Gray:
    """Pixels [H, W] of a PNG or JPEG from the bytes of the file, upright as a JPEG's EXIF tag says.

    Colour becomes luma (ITU-R 601, as Pillow's `convert("L")`, with all 16 bits where there are 16; Pillow itself keeps
    8), transparency and gamma are ignored. Where `rendering` says voi or window, which these files do not have, 8 bits
    stay as they are, and more are shifted down by as many bits as the largest value has above 8, so that 12 bits in a
    16-bit file come out as bright as 16 do; with 16 bits asked for they are shifted up instead and the upper bits
    repeated below (8-bit values times 257), so that the upper byte is what 8 bits give. Percentile and range stretch.

    Raises UnreadableImage for what is empty, truncated, damaged, too large or something else.
    """
    claimed = _frame(data)
    try:
        values = _decode_png(data) if data.startswith(codestreams.PNG_START) else _decode_jpeg(data, claimed)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        # Decoders raise nearly anything on a damaged file, and one file must not end the run. Their messages may quote
        # what the file says of itself.
        raise UnreadableImage(f"cannot be decoded ({type(error).__name__})") from error
    return _show(values, rendering)


def _frame(data: bytes) -> Frame:
    if not data:
        raise UnreadableImage("the file is empty (0 bytes)")
    if not data.startswith((codestreams.PNG_START, codestreams.JPEG_START + b"\xff")):
        kind = codestreams.true_kind(data)
        told = "whatever its name says" if kind is None else f"but {kind}, whatever its name says"
        raise UnreadableImage(f"not a PNG or JPEG, {told}" if kind is None else f"not a PNG or JPEG {told}")
    claimed = codestreams.frame(data)
    if claimed is None:
        raise UnreadableImage("cannot be decoded: its header is damaged or cut off")
    check_size(claimed.height, claimed.width)
    return claimed


def _decode_png(data: bytes) -> Values:
    """Values of the gray channel, or luma of three; libpng has undone palettes and spread 1, 2 and 4 bits over 8."""
    # As fast as OpenCV and an eighth faster than Pillow, which lets some damage pass.
    pixels = imagecodecs.png_decode(data)
    if pixels.ndim == 2:
        return pixels
    return luma(pixels) if pixels.shape[2] >= 3 else pixels[..., 0]


def _decode_jpeg(data: bytes, claimed: Frame) -> Values:
    segments = list(codestreams.jpeg_segments(data))
    if not segments or segments[-1][0] != codestreams.SCAN or data.find(codestreams.JPEG_END, segments[-1][1]) < 0:
        # libjpeg would fill up with gray what is missing. Inside a scan a byte of 255 is never followed by this one.
        raise UnreadableImage("cannot be decoded: the file is cut off, its end mark is missing")
    if claimed.components == 4:  # CMYK
        with _open(data) as image:
            pixels: Values = np.asarray(image.convert("L"))
    else:
        # libjpeg-turbo, as in Pillow; the luma that is stored is the gray asked for.
        pixels = imagecodecs.jpeg8_decode(data, outcolorspace="GRAYSCALE" if claimed.bits == 8 else None)
        if pixels.ndim == 3:
            pixels = luma(pixels)
    if any(kind == codestreams.APP1 and data.startswith(b"Exif", start) for kind, start, _ in segments):
        with _open(data) as image:
            pixels = _upright(pixels, image.getexif().get(EXIF_ORIENTATION, 1))
    return pixels


def _open(data: bytes) -> Image.Image:
    """A JPEG. Image.open would warn at 89 and refuse at 179 megapixels; check_size was the limit here."""
    return JpegImagePlugin.JpegImageFile(io.BytesIO(data))


def _upright(pixels: Any, orientation: int) -> Any:
    """The picture as EXIF's orientation (1 to 8) says it is to be held; anything else leaves it."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.T
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return pixels[::-1, ::-1].T
        case 8:
            return np.rot90(pixels)
    return pixels


def _show(values: Values, rendering: Rendering) -> Gray:
    values = np.require(values, requirements="C")
    if rendering.intensity in ("percentile", "range"):
        codes, counts = tally(values)
        shown = stretch(codes.astype(np.float64), counts, counts > 0, rendering)
        return look_up(values, codes, quantise(shown, rendering.bits))
    if values.dtype == np.uint8 and rendering.bits == 8:
        return values
    bits = 8 if values.dtype == np.uint8 else max(8, int(values.max()).bit_length())
    codes = np.arange(2**bits)
    if rendering.bits == 8:
        return look_up(values, codes, (codes >> (bits - 8)).astype(np.uint8))
    return look_up(values, codes, (codes << (16 - bits) | codes >> (2 * bits - 16)).astype(np.uint16))
