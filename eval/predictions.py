"""The predictions file: what a detector found, one row per image, in a form that anybody can read back.

`predictions.parquet` has the columns

    key           string                          the image's key in its shard set
    findings      list<int16>                     position in the findings tuple, one per box
    scores        list<float32>                   0..1, one per box
    boxes         list<fixed_size_list<float32>>  x_min, y_min, x_max, y_max in original image pixels
    image_scores  list<float32>, optional         0..1, one per finding: the image-level score of a classifier

and, under the schema metadata key `cxr`, a JSON object: schema_version, findings (names, in order), split, shards
([{directory, digest}]), checkpoint ({run, step, digest}), config and code_version.

Shapes: N images, D boxes of all images together (image i owns offsets[i]:offsets[i + 1]), F findings, 4 box corners.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.files import write_atomic

SCHEMA_VERSION = 1
METADATA_KEY = b"cxr"
_BOX = pa.list_(pa.float32(), 4)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where predictions came from; copied into metrics.json, so that a number can be traced."""

    split: str = ""
    """Split of the shard sets that was predicted."""
    shards: tuple[dict[str, str], ...] = ()
    """Per shard set: {directory: its folder's name, digest: sha256 of its manifest}."""
    checkpoint: dict[str, Any] = field(default_factory=dict)
    """{run, step, digest} of the checkpoint, or {} for a predictor without one."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved config of the prediction."""
    code_version: str = ""
    """Commit or package version that predicted."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a predictor found on N images: flat arrays over all D boxes, cut into images by `offsets`."""

    findings: tuple[str, ...]
    """Names; `finding_D` holds positions in this tuple."""
    keys: tuple[str, ...]
    """N image keys, each once."""
    offsets: NDArray[np.int64]
    """int64 [N + 1], ascending from 0 to D."""
    finding_D: NDArray[np.int16]
    """int16 [D], 0..F - 1."""
    score_D: NDArray[np.float32]
    """float32 [D], 0..1."""
    boxes_D4: NDArray[np.float32]
    """float32 [D, 4]: x_min, y_min, x_max, y_max in original image pixels."""
    image_scores_NF: NDArray[np.float32] | None = None
    """float32 [N, F], 0..1, where the predictor also scores whole images; None: take the highest box."""
    origin: Origin = field(default_factory=Origin)

    @property
    def image_D(self) -> NDArray[np.int64]:
        """int64 [D]: the number of the image that each box belongs to."""
        return np.repeat(np.arange(len(self.keys), dtype=np.int64), np.diff(self.offsets))


def write(path: Path, predictions: Predictions) -> None:
    """Write `predictions` to `path`, whole or not at all. Raises ValueError where they do not hold together."""
    check(predictions, str(path))
    buffer = pa.BufferOutputStream()
    pq.write_table(_to_table(predictions), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue().to_pybytes())


