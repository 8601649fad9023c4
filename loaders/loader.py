"""The door of the room: `open_*_loader` gives batches on the device, from any (epoch, step) on.

Shapes: n samples of this rank's share, K boxes of an image, S the side of a canvas, H = W the side of a view.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Generic

import numpy as np
import numpy.typing as npt
import torch

from cluster.world import World
from loaders.ahead import Ahead
from loaders.pipeline import canvas_arguments, canvas_pipeline, two_view_arguments, two_view_pipeline
from loaders.placement import Placement, boxes_to_canvas
from loaders.plan import Plan, next_position, share
from loaders.selection import Selection, covering_level, select
from loaders.stream import B, Share, Task, stream
from loaders.views import (
    DetectViewConfig,
    PlainViewConfig,
    TwoViewConfig,
    ViewParameters,
    draw_placement,
    draw_view,
    plain_placement,
)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which images are read, and with what means."""

    shards: tuple[Path, ...]
    """Folders of shard sets; their images are joined."""
    splits: tuple[str, ...] = ("train",)
    """Splits taken: train, valid, test, or "" for images in none."""
    num_threads: int = 2
    """Threads that read, and again as many that decode, per rank."""
    prefetch: int = 2
    """Batches worked on ahead, at each stage."""
    shards_per_block: int = 8
    """Shards whose images are shuffled with each other: more is better mixed, fewer reads nearer together."""
    check_digests: bool = True
    """Check each image's bytes against the index before they are decoded."""
    max_samples: int = 0
    """Take at most so many images, always the same ones (those with the lowest digests). 0 is all."""

    def __post_init__(self) -> None:
        for name in ("shards", "splits"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one")
        for name in ("num_threads", "prefetch", "shards_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.max_samples < 0:
            raise ValueError(f"max_samples = {self.max_samples}: must be 0 (all) or more")


@dataclass(frozen=True, slots=True)
class PretrainBatch:
    """One rank's share of a global batch, as two views of each image. Shares may differ by one sample between ranks."""

    views: tuple[torch.Tensor, torch.Tensor]
    """uint8 [n, H, W, 1] each, 0 to 255, on the rank's device."""
    rows: torch.Tensor
    """Row numbers through all shard sets, int64 [n], on the CPU."""
    epoch: int
    step: int
    global_size: int
    """Samples in the global batch, over all ranks."""


@dataclass(frozen=True, slots=True)
class DetectBatch:
    """One rank's share of a global batch, each image in the upper left of a canvas. Boxes: x_min, y_min, x_max, y_max."""

    images: torch.Tensor
    """uint8 [n, S, S, 1], 0 outside the content, on the rank's device."""
    sizes: torch.Tensor
    """Height and width of the content, int64 [n, 2], canvas pixels, on the CPU."""
    scales: torch.Tensor
    """Canvas pixels per original pixel along x and y, float64 [n, 2], on the CPU."""
    boxes: list[torch.Tensor]
    """float32 [K, 4], canvas pixels, within the content, at least one pixel wide and high, on the CPU."""
    findings: list[torch.Tensor]
    """Position of each box's finding in the loader's `findings`, int64 [K], on the CPU."""
    rows: torch.Tensor
    """Row numbers through all shard sets, int64 [n], on the CPU."""
    placement: Placement
    """Where each image lies; `placement.boxes_to_original` takes boxes back."""
    epoch: int
    step: int
    global_size: int
    """Samples in the global batch, over all ranks."""


class Loader(Generic[B]):
    """Batches from a position on. A training loader goes on through the epochs without end and without a restart between
    them; a predict loader ends. Work runs ahead in a thread that starts with the first batch asked for.

    `num_steps`: batches per epoch. `num_samples`: images per epoch over all ranks, those of a dropped last batch
    included. `global_batch`: images per step over all ranks. `findings`: names of the findings. `selection`: what rows
    mean. `last_wait_seconds`: how long the last next() waited for data.

    next() raises BadSampleError or MissingShardError (`loaders.store`) where an image cannot be had.
    """

    def __init__(
        self, task: Task[B], data: DataConfig, world: World, selection: Selection, num_steps: int, global_batch: int
    ) -> None:
        self.num_steps = num_steps
        self.num_samples = len(selection.rows_N)
        self.global_batch = global_batch
        self.findings = selection.sets[0].findings
        self.selection = selection
        self.last_wait_seconds = 0.0
        self._task = task
        self._data = data
        self._device = world.device
        self._position = (0, 0)
        self._ahead: Ahead[tuple[B, tuple[torch.Tensor, ...]]] | None = None

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        if self._ahead is None:
            data = self._data
            begin = partial(stream, self._task, self.selection, self._position, self._device)
            self._ahead = Ahead(partial(begin, data.num_threads, data.prefetch, data.check_digests), data.prefetch)
        start = time.perf_counter()
        batch, tensors = next(self._ahead)
        self.last_wait_seconds = time.perf_counter() - start
        for tensor in tensors:
            if tensor.is_cuda:  # made on another stream: its memory may be reused only when this one is done with it
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        self._position = next_position(*self._position, self.num_steps)
        return batch

    def epoch(self) -> Iterator[B]:
        """The batches up to the end of the epoch that the next batch is of."""
        for _ in range(self.num_steps - self._position[1]):
            yield next(self)

    def state_dict(self) -> dict[str, int]:
        """Position of the next batch that will be handed out: {"epoch", "step"}."""
        return {"epoch": self._position[0], "step": self._position[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a position. Raises ValueError where an epoch has no such step, as with another batch or other data."""
        epoch, step = state["epoch"], state["step"]
        if epoch < 0 or not 0 <= step < self.num_steps:
            raise ValueError(
                f"cannot go on at epoch {epoch}, step {step}: an epoch has {self.num_steps} steps here; "
                "resume with the global batch, shards and splits that the run began with"
            )
        self.close()
        self._position = (epoch, step)

    def close(self) -> None:
        """Ends the work ahead. Asking for another batch starts it again."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def __enter__(self) -> Loader[B]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
