"""From a detector and a loader to predictions: every rank finds in its own images, rank 0 puts them together.

Shapes: n images of a batch, K boxes of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from cluster.progress import Progress
from eval import detection
from eval.predictions import Origin, Predictions
from eval.truth import Truth, align, join, truth_from_shards
from loaders.batches import DetectBatch
from loaders.config import DataConfig
from loaders.loader import DetectLoader
from loaders.placement import boxes_to_original
from sharding.filters import parse
from sharding.index import ShardSet
from trainers.models.detector import Detector


@dataclass(frozen=True, slots=True)
class Found:
    """What was found on one image, best score first."""

    row: int
    """Row number through the loader's shard sets."""
    boxes_K4: npt.NDArray[np.float32]
    """Original pixels, within the image, with area."""
    findings_K: npt.NDArray[np.int16]
    scores_K: npt.NDArray[np.float32]
    """0..1."""


def find(
    detector: nn.Module, loader: DetectLoader, precision: Literal["bf16", "fp32"], progress: Progress | None = None
) -> list[Found]:
    """Detections on this rank's images of one pass. The detector is put in evaluation mode and back."""
    assert isinstance(detector, Detector)
    device = next(detector.parameters()).device
    was_training = detector.training
    detector.eval()
    found: list[Found] = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for batch in loader.epoch():
            if len(batch.rows):
                found += _of_batch(batch, detector(batch.images, batch.sizes.to(device)))
            if progress is not None:
                progress.update(len(batch.rows))
    detector.train(was_training)
    return found


def _of_batch(batch: DetectBatch, results: list[dict[str, torch.Tensor]]) -> list[Found]:
    boxes = [result["boxes"].float().cpu().numpy() for result in results]
    image_B = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes])
    placed_B4 = boxes_to_original(np.concatenate(boxes), image_B, batch.placement)
    found = []
    for i, (row, result) in enumerate(zip(batch.rows.tolist(), results, strict=True)):
        boxes_K4 = placed_B4[image_B == i]
        keep_K = (boxes_K4[:, 2:] > boxes_K4[:, :2]).all(axis=1)
        findings_K = result["findings"].cpu().numpy().astype(np.int16)
        found.append(Found(row, boxes_K4[keep_K], findings_K[keep_K], result["scores"].float().cpu().numpy()[keep_K]))
    return found


def gather(found: list[Found]) -> list[Found]:
    """What all ranks found, in the order of rows, the same list on every rank. A row that two ranks saw counts once."""
    parts: list[list[Found] | None] = [found]
    if dist.is_initialized() and dist.get_world_size() > 1:
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, found)
    rows = {one.row: one for part in parts if part for one in part}
    return [rows[row] for row in sorted(rows)]


def annotated(found: list[Found], loader: DetectLoader) -> list[Found]:
    """Those of images that were annotated with boxes, also where none was drawn: what can be scored."""
    selection = loader.selection
    rows = {
        int(row) + start
        for shard_set, start in zip(selection.sets, selection.starts, strict=True)
        for row in shard_set.rows(None, has_boxes=True)
    }
    return [one for one in found if one.row in rows]


def to_predictions(found: list[Found], loader: DetectLoader, origin: Origin) -> Predictions:
    """The detections of a loader's images in the form of the predictions file."""
    lengths = [len(one.scores_K) for one in found]
    return Predictions(
        findings=tuple(loader.findings),
        keys=tuple(loader.selection.key_of(one.row) for one in found),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        finding_D=np.concatenate([np.zeros(0, np.int16), *(one.findings_K for one in found)]),
        score_D=np.concatenate([np.zeros(0, np.float32), *(one.scores_K for one in found)]),
        boxes_D4=np.concatenate([np.zeros((0, 4), np.float32), *(one.boxes_K4 for one in found)]),
        origin=origin,
    )


def validation_truth(data: DataConfig, split: str) -> Truth:
    """The annotated images of a split that `data.only` takes, of all shard sets together; some may have none.

    Raises ValueError where all have none, a set cannot be opened, or an image stands in two of them.
    """
    only = parse(data.only)
    sets = [ShardSet.open(place, cache=data.cache) for place in data.shards]
    truths = [truth_from_shards(one, split, only) for one in sets if len(one.rows(split, True, only))]
    if not truths:
        taken = f" that data.only = {data.only} takes" if data.only else ""
        raise ValueError(
            f"valid_split = {split!r}: no image in it{taken} was annotated with boxes "
            f"({', '.join(str(one.place) for one in sets)}); "
            f'give another split{", or another filter" if taken else ""}, or --valid_split "" for no validation'
        )
    return join(truths)


def map50(predictions: Predictions, truth: Truth) -> float:
    """COCO's AP at IoU .5, mean over the findings with a true box; 0..1. Raises ValueError where the predicted images
    are not exactly the truth's."""
    matches = detection.match(truth, align(truth, predictions))
    weights_1N = np.ones((1, len(truth.keys)), np.int32)
    ap_F = np.array([detection.average_precision(m, weights_1N, slice(0, 1))[0, 0] for m in matches.per_finding])
    return float(np.nanmean(ap_F)) if np.isfinite(ap_F).any() else 0.0
