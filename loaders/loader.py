"""The door of the room: `open_*_loader` gives batches on the device, from any (epoch, step) on.

Shapes: n samples of this rank's share, K boxes of an image, S the side of a canvas, H = W the side of a view.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cluster.world import World
from loaders.iteration import Loader
from loaders.pipeline import (
    PixelPipeline,
    Source,
    canvas_arguments,
    canvas_pipeline,
    two_view_arguments,
    two_view_pipeline,
)
from loaders.placement import Placement, boxes_to_canvas
from loaders.plan import Plan, next_position, share
from loaders.selection import Selection, covering_level, select
from loaders.stream import Picked, Prepared, Share, Task, stream
from loaders.views import (
    DetectViewConfig,
    PlainViewConfig,
    TwoViewConfig,
    draw_placement,
    draw_view,
    plain_placement,
)
from sharding.filters import parse

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which images are read, and with what means."""

    shards: tuple[Path, ...]
    """Folders of shard sets; their images are joined."""
    splits: tuple[str, ...] = ("train",)
    """Splits taken: train, valid, test, or "" for images in none."""
    only: tuple[str, ...] = ()
    """Only images whose field has such a value: view_position=PA,AP subset=10 fold!=0 (as `cxr shard --only`)."""
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
        parse(self.only)  # refuses what is no filter
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
    """One rank's share of a global batch, each image in the upper left of a canvas."""

    images: torch.Tensor
    """uint8 [n, S, S, 1], 0 outside the content, on the rank's device."""
    sizes: torch.Tensor
    """Height and width of the content, int64 [n, 2], canvas pixels, on the CPU."""
    scales: torch.Tensor
    """Canvas pixels per original pixel along x and y, float64 [n, 2], on the CPU."""
    boxes: list[torch.Tensor]
    """x_min, y_min, x_max, y_max, float32 [K, 4], canvas pixels, within the content, on the CPU. None is narrower or
    lower than a pixel: what a crop leaves of such a box is dropped."""
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


PretrainLoader = Loader[PretrainBatch]
DetectLoader = Loader[DetectBatch]


