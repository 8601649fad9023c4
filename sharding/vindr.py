"""Reader of VinDr-CXR in the form of its Kaggle competition: `train/<image_id>.dicom` and `train.csv`.

The readers' boxes become consensus boxes (sharding.fusion); a finding of the image is one with a consensus box, so an
image in which nobody drew a box has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sharding.dicom import read_size
from sharding.findings import VINDR_FINDINGS, VINDR_SPELLINGS, finding_number, is_no_finding
from sharding.fusion import fuse_readers
from sharding.options import OutputConfig
from sharding.pixels import UnreadableImage
from sharding.sample import KEY_PATTERN, Box, Cohort, Refusal, SourceImage, check_boxes
from sharding.splits import REFERENCE_SHARES, hash_split, reference_split
from sharding.tables import Table, find_table, read_table

ANNOTATIONS, SIZES = "train.csv", "train_meta.csv"
COLUMNS = ("image_id", "class_name", "rad_id", "x_min", "y_min", "x_max", "y_max")
ENDINGS = (".dicom", ".dcm")


@dataclass(frozen=True, slots=True, kw_only=True)
class VindrConfig(OutputConfig):
    """VinDr-CXR as on Kaggle: root/train/<image_id>.dicom (or .dcm, or without train/), root/train.csv, plain or .gz,
    and if there is one root/train_meta.csv with the images' sizes."""

    name: str = "vindr"
    """Start of the tars' names, and the samples' `source`."""
    split: Literal["reference", "hash", "none"] = "reference"
    """reference: the BarlowTwins-CXR split of images with boxes (.7 / .15 / .15), others by a hash of their id to the
    same shares; hash: all by a hash; none: everything is train. The csv file names no patient, so all are by image."""
    keep_normals: bool = True
    """Keep images in which nobody drew a box; without them there is no specificity. The reference drops them."""


@dataclass(slots=True)
class Readings:
    """What all readers say about one image."""

    boxes: list[Box] = field(default_factory=list)
    """All readers' boxes in the order of the csv file."""
    wrong: str = ""
    """What is wrong with a row of it, or ""."""


def read_vindr(config: VindrConfig, secret: bytes) -> Cohort:
    """Every image of train.csv in order of first appearance, with consensus boxes; keys are the published ids.

    Raises ValueError where root is another edition, another data set or laid out in another way.
    """
    del secret  # the csv file names nobody
    root = config.root.absolute()
    annotations = _find_annotations(root)
    readings = read_readings(read_table(annotations, COLUMNS))
    size_file = find_table(root, [SIZES])
    sizes = {} if size_file is None else read_sizes(read_table(size_file, ["image_id", "dim0", "dim1"]))
    paths, refusals = _find_images(root)
    for key in sorted(paths.keys() - readings.keys()):
        refusals.append(Refusal(paths[key].name, f"{annotations.name} has no row for it"))
    splits = assign_splits(readings, config.split)
    images: list[SourceImage] = []
    for key, reading in readings.items():
        if not reading.boxes and not reading.wrong and not config.keep_normals:
            continue
        try:
            images.append(_image(key, reading, paths.get(key), sizes.get(key), splits[key], config, root))
        except (UnreadableImage, FileNotFoundError) as error:
            refusals.append(Refusal(paths[key].name if key in paths else key, str(error)))
    tables = [annotations, *([] if size_file is None else [size_file])]
    return Cohort(VINDR_FINDINGS, tuple(images), tuple(refusals), tuple(tables))


def read_readings(table: Table) -> dict[str, Readings]:
    """train.csv by image, in order of first appearance."""
    readings: dict[str, Readings] = {}
    numbers = table.column("class_id")
    corners = zip(*(table.column(name) for name in ("x_min", "y_min", "x_max", "y_max")), strict=True)
    for key, name, number, texts in zip(
        table.column("image_id"), table.column("class_name"), numbers, corners, strict=True
    ):
        reading = readings.setdefault(key, Readings())
        if not KEY_PATTERN.fullmatch(key):
            reading.wrong = "its image_id may hold letters, digits, - and _ only"
        if is_no_finding(name):
            continue
        try:
            finding = finding_number(name, VINDR_FINDINGS, VINDR_SPELLINGS)
            box = Box(finding, *(float(text) for text in texts))
        except ValueError as error:
            reading.wrong = f"a row of it is wrong: {error}"
            continue
        if number and number != str(finding):
            reading.wrong = f"a row of it calls {name!r} class {number}; it is {finding}"
        wrong = check_boxes((box,), 10**9, 10**9)
        if wrong is not None or not math.isfinite(box.x_max + box.y_max):
            reading.wrong = wrong or "a box of it is not finite"
        reading.boxes.append(box)
    return readings


