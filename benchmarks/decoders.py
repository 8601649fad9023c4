"""`cxr bench decoders`: every decoder that is installed, on every transfer syntax, on the same radiograph.

What it tells is why `sharding.decoders` asks which library first.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from benchmarks.harness import Arm, Table
from benchmarks.inputs import draw_detector_image
from benchmarks.session import BenchConfig, conduct, workplace
from cluster import door
from sharding.decoders import decoders_of

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
BITS = 12
USED = ("numpy", "pydicom", "python-gdcm", "imagecodecs", "pillow", "nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodersBenchConfig(BenchConfig):
    """Measure DICOM's decoders: images/s of every one that is installed on every transfer syntax, one thread."""

    height_px: int = 3000
    """Rows of the radiograph."""
    width_px: int = 2500
    """Columns of it."""

    def __post_init__(self) -> None:
        BenchConfig.__post_init__(self)
        for field in ("height_px", "width_px"):
            if not 128 <= getattr(self, field) <= 8192:
                raise ValueError(f"{field}: {getattr(self, field)} is not in 128 to 8192")


@dataclass(frozen=True, slots=True)
class Syntax:
    """A transfer syntax and how a frame is encoded in it."""

    uid: UID
    bits: int
    """Bits of a value: 8 gives uint8 pixels, more uint16."""
    tolerance: int
    """How far a decoded value may be off; 0 where the syntax is lossless here."""
    encode: Callable[[Pixels], bytes] | None
    """None: not compressed."""


def _rle(pixels: Pixels) -> bytes:
    bits = {"bits_allocated": 8 * pixels.dtype.itemsize, "bits_stored": BITS}
    rows, columns = pixels.shape
    about = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "number_of_frames": 1, "pixel_representation": 0}
    frame = RLELosslessEncoder.encode(
        pixels, encoding_plugin="pydicom", photometric_interpretation="MONOCHROME2", **about, **bits
    )
    return bytes(frame)


