"""A DICOM file to gray pixels. What its header says stays here, but for four fields of a fixed vocabulary.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    UID_dictionary,
)

from cluster import storage
from cluster.storage import Place
from sharding import codestreams, decoders
from sharding.display import Cells, overlay_bits, show, show_luma
from sharding.grayscale import luma
from sharding.pixels import DEFAULT, MAX_PIXELS, Gray, Rendering, UnreadableImage, check_size, refuse
from sharding.sample import VIEW_POSITIONS, age_band

MAX_DATASET_BYTES = 2 * MAX_PIXELS + 2**26
"""A deflated data set that inflates to more is refused."""

NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
"""Transfer syntaxes whose pixels are not compressed (deflated ones are so as a part of the whole)."""

_COLOURS = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_NEWER = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}
"""Transfer syntaxes whose names pydicom does not know."""

_GRAYS = ("MONOCHROME1", "MONOCHROME2")
_FORMS = frozenset({*((1, form) for form in (*_GRAYS, "PALETTE COLOR")), *((3, form) for form in _COLOURS[1:])})
"""Samples of a pixel and PhotometricInterpretation, as they may come together."""


@dataclass(frozen=True, slots=True)
class Header:
    """What may leave a DICOM header. `patient_id` is for sharding.privacy to turn into a pseudonym, never to store."""

    patient_id: str | None
    """PatientID as written, None if empty."""
    sex: str | None
    """ "F" or "M"."""
    age_band: str | None
    """From PatientAge, such as "40-49"."""
    view_position: str | None
    """One of VIEW_POSITIONS."""
    burned_in: bool
    """The file says that text is burned into its pixels (BurnedInAnnotation is YES)."""


def read_dicom(data: bytes, rendering: Rendering = DEFAULT, use_gpu: bool = True) -> tuple[Gray, Header]:
    """Pixels [H, W] (0 black, bone bright) and the header fields that may be used, from a file's bytes.

    Stored values go through the modality LUT or rescale (PS3.3 C.11.1), then through what `rendering` asks for: the VOI
    LUT, the window (PS3.3 C.11.2; LINEAR, LINEAR_EXACT, SIGMOID), percentiles or the range. Where the file has no
    window, or where it leaves nothing but one gray, the smallest value becomes black and the largest white. MONOCHROME1
    is inverted after that; padding becomes black. Bits of a cell that are not its value (overlays of old files) are
    not looked at. Of colour the luma is taken (ITU-R 601). `use_gpu` lets a GPU, if there is one, decode what is
    compressed without loss.

    Raises UnreadableImage for what is no DICOM, truncated, too large, of many frames, of a transfer syntax that nothing
    here decodes, without pixels or transfer syntax. No message holds words of the header.
    """
    _check_kind(data)
    # pydicom's warnings quote the header, so they must not reach a log.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    syntax = "before the transfer syntax was known"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = _parse(data)
            uid = _check(dataset)
            syntax = _name_of(uid)
            return _to_gray(dataset, uid, rendering, use_gpu), _header(dataset)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        # pydicom and its plugins raise nearly anything on a damaged file, and one file must not end the run.
        # Their messages may quote the header, so only the kind of the error is passed on.
        raise UnreadableImage(f"its pixels cannot be decoded ({syntax}; {type(error).__name__})") from error


def read_size(place: Place) -> tuple[int, int]:
    """(rows, columns) that the header of a file states.

    Raises UnreadableImage, and OSError for what may pass (a network or disk that fails).
    """
    try:
        with warnings.catch_warnings(), storage.open_input(place) as file:
            warnings.simplefilter("ignore")
            _check_kind(file.read(4096))
            file.seek(0)
            header = _parse_header(file)
        return int(header.Rows), int(header.Columns)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            refuse(error)  # pydicom's own have no number
        raise UnreadableImage(f"its header cannot be read ({type(error).__name__})") from error


def _check_kind(start: bytes) -> None:
    """Refuses what does not begin as a DICOM file, by the name of what it is."""
    if not start:
        raise UnreadableImage("the file is empty (0 bytes)")
    if (kind := codestreams.true_kind(start)) != "a DICOM file":
        told = "no DICM mark at byte 128" if kind is None else f"it is {kind}, whatever its name says"
        raise UnreadableImage(f"not a DICOM file: {told}")


def _parse(data: bytes) -> pydicom.Dataset:
    """The data set of a whole file."""
    file = io.BytesIO(data)
    meta = _meta(file)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return pydicom.dcmread(io.BytesIO(data))
    dataset = read_dataset(io.BytesIO(_inflate(file.read(), MAX_DATASET_BYTES)), False, True)
    dataset.set_original_encoding(False, True, dataset.get("SpecificCharacterSet"))
    dataset.file_meta = pydicom.dataset.FileMetaDataset(meta)
    return dataset


def _parse_header(file: Any) -> pydicom.Dataset:
    """Rows and Columns of a file, and little more read of it than what is before its pixels."""
    meta = _meta(file)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        whole = io.BytesIO(_inflate(file.read(), MAX_DATASET_BYTES))
        return read_dataset(whole, False, True, stop_when=lambda tag, vr, length: tag >= 0x7FE00008)
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["Rows", "Columns"])


def _meta(file: Any) -> pydicom.Dataset:
    """The file meta information (group 2); the file is left at what follows."""
    read_preamble(file, force=False)
    return read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)


def _inflate(deflated: bytes, most: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(deflated, most)
    if inflater.unconsumed_tail:
        raise UnreadableImage(f"its data set inflates to more than {most:,} bytes, which no radiograph needs")
    if not inflater.eof:
        raise UnreadableImage("its deflated data set is cut off")
    return inflated


def _name_of(uid: UID) -> str:
    """What the standard calls a transfer syntax; a private one is not named, for its text is the file's own."""
    return uid.name if uid in UID_dictionary else _NEWER.get(uid, "which is none of the standard's")


