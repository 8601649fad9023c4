"""What the sharding room is measured against: the obvious writer, and the bare work of the codecs.

Nothing of it is used outside the benches.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import webdataset
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut


def write_plainly(paths: Sequence[str], out: Path, max_side_px: int, quality: int) -> int:
    """webdataset's ShardWriter and Pillow in one process, as most people write it; gives the number of images."""
    with webdataset.ShardWriter(str(out / "plain-%06d.tar"), maxcount=100_000, verbose=0) as sink:
        for number, path in enumerate(paths):
            image = _open(path)
            height, width = image.height, image.width
            image.thumbnail((max_side_px, max_side_px))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            sink.write(
                {
                    "__key__": f"{number:08d}",
                    "jpg": buffer.getvalue(),
                    "json": {"name": Path(path).name, "height": height, "width": width},
                }
            )
    return len(paths)


def _open(path: str) -> Image.Image:
    if not path.lower().endswith((".png", ".jpg", ".jpeg")):
        dataset = pydicom.dcmread(path)
        shown = np.asarray(apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset), dtype=np.float64)
        shown = (shown - shown.min()) / max(float(np.ptp(shown)), 1e-9)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            shown = 1.0 - shown
        return Image.fromarray((shown * 255).astype(np.uint8))
    with Image.open(path) as image:
        return image.convert("L")


def decode_barely(data: bytes, is_dicom: bool, plugin: str) -> Any:
    """Stored values [H, W] and no more: OpenCV for PNG and JPEG, pydicom with `plugin` ("": its own choice)."""
    if is_dicom:
        return pydicom.pixels.pixel_array(io.BytesIO(data), decoding_plugin=plugin)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def encode_barely(stored: Any, max_side_px: int, quality: int) -> bytes:
    """Area averaging to `max_side_px`, the upper 8 bits of those in use, JPEG by OpenCV."""
    height, width = stored.shape
    scale = min(1.0, max_side_px / max(height, width))
    if scale < 1.0:
        stored = cv2.resize(stored, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    if stored.dtype != np.uint8:
        stored = (stored >> max(0, int(stored.max()).bit_length() - 8)).astype(np.uint8)
    done, data = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, stored.shape
    return bytes(data.tobytes())
