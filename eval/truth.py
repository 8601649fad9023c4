"""The truth that predictions are scored against, in the predictions file's own layout.

Only images that somebody annotated with boxes take part: an image without a box is a normal one, an image that was
never annotated is not.

Shapes: N images, K true boxes of all images together (image i owns offsets[i]:offsets[i + 1]), 4 box corners.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.storage import name_of
from eval.predictions import Predictions, take
from sharding.filters import Filter
from sharding.index import ShardSet

_CORNERS = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Consensus boxes of N annotated images."""

    findings: tuple[str, ...]
    """Names; `finding_K` holds positions in this tuple."""
    keys: tuple[str, ...]
    """N image keys, each once, in index order."""
    sizes_N2: NDArray[np.int64]
    """int64 [N, 2]: height and width of the original image in pixels."""
    offsets: NDArray[np.int64]
    """int64 [N + 1], ascending from 0 to K."""
    finding_K: NDArray[np.int16]
    """int16 [K], 0..F - 1."""
    boxes_K4: NDArray[np.float32]
    """float32 [K, 4]: x_min, y_min, x_max, y_max in original image pixels."""
    group_N: NDArray[np.int64]
    """int64 [N], 0..G - 1: images of one patient share a number. Intervals resample these groups."""
    grouped_by: str = "image"
    """What a group is: "patient", "image", or "patient where known" (the others stand for themselves)."""
    split: str = ""
    """Split that the images are from."""
    shards: tuple[dict[str, str], ...] = ()
    """Per shard set: {directory: its folder's name, digest: sha256 of its manifest}."""

    @property
    def image_K(self) -> NDArray[np.int64]:
        """int64 [K]: the number of the image that each box belongs to."""
        return np.repeat(np.arange(len(self.keys), dtype=np.int64), np.diff(self.offsets))

    @property
    def num_boxes_NF(self) -> NDArray[np.int64]:
        """int64 [N, F]: true boxes per image and finding."""
        num_images, num_findings = len(self.keys), len(self.findings)
        cell = self.image_K * num_findings + self.finding_K
        return np.bincount(cell, minlength=num_images * num_findings).reshape(num_images, num_findings)


def truth_from_shards(shard_set: ShardSet, split: str, only: Filter | None = None) -> Truth:
    """The annotated images of `split` ("" for all) that the filter takes. Raises ValueError where there is none."""
    rows = shard_set.rows(split or None, True, only)
    name = name_of(shard_set.place)
    if not len(rows):
        taken = " that `only` takes" if only is not None and only.terms else ""
        raise ValueError(
            f"{shard_set.place}: split {split!r} has no image annotated with boxes{taken}; "
            f"its manifest counts {shard_set.manifest.get('counts')}"
        )
    table = shard_set.table(["key", "height", "width", "patient", "boxes"]).take(pa.array(rows)).combine_chunks()
    boxes = pa.concat_arrays(table.column("boxes").chunks)
    corners = boxes.flatten()
    lengths = boxes.value_lengths().to_numpy(zero_copy_only=False)
    keys = tuple(table.column("key").to_pylist())
    patients = table.column("patient").to_pylist()
    num_known = sum(patient is not None for patient in patients)
    return Truth(
        findings=tuple(shard_set.findings),
        keys=keys,
        sizes_N2=np.stack([table.column(side).to_numpy() for side in ("height", "width")], axis=1).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        finding_K=_field(corners, "finding").astype(np.int16),
        boxes_K4=np.stack([_field(corners, corner) for corner in _CORNERS], axis=1).astype(np.float32),
        group_N=_numbered([("image", k) if p is None else ("patient", p) for k, p in zip(keys, patients, strict=True)]),
        grouped_by="image" if not num_known else "patient" if num_known == len(keys) else "patient where known",
        split=split,
        shards=({"directory": name, "digest": shard_set.digest},),
    )


