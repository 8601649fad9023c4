"""What a DICOM file's values look like: PS3.3 C.11.1 (modality), C.11.2 (values of interest), C.7.6.3 (pixels).

Shapes: H, W rows and columns; P values that occur in an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from sharding.grayscale import Float_P, look_up, quantise, stretch, tally
from sharding.pixels import Gray, Rendering

Int_P = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cells:
    """Which bits of a pixel's cell are its value; others may hold overlays (PS3.5 8.1.1), which must not be seen."""

    bits: int
    """Bits of the value."""
    low_bit: int
    """Position of its lowest bit."""
    signed: bool
    """Whether it is two's complement."""

    def values(self, codes: Int_P) -> Int_P:
        """Cells, read as whole numbers without sign, to values."""
        values = (codes >> self.low_bit) & ((1 << self.bits) - 1)
        return np.where(values >= 1 << (self.bits - 1), values - (1 << self.bits), values) if self.signed else values


def show(stored: npt.NDArray[Any], cells: Cells, dataset: pydicom.Dataset, rendering: Rendering) -> Gray:
    """Gray [H, W] of one channel [H, W] of cells: whole numbers or, in rare files, floating point."""
    if stored.dtype.kind == "f":
        return _show_any(stored, stored, dataset, rendering)
    unsigned = stored.astype(stored.dtype.newbyteorder("="), order="C", copy=False).view(f"u{stored.dtype.itemsize}")
    if unsigned.dtype.itemsize > 2:
        return _show_any(unsigned, cells.values(unsigned.astype(np.int64)), dataset, rendering)
    codes, counts = tally(unsigned)
    return look_up(unsigned, codes, _gray_of(cells.values(codes), counts, dataset, rendering))


def show_luma(shades: npt.NDArray[Any], top: int, rendering: Rendering) -> Gray:
    """Gray [H, W] of a colour image's luma, uint8 or uint16 of 0 to `top`; windows are for gray ones (PS3.3 C.11.2)."""
    codes, counts = tally(shades)
    if rendering.intensity in ("voi", "window"):
        return look_up(shades, codes, quantise(codes / top, rendering.bits))
    return look_up(
        shades, codes, quantise(stretch(codes.astype(np.float64), counts, counts > 0, rendering), rendering.bits)
    )


def _show_any(stored: Any, values: Any, dataset: pydicom.Dataset, rendering: Rendering) -> Gray:
    present, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    gray = _gray_of(present, counts.astype(np.float64), dataset, rendering)
    return gray[places.reshape(stored.shape)]


def _gray_of(values: npt.NDArray[Any], counts: Float_P, dataset: pydicom.Dataset, rendering: Rendering) -> Gray:
    """Gray [P] of the values that occur, with how often they do: modality, window, inversion, padding black."""
    used = ~_padding(values, dataset)
    if not used.any():
        used = ~used
    # NaN stands for no value in floating point pixels, as padding does.
    used &= np.isfinite(values)
    if not used.any():
        return quantise(np.zeros(values.shape), rendering.bits)
    modality = _modality(np.where(used, values, values[used][0]), dataset)
    shown = None
    if rendering.intensity == "voi":
        shown = _voi_lut(modality, dataset, rendering.window)
    if rendering.intensity in ("voi", "window") and shown is None:
        shown = _window(modality, dataset, rendering.window)
    if shown is None or np.ptp(shown[used]) == 0:
        shown = stretch(modality, counts, used, rendering)
    if str(dataset.PhotometricInterpretation).strip() == "MONOCHROME1":
        shown = 1.0 - shown
    return quantise(np.where(used, shown, 0.0), rendering.bits)