def open_pretrain_loader(
    data: DataConfig, view: TwoViewConfig, global_batch: int, seed: int, world: World, drop_last: bool = True
) -> PretrainLoader:
    """Two views of every image, in an order shuffled anew each epoch, without end.

    The samples of a step and their pixels depend on the data, `seed`, epoch and step alone, not on the world. Unless
    `drop_last`, a last batch smaller than the world leaves some ranks an empty share (n = 0). Raises ValueError where
    a shard set cannot be opened, the splits hold no image, or the global batch is larger than the set or smaller than
    the world.
    """
    selection = select(data.shards, data.splits, None, True, data.max_samples, parse(data.only))
    plan = _plan(selection, data, global_batch, seed, world, drop_last)

    def prepare(epoch: int, positions_n: npt.NDArray[np.int64]) -> Prepared:
        digests_n = selection.digests_N[positions_n]
        sizes_Ln2 = [level.sizes_N2[positions_n] for level in selection.levels]
        views = tuple(draw_view(view, number, seed, epoch, digests_n, sizes_Ln2[0]) for number in (0, 1))
        output_n2 = np.full_like(sizes_Ln2[0], view.size_px)
        levels = [covering_level(sizes_Ln2, drawn.window_size_n2 / sizes_Ln2[0], output_n2) for drawn in views]
        level_n = np.minimum(*levels)
        stored_n2 = np.stack(sizes_Ln2)[level_n, np.arange(len(positions_n))]
        return Prepared(level_n, two_view_arguments(view, views, stored_n2 / sizes_Ln2[0]), None)

    def finish(taken: Share, tensors: tuple[torch.Tensor, ...]) -> PretrainBatch:
        rows = torch.from_numpy(taken.rows_n)
        return PretrainBatch((tensors[0], tensors[1]), rows, taken.epoch, taken.step, taken.global_size)

    def build(source: Source) -> PixelPipeline:
        most = -(-global_batch // world.size)
        return two_view_pipeline(view, source, most, world.device, data.num_threads, data.prefetch)

    task = Task(partial(_planned, plan, world), prepare, build, finish, view.size_px, 2)
    return _loader(task, data, selection, plan.num_steps, global_batch, world)


def open_detect_loader(
    data: DataConfig,
    view: DetectViewConfig,
    global_batch: int,
    seed: int,
    world: World,
    drop_last: bool = True,
    keep_empty: bool = False,
) -> DetectLoader:
    """Every image that was annotated with boxes, with its boxes, shuffled anew each epoch, without end.

    `keep_empty`: also images in which annotators found nothing to box; the reference drops them. Otherwise as
    open_pretrain_loader; raises ValueError also where shard sets name different findings.
    """
    selection = select(data.shards, data.splits, True, keep_empty, data.max_samples, parse(data.only))
    _check_findings(selection)
    plan = _plan(selection, data, global_batch, seed, world, drop_last)

    def place_all(epoch: int, positions_n: npt.NDArray[np.int64]) -> Placement:
        digests_n, originals_n2 = selection.digests_N[positions_n], selection.originals_N2[positions_n]
        return draw_placement(view, seed, epoch, digests_n, originals_n2)

    task = _canvas_task(selection, data, view, place_all, partial(_planned, plan, world), global_batch, world)
    return _loader(task, data, selection, plan.num_steps, global_batch, world)


def open_predict_loader(data: DataConfig, view: PlainViewConfig, batch: int, world: World) -> DetectLoader:
    """Every image of the splits once, in index order and unchanged, then the end.

    Rank 0 takes the first rows, rank 1 those after them and so on, `batch` images at a time; the last batch of a rank
    may be smaller, and ranks may have different numbers of batches (`num_steps` is this rank's). `boxes` are those the
    index has, none where nobody drew any; their findings are numbered as in the image's own shard set. Raises
    ValueError where a shard set cannot be opened or the splits hold no image.
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    selection = select(data.shards, data.splits, None, True, data.max_samples, parse(data.only))
    mine = share(len(selection.rows_N), world.rank, world.size)
    starts = range(mine.start, mine.stop, batch)

    def place_all(epoch: int, positions_n: npt.NDArray[np.int64]) -> Placement:
        return plain_placement(view, selection.originals_N2[positions_n])

    def in_order(epoch: int, step: int) -> Iterator[Picked]:
        for number in range(step if epoch == 0 else len(starts), len(starts)):
            positions_n = np.arange(starts[number], min(starts[number] + batch, mine.stop), dtype=np.int64)
            yield Picked(0, number, positions_n, len(positions_n))

    task = _canvas_task(selection, data, view, place_all, in_order, batch * world.size, world)
    return _loader(task, data, selection, len(starts), batch * world.size, world)


def _plan(selection: Selection, data: DataConfig, global_batch: int, seed: int, world: World, drop_last: bool) -> Plan:
    if global_batch < world.size:
        raise ValueError(
            f"global_batch = {global_batch} is smaller than the {world.size} ranks: every rank needs an image a step; "
            "take a larger batch or fewer workers"
        )
    shard_N = selection.levels[0].shard_N
    return Plan(selection.digests_N, shard_N, seed, global_batch, drop_last, data.shards_per_block)


def _planned(plan: Plan, world: World, epoch: int, step: int) -> Iterator[Picked]:
    """This rank's part of every global batch from a position on, without end."""
    while True:
        rows = plan.rows(epoch, step)
        yield Picked(epoch, step, rows[share(len(rows), world.rank, world.size)], len(rows))
        if step == plan.num_steps // 2:  # so that the border costs nothing, however many samples there are
            threading.Thread(target=plan.order, args=(epoch + 1,), daemon=True).start()
        epoch, step = next_position(epoch, step, plan.num_steps)


def _canvas_task(
    selection: Selection,
    data: DataConfig,
    view: DetectViewConfig | PlainViewConfig,
    place_all: Callable[[int, npt.NDArray[np.int64]], Placement],
    picked: Callable[[int, int], Iterator[Picked]],
    global_batch: int,
    world: World,
) -> Task[DetectBatch]:
    def prepare(epoch: int, positions_n: npt.NDArray[np.int64]) -> Prepared:
        placement = place_all(epoch, positions_n)
        sizes_Ln2 = [level.sizes_N2[positions_n] for level in selection.levels]
        window_n2 = placement.window_size_n2 / placement.originals_n2
        level_n = covering_level(sizes_Ln2, window_n2, placement.sizes_n2)
        stored_n2 = np.stack(sizes_Ln2)[level_n, np.arange(len(positions_n))]
        return Prepared(level_n, canvas_arguments(placement, stored_n2), placement)

    def build(source: Source) -> PixelPipeline:
        most = -(-global_batch // world.size)
        means = world.device, data.num_threads, data.prefetch
        return canvas_pipeline(view.size_px, view.interpolation, source, most, *means)

    return Task(picked, prepare, build, partial(_finish_canvas, selection), view.size_px, 1)


def _finish_canvas(selection: Selection, taken: Share, tensors: tuple[torch.Tensor, ...]) -> DetectBatch:
    placement = taken.prepared.placement
    assert placement is not None
    annotated = [selection.boxes_of(int(row)) for row in taken.rows_n]
    boxes, findings = [], []
    for number, (boxes_K4, findings_K) in enumerate(annotated):
        placed_K4, keep_K = boxes_to_canvas(boxes_K4, np.full(len(boxes_K4), number), placement)
        boxes.append(torch.from_numpy(placed_K4[keep_K]))
        findings.append(torch.from_numpy(findings_K[keep_K]))
    return DetectBatch(
        images=tensors[0],
        sizes=torch.from_numpy(placement.sizes_n2),
        scales=torch.from_numpy(placement.scales_n2.copy()),
        boxes=boxes,
        findings=findings,
        rows=torch.from_numpy(taken.rows_n),
        placement=placement,
        epoch=taken.epoch,
        step=taken.step,
        global_size=taken.global_size,
    )


def _check_findings(selection: Selection) -> None:
    first = selection.sets[0]
    for other in selection.sets[1:]:
        if other.findings != first.findings:
            raise ValueError(
                f"shards: {other.directory} names other findings than {first.directory} ({', '.join(other.findings)} "
                f"against {', '.join(first.findings)}); detection needs shard sets with the same ones"
            )


def _loader(
    task: Task[B], data: DataConfig, selection: Selection, num_steps: int, global_batch: int, world: World
) -> Loader[B]:
    def begin(position: tuple[int, int]) -> Iterator[tuple[B, tuple[torch.Tensor, ...]]]:
        means = world.device, data.num_threads, data.prefetch, data.check_digests
        return stream(task, selection, position, *means)

    return Loader(begin, selection, num_steps, global_batch, data.prefetch)