def _check(dataset: pydicom.Dataset) -> UID:
    """The transfer syntax of what holds one picture of a size and kind that can be read."""
    uid = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if not uid:
        raise UnreadableImage("TransferSyntaxUID is missing: probably a truncated download")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise UnreadableImage("Rows or Columns is missing: not an image")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableImage("PixelData is missing: probably a truncated download")
    check_size(int(dataset.Rows), int(dataset.Columns))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise UnreadableImage(f"holds {frames} frames; a radiograph has one")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    interpretation = str(dataset.get("PhotometricInterpretation") or "").strip()
    if (samples, interpretation) not in _FORMS:
        raise UnreadableImage(
            f"PhotometricInterpretation (with {samples} samples a pixel) is none of " + ", ".join(_GRAYS + _COLOURS)
        )
    if uid.is_private or not (uid in decoders.ORDER or uid in NATIVE):
        raise UnreadableImage(f"no decoder here for its transfer syntax, {_name_of(uid)}")
    return UID(uid)


def _header(dataset: pydicom.Dataset) -> Header:
    sex = str(dataset.get("PatientSex") or "").strip().upper()
    age = re.fullmatch(r"(\d{1,3})([DWMY]?)", str(dataset.get("PatientAge") or "").strip())
    years = None if age is None else int(age[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, "": 1}[age[2]]
    view = str(dataset.get("ViewPosition") or "").strip().upper()
    return Header(
        patient_id=str(dataset.get("PatientID") or "").strip() or None,
        sex=sex if sex in ("F", "M") else None,
        age_band=age_band(years),
        view_position=view if view in VIEW_POSITIONS else None,
        burned_in=str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES",
    )


def _to_gray(dataset: pydicom.Dataset, uid: UID, rendering: Rendering, use_gpu: bool) -> Gray:
    precision = _check_codestream(dataset, uid) if uid.is_encapsulated else None
    interpretation = str(dataset.PhotometricInterpretation).strip()
    stored = _decode(dataset, uid, use_gpu, correct_unused_bits=interpretation in _COLOURS)
    if interpretation in _COLOURS:
        if interpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, dataset)
            top = int(np.iinfo(stored.dtype).max)
        else:
            top = 2 ** min(int(dataset.BitsStored), 8 * stored.dtype.itemsize) - 1
        if stored.dtype.itemsize > 2:
            stored, top = (stored >> (top.bit_length() - 16)).astype(np.uint16), 2**16 - 1
        return show_luma(luma(stored), top, rendering)
    return show(stored, _cells(dataset, uid, precision), dataset, rendering)


def _decode(dataset: pydicom.Dataset, uid: UID, use_gpu: bool, correct_unused_bits: bool) -> npt.NDArray[Any]:
    """The cells of the one frame [H, W] or [H, W, channels]."""
    if not uid.is_encapsulated:
        return np.asarray(pixel_array(dataset, index=0, correct_unused_bits=correct_unused_bits))
    failures: list[Exception] = []
    for plugin in decoders.decoders_of(uid, use_gpu):
        try:
            wanted: dict[str, Any] = {"correct_unused_bits": correct_unused_bits, "decoding_plugin": plugin}
            return np.asarray(pixel_array(dataset, index=0, **wanted))
        except MemoryError:
            raise
        except Exception as error:
            failures.append(error)
    raise failures[0]


def _check_codestream(dataset: pydicom.Dataset, uid: UID) -> int | None:
    """Bits of a value that the compressed picture claims, None for RLE, after it was found to be what the header says.

    Raises UnreadableImage before anything is decoded where it claims another size, or lacks its end.
    """
    if uid == RLELossless:
        return None
    source = get_frame(dataset.PixelData, 0, number_of_frames=1)
    claimed = codestreams.frame(source)
    if claimed is None:
        kind = codestreams.true_kind(source)
        raise UnreadableImage(f"its pixels are not {_name_of(uid)}" + (f" but {kind}" if kind else ""))
    stated = (int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1))
    if (claimed.height, claimed.width, claimed.components) != stated:
        raise UnreadableImage(
            f"the compressed picture is {claimed.height} x {claimed.width} x {claimed.components}, "
            f"the header says {stated[0]} x {stated[1]} x {stated[2]} (rows, columns, samples)"
        )
    if claimed.bits > int(dataset.BitsAllocated):
        raise UnreadableImage(
            f"the compressed picture has {claimed.bits} bits, the header allocates {int(dataset.BitsAllocated)}"
        )
    if not codestreams.is_whole(source):
        raise UnreadableImage(f"its compressed picture is cut off ({_name_of(uid)} without an end mark)")
    return claimed.bits


def _cells(dataset: pydicom.Dataset, uid: UID, precision: int | None) -> Cells:
    """Where in a cell its value is."""
    if "PixelData" not in dataset:  # floating point
        return Cells(64, 0, True)
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = int(dataset.get("HighBit", bits - 1))
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    if not 0 < bits <= high + 1 <= allocated:
        raise UnreadableImage(
            f"{bits} bits stored up to bit {high} of {allocated} allocated: these cannot all be right"
        )
    if precision is None or (precision == allocated and uid in decoders.LOSSLESS):
        return Cells(bits, high + 1 - bits, signed)
    # A codestream that says how many bits it holds is right against a header that says otherwise (PS3.5 8.2).
    if overlay_bits(dataset) and precision > bits:
        raise UnreadableImage("an overlay is mixed into lossy pixels, from which it cannot be taken out")
    return Cells(precision, 0, signed)
