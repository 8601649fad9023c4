"""A DICOM file to gray pixels. What its header says stays here, but for four fields of a fixed vocabulary.

Shapes: H, W rows and columns, V entries of a lookup table.
"""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000, JPEG2000Lossless

from sharding.pixels import Gray, UnreadableImage, check_size
from sharding.sample import age_band

VIEW_POSITIONS: tuple[str, ...] = ("PA", "AP", "LATERAL", "LL", "RL", "LLO", "RLO", "LLD", "RLD")
"""The only view positions that are passed on; free text could hold anything."""

LUMA_3 = np.array([0.299, 0.587, 0.114])
"""ITU-R 601 weights of red, green and blue."""


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


def read_dicom(path: Path) -> tuple[Gray, Header]:
    """Pixels [H, W] uint8 (0 black, bone bright) and the header fields that may be used.

    Stored values go through the modality LUT or rescale (PS3.3 C.11.1), then the VOI LUT or the first window
    (PS3.3 C.11.2; LINEAR, LINEAR_EXACT, SIGMOID), or where there is none, or where it leaves nothing but one gray, a
    stretch from the smallest to the largest value; MONOCHROME1 is inverted after that; padding becomes black.

    Raises UnreadableImage for what is no DICOM, truncated, too large, of many frames, without
    pixels or transfer syntax.
    """
    if path.stat().st_size == 0:
        raise UnreadableImage("the file is empty (0 bytes)")
    # pydicom's warnings quote the header, so they must not reach a log.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    syntax = "before the transfer syntax was known"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            _check(dataset)
            syntax = dataset.file_meta.TransferSyntaxUID.name
            return _to_gray(dataset), _header(dataset)
    except (UnreadableImage, MemoryError):
        raise
    except InvalidDicomError as error:
        raise UnreadableImage("not a DICOM file (no DICM mark at byte 128)") from error
    except Exception as error:
        # pydicom and its plugins raise nearly anything on a damaged file, and one file must not end the run.
        # Their messages may quote the header, so only the kind of the error is passed on.
        raise UnreadableImage(f"its pixels cannot be decoded ({syntax}; {type(error).__name__})") from error


def _check(dataset: pydicom.Dataset) -> None:
    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        raise UnreadableImage("TransferSyntaxUID is missing: probably a truncated download")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise UnreadableImage("Rows or Columns is missing: not an image")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableImage("PixelData is missing: probably a truncated download")
    check_size(int(dataset.Rows), int(dataset.Columns))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise UnreadableImage(f"holds {frames} frames; a radiograph has one")


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


def _to_gray(dataset: pydicom.Dataset) -> Gray:
    # gdcm decodes JPEG 2000 a quarter faster than openjpeg; for the rest pydicom's own order does.
    plugin = "gdcm" if dataset.file_meta.TransferSyntaxUID in (JPEG2000, JPEG2000Lossless) else ""
    stored = pixel_array(dataset, decoding_plugin=plugin)
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3:
        top = 255 if stored.dtype == np.uint8 else 2 ** int(dataset.BitsStored) - 1
        return _to_uint8(stored.astype(np.float64) @ LUMA_3 / top)
    if stored.ndim != 2:
        raise UnreadableImage(f"pixels of shape {stored.shape}; expected rows and columns")
    padded_HW = _padding(stored, dataset)
    used = stored[~padded_HW] if padded_HW is not None else stored
    if used.size == 0:
        used, padded_HW = stored, None
    low, high = used.min(), used.max()
    invert = interpretation == "MONOCHROME1"
    if stored.dtype.kind in "iu" and int(high) - int(low) < 2**16:
        # Every step is a function of the stored value alone, so it is worked out once per value.
        values_V = np.arange(int(low), int(high) + 1, dtype=np.int64)
        table_V = _gray_of(values_V.astype(stored.dtype), dataset, invert)
        gray = table_V[np.clip(stored, low, high).astype(np.int64) - int(low)]
    else:
        gray = _gray_of(np.clip(stored, low, high), dataset, invert)
    if padded_HW is not None:
        gray = np.where(padded_HW, np.uint8(0), gray)
    return np.asarray(gray, dtype=np.uint8)


def _gray_of(values: npt.NDArray[Any], dataset: pydicom.Dataset, invert: bool) -> Gray:
    """Stored values of one image, its smallest and largest among them, to gray."""
    modality = np.asarray(apply_modality_lut(values, dataset), dtype=np.float64)
    shown = _voi(modality, dataset)
    if shown is None or (shown.size > 1 and np.ptp(shown) == 0):
        span = float(np.ptp(modality))
        shown = (modality - modality.min()) / span if span > 0 else np.zeros_like(modality)
    return _to_uint8(1.0 - shown if invert else shown)


def _voi(values: npt.NDArray[np.float64], dataset: pydicom.Dataset) -> npt.NDArray[np.float64] | None:
    """Brightness 0 to 1 by the file's own VOI LUT or first window; None where it has none that can be used."""
    if dataset.get("VOILUTSequence"):
        try:
            # A LUT is entered with whole numbers (PS3.3 C.11.2.1.1); some files carry tables shorter than they say.
            looked_up = np.asarray(apply_voi(np.rint(values).astype(np.int64), dataset), dtype=np.float64)
            span = float(np.ptp(looked_up))
            if span > 0:
                return np.asarray((looked_up - looked_up.min()) / span)
        except (IndexError, ValueError, TypeError, AttributeError, KeyError):
            pass  # unusable table: the window, if any, decides
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is None or width is None:
        return None
    match str(dataset.get("VOILUTFunction") or "LINEAR").upper():
        case "SIGMOID" if width > 0:
            return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0))))
        case "LINEAR_EXACT" if width > 0:
            return np.clip((values - center) / width + 0.5, 0.0, 1.0)
        case "LINEAR" if width > 1:
            return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)
        case "LINEAR" if width == 1:
            return np.asarray(values > center - 0.5, dtype=np.float64)
    return None


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, (list, pydicom.multival.MultiValue)):
        return float(value[0]) if len(value) else None
    return float(value)


def _padding(stored: npt.NDArray[Any], dataset: pydicom.Dataset) -> npt.NDArray[np.bool_] | None:
    """Where the pixels are padding (PS3.3 C.7.5.1.1.2), or None where the file names no padding value."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return np.asarray((stored >= low) & (stored <= high), dtype=bool)


def _to_uint8(brightness: npt.NDArray[np.float64]) -> Gray:
    return np.asarray(np.floor(np.clip(brightness, 0.0, 1.0) * 255.0 + 0.5), dtype=np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """(rows, columns) that the header states. Raises UnreadableImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(header.Rows), int(header.Columns)
    except Exception as error:
        raise UnreadableImage(f"its header cannot be read ({type(error).__name__})") from error
