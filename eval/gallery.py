"""Sample images with their boxes and heat maps, kept as a folder that a report is built from.

    gallery/gallery.json     {schema_version: 1, items: [{key, caption, image, truth, predictions, heat, heat_caption}]}
    gallery/0000.png         8-bit gray, what `image` names
    gallery/0000.heat.png    8-bit gray, 255 for 1.0, what `heat` names (null: no heat map)

`truth` and `predictions` are lists of {finding: name, box: [x_min, y_min, x_max, y_max], score: 0..1 or null}, boxes in
pixels of the stored picture. `gallery.json` is written last: it is the commit point.

Shapes: H x W a picture in pixels.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cluster.files import write_atomic
from eval.predictions import Predictions
from eval.truth import Truth

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """A box on a picture."""

    finding: str
    """Its name."""
    box: tuple[float, float, float, float]
    """x_min, y_min, x_max, y_max in pixels of the picture."""
    score: float | None = None
    """0..1 for a prediction, None for the truth."""


@dataclass(frozen=True, slots=True, eq=False)
class GalleryItem:
    """One picture of the gallery."""

    key: str
    """Image key."""
    image_HW: NDArray[np.uint8]
    """Gray picture."""
    truth: tuple[Mark, ...] = ()
    predictions: tuple[Mark, ...] = ()
    caption: str = ""
    """Shown below the picture, beside its key."""
    heat_HW: NDArray[np.float32] | None = None
    """Heat map of the same size, 0..1."""
    heat_caption: str = ""
    """What the heat map is: method, layer, and the detection that it explains."""


def item(
    truth: Truth,
    predictions: Predictions,
    number: int,
    image_HW: NDArray[np.uint8],
    *,
    min_score: float = 0.3,
    max_predictions: int = 6,
    max_side_px: int = 448,
    heat_HW: NDArray[np.float32] | None = None,
    caption: str = "",
    heat_caption: str = "",
) -> GalleryItem:
    """Picture number `number` of aligned truth and predictions, from its pixels at any size, shrunk to `max_side_px`.

    Shows every true box, and the best predicted boxes from `min_score` on; where none gets there, the best one.
    """
    height, width = image_HW.shape
    shrink = min(1.0, max_side_px / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    scale_4 = np.array(size * 2) / truth.sizes_N2[number][[1, 0, 1, 0]]

    mine = slice(truth.offsets[number], truth.offsets[number + 1])
    true = [
        Mark(truth.findings[f], _corners(box * scale_4))
        for f, box in zip(truth.finding_K[mine], truth.boxes_K4[mine], strict=True)
    ]
    mine = slice(predictions.offsets[number], predictions.offsets[number + 1])
    rows = zip(predictions.finding_D[mine], predictions.boxes_D4[mine], predictions.score_D[mine].tolist(), strict=True)
    found = [Mark(predictions.findings[f], _corners(box * scale_4), score) for f, box, score in rows]
    found.sort(key=lambda mark: -(mark.score or 0.0))
    num_shown = max(1, sum((mark.score or 0.0) >= min_score for mark in found))
    return GalleryItem(
        key=truth.keys[number],
        image_HW=np.asarray(Image.fromarray(image_HW).resize(size, Image.Resampling.LANCZOS)),
        truth=tuple(true),
        predictions=tuple(found[: min(num_shown, max_predictions)]),
        caption=caption,
        heat_HW=None if heat_HW is None else _resized(heat_HW, size),
        heat_caption=heat_caption,
    )


def save_gallery(folder: Path, items: list[GalleryItem]) -> None:
    """Write `items` below `folder` (made where absent); an earlier gallery there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, shown in enumerate(items):
        name = f"{number:04d}"
        Image.fromarray(shown.image_HW).save(folder / f"{name}.png")
        if shown.heat_HW is not None:
            Image.fromarray(np.round(shown.heat_HW * 255).astype(np.uint8)).save(folder / f"{name}.heat.png")
        entries.append(
            {
                "key": shown.key,
                "caption": shown.caption,
                "image": f"{name}.png",
                "truth": [asdict(mark) for mark in shown.truth],
                "predictions": [asdict(mark) for mark in shown.predictions],
                "heat": None if shown.heat_HW is None else f"{name}.heat.png",
                "heat_caption": shown.heat_caption,
            }
        )
    content = {"schema_version": SCHEMA_VERSION, "items": entries}
    write_atomic(folder / "gallery.json", json.dumps(content, indent=1, allow_nan=False) + "\n")


def load_gallery(folder: Path) -> tuple[GalleryItem, ...]:
    """The gallery below `folder`, () where there is none. Raises ValueError naming what is damaged."""
    path = folder / "gallery.json"
    if not path.is_file():
        return ()
    try:
        content = json.loads(path.read_text())
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {content['schema_version']}, this version reads {SCHEMA_VERSION}")
        return tuple(
            GalleryItem(
                key=entry["key"],
                image_HW=_read_gray(folder / entry["image"]),
                truth=_marks(entry["truth"]),
                predictions=_marks(entry["predictions"]),
                caption=entry["caption"],
                heat_HW=_read_heat(folder / entry["heat"]) if entry["heat"] else None,
                heat_caption=entry["heat_caption"],
            )
            for entry in content["items"]
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path}: not a whole gallery ({type(error).__name__}: {error}); make it again") from error


def _read_gray(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _read_heat(path: Path) -> NDArray[np.float32]:
    heat_HW: NDArray[np.float32] = _read_gray(path).astype(np.float32) / np.float32(255)
    return heat_HW


def _marks(entries: list[dict[str, object]]) -> tuple[Mark, ...]:
    return tuple(Mark(str(e["finding"]), _corners(np.array(e["box"])), e["score"]) for e in entries)  # type: ignore[arg-type]


def _corners(box_4: NDArray[np.floating]) -> tuple[float, float, float, float]:
    x_min, y_min, x_max, y_max = (round(float(value), 2) for value in box_4)
    return x_min, y_min, x_max, y_max


def _resized(heat_HW: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    resized = np.asarray(Image.fromarray(heat_HW.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    inside: NDArray[np.float32] = np.clip(resized, 0, 1).astype(np.float32)
    return inside
