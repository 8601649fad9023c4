"""What a DICOM viewer shows, in plain NumPy on every pixel: PS3.3 C.11.1 and C.11.2, PS3.5 8.1.1, without pydicom's
arithmetic and without tables."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Table:
    """A modality or VOI LUT: values below `first` take its first entry, those beyond its end the last."""

    first: int
    entries: list[int]

    def at(self, value: float) -> float:
        return float(self.entries[min(max(round(value) - self.first, 0), len(self.entries) - 1)])


def value_of(cell: int, bits: int, high_bit: int, signed: bool) -> int:
    """The value in a cell: the bits from `high_bit` down, two's complement where signed."""
    digits = [(cell >> place) & 1 for place in range(high_bit - bits + 1, high_bit + 1)]
    value = sum(digit << place for place, digit in enumerate(digits))
    return value - (digits[-1] << bits) if signed else value


def shown_gray(
    stored: npt.NDArray[np.int64],
    slope: float = 1.0,
    intercept: float = 0.0,
    modality_table: Table | None = None,
    voi_table: Table | None = None,
    windows: list[tuple[float, float]] | None = None,
    function: str = "LINEAR",
    monochrome1: bool = False,
    padding: tuple[int, int] | None = None,
    intensity: str = "voi",
    window: int = 0,
    percentiles: tuple[float, float] = (0.5, 99.5),
    bits: int = 8,
) -> npt.NDArray[np.int64]:
    """Stored values [H, W] to gray 0 to 2^bits - 1; `windows` are (center, width)."""
    flat = [int(value) for value in stored.ravel()]
    is_padding = [padding is not None and padding[0] <= value <= padding[1] for value in flat]
    if all(is_padding):
        is_padding = [False] * len(flat)
    modality = [modality_table.at(v) if modality_table else v * slope + intercept for v in flat]
    used = [value for value, out in zip(modality, is_padding, strict=True) if not out]

    def by_window(x: float, center: float, width: float) -> float:
        if function == "SIGMOID":
            return float(1 / (1 + np.exp(-4 * (x - center) / width)))
        if function == "LINEAR_EXACT":
            if x <= center - width / 2:
                return 0.0
            return 1.0 if x > center + width / 2 else (x - center) / width + 0.5
        if x <= center - 0.5 - (width - 1) / 2:
            return 0.0
        return 1.0 if x > center - 0.5 + (width - 1) / 2 else (x - (center - 0.5)) / (width - 1) + 0.5

    def between(x: float, low: float, high: float) -> float:
        return min(max((x - low) / (high - low), 0.0), 1.0) if high > low else 0.0

    shown: list[float] | None = None
    if intensity == "voi" and voi_table is not None:
        white = 2 ** max(voi_table.entries).bit_length() - 1
        shown = [voi_table.at(x) / white for x in modality]
    elif intensity in ("voi", "window") and windows:
        shown = [by_window(x, *windows[min(window, len(windows) - 1)]) for x in modality]
    elif intensity == "percentile":
        low, high = (float(np.percentile(used, share)) for share in percentiles)
        shown = [between(x, low, high) for x in modality] if high > low else None
    if shown is not None and len({s for s, out in zip(shown, is_padding, strict=True) if not out}) == 1:
        shown = None
    if shown is None:
        shown = [between(x, min(used), max(used)) for x in modality]
    if monochrome1:
        shown = [1 - part for part in shown]
    top = 2**bits - 1
    gray = [0 if out else int(np.floor(part * top + 0.5)) for part, out in zip(shown, is_padding, strict=True)]
    return np.array(gray, dtype=np.int64).reshape(stored.shape)
