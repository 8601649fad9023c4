"""How pixels are stored in a shard: JPEG, JPEG 2000, HTJ2K, PNG; written so that nothing but pixels is in them.

All are decoded by DALI, 16 bits too. Milliseconds to encode and to decode a radiograph of 1024 x 1024 pixels of 8
bits, and kilobytes: JPEG (quality 95) 2 and 3, 163; HTJ2K 9 and 5, 317; JPEG 2000 61 and 53, 289; PNG 22 and 12, 315.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

from typing import Literal

import imagecodecs
import numpy as np

from sharding import codestreams
from sharding.pixels import MAX_PIXELS, Gray

Codec = Literal["jpeg", "jpeg2000", "htj2k", "png"]

ENDINGS: dict[Codec, str] = {"jpeg": "jpg", "jpeg2000": "jp2", "htj2k": "j2c", "png": "png"}
"""What follows the key and a dot in the name of a full-size member."""

_STARTS: dict[Codec, bytes] = {
    "jpeg": codestreams.JPEG_START,
    "jpeg2000": codestreams.JP2_START,
    "htj2k": codestreams.J2K_START,
    "png": codestreams.PNG_START,
}


def encode(gray: Gray, codec: Codec, quality: int) -> bytes:
    """One-channel pixels, uint8 or (but for jpeg) uint16 [H, W]; the same pixels give the same bytes.

    `quality` (1 to 100) is JPEG's; the others are without loss.
    """
    assert gray.ndim == 2, gray.shape
    gray = np.require(gray, requirements="C")
    match codec:
        case "jpeg":
            assert gray.dtype == np.uint8, gray.dtype
            return bytes(imagecodecs.jpeg8_encode(gray, quality))
        case "jpeg2000":
            return bytes(imagecodecs.jpeg2k_encode(gray, level=0, codecformat="jp2", reversible=True, numthreads=1))
        case "htj2k":
            return bytes(imagecodecs.htj2k_encode(gray, reversible=True))
        case "png":
            # Radiographs hold noise, in which zlib finds nothing to copy: run lengths and Huffman codes alone are as
            # small as level 6 and four to six times as fast, at 8 and at 16 bits.
            return bytes(imagecodecs.png_encode(gray, 1, strategy=imagecodecs.PNG.STRATEGY.RLE))


def decode(data: bytes, codec: Codec) -> Gray | None:
    """The pixels again, uint8 or uint16 [H, W], or None where they are not one whole gray picture of it."""
    claimed = codestreams.frame(data) if data.startswith(_STARTS[codec]) else None
    if claimed is None or claimed.components != 1 or not 0 < claimed.height * claimed.width <= MAX_PIXELS:
        return None
    if codec != "png" and not data.endswith(codestreams.JPEG_END):
        return None
    try:
        match codec:
            case "jpeg":
                gray = imagecodecs.jpeg8_decode(data)
            case "jpeg2000":
                gray = imagecodecs.jpeg2k_decode(data, numthreads=1)
            case "htj2k":
                gray = imagecodecs.htj2k_decode(data)
            case "png":
                gray = imagecodecs.png_decode(data)
    except MemoryError:
        raise
    except Exception:  # each library has its own errors, and some raise ValueError or RuntimeError beside them
        return None
    assert isinstance(gray, np.ndarray)
    return gray if gray.shape == (claimed.height, claimed.width) and gray.dtype in (np.uint8, np.uint16) else None


def member_name(codec: Codec, level: int) -> str:
    """What follows the key and a dot in the tar: `jpg` for full size, `l1.jpg`, `l2.jpg` for smaller copies."""
    return ENDINGS[codec] if level == 0 else f"l{level}.{ENDINGS[codec]}"