def _voi_lut(values: Float_P, dataset: pydicom.Dataset, index: int) -> Float_P | None:
    """Brightness 0 to 1 by the file's own table, or None where it has none that can be used.

    White is the largest number of as many bits as the table's largest entry needs: what the descriptor says of the bits
    is wrong in some files.
    """
    tables = dataset.get("VOILUTSequence")
    if not tables:
        return None
    try:
        first, entries = _table(tables[min(index, len(tables) - 1)], dataset)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None  # some are shorter than they say: the window, if any, decides
    white = (1 << int(entries.max()).bit_length()) - 1
    return np.asarray(_looked_up(values, first, entries) / white) if white > 0 else None


def _modality(values: npt.NDArray[Any], dataset: pydicom.Dataset) -> Float_P:
    """Stored values by the file's modality LUT, or its rescale slope and intercept, or as they are."""
    if dataset.get("ModalityLUTSequence"):
        return _looked_up(values, *_table(dataset.ModalityLUTSequence[0], dataset))
    slope, intercept = _chosen(dataset.get("RescaleSlope"), 0), _chosen(dataset.get("RescaleIntercept"), 0)
    plain = values.astype(np.float64)
    # A slope of 0 is no slope: it would leave one gray.
    scaled = np.asarray(plain * (slope or 1.0) + (intercept or 0.0), dtype=np.float64)
    # Nor is one that leads beyond what a number holds.
    return scaled if np.isfinite(scaled).all() else plain


def _looked_up(values: npt.NDArray[Any], first: int, entries: Int_P) -> Float_P:
    # A table is entered with whole numbers; below its first and beyond its last entry these two hold.
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return np.asarray(entries[places], dtype=np.float64)


def _table(item: pydicom.Dataset, dataset: pydicom.Dataset) -> tuple[int, Int_P]:
    """The first value that a LUT maps, and its entries. Raises ValueError and others where it is not what it says.

    pydicom's own `apply_voi` wraps at 256 where a longer table has entries of 8 bits, as those of many old CR have, and
    its `apply_modality_lut` takes none of 12 bits.
    """
    count, first = int(item.LUTDescriptor[0]) or 2**16, int(item.LUTDescriptor[1])
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, np.dtype(f"{order}u2") if len(data) >= 2 * count else np.uint8)
    entries = np.asarray(data, dtype=np.int64)
    if not 0 < count <= len(entries):
        raise ValueError(f"a table of {len(entries)} entries is said to have {count}")
    return first, entries[:count]


def _window(values: Float_P, dataset: pydicom.Dataset, index: int) -> Float_P | None:
    """Brightness 0 to 1 by the chosen window, or None where the file has none that can be used."""
    center, width = _chosen(dataset.get("WindowCenter"), index), _chosen(dataset.get("WindowWidth"), index)
    if center is None or width is None:
        return None
    match str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper():
        case "SIGMOID" if width > 0:
            return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0))))
        case "LINEAR_EXACT" if width > 0:
            return np.clip((values - center) / width + 0.5, 0.0, 1.0)
        case "LINEAR" if width > 1:
            return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)
        case "LINEAR" if width == 1:
            return np.asarray(values > center - 0.5, dtype=np.float64)
    return None


def _chosen(value: Any, index: int) -> float | None:
    """One of several numbers, the last where there are fewer; None where there is none, or it is not finite."""
    if isinstance(value, (list, tuple, pydicom.multival.MultiValue)):
        value = value[min(index, len(value) - 1)] if len(value) else None
    number = None if value is None or value == "" else float(value)
    return number if number is not None and math.isfinite(number) else None


def _padding(values: npt.NDArray[Any], dataset: pydicom.Dataset) -> npt.NDArray[np.bool_]:
    """Which values are padding (PS3.3 C.7.5.1.1.2)."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(values.shape, dtype=bool)
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return np.asarray((values >= low) & (values <= high), dtype=bool)


def overlay_bits(dataset: pydicom.Dataset) -> bool:
    """Whether an overlay lies in the cells of the pixels (PS3.3 C.9.2, retired), not in data of its own."""
    planes = (dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2))
    return any(plane is not None and plane.value for plane in planes)