def join(truths: list[Truth]) -> Truth:
    """Several shard sets as one. Raises ValueError where their findings differ or a key stands in two of them."""
    first = truths[0]
    for other in truths[1:]:
        _same_findings(
            first.findings, other.findings, "shard set", other.shards[0]["directory"] if other.shards else ""
        )
    keys = tuple(key for truth in truths for key in truth.keys)
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"image {twice} stands in two of the shard sets; give each image once")
    starts = np.cumsum([0, *(truth.offsets[-1] for truth in truths)])
    groups = np.cumsum([0, *(truth.group_N.max() + 1 for truth in truths)])
    kinds = {truth.grouped_by for truth in truths}
    return Truth(
        findings=first.findings,
        keys=keys,
        sizes_N2=np.concatenate([truth.sizes_N2 for truth in truths]),
        offsets=np.concatenate([[0], *(t.offsets[1:] + start for t, start in zip(truths, starts, strict=False))]),
        finding_K=np.concatenate([truth.finding_K for truth in truths]),
        boxes_K4=np.concatenate([truth.boxes_K4 for truth in truths]),
        group_N=np.concatenate([t.group_N + start for t, start in zip(truths, groups, strict=False)]),
        grouped_by=kinds.pop() if len(kinds) == 1 else "patient where known",
        split=first.split,
        shards=tuple(shard for truth in truths for shard in truth.shards),
    )


def align(truth: Truth, predictions: Predictions, where: str = "predictions") -> Predictions:
    """`predictions` in the truth's image order.

    Raises ValueError, with the repair, where the findings differ in name or order, an image of the truth was not
    predicted, one was predicted that the truth does not hold, or a box lies wholly outside its image (which is
    what boxes in another scale look like).
    """
    _same_findings(truth.findings, predictions.findings, "predictions", where)
    position = {key: i for i, key in enumerate(predictions.keys)}
    missing = [key for key in truth.keys if key not in position]
    if missing:
        raise ValueError(
            f"{where}: {len(missing)} of {len(truth.keys)} images of split {truth.split!r} were not predicted: "
            f"{_few(missing)}; predict the whole split, an image without a box too"
        )
    extra = sorted(set(position).difference(truth.keys))
    if extra:
        raise ValueError(
            f"{where}: {len(extra)} predicted images are not among the annotated ones of split {truth.split!r}: "
            f"{_few(extra)}; score against the shard set and the split that were predicted"
        )
    ordered = take(predictions, np.array([position[key] for key in truth.keys], np.int64))
    height, width = truth.sizes_N2[ordered.image_D].T
    x_min, y_min, x_max, y_max = ordered.boxes_D4.T
    outside = (x_min >= width) | (y_min >= height) | (x_max <= 0) | (y_max <= 0)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"{where}: {int(outside.sum())} boxes lie wholly outside their image, first "
            f"{ordered.boxes_D4[first].tolist()} of image {ordered.keys[ordered.image_D[first]]} "
            f"({width[first]} px wide, {height[first]} px high); boxes are wanted as "
            "x_min, y_min, x_max, y_max in the original image's pixels"
        )
    return ordered


def _same_findings(wanted: tuple[str, ...], given: tuple[str, ...], what: str, where: str) -> None:
    if wanted != given:
        at = next(
            (i for i, (a, b) in enumerate(zip(wanted, given, strict=False)) if a != b), min(len(wanted), len(given))
        )
        pair = [names[at] if at < len(names) else "nothing" for names in (wanted, given)]
        raise ValueError(
            f"{where}: its findings are not the truth's: at position {at} the truth has {pair[0]!r}, "
            f"the {what} {pair[1]!r}; findings are matched by position, so names and order must be equal"
        )


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _field(boxes: Any, name: str) -> NDArray[Any]:
    values: NDArray[Any] = boxes.field(name).to_numpy(zero_copy_only=False)
    return values


def _numbered(names: list[tuple[str, str]]) -> NDArray[np.int64]:
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
