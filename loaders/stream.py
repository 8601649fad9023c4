"""From planned samples to finished batches: reads ahead, feeds DALI chunk by chunk, finds what breaks it.

Shapes: n samples of this rank's share, m of a chunk, B samples of a global batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from loaders.arguments import Arguments
from loaders.making import Chunk, Making
from loaders.meter import Totals
from loaders.pipeline import PixelPipeline, Source, decode_failure
from loaders.selection import Selection
from loaders.share import Picked, Prepared, Share
from loaders.store import BadSampleError, MissingShardError, Reading, Store, StoreOptions, Wanted

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Task(Generic[B]):
    """What a loader does with samples, as functions."""

    picked: Callable[[int, int], Iterator[Picked]]
    """Which samples, from (epoch, step) on."""
    prepare: Callable[[Picked], Prepared]
    """What is done to them."""
    build: Callable[[Source], PixelPipeline]
    """The pipeline over a source of chunks."""
    finish: Callable[[Share, tuple[torch.Tensor, ...]], B]
    """A batch of a share and its pixels."""
    output_px: int
    """Height and width of the pipeline's tensors, pixels."""
    num_outputs: int
    """Tensors that the pipeline gives."""


@dataclass(frozen=True, slots=True)
class Means:
    """With what a stream works."""

    device: str
    chunk: int
    """Samples that the pipeline is given at a time, at most."""
    prefetch: int
    """Batches read ahead of the one that is decoded."""
    skip: bool
    """Go on without samples that cannot be used; else the first one ends the stream."""
    store: StoreOptions


@dataclass(frozen=True, slots=True)
class Made(Generic[B]):
    """A rank's share of a step, done, less what could not be used."""

    share: Share
    tensors: tuple[torch.Tensor, ...]
    """The pipeline's outputs, uint8 [n, S, S, 1], on the device."""
    batch: B
    """What `finish` made of them."""
    lost: tuple[tuple[int, BadSampleError], ...]
    """Positions of samples that could not be used, and why."""


def stream(
    task: Task[B],
    selection: Selection,
    position: tuple[int, int],
    means: Means,
    given_up: Collection[int],
    totals: Totals,
) -> Iterator[Made[B]]:
    """Batches from `position` (epoch, step) on, in order.

    `given_up`: positions of samples that are not to be read; it may grow meanwhile. Unless `means.skip`, a batch with a
    sample that cannot be used raises BadSampleError, which names it, once the batches before are given. Raises
    MissingShardError, and what DALI raises for another reason, as soon as it happens.
    """
    begun: deque[Making] = deque()
    fed: deque[Chunk] = deque()
    again: deque[Chunk] = deque()
    opened = Store(selection.shards, selection.key_of, means.store, selection.shard_digests)
    with closing(opened) as store, totals.reading(store):
        upcoming = _chunks(_read_ahead(task, selection, position, store, means, given_up), task, means, begun, totals)

        def source() -> tuple[list[npt.NDArray[np.uint8]], Arguments]:
            chunk = again.popleft() if again else next(upcoming, None)
            if chunk is None:
                raise StopIteration
            fed.append(chunk)
            return chunk.encoded, chunk.arguments

        pipeline, more = task.build(source), True
        while more or begun:
            while begun and not begun[0].num_left:
                made = _finish(task, begun.popleft())
                if made.lost and not means.skip:
                    raise made.lost[0][1]
                totals.images += len(made.share)
                yield made
            if more and not fed and not again:
                first = next(upcoming, None)
                again.extend([first] if first is not None else [])
                more = first is not None
            if not more:
                continue
            try:
                with totals.working():
                    pipeline.run((fed or again)[0].out())
            except MissingShardError:
                raise
            except Exception:  # DALI's own, after which a pipeline is of no use
                if not _find_culprits(fed, selection, means.device):
                    raise
                again.extendleft([chunk for chunk in map(Chunk.without_lost, reversed(fed)) if chunk is not None])
                fed.clear()
                pipeline = task.build(source)
            else:
                fed.popleft().is_done()


