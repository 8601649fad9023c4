"""How busy a GPU's hardware JPEG engines are, as its driver tells."""

from __future__ import annotations

import shutil
import subprocess


class DecoderUse:
    """Asks the driver's own program; knows nothing where that is absent, too old, or the device is no GPU."""

    def __init__(self, device: str) -> None:
        self._tool = shutil.which("nvidia-smi") if device.startswith("cuda:") else None
        self._number = device.rpartition(":")[2]

    def percent(self) -> float | None:
        """Share of the last moments in which they were busy, 0 to 100; None where the driver does not tell."""
        if self._tool is None:
            return None
        words = [self._tool, f"--id={self._number}", "--query-gpu=utilization.jpeg", "--format=csv,noheader,nounits"]
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        text = told.stdout.strip()
        return float(text) if told.returncode == 0 and text.replace(".", "", 1).isdigit() else None
