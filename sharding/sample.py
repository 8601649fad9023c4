"""One image of a cohort: what the rest of the system may know about it, and how a reader hands it over.

Shapes: H, W rows and columns of an image.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Literal

from cluster.storage import Place, Stat, spelled

PixelKind = Literal["dicom", "image"]

SPLITS: tuple[str, ...] = ("train", "valid", "test", "")
"""The splits a sample may be in; "" is none."""

VIEW_POSITIONS: tuple[str, ...] = ("PA", "AP", "LATERAL", "LL", "RL", "LLO", "RLO", "LLD", "RLD")
"""The only view positions that are passed on; free text could hold anything."""

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""A key holds no dot, since WebDataset ends the key of a member at its first dot, and no slash; a tar's header has room
for a name of 100."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle around one finding, in pixels of the original image, borders as continuous coordinates."""

    finding: int
    """Position of the finding in the shard set's `findings`."""
    x_min: float
    """Left border, 0 to width."""
    y_min: float
    """Upper border, 0 to height."""
    x_max: float
    """Right border, greater than x_min."""
    y_max: float
    """Lower border, greater than y_min."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything about one image but its pixels. Nothing else leaves a source file."""

    key: str
    """Image id, unique in its shard set."""
    source: str
    """Cohort it is from, such as "nih" or "vindr"."""
    split: str
    """ "train", "valid", "test" or "" (none)."""
    height: int
    """Rows of the original image."""
    width: int
    """Columns of the original image."""
    findings: tuple[int, ...] | None
    """Findings of the whole image, ascending; () is a healthy image, None an image nobody has read."""
    boxes: tuple[Box, ...] | None
    """Boxes; () where annotators found nothing to box, None where nobody drew boxes on this image."""
    patient: str | None
    """Pseudonym of the patient, None where the source names none."""
    sex: str | None
    """ "F" or "M"."""
    age_band: str | None
    """Ten years, such as "40-49"; "90+" above."""
    view_position: str | None
    """Such as "PA", "AP" or "LATERAL"."""
    scanner: str | None
    """Maker and model of the machine, where it may be known."""
    fold: int | None = None
    """Fold, 0 and up, where train and valid were dealt into folds."""
    subset: float | None = None
    """Smallest percentage of train that holds it, where nested subsets were asked for."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """What a reader gives for one image: where its pixels are, and what the source's tables say about it.

    Plain data, so that it travels to a worker process; `sharding.writer` reads its pixels there. Height and
    width come from the pixels, never from a table.
    """

    path: str
    """File or object (URL) that holds the pixels."""
    kind: PixelKind
    """How to read it: "dicom", or "image" (PNG, JPEG)."""
    name: str
    """Name of the file inside its source, for people: it goes to the quarantine list, never into a shard."""
    key: str
    """As in Sample."""
    source: str
    """As in Sample."""
    split: str
    """As in Sample."""
    findings: tuple[int, ...] | None
    """As in Sample."""
    boxes: tuple[Box, ...] | None
    """As in Sample."""
    patient: str | None = None
    """As in Sample: already a pseudonym."""
    sex: str | None = None
    """As in Sample."""
    age_band: str | None = None
    """As in Sample."""
    view_position: str | None = None
    """As in Sample."""
    size_hint: tuple[int, int] | None = None
    """(height, width) where the source's tables state it: another size in the file itself is an error."""
    fold: int | None = None
    """As in Sample."""
    subset: float | None = None
    """As in Sample."""
    span: tuple[int, int] | None = None
    """(offset, bytes) of the file inside `path` where that is a tar or tar.gz, counted after decompression."""
    stat: Stat | None = None
    """Size and time where the reader knows them (objects, members of archives); else they are looked up."""

    def sample(self, height: int, width: int) -> Sample:
        """The sample of this image, whose pixels turned out to be `height` by `width`."""
        return Sample(
            key=self.key,
            source=self.source,
            split=self.split,
            height=height,
            width=width,
            findings=self.findings,
            boxes=self.boxes,
            patient=self.patient,
            sex=self.sex,
            age_band=self.age_band,
            view_position=self.view_position,
            scanner=None,
            fold=self.fold,
            subset=self.subset,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file or row that cannot become a sample, for the quarantine list."""

    name: str
    """File or row inside its source."""
    reason: str
    """Why, for people."""


NOT_UTF8 = "its name is no Unicode text: rename it"
"""Why a file is refused whose name holds other bytes, for tables and archives cannot."""


def unlisted(root: Place, error: OSError) -> Refusal:
    """The refusal of a folder below `root` that cannot be listed."""
    name = os.path.relpath(error.filename or root, root)
    return Refusal(spelled(name), f"the folder cannot be listed: {error.strerror}; nothing in it was read")


@dataclass(frozen=True, slots=True)
class Cohort:
    """What a reader gives: every image of a source, in a fixed order, and what it had to leave out."""

    findings: tuple[str, ...]
    """Names of the findings that the images refer to by position."""
    images: tuple[SourceImage, ...]
    """One per image, keys unique."""
    refusals: tuple[Refusal, ...]
    """Rows without a file, files without a row, duplicates, wrong boxes."""
    tables: tuple[Place, ...]
    """The csv files and lists that were read; their digests go into the manifest."""


def to_json(sample: Sample, findings: tuple[str, ...]) -> dict[str, Any]:
    """The `.json` member of a sample: findings by name, so that it can be read without the manifest."""
    return {
        "key": sample.key,
        "source": sample.source,
        "split": sample.split,
        "height": sample.height,
        "width": sample.width,
        "findings": None if sample.findings is None else [findings[number] for number in sample.findings],
        "boxes": None
        if sample.boxes is None
        else [
            {"finding": findings[b.finding], "x_min": b.x_min, "y_min": b.y_min, "x_max": b.x_max, "y_max": b.y_max}
            for b in sample.boxes
        ],
        "patient": sample.patient,
        "sex": sample.sex,
        "age_band": sample.age_band,
        "view_position": sample.view_position,
        "scanner": sample.scanner,
        "fold": sample.fold,
        "subset": sample.subset,
    }


def check_boxes(boxes: tuple[Box, ...] | None, height: int, width: int) -> str | None:
    """What is wrong with the boxes of an image of this size, or None. NaN, empty, swapped and outside are wrong."""
    for box in boxes or ():
        if not (0 <= box.x_min < box.x_max <= width and 0 <= box.y_min < box.y_max <= height):
            return (
                f"box {box.x_min:g} {box.y_min:g} {box.x_max:g} {box.y_max:g} (x_min y_min x_max y_max) is not a "
                f"rectangle inside an image {width} wide and {height} high"
            )
    return None


def age_band(years: float | None) -> str | None:
    """Ten-year band of an age: 47 -> "40-49", 90 and above -> "90+", None where unknown or not 0 to 130."""
    if years is None or not 0 <= years <= 130:
        return None
    low = int(years) // 10 * 10
    return "90+" if low >= 90 else f"{low}-{low + 9}"
