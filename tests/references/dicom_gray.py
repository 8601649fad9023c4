"""What a DICOM viewer shows, in plain NumPy on every pixel: PS3.3 C.11.1 and C.11.2, without pydicom's arithmetic."""

import numpy as np
import numpy.typing as npt


def shown_gray(
    stored: npt.NDArray[np.int64],
    slope: float = 1.0,
    intercept: float = 0.0,
    window: tuple[float, float] | None = None,
    function: str = "LINEAR",
    monochrome1: bool = False,
    padding: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Stored values [H, W] to gray 0 to 255; `window` is (center, width)."""
    used = [value for value in stored.ravel().tolist() if value != padding] or stored.ravel().tolist()
    ignore = None if all(value == padding for value in stored.ravel().tolist()) else padding

    def brightness(value: float, modality: list[float]) -> float:
        x = value * slope + intercept
        if window is not None:
            c, w = window
            if function == "LINEAR":
                if x <= c - 0.5 - (w - 1) / 2:
                    return 0.0
                if x > c - 0.5 + (w - 1) / 2:
                    return 1.0
                return (x - (c - 0.5)) / (w - 1) + 0.5
            if function == "LINEAR_EXACT":
                return 0.0 if x <= c - w / 2 else 1.0 if x > c + w / 2 else (x - c) / w + 0.5
            return float(1 / (1 + np.exp(-4 * (x - c) / w)))
        low, high = min(modality), max(modality)
        return (x - low) / (high - low) if high > low else 0.0

    modality = [value * slope + intercept for value in used]
    gray = np.zeros(stored.shape, dtype=np.uint8)
    for place in np.ndindex(stored.shape):
        value = int(stored[place])
        if ignore is not None and value == ignore:
            continue
        part = brightness(value, modality)
        part = 1 - part if monochrome1 else part
        gray[place] = int(np.floor(part * 255 + 0.5))
    return gray
