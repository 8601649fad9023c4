"""What every part of `benchmarks.gpu` is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.session import BenchConfig
from trainers.models.barlow_twins import BarlowTwinsConfig
from trainers.models.encoder import EncoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBenchConfig(BenchConfig):
    """Measure everything that needs a GPU, in one report."""

    rounds: int = 4
    """Rounds that count; one more comes first and is dropped."""
    device: str = "cuda:0"
    """The GPU; cpu runs the same code on the processor, to see that it runs."""
    seconds: float = 4.0
    """Length of a turn, at least."""
    num_images: int = 512
    """Radiographs; they stay in the page cache."""
    side_px: int = 1024
    """Height and width of the larger form; the other is half of it."""
    size_px: int = 224
    """Height and width of a view."""
    batch: int = 256
    """Images of a batch."""
    num_threads: int = 8
    """This loader's threads on the processor."""
    loads: tuple[float, ...] = (0.0, 0.35, 0.65, 0.9, 1.0)
    """Values of hw_decoder_load, the share of a batch that the hardware decoder is given."""
    steps: int = 20
    """Training steps of a turn, at least 2."""
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(channels=1))
    """The network of the training steps."""
    model: BarlowTwinsConfig = field(default_factory=BarlowTwinsConfig)
    """Its projector and loss."""
    forms: tuple[Literal["full", "half"], ...] = ("full", "half")
    """What is read: JPEG at side_px, at a half of it."""
    source: Path | None = None
    """Folder of your own radiographs, PNG and JPEG; none: drawn ones."""

    def __post_init__(self) -> None:
        BenchConfig.__post_init__(self)
        if not re.fullmatch(r"cpu|cuda:\d+", self.device):
            raise ValueError(f"device: {self.device!r} is neither cuda:NUMBER nor cpu")
        if not 0 < self.seconds <= 600:
            raise ValueError(f"seconds: {self.seconds} is not above 0 and up to 600")
        for name, few in (("batch", 1), ("num_threads", 1), ("steps", 2), ("size_px", 1)):
            if getattr(self, name) < few:
                raise ValueError(f"{name}: {getattr(self, name)} is below {few}")
        least = max(16, self.batch)
        if self.num_images < least:
            raise ValueError(f"num_images: {self.num_images} is below {least}: 16 are needed, and a batch")
        if not self.loads or not all(0 <= load <= 1 for load in self.loads):
            raise ValueError(f"loads: {self.loads}: one at least, each from 0 to 1")
        if not self.forms:
            raise ValueError("forms is empty: name at least one of full, half")
        if self.source is not None and not self.source.is_dir():
            raise ValueError(f"source: {self.source} is not a folder")
