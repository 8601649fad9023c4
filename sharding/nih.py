"""Reader of NIH ChestX-ray14 in the layouts people have: `images_001/images/*.png`, `images/*.png` or flat."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sharding.findings import NIH_FINDINGS, NIH_SPELLINGS, finding_number, is_no_finding
from sharding.image import read_size
from sharding.options import OutputConfig, check_share
from sharding.pixels import UnreadableImage
from sharding.privacy import pseudonym
from sharding.sample import Box, Cohort, Refusal, SourceImage, age_band, unlisted
from sharding.splits import hash_split, listed_split
from sharding.tables import Table, find_table, read_list, read_table

LABELS = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
TRAIN_VALID, TEST = "train_val_list.txt", "test_list.txt"

BOXES_SIDE_PX = 1024
"""The box list is in pixels of the published 1024 x 1024 images; on smaller copies it is scaled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NihConfig(OutputConfig):
    """NIH ChestX-ray14: PNG files anywhere below root, Data_Entry_2017(_v2020).csv, the lists and BBox_List_2017.csv in
    root, plain or .gz."""

    name: str = "nih"
    """Start of the tars' names, and the samples' `source`."""
    split: Literal["official", "patient", "none"] = "official"
    """official: test_list.txt is test, train_val_list.txt is train and valid; patient: all by a hash of the patient;
    none: everything is train."""
    valid_share: float = 0.1
    """Share (0 to 1) of the patients that become valid: of train_val_list.txt's, or of all with `patient`."""
    test_share: float = 0.2
    """Share (0 to 1) of the patients that become test with `patient`; `official` does not look at it."""

    def __post_init__(self) -> None:
        # super() does not work here: slots make a second class.
        OutputConfig.__post_init__(self)
        check_share("valid_share", self.valid_share)
        check_share("test_share", self.test_share, 1.0 - self.valid_share + 1e-12)


@dataclass(frozen=True, slots=True)
class NihRow:
    """A row of the label file."""

    findings: tuple[int, ...]
    """Ascending; () is "No Finding"."""
    patient: str
    """Patient ID as written."""
    sex: str | None
    """ "F" or "M"."""
    age_band: str | None
    """Ten years."""
    view_position: str | None
    """ "PA" or "AP"."""


def read_nih(config: NihConfig, secret: bytes) -> Cohort:
    """Every image of the label file, sorted by name, patients as pseudonyms, keys as published (`00000001_000`).

    Only images on the box list have boxes; for the others nobody knows. Raises ValueError where root is laid out in
    another way, with what was expected.
    """
    root = config.root.absolute()
    label_file = find_table(root, LABELS)
    if label_file is None:
        raise ValueError(f"root: {config.root} lacks {' or '.join(LABELS)} (plain or .gz) of NIH ChestX-ray14")
    paths, refusals = _find_images(root)
    rows = read_labels(read_table(label_file, ["Image Index", "Finding Labels", "Patient ID"]), refusals)
    box_file = find_table(root, [BOXES])
    boxes, wrong = ({}, {}) if box_file is None else read_boxes(read_table(box_file, ["Image Index", "Finding Label"]))
    lists = _lists(root, config) if config.split == "official" else {}
    members = {name: frozenset(read_list(path)) for name, path in lists.items()}
    for name in sorted(rows.keys() - paths.keys()):
        refusals.append(Refusal(name, f"{label_file.name} names it, but there is no such file below root"))
    for name in sorted(paths.keys() - rows.keys()):
        refusals.append(Refusal(name, f"{label_file.name} has no usable row for it"))
    for name in sorted((boxes.keys() | wrong.keys()) - rows.keys()):
        refusals.append(Refusal(name, f"{BOXES} names it, {label_file.name} does not"))
    images: list[SourceImage] = []
    for name in sorted(rows.keys() & paths.keys()):
        row, path = rows[name], paths[name]
        if name in wrong:
            refusals.append(Refusal(name, wrong[name]))
            continue
        match config.split:
            case "official":
                split = listed_split(name, row.patient, members[TRAIN_VALID], members[TEST], config.valid_share)
            case "patient":
                split = hash_split(row.patient, config.valid_share, config.test_share)
            case "none":
                split = "train"
        try:
            placed = None if name not in boxes else _scaled(boxes[name], path)
        except UnreadableImage as error:
            refusals.append(Refusal(name, str(error)))
            continue
        images.append(
            SourceImage(
                path=str(path),
                kind="image",
                name=path.relative_to(root).as_posix(),
                key=path.stem,
                source=config.name,
                split=split,
                findings=row.findings,
                boxes=placed,
                patient=pseudonym(secret, "patient", row.patient),
                sex=row.sex,
                age_band=row.age_band,
                view_position=row.view_position,
            )
        )
    tables = [label_file, *([] if box_file is None else [box_file]), *lists.values()]
    return Cohort(NIH_FINDINGS, tuple(images), tuple(refusals), tuple(tables))


