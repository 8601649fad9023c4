"""DICOM files of given values in every transfer syntax."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite

from sharding import decoders

NATIVE: tuple[uid.UID, ...] = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
"""Transfer syntaxes whose pixels are not compressed, or as a part of the whole data set."""


def dataset_of(pixels: npt.NDArray[Any], bits: int, syntax: str = uid.ExplicitVRLittleEndian) -> FileDataset:
    """A data set of these values [H, W] (two's complement where their type is signed), not compressed."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.UID(syntax)
    dataset = FileDataset("", pydicom.Dataset(), file_meta=meta, preamble=bytes(128))
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 if bits <= 8 else 16, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == uid.ExplicitVRBigEndian and bits > 8 else "<"
    stored = pixels.astype(f"{order}{pixels.dtype.kind}{dataset.BitsAllocated // 8}").tobytes()
    dataset.PixelData = stored + b"\0" * (len(stored) % 2)
    dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"
    return dataset


def file_of(syntax: str, pixels: npt.NDArray[Any], bits: int) -> bytes:
    """A DICOM file of these values [H, W] in any transfer syntax of NATIVE and of `sharding.decoders`."""
    if syntax in NATIVE:
        return written(dataset_of(pixels, bits, syntax))
    if syntax == uid.RLELossless:
        dataset = dataset_of(pixels, 16 if bits > 8 else 8)
        dataset.compress(uid.RLELossless)
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        return written(dataset)
    return wrapped(codestream(syntax, pixels, bits), syntax, pixels, bits)


def wrapped(compressed: bytes, syntax: str, pixels: npt.NDArray[Any], bits: int) -> bytes:
    """A DICOM file whose header is that of `pixels` and whose one frame is `compressed`."""
    dataset = dataset_of(pixels, bits)
    dataset.PixelData = encapsulate([compressed])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return written(dataset)


def written(dataset: FileDataset) -> bytes:
    """The bytes of its file."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if "PixelData" in dataset and syntax not in (None, *NATIVE):
        dataset["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    implicit, big = syntax == uid.ImplicitVRLittleEndian, syntax == uid.ExplicitVRBigEndian
    dcmwrite(file, dataset, enforce_file_format=False, force_encoding=True, implicit_vr=implicit, little_endian=not big)
    return file.getvalue()


def codestream(syntax: str, pixels: npt.NDArray[Any], bits: int) -> bytes:
    """The values [H, W] compressed; lossy syntaxes at their finest."""
    unsigned = (pixels.astype(np.int64) & (2**bits - 1)).astype("u1" if bits <= 8 else "u2")
    match syntax:
        case uid.JPEGBaseline8Bit:
            return bytes(imagecodecs.jpeg8_encode(unsigned, 100))
        case uid.JPEGExtended12Bit:
            return bytes(imagecodecs.jpeg8_encode(unsigned, 100, bitspersample=bits))
        case uid.JPEGLossless:
            return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=5, bitspersample=bits))
        case uid.JPEGLosslessSV1:
            return decoders.encode_frame(uid.JPEGLosslessSV1, unsigned, bits)
        case uid.JPEGLSLossless | uid.JPEGLSNearLossless:
            return bytes(imagecodecs.jpegls_encode(unsigned, level=int(syntax == uid.JPEGLSNearLossless)))
        case uid.JPEG2000:
            return bytes(
                imagecodecs.jpeg2k_encode(pixels, level=90, codecformat="j2k", reversible=False, bitspersample=bits)
            )
        case uid.HTJ2K:
            return bytes(imagecodecs.htj2k_encode(pixels, level=0.0001, reversible=False))
    return decoders.encode_frame(uid.UID(syntax), pixels, bits)