def _read_ahead(
    task: Task[B],
    selection: Selection,
    position: tuple[int, int],
    store: Store,
    means: Means,
    given_up: Collection[int],
) -> Iterator[tuple[Share, Reading]]:
    """The shares from a position on, in order; while one is used the next `prefetch` are being read."""
    under_way: deque[tuple[Share, Reading]] = deque()
    for planned in task.picked(*position):
        picked = planned
        if given_up:
            picked = planned.take([i for i, one in enumerate(planned.positions_n.tolist()) if one not in given_up])
        share = Share(picked, selection.rows_N[picked.positions_n], task.prepare(picked), len(picked.batch_positions_B))
        under_way.append((share, store.submit(_wanted(selection, share))))
        if len(under_way) > means.prefetch:
            yield under_way.popleft()
    yield from under_way


def _wanted(selection: Selection, share: Share) -> Wanted:
    """Where the encoded images of a share lie."""
    positions_n, level_n = share.picked.positions_n, share.prepared.level_n

    def pick(name: str) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = getattr(selection.levels[0], name)[positions_n]
        for number, level in enumerate(selection.levels[1:], start=1):
            mine_n = level_n == number
            found[mine_n] = getattr(level, name)[positions_n[mine_n]]
        return found

    return Wanted(share.rows_n, pick("shard_N"), pick("offset_N"), pick("length_N"), pick("digest_N16"))


def _chunks(
    shares: Iterator[tuple[Share, Reading]], task: Task[B], means: Means, begun: deque[Making], totals: Totals
) -> Iterator[Chunk]:
    """The shares, which come to stand in `begun`, in chunks; those without a sample give none."""
    for share, reading in shares:
        start = time.perf_counter()
        read = reading.result()
        totals.work_seconds -= time.perf_counter() - start  # waiting is no work, and this runs within the pipeline's
        lost = {number: one for number, one in enumerate(read) if isinstance(one, BadSampleError)}
        num = len(share) - len(lost)
        shape = (num, task.output_px, task.output_px, 1)
        tensors = tuple(torch.empty(shape, dtype=torch.uint8, device=means.device) for _ in range(task.num_outputs))
        making = Making(share, lost, tensors)
        good = [(number, one) for number, one in enumerate(read) if not isinstance(one, BadSampleError)]
        parts = [good[first : first + means.chunk] for first in range(0, num, means.chunk)]
        making.num_left = len(parts)
        begun.append(making)
        for part, first in zip(parts, range(0, num, means.chunk), strict=True):
            yield Chunk(making, first, [number for number, _ in part], [one for _, one in part])


def _find_culprits(fed: deque[Chunk], selection: Selection, device: str) -> int:
    """Tries the samples of these chunks alone; gives how many do not decode. Their batches know them from now on."""
    num = 0
    for chunk in fed:
        share = chunk.making.share
        for number, encoded in zip(chunk.numbers_m, chunk.encoded, strict=True):
            level = selection.levels[int(share.prepared.level_n[number])]
            position = int(share.picked.positions_n[number])
            height, width = level.sizes_N2[position].tolist()
            reason = decode_failure(encoded, device, (height, width))
            if reason is not None:
                shard = selection.shards[int(level.shard_N[position])]
                key = selection.key_of(int(share.rows_n[number]))
                chunk.making.lost[number] = BadSampleError(key, shard, f"does not decode: {reason}")
                num += 1
    return num


def _finish(task: Task[B], making: Making) -> Made[B]:
    """A batch of what came out."""
    share = making.share
    tensors = making.outputs()
    lost = tuple((int(share.picked.positions_n[number]), error) for number, error in sorted(making.lost.items()))
    if making.lost:
        kept = [number for number in range(len(share)) if number not in making.lost]
        share = share.take(kept, share.global_size)
    return Made(share, tensors, task.finish(share, tensors), lost)