def read_labels(table: Table, refusals: list[Refusal]) -> dict[str, NihRow]:
    """Rows of Data_Entry_2017.csv or its v2020 by image; wrong and double rows go to `refusals`."""
    rows: dict[str, NihRow] = {}
    columns = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    for name, labels, patient, age, sex, view in zip(*(table.column(column) for column in columns), strict=True):
        if name in rows:
            refusals.append(Refusal(name, f"{table.path.name} has a second row for it"))
            continue
        if not re.fullmatch(r"[A-Za-z0-9_-]+\.png", name):
            refusals.append(Refusal(name, f"{table.path.name}: not the name of a PNG file"))
            continue
        try:
            found = {finding_number(part, NIH_FINDINGS) for part in labels.split("|") if not is_no_finding(part)}
        except ValueError as error:
            refusals.append(Refusal(name, f"{table.path.name}: {error}"))
            continue
        rows[name] = NihRow(
            findings=tuple(sorted(found)),
            patient=patient.lstrip("0") or name.split("_")[0].lstrip("0"),
            sex=sex if sex in ("F", "M") else None,
            age_band=age_band(_years(age)),
            view_position=view if view in ("PA", "AP") else None,
        )
    return rows


def read_boxes(table: Table) -> tuple[dict[str, tuple[Box, ...]], dict[str, str]]:
    """BBox_List_2017.csv by image: its x, y, w, h become corners in pixels of the 1024 x 1024 image.

    And, by image, what is wrong with a row: such an image is to be refused, for its other boxes are not all there are.
    """
    first = table.columns.index("Finding Label") + 1
    boxes: dict[str, tuple[Box, ...]] = {}
    wrong: dict[str, str] = {}
    for number, row in enumerate(table.rows, 1):
        name, label = row[table.columns.index("Image Index")], row[first - 1]
        try:
            finding = finding_number(label, NIH_FINDINGS, NIH_SPELLINGS)
            x, y, w, h = (float(value) for value in row[first : first + 4])
        except ValueError as error:
            wrong.setdefault(name, f"{table.path.name}: its box in row {number} is wrong: {error}")
            continue
        boxes[name] = (*boxes.get(name, ()), Box(finding, x, y, x + w, y + h))
    return boxes, wrong


def _find_images(root: Path) -> tuple[dict[str, Path], list[Refusal]]:
    paths: dict[str, Path] = {}
    refusals: list[Refusal] = []
    for folder, folders, names in os.walk(root, onerror=lambda error: refusals.append(unlisted(root, error))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.endswith(".png") or name.startswith("."):
                continue
            path = Path(folder) / name
            if name in paths:
                other = paths[name].relative_to(root).as_posix()
                refusals.append(Refusal(path.relative_to(root).as_posix(), f"the same image is in {other} too"))
            else:
                paths[name] = path
    if not paths:
        packed = sorted(path.name for path in root.glob("images*.tar.gz"))
        hint = f"; unpack {packed[0]} and the others first" if packed else ""
        raise ValueError(f"root: {root} holds no PNG file (images_001/images/*.png, images/*.png or *.png){hint}")
    return paths, refusals


def _lists(root: Path, config: NihConfig) -> dict[str, Path]:
    found = {name: find_table(root, [name]) for name in (TRAIN_VALID, TEST)}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise ValueError(
            f"root: {config.root} lacks {' and '.join(missing)} (plain or .gz), which --split official needs; "
            "add them, or take --split patient or --split none"
        )
    return {name: path for name, path in found.items() if path is not None}


def _scaled(boxes: tuple[Box, ...], path: Path) -> tuple[Box, ...]:
    height, width = read_size(path)
    x, y = width / BOXES_SIDE_PX, height / BOXES_SIDE_PX
    if x == y == 1.0:
        return boxes
    return tuple(Box(b.finding, b.x_min * x, b.y_min * y, b.x_max * x, b.y_max * y) for b in boxes)


def _years(age: str) -> float | None:
    parts = re.fullmatch(r"(\d+)([YMD]?)", age)
    return None if parts is None else int(parts[1]) / {"Y": 1, "": 1, "M": 12, "D": 365.25}[parts[2]]
