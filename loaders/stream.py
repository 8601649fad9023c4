"""From planned samples to finished batches: reads ahead, feeds DALI, names what breaks it.

Shapes: n samples of this rank's share, K boxes of an image, S the side of a canvas, N samples chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from loaders.pipeline import Arguments, PixelPipeline, Source, decode_failure
from loaders.placement import Placement
from loaders.selection import Selection
from loaders.store import BadSampleError, MissingShardError, Store

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank takes of one global batch, and what is done to it."""

    epoch: int
    step: int
    positions_n: npt.NDArray[np.int64]
    """Places of the samples in the selection."""
    rows_n: npt.NDArray[np.int64]
    """Their row numbers."""
    global_size: int
    """Samples in the global batch."""
    level_n: npt.NDArray[np.int64]
    """Stored size to decode."""
    arguments: Arguments
    """What the pipeline is told."""
    placement: Placement | None
    """Where the images lie on the canvas; None where there is no canvas."""


@dataclass(frozen=True, slots=True)
class Task(Generic[B]):
    """What a loader does with samples, as functions."""

    shares: Callable[[int, int], Iterator[Share]]
    """The shares from (epoch, step) on."""
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

    Raises BadSampleError or MissingShardError, which name the culprit, and what DALI raised where no sample is to blame.
    """
    store = Store(selection.shards, selection.key_of, check_digests)
    in_flight: deque[_Reading] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="cxr-read") as threads:
        readings = _read_ahead(task.shares(*position), selection, store, threads, num_threads, prefetch)

        def source() -> tuple[list[npt.NDArray[np.uint8]], Arguments]:
            for reading in readings:
                in_flight.append(reading)
                if len(reading.share.positions_n):
                    return reading.encoded(), reading.share.arguments
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
            while in_flight and not len(in_flight[0].share.positions_n):  # DALI knows no empty batch
                nothing = torch.empty((0, task.output_px, task.output_px, 1), dtype=torch.uint8, device=device)
                empty = (nothing,) * task.num_outputs
                yield task.finish(in_flight.popleft().share, empty), empty
            if running:
                yield task.finish(in_flight.popleft().share, outputs), outputs
    store.close()


class _Reading:
    """A share whose bytes are being read."""

    def __init__(self, share: Share, parts: list[Future[list[npt.NDArray[np.uint8]]]]) -> None:
        self.share = share
        self._parts = parts

    def encoded(self) -> list[npt.NDArray[np.uint8]]:
        """The JPEG of each sample; waits for the disk, and raises what reading raised."""
        return [image for part in self._parts for image in part.result()]


def _read_ahead(
    shares: Iterator[Share],
    selection: Selection,
    store: Store,
    threads: ThreadPoolExecutor,
    num_threads: int,
    prefetch: int,
) -> Iterator[_Reading]:
    """Readings of all shares in order, the next `prefetch` of them under way."""

    def read(share: Share, part: slice) -> list[npt.NDArray[np.uint8]]:
        images = []
        for position, row, number in zip(
            share.positions_n[part].tolist(), share.rows_n[part].tolist(), share.level_n[part].tolist(), strict=True
        ):
            level = selection.levels[number]
            place = int(level.shard_N[position]), int(level.offset_N[position]), int(level.length_N[position])
            images.append(store.read(row, *place, level.digest_N16[position].tobytes()))
        return images

    under_way: deque[_Reading] = deque()
    for share in shares:
        n = len(share.positions_n)
        parts = [slice(n * i // num_threads, n * (i + 1) // num_threads) for i in range(num_threads)]
        under_way.append(_Reading(share, [threads.submit(read, share, part) for part in parts]))
        if len(under_way) > prefetch:
            yield under_way.popleft()
    yield from under_way


def _culprit(in_flight: deque[_Reading], selection: Selection, device: str) -> BadSampleError | None:
    """The first sample of the batches DALI was working on that does not decode alone."""
    for reading in in_flight:
        share = reading.share
        for number, encoded in enumerate(reading.encoded()):
            reason = decode_failure(encoded, device)
            if reason is not None:
                level = selection.levels[int(share.level_n[number])]
                shard = selection.shards[int(level.shard_N[share.positions_n[number]])]
                return BadSampleError(selection.key_of(int(share.rows_n[number])), shard, f"does not decode: {reason}")
    return None
