"""The door of the room: `open_*_loader` gives batches on the device, from any (epoch, step) on."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from cluster.kept import cache_folder
from cluster.world import World
from loaders.batches import ClassifyBatch, DetectBatch, PretrainBatch
from loaders.config import DataConfig
from loaders.draws import draw_placement, plain_placement
from loaders.iteration import Loader, Rules
from loaders.options import PipelineOptions, chunk_on
from loaders.placement import Placement
from loaders.plan import Plan, share
from loaders.selection import Selection, select
from loaders.share import Picked
from loaders.store import StoreOptions
from loaders.strata import stratify
from loaders.stream import Means, Task, stream
from loaders.tasks import canvas_task, classify_task, in_order, planned, pretrain_task
from loaders.views import ClassifyViewConfig, DetectViewConfig, PlainViewConfig, TwoViewConfig, WholeViewConfig
from sharding.filters import parse

B = TypeVar("B")

PretrainLoader = Loader[PretrainBatch]
ClassifyLoader = Loader[ClassifyBatch]
DetectLoader = Loader[DetectBatch]


def open_pretrain_loader(
    data: DataConfig, view: TwoViewConfig, global_batch: int, seed: int, world: World
) -> PretrainLoader:
    """Two views of every image, in an order shuffled anew each epoch, without end.

    The samples of a step and their pixels depend on the data, `seed`, epoch and step alone, not on the world. Raises
    ValueError where a shard set cannot be opened, the splits hold no image, or the global batch, or a kept last one, is
    larger than the set or smaller than the world.
    """
    selection = _select(data, None, True)
    plan = _plan(selection, data, global_batch, seed, world)
    options = _options(data, selection, global_batch, world)
    task = pretrain_task(selection, view, seed, partial(planned, plan, world), options)
    return _training_loader(task, data, selection, plan, world, options)


def open_classify_loader(
    data: DataConfig, view: ClassifyViewConfig, global_batch: int, seed: int, world: World
) -> ClassifyLoader:
    """A random crop of every image and its findings, shuffled anew each epoch, without end. As open_pretrain_loader.

    Images whose findings nobody knows are among them: `known` of a batch tells (`data.only` can leave them out). Where
    shard sets name different findings, `findings` has all their names, and `known` is False where a set has not one.
    """
    selection = _select(data, None, True)
    plan = _plan(selection, data, global_batch, seed, world)
    options = _options(data, selection, global_batch, world)
    task = classify_task(selection, view, seed, partial(planned, plan, world), options)
    return _training_loader(task, data, selection, plan, world, options)


def open_detect_loader(
    data: DataConfig, view: DetectViewConfig, global_batch: int, seed: int, world: World, keep_empty: bool = False
) -> DetectLoader:
    """Every image that was annotated with boxes, with its boxes, shuffled anew each epoch, without end.

    `keep_empty`: also images in which annotators found nothing to box; the reference drops them. Otherwise as
    open_pretrain_loader; raises ValueError also where shard sets name different findings.
    """
    selection = _select(data, True, keep_empty)
    _check_findings(selection, "detection")
    plan = _plan(selection, data, global_batch, seed, world)
    options = _options(data, selection, global_batch, world)

    def lay(picked: Picked) -> Placement:
        digests_n, originals_n2 = selection.digests_N[picked.positions_n], selection.originals_N2[picked.positions_n]
        return draw_placement(view, seed, picked.visits_n, digests_n, originals_n2)

    task = canvas_task(selection, view, lay, partial(planned, plan, world), options)
    return _training_loader(task, data, selection, plan, world, options)


def open_predict_loader(data: DataConfig, view: PlainViewConfig, batch: int, world: World) -> DetectLoader:
    """Every image of the splits once, in index order and unchanged, then the end.

    Rank 0 takes the first rows, rank 1 those after them and so on, `batch` images at a time; the last batch of a rank
    may be smaller, and ranks may have different numbers of batches (`num_steps` is this rank's). `boxes` are those the
    index has, none where nobody drew any; their findings are numbered as in the image's own shard set. An image that
    cannot be used ends it whatever `data.on_bad` says: a number must be about every image. Raises ValueError where a
    shard set cannot be opened or the splits hold no image.
    """
    selection, starts, stop, options = _once(data, batch, world)

    def lay(picked: Picked) -> Placement:
        return plain_placement(view, selection.originals_N2[picked.positions_n])

    task = canvas_task(selection, view, lay, partial(in_order, starts, stop), options)
    return _predict_loader(task, data, selection, starts, world, options)


def open_classify_predict_loader(data: DataConfig, view: WholeViewConfig, batch: int, world: World) -> ClassifyLoader:
    """Every image of the splits once, in index order and whole, with its findings, then the end.

    Otherwise as open_predict_loader.
    """
    selection, starts, stop, options = _once(data, batch, world)
    task = classify_task(selection, view, 0, partial(in_order, starts, stop), options)
    return _predict_loader(task, data, selection, starts, world, options)


def _select(data: DataConfig, has_boxes: bool | None, keep_empty: bool) -> Selection:
    only = parse(data.only)
    return select(data.shards, data.splits, has_boxes, keep_empty, data.max_samples, only, data.cache)


def _plan(selection: Selection, data: DataConfig, global_batch: int, seed: int, world: World) -> Plan:
    if global_batch < world.size:
        raise ValueError(
            f"global_batch = {global_batch} is smaller than the {world.size} ranks: every rank needs an image a step; "
            "take a larger batch or fewer workers"
        )
    found = selection.found() if data.repeat_threshold else None
    strata = stratify(selection.num_samples, data.weights, found, data.repeat_threshold)
    shard_N = selection.levels[0].shard_N
    plan = Plan(selection.digests_N, shard_N, seed, global_batch, data.drop_last, data.shards_per_block, strata)
    rest = plan.num_items % global_batch
    if not data.drop_last and 0 < rest < world.size:
        raise ValueError(
            f"drop_last = False: the last batch of an epoch has {rest} images for {world.size} ranks, and every rank "
            "needs one; take another global_batch, or drop_last"
        )
    return plan


def _options(data: DataConfig, selection: Selection, global_batch: int, world: World) -> PipelineOptions:
    chunk = chunk_on(world.device, -(-global_batch // world.size))
    largest_px = int(selection.levels[0].sizes_N2.max())
    return PipelineOptions(
        world.device, data.num_threads, chunk, hw_decoder_load=data.hw_decoder_load, stored_px=largest_px
    )


def _once(data: DataConfig, batch: int, world: World) -> tuple[Selection, range, int, PipelineOptions]:
    """The samples, where this rank's batches begin, where the last one ends, and how the pipeline works."""
    if batch < 1:
        raise ValueError(f"batch = {batch}: must be at least 1")
    selection = _select(data, None, True)
    mine = share(len(selection.rows_N), world.rank, world.size)
    return (
        selection,
        range(mine.start, mine.stop, batch),
        mine.stop,
        _options(data, selection, batch * world.size, world),
    )


def _check_findings(selection: Selection, what: str) -> None:
    first = selection.sets[0]
    for other in selection.sets[1:]:
        if other.findings != first.findings:
            raise ValueError(
                f"shards: {other.place} names other findings than {first.place} ({', '.join(other.findings)} "
                f"against {', '.join(first.findings)}); {what} needs shard sets with the same ones"
            )


def _training_loader(
    task: Task[B], data: DataConfig, selection: Selection, plan: Plan, world: World, options: PipelineOptions
) -> Loader[B]:
    rest = 0 if data.drop_last else plan.num_items % plan.global_batch
    rules = Rules(
        num_steps=plan.num_steps,
        num_samples=plan.num_items,
        global_batch=plan.global_batch,
        smallest_batch=rest or plan.global_batch,
        depth=data.prefetch,
        skip=data.on_bad == "skip",
        max_skipped=data.max_skipped,
        plan=plan.digest,
    )
    return _loader(task, data, selection, rules, world, options)


def _predict_loader(
    task: Task[B], data: DataConfig, selection: Selection, starts: range, world: World, options: PipelineOptions
) -> Loader[B]:
    num_samples, global_batch = len(selection.rows_N), starts.step * world.size
    rules = Rules(
        num_steps=len(starts),
        num_samples=num_samples,
        global_batch=global_batch,
        smallest_batch=min(global_batch, num_samples),
        depth=data.prefetch,
        skip=False,
        max_skipped=0,
        plan=f"in order, {starts.step} at a time, rank {world.rank} of {world.size}",
    )
    return _loader(task, data, selection, rules, world, options)


def _loader(
    task: Task[B], data: DataConfig, selection: Selection, rules: Rules, world: World, options: PipelineOptions
) -> Loader[B]:
    if data.cache is not None:
        cache_folder(data.cache)  # refused here and not with the first batch
    store = StoreOptions(data.num_threads, data.check_digests, cache=data.cache, cache_bytes=int(data.cache_gb * 1e9))
    means = Means(world.device, options.chunk, data.prefetch, rules.skip, store)
    return Loader(partial(stream, task, selection, means), task.finish, selection, rules, world)