def read(path: Path) -> Predictions:
    """Read `path` and check it. Raises ValueError naming the file, the image and the field of what is wrong."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such predictions file; `cxr predict` writes one")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file, or a damaged one ({error}); predict again") from error
    predictions = _from_table(table, str(path))
    check(predictions, str(path))
    return predictions


def take(predictions: Predictions, order: NDArray[np.int64]) -> Predictions:
    """The images `order` (int64 [M], positions, repeats allowed) in that order, with their boxes."""
    counts = np.diff(predictions.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    boxes = np.repeat(predictions.offsets[order] - offsets[:-1], counts) + np.arange(offsets[-1])
    scores = predictions.image_scores_NF
    return Predictions(
        findings=predictions.findings,
        keys=tuple(predictions.keys[i] for i in order),
        offsets=offsets,
        finding_D=predictions.finding_D[boxes],
        score_D=predictions.score_D[boxes],
        boxes_D4=predictions.boxes_D4[boxes],
        image_scores_NF=None if scores is None else scores[order],
        origin=predictions.origin,
    )


def check(predictions: Predictions, where: str) -> None:
    """Raise ValueError, naming `where`, the image key and the field, unless every value is one that can be scored."""
    p = predictions
    num_images, num_boxes, num_findings = len(p.keys), len(p.finding_D), len(p.findings)
    if p.offsets.shape != (num_images + 1,) or p.offsets[0] != 0 or p.offsets[-1] != num_boxes:
        raise ValueError(f"{where}: offsets do not cut {num_boxes} boxes into {num_images} images")
    if p.score_D.shape != (num_boxes,) or p.boxes_D4.shape != (num_boxes, 4):
        raise ValueError(
            f"{where}: {num_boxes} findings, {len(p.score_D)} scores and {len(p.boxes_D4)} boxes; each box needs one"
        )
    if len(set(p.keys)) != num_images:
        seen: set[str] = set()
        twice = next(key for key in p.keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{where}: key: image {twice} stands twice; every image is predicted once")

    box = p.boxes_D4
    finite: Any = np.isfinite(box).all(axis=1)
    _refuse(p, where, "findings", (p.finding_D < 0) | (p.finding_D >= num_findings), f"is not 0..{num_findings - 1}")
    _refuse(p, where, "scores", ~((p.score_D >= 0) & (p.score_D <= 1)), "is not a number from 0 to 1")
    _refuse(p, where, "boxes", ~finite, "is not finite")
    _refuse(
        p, where, "boxes", (box[:, 2] <= box[:, 0]) | (box[:, 3] <= box[:, 1]), "has no area (x_max > x_min wanted)"
    )

    if p.image_scores_NF is not None:
        scores = p.image_scores_NF
        if scores.shape != (num_images, num_findings):
            raise ValueError(f"{where}: image_scores: one score per finding ({num_findings}) is needed for every image")
        bad = ~((scores >= 0) & (scores <= 1)).all(axis=1)
        if bad.any():
            image = int(np.argmax(bad))
            raise ValueError(
                f"{where}: image_scores of image {p.keys[image]}: {scores[image].tolist()} are not numbers from 0 to 1"
            )


def _refuse(p: Predictions, where: str, name: str, bad_D: Any, why: str) -> None:
    if bad_D.any():
        first = int(np.argmax(bad_D))
        columns: dict[str, NDArray[Any]] = {"findings": p.finding_D, "scores": p.score_D, "boxes": p.boxes_D4}
        value = columns[name][first].tolist()
        key = p.keys[int(np.searchsorted(p.offsets, first, side="right")) - 1]
        more = f" (and {int(bad_D.sum()) - 1} more)" if bad_D.sum() > 1 else ""
        raise ValueError(f"{where}: {name} of image {key}: {value} {why}{more}")


def _to_table(p: Predictions) -> pa.Table:
    offsets = pa.array(p.offsets, pa.int32())
    corners = pa.FixedSizeListArray.from_arrays(pa.array(p.boxes_D4.reshape(-1), pa.float32()), type=_BOX)
    columns = {
        "key": pa.array(p.keys, pa.string()),
        "findings": pa.ListArray.from_arrays(offsets, pa.array(p.finding_D, pa.int16())),
        "scores": pa.ListArray.from_arrays(offsets, pa.array(p.score_D, pa.float32())),
        "boxes": pa.ListArray.from_arrays(offsets, corners),
    }
    if p.image_scores_NF is not None:
        starts = pa.array(np.arange(len(p.keys) + 1) * len(p.findings), pa.int32())
        flat = pa.array(p.image_scores_NF.reshape(-1), pa.float32())
        columns["image_scores"] = pa.ListArray.from_arrays(starts, flat)
    header = {
        "schema_version": SCHEMA_VERSION,
        "findings": list(p.findings),
        "split": p.origin.split,
        "shards": list(p.origin.shards),
        "checkpoint": p.origin.checkpoint,
        "config": p.origin.config,
        "code_version": p.origin.code_version,
    }
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(header, sort_keys=True).encode()})


def _from_table(table: pa.Table, where: str) -> Predictions:
    metadata = table.schema.metadata or {}
    if METADATA_KEY not in metadata:
        raise ValueError(f"{where}: not a predictions file: its schema metadata has no `cxr` entry")
    header = json.loads(metadata[METADATA_KEY])
    if header.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: schema_version {header.get('schema_version')!r}; this version reads {SCHEMA_VERSION}: "
            "predict again"
        )
    missing = [name for name in ("key", "findings", "scores", "boxes") if name not in table.column_names]
    if missing:
        raise ValueError(f"{where}: column {', '.join(missing)} is missing")
    table = table.combine_chunks()
    keys = table.column("key").to_pylist()
    if None in keys:
        raise ValueError(f"{where}: key: row {keys.index(None)} has none")

    counts = {name: _lengths(table, name, keys, where) for name in ("findings", "scores", "boxes")}
    for name in ("scores", "boxes"):
        uneven = counts[name] != counts["findings"]
        if uneven.any():
            image = int(np.argmax(uneven))
            raise ValueError(
                f"{where}: {name} of image {keys[image]}: {counts[name][image]}, findings {counts['findings'][image]}"
            )
    corners = _flat(table, "boxes").cast(_BOX)
    image_scores = None
    if "image_scores" in table.column_names:
        if (_lengths(table, "image_scores", keys, where) != len(header["findings"])).any():
            raise ValueError(f"{where}: image_scores: every image needs {len(header['findings'])}, one per finding")
        image_scores = _numpy(_flat(table, "image_scores"), np.float32).reshape(len(keys), -1)
    return Predictions(
        findings=tuple(header["findings"]),
        keys=tuple(keys),
        offsets=np.concatenate([[0], np.cumsum(counts["findings"])]).astype(np.int64),
        finding_D=_numpy(_flat(table, "findings"), np.int16),
        score_D=_numpy(_flat(table, "scores"), np.float32),
        boxes_D4=_numpy(corners.flatten(), np.float32).reshape(-1, 4),
        image_scores_NF=image_scores,
        origin=Origin(
            header["split"], tuple(header["shards"]), header["checkpoint"], header["config"], header["code_version"]
        ),
    )


def _flat(table: pa.Table, name: str) -> Any:
    column = table.column(name)
    chunks = [chunk.flatten() for chunk in column.chunks]
    return pa.concat_arrays(chunks) if chunks else pa.array([], column.type.value_type)


def _lengths(table: pa.Table, name: str, keys: list[str], where: str) -> NDArray[np.int64]:
    column = table.column(name)
    if column.null_count:
        image = column.is_null().to_pylist().index(True)
        raise ValueError(f"{where}: {name} of image {keys[image]} is null; an image without a box has an empty list")
    lengths = [chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([*lengths, np.zeros(0, np.int64)]).astype(np.int64)


def _numpy(array: Any, dtype: Any) -> Any:
    """NumPy copy of a flat Arrow array; a null becomes NaN (or -1), so that `check` names its image."""
    if array.null_count:
        array = array.fill_null(float("nan") if np.issubdtype(dtype, np.floating) else -1)
    return array.to_numpy(zero_copy_only=False).astype(dtype)
