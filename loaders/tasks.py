"""What each kind of loader does with its samples: which parameters are drawn, which level is read, what a batch is.

Shapes: n samples of this rank's share, L levels, B boxes of all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cluster.world import World
from loaders.arguments import ViewsConfig, canvas_arguments, view_arguments, works_of
from loaders.batches import ClassifyBatch, DetectBatch, PretrainBatch
from loaders.draws import draw_classify_view, draw_views, whole_view
from loaders.levels import at_level, covering_level
from loaders.options import PipelineOptions
from loaders.pipeline import PixelPipeline, Source, canvas_pipeline, views_pipeline
from loaders.placement import Placement, boxes_to_canvas
from loaders.plan import Plan, next_position, share
from loaders.selection import Selection
from loaders.share import Picked, Prepared, Share
from loaders.stream import Task
from loaders.views import (
    ClassifyViewConfig,
    DetectViewConfig,
    PlainViewConfig,
    TwoViewConfig,
    ViewParameters,
    WholeViewConfig,
)

B = TypeVar("B")
Draw = Callable[[Picked, npt.NDArray[np.int32]], tuple[ViewParameters, ...]]
"""Parameters of the views of a share's images, which have these sizes (height, width) at full size, int32 [n, 2]."""
Pick = Callable[[int, int], Iterator[Picked]]
"""Which samples, from (epoch, step) on."""
Lay = Callable[[Picked], Placement]
"""Where the images of a share lie on the canvas."""


def views_task(
    selection: Selection,
    view: ViewsConfig,
    draw: Draw,
    pick: Pick,
    options: PipelineOptions,
    finish: Callable[[Share, tuple[torch.Tensor, ...]], B],
) -> Task[B]:
    """Views of each image."""

    def prepare(picked: Picked) -> Prepared:
        sizes_Ln2 = selection.sizes_of(picked.positions_n)
        views = draw(picked, sizes_Ln2[0])
        windows = [drawn.window_size_n2 for drawn in views]  # an image is decoded once for all its views
        level_n = covering_level(sizes_Ln2, windows, view.size_px, sizes_Ln2[0])
        stored_n2 = at_level(sizes_Ln2, level_n)
        return Prepared(level_n, view_arguments(view, views, sizes_Ln2[0], stored_n2, options.device), None)

    def build(source: Source) -> PixelPipeline:
        return views_pipeline(view, source, options)

    return Task(pick, prepare, build, finish, view.size_px, len(works_of(view)))


def pretrain_task(
    selection: Selection, view: TwoViewConfig, seed: int, pick: Pick, options: PipelineOptions
) -> Task[PretrainBatch]:
    """Two random views of each image."""

    def draw(picked: Picked, sizes_n2: npt.NDArray[np.int32]) -> tuple[ViewParameters, ...]:
        return draw_views(view, (0, 1), seed, picked.visits_n, selection.digests_N.take(picked.positions_n), sizes_n2)

    return views_task(selection, view, draw, pick, options, _finish_pretrain)


def classify_task(
    selection: Selection, view: ClassifyViewConfig | WholeViewConfig, seed: int, pick: Pick, options: PipelineOptions
) -> Task[ClassifyBatch]:
    """A random crop of each image, or all of it, and its findings."""

    def draw(picked: Picked, sizes_n2: npt.NDArray[np.int32]) -> tuple[ViewParameters, ...]:
        if isinstance(view, WholeViewConfig):
            return (whole_view(sizes_n2),)
        digests_n = selection.digests_N.take(picked.positions_n)
        return (draw_classify_view(view, seed, picked.visits_n, digests_n, sizes_n2),)

    return views_task(selection, view, draw, pick, options, partial(_finish_classify, selection))


def canvas_task(
    selection: Selection, view: DetectViewConfig | PlainViewConfig, lay: Lay, pick: Pick, options: PipelineOptions
) -> Task[DetectBatch]:
    """Each image fitted into a square canvas, with its boxes."""

    def prepare(picked: Picked) -> Prepared:
        placement = lay(picked)
        sizes_Ln2 = selection.sizes_of(picked.positions_n)
        window_n2 = placement.window_size_n2
        level_n = covering_level(sizes_Ln2, [window_n2], placement.sizes_n2, placement.originals_n2)
        return Prepared(level_n, canvas_arguments(placement, at_level(sizes_Ln2, level_n)), placement)

    def build(source: Source) -> PixelPipeline:
        return canvas_pipeline(view.size_px, view.interpolation, source, options)

    return Task(pick, prepare, build, partial(_finish_canvas, selection), view.size_px, 1)


def planned(plan: Plan, world: World, epoch: int, step: int) -> Iterator[Picked]:
    """This rank's part of every global batch from a position on, without end."""
    prepared = epoch
    while True:
        items = plan.items(epoch, step)
        mine = share(len(items.positions_B), world.rank, world.size)
        yield Picked(epoch, step, items.positions_B[mine], items.visits_B[mine], items.positions_B)
        if step >= plan.num_steps // 2 and prepared == epoch:  # so that the border costs nothing, whatever the weights
            prepared = epoch + 1
            threading.Thread(target=plan.prepare, args=(epoch + 1,), daemon=True).start()
        epoch, step = next_position(epoch, step, plan.num_steps)


def in_order(starts: range, stop: int, epoch: int, step: int) -> Iterator[Picked]:
    """The samples from `starts[0]` to `stop` once, a batch from each of `starts` to the next, then the end."""
    for number in range(step if epoch == 0 else len(starts), len(starts)):
        positions_n = np.arange(starts[number], min(starts[number] + starts.step, stop), dtype=np.int64)
        yield Picked(0, number, positions_n, np.zeros_like(positions_n), positions_n)


def _finish_pretrain(taken: Share, tensors: tuple[torch.Tensor, ...]) -> PretrainBatch:
    return PretrainBatch(
        views=(tensors[0], tensors[1]),
        rows=torch.from_numpy(taken.rows_n),
        epoch=taken.picked.epoch,
        step=taken.picked.step,
        global_size=taken.global_size,
    )


def _finish_classify(selection: Selection, taken: Share, tensors: tuple[torch.Tensor, ...]) -> ClassifyBatch:
    labels_nF, known_nF = selection.labels_of(taken.rows_n)
    return ClassifyBatch(
        images=tensors[0],
        labels=torch.from_numpy(labels_nF),
        known=torch.from_numpy(known_nF),
        rows=torch.from_numpy(taken.rows_n),
        epoch=taken.picked.epoch,
        step=taken.picked.step,
        global_size=taken.global_size,
    )


def _finish_canvas(selection: Selection, taken: Share, tensors: tuple[torch.Tensor, ...]) -> DetectBatch:
    placement = taken.prepared.placement
    assert placement is not None
    corners_B4, finding_B, sample_B = selection.boxes_of(taken.rows_n)
    placed_B4, keep_B = boxes_to_canvas(corners_B4, sample_B, placement)
    counts = np.bincount(sample_B[keep_B], minlength=len(taken)).tolist()
    return DetectBatch(
        images=tensors[0],
        sizes=torch.from_numpy(placement.sizes_n2),
        scales=torch.from_numpy(placement.scales_n2.copy()),
        boxes=list(torch.split(torch.from_numpy(placed_B4[keep_B]), counts)),
        findings=list(torch.split(torch.from_numpy(finding_B[keep_B]), counts)),
        rows=torch.from_numpy(taken.rows_n),
        placement=placement,
        epoch=taken.picked.epoch,
        step=taken.picked.step,
        global_size=taken.global_size,
    )
