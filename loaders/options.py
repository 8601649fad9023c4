"""How a pipeline works: its device, its threads, and how much of it is done at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHUNK = {"cpu": 64, "cuda": 128}
"""Samples worked on at a time on each kind of device, at most.

On two cores 8 to 64 cost the same CPU time to 4 %, but an operator waits for its last sample: at 512 pixels chunks of
16, 32, 64 and 96 gave 515, 615, 728 and 741 images/s. More than 64 is left for the memory's sake. A GPU's decoders take
a batch at once, so theirs is larger: 128 images of 1024 x 1024 are 128 MiB. Not measured on a GPU."""


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """How a pipeline works; pixels do not depend on it, save for `hw_decoder_load`."""

    device: str
    """Where images are decoded and where tensors lie: "cpu" or "cuda:<i>"."""
    num_threads: int
    """Threads of the processor that DALI works with."""
    chunk: int
    """Samples worked on at a time, at most. They bound the memory, whatever the batch: on a CPU about 3.3 MiB each, as
    measured with two views of whole images of 1024 x 1024 and a prefetch of 2."""
    prefetch: int = 2
    """Chunks that DALI works ahead."""
    hw_decoder_load: float = 0.65
    """Share of a chunk's JPEG that a GPU's hardware decoder gets; CUDA cores and the CPU's threads decode the rest. Not
    looked at on a CPU, nor on a GPU without such a decoder. The best one depends on the number of decoders and of CPU
    threads, and DALI says to find it by trial: 0.5, 0.65, 0.8, 0.9, 1. At 1 one decoder does all, so that pixels are
    equal from run to run."""
    stored_px: int = 0
    """Side of the largest stored image, for which a GPU's JPEG decoder takes memory at once instead of while it grows;
    0 lets it grow."""

    def __post_init__(self) -> None:
        if not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(f"hw_decoder_load = {self.hw_decoder_load}: must be from 0 to 1")
        assert min(self.num_threads, self.chunk, self.prefetch) >= 1


def chunk_on(device: str, most: int) -> int:
    """Samples of a chunk on `device`, where a batch has at most `most`."""
    return max(1, min(most, CHUNK[torch.device(device).type]))
