"""From planned samples to finished batches: reads ahead, feeds DALI, names what breaks it.

Shapes: n samples of this rank's share, K boxes of an image, S the side of a canvas, N samples chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from loaders import plan
from loaders.pipeline import Arguments, PixelPipeline, Source, decode_failure
from loaders.placement import Placement
from loaders.selection import Selection
from loaders.store import BadSampleError, MissingShardError, Store

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Picked:
    """What one rank takes of one global batch."""

    epoch: int
    step: int
    positions_n: npt.NDArray[np.int64]
    """Places of the samples in the selection; n may be 0."""
    global_size: int
    """Samples in the global batch."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is done to them."""

    level_n: npt.NDArray[np.int64]
    """Stored size to decode."""
    arguments: Arguments
    """What the pipeline is told."""
    placement: Placement | None
    """Where the images lie on the canvas; None where there is no canvas."""


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's samples of a step, from plan to pixels."""

    epoch: int
    step: int
    global_size: int
    positions_n: npt.NDArray[np.int64]
    rows_n: npt.NDArray[np.int64]
    prepared: Prepared
    reads: tuple[Future[list[npt.NDArray[np.uint8]]], ...]

    def encoded(self) -> list[npt.NDArray[np.uint8]]:
        """The encoded image of each sample; waits for the disk, and raises what reading raised."""
        return [image for read in self.reads for image in read.result()]


@dataclass(frozen=True, slots=True)
class Task(Generic[B]):
    """What a loader does with samples, as functions."""

    picked: Callable[[int, int], Iterator[Picked]]
    """Which samples, from (epoch, step) on."""
    prepare: Callable[[int, npt.NDArray[np.int64]], Prepared]
    """What is done to samples at these positions in this epoch."""
    build: Callable[[Source], PixelPipeline]
    """The pipeline over a source."""
    finish: Callable[[Share, tuple[torch.Tensor, ...]], B]
    """A batch of the pipeline's tensors."""
    output_px: int
    """Height and width of the pipeline's tensors, pixels."""
    num_outputs: int
    """Tensors that the pipeline gives."""


def stream(
    task: Task[B],
    selection: Selection,
    position: tuple[int, int],
    device: str,
    num_threads: int,
    prefetch: int,
    check_digests: bool,
) -> Iterator[tuple[B, tuple[torch.Tensor, ...]]]:
    """Batches from `position` (epoch, step) on, each with its tensors on `device`, in order.

    Raises BadSampleError or MissingShardError, which name the culprit, or else what DALI raised.
    """
    store = Store(selection.shards, selection.key_of, check_digests)
    in_flight: deque[Share] = deque()
    with closing(store), ThreadPoolExecutor(num_threads, thread_name_prefix="cxr-read") as threads:
        shares = _read_ahead(task, selection, position, store, threads, num_threads, prefetch)

        def source() -> tuple[list[npt.NDArray[np.uint8]], Arguments]:
            for share in shares:
                in_flight.append(share)
                if len(share.positions_n):
                    return share.encoded(), share.prepared.arguments
            raise StopIteration

        pipeline = task.build(source)
        running = True
        while running or in_flight:
            outputs: tuple[torch.Tensor, ...] = ()
            try:
                outputs = pipeline.run()
            except StopIteration:
                running = False
            except (BadSampleError, MissingShardError):
                raise
            except Exception as error:
                raise _culprit(in_flight, selection, device) or error from error
            while in_flight and not len(in_flight[0].positions_n):  # DALI knows no empty batch
                nothing = torch.empty((0, task.output_px, task.output_px, 1), dtype=torch.uint8, device=device)
                empty = (nothing,) * task.num_outputs
                yield task.finish(in_flight.popleft(), empty), empty
            if running:
                yield task.finish(in_flight.popleft(), outputs), outputs


def _read_ahead(
    task: Task[B],
    selection: Selection,
    position: tuple[int, int],
    store: Store,
    threads: ThreadPoolExecutor,
    num_threads: int,
    prefetch: int,
) -> Iterator[Share]:
    """The shares from a position on, in order; while one is used the next `prefetch` are being read."""
    under_way: deque[Share] = deque()
    for picked in task.picked(*position):
        positions_n, rows_n = picked.positions_n, selection.rows_N[picked.positions_n]
        prepared = task.prepare(picked.epoch, positions_n)
        read = partial(_read, selection, store, positions_n, rows_n, prepared.level_n)
        parts = [plan.share(len(positions_n), part, num_threads) for part in range(num_threads)]
        reads = tuple(threads.submit(read, part) for part in parts)
        under_way.append(Share(picked.epoch, picked.step, picked.global_size, positions_n, rows_n, prepared, reads))
        if len(under_way) > prefetch:
            yield under_way.popleft()
    yield from under_way


def _read(
    selection: Selection,
    store: Store,
    positions_n: npt.NDArray[np.int64],
    rows_n: npt.NDArray[np.int64],
    level_n: npt.NDArray[np.int64],
    part: slice,
) -> list[npt.NDArray[np.uint8]]:
    images = []
    wanted = zip(positions_n[part].tolist(), rows_n[part].tolist(), level_n[part].tolist(), strict=True)
    for position, row, number in wanted:
        level = selection.levels[number]
        place = int(level.shard_N[position]), int(level.offset_N[position]), int(level.length_N[position])
        images.append(store.read(row, *place, level.digest_N16[position].tobytes()))
    return images


def _culprit(in_flight: deque[Share], selection: Selection, device: str) -> BadSampleError | None:
    """The first sample of the batches DALI was working on that does not decode alone."""
    for share in in_flight:
        for number, encoded in enumerate(share.encoded()):
            reason = decode_failure(encoded, device)
            if reason is not None:
                level = selection.levels[int(share.prepared.level_n[number])]
                shard = selection.shards[int(level.shard_N[share.positions_n[number]])]
                return BadSampleError(selection.key_of(int(share.rows_n[number])), shard, f"does not decode: {reason}")
    return None
