"""From planned samples to finished batches: reads ahead, feeds DALI chunk by chunk, finds what breaks it.

Shapes: n samples of this rank's share, m of a chunk, B samples of a global batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from loaders.arguments import Arguments
from loaders.culprits import decode_failures
from loaders.failures import BadSampleError
from loaders.lane import Lane
from loaders.making import Chunk, Making
from loaders.meter import Totals
from loaders.pipeline import PixelPipeline, Source
from loaders.selection import Selection
from loaders.share import Picked, Prepared, Share
from loaders.store import Reading, Store, StoreOptions, Wanted

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
    means: Means,
    position: tuple[int, int],
    given_up: Collection[int],
    totals: Totals,
) -> Iterator[Made[B]]:
    """Batches from `position` (epoch, step) on, in order.

    `given_up`: positions of samples that are not to be read; it may grow meanwhile. Unless `means.skip`, a batch with a
    sample that cannot be used raises BadSampleError, which names it, once the batches before are given. Raises
    MissingShardError, and what DALI raises for another reason, as soon as it happens.
    """
    lane = Lane(means.device)
    begun: deque[Making] = deque()
    fed: deque[Chunk] = deque()
    again: deque[Chunk] = deque()
    failed: list[Exception] = []
    ended = False
    opened = Store(selection.shards, selection.key_of, means.store, selection.shard_digests)
    with closing(opened) as store, totals.reading(store):
        shares = _read_ahead(task, selection, position, store, means, given_up)
        upcoming = _chunks(shares, task, means, lane, begun)

        def source() -> tuple[list[npt.NDArray[np.uint8]], Arguments]:
            nonlocal ended
            try:
                chunk = again.popleft() if again else next(upcoming, None)
            except Exception as error:  # told apart from DALI's own, through which it comes back
                failed.append(error)
                raise
            if chunk is None or not chunk.numbers_m:
                ended = True  # DALI knows no empty batch: it gives what it has, and is built anew if anything follows
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
            if not fed and not again:
                with totals.working():
                    chunk = next(upcoming, None) if more else None
                more = chunk is not None
                if chunk is None or not chunk.numbers_m:
                    continue
                again.append(chunk)
                if ended:
                    pipeline, ended = task.build(source), False
            try:
                with totals.working(), lane.on():
                    pipeline.run((fed or again)[0].out())
            except Exception:
                if failed:
                    raise failed[0] from None
                if not _find_culprits(fed, selection, means.device):
                    raise
                again.extendleft([chunk for chunk in map(Chunk.without_lost, reversed(fed)) if chunk is not None])
                fed.clear()
                pipeline, ended = task.build(source), False
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
    shares: Iterator[tuple[Share, Reading]],
    task: Task[B],
    means: Means,
    lane: Lane,
    begun: deque[Making],
) -> Iterator[Chunk]:
    """The shares, which come to stand in `begun`, in chunks; one without a sample gives an empty chunk."""
    for share, reading in shares:
        read = reading.result()
        lost = {number: one for number, one in enumerate(read) if isinstance(one, BadSampleError)}
        num = len(share) - len(lost)
        shape = (num, task.output_px, task.output_px, 1)
        with lane.on():
            tensors = tuple(torch.empty(shape, dtype=torch.uint8, device=means.device) for _ in range(task.num_outputs))
        making = Making(share, lost, tensors)
        good = [(number, one) for number, one in enumerate(read) if not isinstance(one, BadSampleError)]
        parts = [good[first : first + means.chunk] for first in range(0, num, means.chunk)]
        making.num_left = len(parts)
        begun.append(making)
        if not parts:
            yield Chunk(making, 0, [], [])
        for part, first in zip(parts, range(0, num, means.chunk), strict=True):
            yield Chunk(making, first, [number for number, _ in part], [one for _, one in part])


def _find_culprits(fed: deque[Chunk], selection: Selection, device: str) -> int:
    """Tries the samples of these chunks without their views; gives how many do not decode. Their batches know them from
    now on. Raises DALI's own error where that cannot be told, because a good image does not decode either."""
    samples = [(chunk, number) for chunk in fed for number in chunk.numbers_m]
    encoded = [one for chunk in fed for one in chunk.encoded]
    places = []
    for chunk, number in samples:
        share = chunk.making.share
        level = selection.levels[int(share.prepared.level_n[number])]
        places.append((level, int(share.picked.positions_n[number])))
    sizes = [(int(level.sizes_N2[position, 0]), int(level.sizes_N2[position, 1])) for level, position in places]
    reasons = decode_failures(encoded, device, sizes)
    for (chunk, number), (level, position), reason in zip(samples, places, reasons, strict=True):
        if reason is not None:
            shard = selection.shards[int(level.shard_N[position])]
            key = selection.key_of(int(chunk.making.share.rows_n[number]))
            chunk.making.lost[number] = BadSampleError(key, shard, f"does not decode: {reason}")
    return len(reasons) - reasons.count(None)


def _finish(task: Task[B], making: Making) -> Made[B]:
    """A batch of what came out."""
    share = making.share
    tensors = making.outputs()
    lost = tuple((int(share.picked.positions_n[number]), error) for number, error in sorted(making.lost.items()))
    if making.lost:
        kept = [number for number in range(len(share)) if number not in making.lost]
        share = share.take(kept, share.global_size)
    return Made(share, tensors, task.finish(share, tensors), lost)
