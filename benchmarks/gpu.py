"""`python -m benchmarks.gpu`: every figure that needs a GPU, in one report, in under 20 minutes.

A part is a function of (config, work) that gives tables; later work adds its own to PARTS. Without a GPU the program
says so and ends with status 2. Each part takes its device from the config, so that tests run it on the processor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.gpu_config import GpuBenchConfig
from benchmarks.gpu_loader import decode_rates, training_steps
from benchmarks.report import Grid
from benchmarks.session import conduct, workplace
from cluster import door

Part = Callable[[GpuBenchConfig, Path], Iterator[Grid]]
PARTS: tuple[Part, ...] = (decode_rates, training_steps)
"""In the order of the report."""
USED = ("torch", "torchvision", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13", "numpy")
NO_GPU = 2


def main(argv: Sequence[str] | None = None) -> int:
    """The door; gives the exit status, 2 where there is no GPU."""
    words = list(sys.argv[1:] if argv is None else argv)
    asks = {"--help", "-h", "--device"} & {word.split("=")[0] for word in words}
    if not asks and not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no GPU here: nothing was measured", file=sys.stderr)
        return NO_GPU
    return door.enter("python -m benchmarks.gpu", GpuBenchConfig, run, words)


def run(config: GpuBenchConfig) -> None:
    """Measures, shows the tables and writes what the config asks for."""
    missing = ["a cold disk or an object store: all files were in the page cache", "more than one GPU"]
    if not config.device.startswith("cuda"):
        missing.append(f"a GPU: this was run on {config.device}")
    with workplace(config) as work:
        conduct("gpu", config, work, [], [], USED, missing, (grid for part in PARTS for grid in part(config, work)))


if __name__ == "__main__":
    from benchmarks.gpu import main as imported_main

    sys.exit(imported_main())
