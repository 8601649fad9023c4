"""Which library decodes which of DICOM's transfer syntaxes.

Milliseconds for 3000 x 2500 pixels of 12 bits (8 for JPEG baseline) on one core, imagecodecs / gdcm / Pillow / pydicom
itself, of `cxr bench decoders` (benchmarks/results/2026-11-24-decoders.md):

    RLE                    22 /   - /   - / 164        JPEG-LS               197 /   312
    JPEG baseline          21 /  88 /  23              JPEG-LS near          182 /   304
    JPEG extended, 12 bit  67 /   - /   -              JPEG 2000 lossless  1,057 / 1,203 / 1,076
    JPEG lossless (57)     64 / 221                    JPEG 2000             386 /   532 /   420
    JPEG lossless (70)     61 / 213                    HTJ2K lossless         53 /     -

gdcm decodes JPEG 2000 on several threads and looks faster where cores are idle; every core here has a shard of its own.
imagecodecs is BSD, gdcm BSD, Pillow MIT-CMU; pylibjpeg-libjpeg is GPL and is not used, and pylibjpeg-openjpeg is not
asked: it gained nothing. Where a GPU is present, nvImageCodec goes first for syntaxes without loss, whose pixels are
the same whoever decodes them, once it has decoded a probe as the processor does; lossy ones stay on the processor, so
that the same file always gives the same bytes.
"""

from __future__ import annotations

import glob
import os
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

_OWN, _GPU = "imagecodecs", "nvimgcodec"

ORDER: dict[UID, tuple[str, ...]] = {
    RLELossless: (_OWN, "pydicom"),
    JPEGBaseline8Bit: (_OWN, "pillow", "gdcm"),
    JPEGExtended12Bit: (_OWN,),
    JPEGLossless: (_OWN, "gdcm"),
    JPEGLosslessSV1: (_OWN, "gdcm"),
    JPEGLSLossless: (_OWN, "gdcm"),
    JPEGLSNearLossless: (_OWN, "gdcm"),
    JPEG2000Lossless: (_OWN, "gdcm"),
    JPEG2000: (_OWN, "gdcm"),
    HTJ2KLossless: (_OWN,),
    HTJ2KLosslessRPCL: (_OWN,),
    HTJ2K: (_OWN,),
}
"""The fastest first; the next one is asked where it cannot."""

LOSSLESS = frozenset(
    {RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL}
)
"""Syntaxes whose pixels do not depend on who decodes them."""

_ON_GPU = (JPEGLossless, JPEGLosslessSV1, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL)
_GPU_PLUGIN = ("nvidia.nvimgcodec.tools.dicom.pydicom_plugin", "_decode_frame")

DECODER_DEPENDENCIES = dict.fromkeys(ORDER, ("imagecodecs",))
"""Asked for by pydicom's plugin interface."""


def is_available(uid: str) -> bool:
    """Asked for by pydicom's plugin interface: whether this file decodes the syntax."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """pydicom's plugin interface: one frame through imagecodecs, colour as it is stored, channels together."""
    uid = runner.transfer_syntax
    if uid == RLELossless:
        return _decode_rle(src, runner)
    if uid in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1):
        # One colour space in and out: nothing is converted, for pydicom does that where the header asks for it.
        same = "YCBCR" if runner.samples_per_pixel == 3 else None
        pixels = imagecodecs.jpeg8_decode(src, colorspace=same, outcolorspace=same)
    elif uid in (JPEGLSLossless, JPEGLSNearLossless):
        pixels = imagecodecs.jpegls_decode(src)
    elif uid in (JPEG2000Lossless, JPEG2000):
        pixels = imagecodecs.jpeg2k_decode(src, numthreads=1)
    else:
        pixels = imagecodecs.htj2k_decode(src)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):  # JPEG 2000's own, undone with it
        runner.set_option("photometric_interpretation", "RGB")
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return bytes(pixels.tobytes())


def _decode_rle(src: bytes, runner: DecodeRunner) -> bytes:
    pixels = imagecodecs.dicomrle_decode(src, np.dtype(f"<u{runner.bits_allocated // 8}"))
    runner.set_option("planar_configuration", 1)
    return bytes(pixels)


def decoders_of(uid: UID, use_gpu: bool = True) -> tuple[str, ...]:
    """Names of the pydicom plugins for an encapsulated syntax, in the order in which to ask; () where none is known."""
    _register()
    order = ORDER.get(uid, ())
    return (_GPU, *order) if use_gpu and uid in _gpu_syntaxes() else order


@cache
def _register() -> None:
    for uid in ORDER:
        if _OWN not in get_decoder(uid).available_plugins:
            get_decoder(uid).add_plugin(_OWN, (__name__, decode_frame.__name__))


def has_gpu() -> bool:
    """Whether this process may see an NVIDIA GPU; opens no driver, imports nothing."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1") and bool(glob.glob("/dev/nvidia[0-9]*"))


@cache
def _gpu_syntaxes() -> frozenset[UID]:
    """The syntaxes that nvImageCodec was registered for in this process; none without a GPU."""
    if not has_gpu():
        return frozenset()
    try:
        from nvidia.nvimgcodec.tools.dicom import pydicom_plugin
    except ImportError:  # not installed with every CUDA build
        return frozenset()
    found = set()
    for uid in _ON_GPU:
        if pydicom_plugin.is_available(uid):
            get_decoder(uid).add_plugin(_GPU, _GPU_PLUGIN)
            if decodes_a_probe(uid, _GPU):
                found.add(uid)
            else:
                get_decoder(uid).remove_plugin(_GPU)
    return frozenset(found)


def decodes_a_probe(uid: UID, plugin: str) -> bool:
    """Whether a plugin of pydicom gives the pixels of small pictures of 8, 12 and 16 bits exactly."""
    for bits in (8, 12, 16):
        probe = probe_pixels(bits)
        try:
            found = pixel_array(_probe(uid, probe, bits), decoding_plugin=plugin, index=0)
        except Exception:  # a GPU that is full, too old or taken raises nearly anything: the processor decodes then
            return False
        if found.shape != probe.shape or not np.array_equal(found, probe):
            return False
    return True


def probe_pixels(bits: int) -> npt.NDArray[Any]:
    """[48, 64] uint8 or uint16: every part of the range, and steps as steep as they come."""
    ramp = np.arange(48 * 64, dtype=np.uint32).reshape(48, 64) * 2654435761 % 2**bits
    ramp[:24] = np.linspace(0, 2**bits - 1, 64).astype(np.uint32)
    return np.asarray(ramp, dtype=np.uint8 if bits == 8 else np.uint16)


def encode_frame(uid: UID, pixels: npt.NDArray[Any], bits: int) -> bytes:
    """A codestream of one of the lossless syntaxes, by imagecodecs."""
    match uid:
        case _ if uid in (JPEGLossless, JPEGLosslessSV1):
            return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=bits))
        case _ if uid == JPEG2000Lossless:
            return bytes(
                imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True, bitspersample=bits)
            )
    return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))


def _probe(uid: UID, pixels: npt.NDArray[Any], bits: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    dataset.PixelData = encapsulate([encode_frame(uid, pixels, bits)])
    dataset["PixelData"].VR = "OB"
    return dataset