def read_sizes(table: Table) -> dict[str, tuple[int, int]]:
    """train_meta.csv: (height, width) by image; its dim0 is the height."""
    rows = zip(table.column("image_id"), table.column("dim0"), table.column("dim1"), strict=True)
    try:
        return {key: (int(float(height)), int(float(width))) for key, height, width in rows}
    except ValueError as error:
        raise ValueError(f"{table.path}: dim0 and dim1 must be pixels: {error}") from None


def assign_splits(readings: Mapping[str, Readings], split: str) -> dict[str, str]:
    """Split of every image, by annotation alone, so that it does not change with the files that are there."""
    if split == "none":
        return dict.fromkeys(readings, "train")
    splits = {key: hash_split(key, *REFERENCE_SHARES) for key in readings}
    if split == "reference":
        splits |= reference_split([key for key, reading in readings.items() if reading.boxes])
    return splits


def _image(
    key: str,
    reading: Readings,
    path: Path | None,
    size: tuple[int, int] | None,
    split: str,
    config: VindrConfig,
    root: Path,
) -> SourceImage:
    """Raises UnreadableImage or FileNotFoundError with the reason why there is none."""
    if reading.wrong:
        raise UnreadableImage(reading.wrong)
    if path is None:
        raise FileNotFoundError(f"{ANNOTATIONS} names it, but there is no such file in train/ or root")
    boxes: tuple[Box, ...] = ()
    if reading.boxes:
        height, width = size or read_size(path)
        wrong = check_boxes(tuple(reading.boxes), height, width)
        if wrong is not None:
            raise UnreadableImage(wrong)
        boxes = fuse_readers(reading.boxes, height, width)
    return SourceImage(
        path=str(path),
        kind="dicom",
        name=path.relative_to(root).as_posix(),
        key=key,
        source=config.name,
        split=split,
        findings=tuple(sorted({box.finding for box in boxes})),
        boxes=boxes,
        size_hint=size,
    )


def _find_annotations(root: Path) -> Path:
    found = find_table(root, [ANNOTATIONS])
    if found is not None:
        return found
    for folder in (root / "annotations", root):
        other = find_table(folder, ["annotations_train.csv", "image_labels_train.csv"])
        if other is not None:
            columns = read_table(other, []).columns
            pediatric = "rad_ID" in columns or "Bronchitis" in columns
            what = "VinDr-PCXR, which is children's" if pediatric else "the PhysioNet edition of VinDr-CXR"
            raise ValueError(
                f"root: {root} is {what} ({other.name}); this reads the Kaggle edition: train/<image_id>.dicom and "
                f"{ANNOTATIONS} with {', '.join(COLUMNS)}. `cxr shard folder --csv` reads other forms"
            )
    raise ValueError(
        f"root: {root} lacks {ANNOTATIONS} (plain or .gz, with {', '.join(COLUMNS)}) of VinDr-CXR; "
        "for DICOM files without it: cxr shard folder --root ... --out ..."
    )


def _find_images(root: Path) -> tuple[dict[str, Path], list[Refusal]]:
    paths: dict[str, Path] = {}
    refusals: list[Refusal] = []
    for folder in (root / "train", root):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
                continue
            if path.stem in paths:
                refusals.append(Refusal(path.relative_to(root).as_posix(), f"{paths[path.stem].name} is it too"))
            else:
                paths[path.stem] = path
    if not paths:
        raise ValueError(f"root: {root} holds no train/*.dicom, train/*.dcm, *.dicom or *.dcm")
    return paths, refusals