SYNTAXES: tuple[Syntax, ...] = (
    Syntax(ExplicitVRLittleEndian, BITS, 0, None),
    Syntax(RLELossless, BITS, 0, _rle),
    Syntax(JPEGBaseline8Bit, 8, 24, lambda p: bytes(imagecodecs.jpeg8_encode(p, level=95))),
    Syntax(JPEGExtended12Bit, BITS, 384, lambda p: bytes(imagecodecs.jpeg8_encode(p, level=95, bitspersample=BITS))),
    Syntax(
        JPEGLossless,
        BITS,
        0,
        lambda p: bytes(imagecodecs.jpeg8_encode(p, lossless=True, predictor=4, bitspersample=BITS)),
    ),
    Syntax(
        JPEGLosslessSV1,
        BITS,
        0,
        lambda p: bytes(imagecodecs.jpeg8_encode(p, lossless=True, predictor=1, bitspersample=BITS)),
    ),
    Syntax(JPEGLSLossless, BITS, 0, lambda p: bytes(imagecodecs.jpegls_encode(p))),
    Syntax(JPEGLSNearLossless, BITS, 3, lambda p: bytes(imagecodecs.jpegls_encode(p, level=3))),
    Syntax(
        JPEG2000Lossless,
        BITS,
        0,
        lambda p: bytes(imagecodecs.jpeg2k_encode(p, level=0, codecformat="j2k", reversible=True, bitspersample=BITS)),
    ),
    Syntax(
        JPEG2000,
        BITS,
        384,
        lambda p: bytes(imagecodecs.jpeg2k_encode(p, level=55, codecformat="j2k", bitspersample=BITS)),
    ),
    Syntax(HTJ2KLossless, BITS, 0, lambda p: bytes(imagecodecs.htj2k_encode(p, reversible=True))),
    Syntax(HTJ2K, BITS, 384, lambda p: bytes(imagecodecs.htj2k_encode(p, level=3e-4, reversible=False))),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The bench's door; gives the exit status."""
    return door.enter("cxr bench decoders", DecodersBenchConfig, run, argv)


def run(config: DecodersBenchConfig) -> None:
    """Measures, shows the tables and writes what the config asks for."""
    pixels = draw_pixels(config)
    missing: list[str] = ["colour, several frames, signed values"]
    tables = [table for syntax in SYNTAXES if (table := syntax_table(syntax, pixels, missing)) is not None]
    with workplace(config) as work:
        conduct("decoders", config, work, tables, (), USED, missing)


def draw_pixels(config: DecodersBenchConfig) -> npt.NDArray[np.uint16]:
    """A drawn radiograph, uint16 [H, W] of 12 bits, mirrored at its borders where it was drawn smaller."""
    height, width = config.height_px, config.width_px
    image, _, _ = draw_detector_image(config.seed, 0, max(height, width))
    short = [max(0, wanted - had) for wanted, had in zip((height, width), image.shape, strict=True)]
    padded = np.pad(image, ((0, short[0]), (0, short[1])), mode="symmetric")
    return np.ascontiguousarray(padded[:height, :width])


def syntax_table(syntax: Syntax, drawn: npt.NDArray[np.uint16], missing: list[str]) -> Table | None:
    """All decoders of a syntax; one that gives other pixels is not measured, and `missing` says so."""
    pixels: Pixels = drawn if syntax.bits > 8 else (drawn >> (BITS - 8)).astype(np.uint8)
    dataset = wrap(syntax, pixels)
    arms: list[Arm] = []
    for plugin in plugins_of(syntax):
        wrong = fault(dataset, plugin, pixels, syntax.tolerance)
        if wrong:
            missing.append(f"{syntax.uid.name} by {plugin}: {wrong}")
        else:
            arms.append(Arm(plugin or "pydicom", _decoding(dataset, plugin)))
    if not arms:
        missing.append(f"{syntax.uid.name}: no decoder is installed")
        return None
    megabytes = len(dataset.PixelData) / 1e6
    name = f"{syntax.uid.name}, {pixels.shape[0]} x {pixels.shape[1]}, {syntax.bits} bits, {megabytes:.1f} MB"
    return Table(name, tuple(arms), arms[0].name, one_core=True)


def wrap(syntax: Syntax, pixels: Pixels) -> Dataset:
    """A data set with these pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax.uid
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = 8 * pixels.dtype.itemsize, syntax.bits
    dataset.HighBit = syntax.bits - 1
    dataset.PixelData = pixels.tobytes() if syntax.encode is None else encapsulate([syntax.encode(pixels)])
    dataset["PixelData"].VR = "OW" if syntax.encode is None else "OB"
    return dataset


def plugins_of(syntax: Syntax) -> tuple[str, ...]:
    """pydicom's plugins for a syntax, the one that `cxr shard` asks first in front; "" where pydicom needs none."""
    if syntax.encode is None:
        return ("",)
    ours = decoders_of(syntax.uid)
    return tuple(dict.fromkeys([*ours, *get_decoder(syntax.uid).available_plugins]))


def fault(dataset: Dataset, plugin: str, pixels: Pixels, tolerance: int) -> str:
    """What is wrong with what a plugin decodes, or ""."""
    try:
        found = pixel_array(dataset, decoding_plugin=plugin)
    except Exception as error:  # a plugin may raise anything; the table goes on without it
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    if found.shape != pixels.shape:
        return f"gives shape {found.shape}"
    worst = int(np.abs(found.astype(np.int64) - pixels.astype(np.int64)).max())
    return f"values are off by up to {worst}" if worst > tolerance else ""


def _decoding(dataset: Any, plugin: str) -> Callable[[], int]:
    def work() -> int:
        pixel_array(dataset, decoding_plugin=plugin)
        return 1

    return work


if __name__ == "__main__":
    from benchmarks.decoders import main as imported_main

    sys.exit(imported_main())
