"""Reader of NIH ChestX-ray14 in the layouts people have: `images_001/images/*.png`, `images/*.png`, flat, tar.gz."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from cluster import storage
from cluster.storage import Place
from sharding import codestreams
from sharding.archives import HEAD_BYTES
from sharding.findings import NIH_FINDINGS, NIH_SPELLINGS, finding_number, is_no_finding
from sharding.nih_files import Where, find_images, find_labels
from sharding.options import OutputConfig
from sharding.pixels import UnreadableImage
from sharding.privacy import pseudonym
from sharding.sample import Box, Cohort, Refusal, SourceImage, age_band, check_boxes
from sharding.splits import hash_split, listed_split
from sharding.tables import Table, find_table, read_list, read_table

BOXES = "BBox_List_2017.csv"
TRAIN_VALID, TEST = "train_val_list.txt", "test_list.txt"

BOXES_SIDE_PX = 1024
"""The box list is in pixels of the published 1024 x 1024 images; on smaller copies it is scaled."""

NUM_AT_ONCE = 16
"""Files that are asked for their size at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NihConfig(OutputConfig):
    """NIH ChestX-ray14: PNG files anywhere below root, unpacked or in images*.tar.gz; Data_Entry_2017(_v2020).csv, the
    lists and BBox_List_2017.csv in root, plain or .gz."""

    name: str = "nih"
    """Start of the tars' names, and the samples' `source`."""
    split: Literal["official", "patient", "hash", "none"] = "official"
    """official: test_list.txt is test, train_val_list.txt is train and valid; patient: by patient with the findings
    balanced; hash: by a hash of the patient, which stays when images are added; none: everything is train."""


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

    Only images on the box list have boxes; for the others nobody knows. Where the split is by patient, all are "train"
    until they are dealt out. Seek points of archives are kept in `config.records()` where that folder is.
    Raises ValueError where root is laid out in another way, with what was expected and what is there, and OSError for
    what may pass (a network or disk that fails).
    """
    root = config.root
    label_file = find_labels(root)
    refusals: list[Refusal] = []
    rows = read_labels(read_table(label_file, ["Image Index", "Finding Labels", "Patient ID"]), refusals)
    labels = storage.name_of(label_file)
    lists = _lists(root) if config.split == "official" else {}
    members = {name: frozenset(read_list(place)) for name, place in lists.items()}
    _check_lists(members, rows, labels)
    box_file = find_table(root, [BOXES])
    boxes, wrong = ({}, {}) if box_file is None else read_boxes(read_table(box_file, ["Image Index", "Finding Label"]))
    folder = config.records()
    places, unread = find_images(root, rows.keys(), folder if folder.is_dir() else None, config.processes)
    refusals += unread
    for name in sorted(rows.keys() - places.keys()):
        refusals.append(Refusal(name, f"{labels} names it, but there is no such file below root"))
    for name in sorted(places.keys() - rows.keys()):
        refusals.append(Refusal(places[name].name, f"{labels} has no usable row for it"))
    for name in sorted((boxes.keys() | wrong.keys()) - rows.keys()):
        refusals.append(Refusal(name, f"{BOXES} names it, {labels} does not"))
    sizes = _sizes([places[name] for name in sorted(boxes.keys() & rows.keys() & places.keys() - wrong.keys())])
    images: list[SourceImage] = []
    for name in sorted(rows.keys() & places.keys()):
        row, where = rows[name], places[name]
        try:
            if name in wrong:
                raise UnreadableImage(wrong[name])
            placed = None if name not in boxes else _scaled(boxes[name], sizes[where.path, where.span])
        except UnreadableImage as error:
            refusals.append(Refusal(name, str(error)))
            continue
        match config.split:
            case "official":
                split = listed_split(name, row.patient, members[TRAIN_VALID], members[TEST], config.valid_share)
            case "hash":
                split = hash_split(row.patient, config.valid_share, config.test_share)
            case "patient" | "none":
                split = "train"
        images.append(
            SourceImage(
                path=where.path,
                kind="image",
                name=where.name,
                key=name.removesuffix(".png"),
                source=config.name,
                split=split,
                findings=row.findings,
                boxes=placed,
                patient=pseudonym(secret, "patient", row.patient),
                sex=row.sex,
                age_band=row.age_band,
                view_position=row.view_position,
                span=where.span,
                stat=where.stat,
            )
        )
    tables: list[Place] = [label_file, *([] if box_file is None else [box_file]), *lists.values()]
    return Cohort(NIH_FINDINGS, tuple(images), tuple(refusals), tuple(tables))


def read_labels(table: Table, refusals: list[Refusal]) -> dict[str, NihRow]:
    """Rows of Data_Entry_2017.csv or its v2020 by image; wrong and double rows go to `refusals`."""
    rows: dict[str, NihRow] = {}
    sex_column = "Patient Sex" if "Patient Sex" in table.columns else "Patient Gender"
    columns = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", sex_column, "View Position")
    values = zip(*(table.column(column) for column in columns), strict=True)
    for position, (name, labels, patient, age, sex, view) in enumerate(values):
        where = f"{table.name}, line {table.lines[position]}"
        if position in table.too_long:
            refusals.append(Refusal(name, f"{where}: more values than columns"))
            continue
        if name in rows:
            refusals.append(Refusal(name, f"{where}: a second row for it"))
            continue
        if not re.fullmatch(r"[A-Za-z0-9_-]+\.png", name):
            refusals.append(Refusal(name, f"{where}: not the name of a PNG file"))
            continue
        try:
            found = {finding_number(part, NIH_FINDINGS) for part in labels.split("|") if not is_no_finding(part)}
        except ValueError as error:
            refusals.append(Refusal(name, f"{where}: {error}"))
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
    for position, row in enumerate(table.rows):
        name, label = row[table.columns.index("Image Index")], row[first - 1]
        try:
            finding = finding_number(label, NIH_FINDINGS, NIH_SPELLINGS)
            x, y, w, h = (float(value) for value in row[first : first + 4])
            box = Box(finding, x, y, x + w, y + h)
            outside = check_boxes((box,), BOXES_SIDE_PX, BOXES_SIDE_PX)
            if outside is not None:
                raise ValueError(outside)
        except ValueError as error:
            wrong.setdefault(name, f"{table.name}, line {table.lines[position]}: its box is wrong: {error}")
            continue
        boxes[name] = (*boxes.get(name, ()), box)
    return boxes, wrong


def _lists(root: Place) -> dict[str, str]:
    found = {name: find_table(root, [name]) for name in (TRAIN_VALID, TEST)}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise ValueError(
            f"root: {root} lacks {' and '.join(missing)} (plain or .gz), which --split official needs; "
            "add them, or take --split patient, --split hash or --split none"
        )
    return {name: place for name, place in found.items() if place is not None}


def _check_lists(members: Mapping[str, frozenset[str]], rows: Mapping[str, NihRow], labels: str) -> None:
    """Raises ValueError for lists that share an image; says on stderr what they name and the label file does not."""
    if not members:
        return
    both = sorted(members[TRAIN_VALID] & members[TEST])
    if both:
        raise ValueError(f"{TRAIN_VALID} and {TEST} share {len(both):,} images: {', '.join(both[:3])}; get them anew")
    for name, images in members.items():
        unknown = sorted(images - rows.keys())
        if unknown:
            print(f"{name}: {labels} has no usable row for {len(unknown):,}: {', '.join(unknown[:3])}", file=sys.stderr)
    listed = members[TRAIN_VALID] | members[TEST]
    unlisted = sorted(rows.keys() - listed)
    if unlisted:
        print(f"on neither list, so in no split: {len(unlisted):,}: {', '.join(unlisted[:3])}", file=sys.stderr)


def _sizes(places: list[Where]) -> dict[tuple[str, tuple[int, int] | None], tuple[int, int] | UnreadableImage]:
    """(height, width) that each PNG's header states, or why it does not; by path and span."""
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        return dict(zip(((place.path, place.span) for place in places), pool.map(_size, places), strict=True))


def _size(where: Where) -> tuple[int, int] | UnreadableImage:
    try:
        with storage.open_input(where.path) if not where.head else io.BytesIO(where.head) as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        if not storage.lasting(error):
            raise
        return UnreadableImage(f"its header cannot be read: {error.strerror}")
    frame = codestreams.frame(head) if head.startswith(codestreams.PNG_START) else None
    if frame is not None:
        return frame.height, frame.width
    return UnreadableImage(f"{BOXES} names it, but it does not begin as a PNG file, so its size is not known")


def _scaled(boxes: tuple[Box, ...], size: tuple[int, int] | UnreadableImage) -> tuple[Box, ...]:
    """Boxes in pixels of a copy of this (height, width)."""
    if isinstance(size, UnreadableImage):
        raise size
    x, y = size[1] / BOXES_SIDE_PX, size[0] / BOXES_SIDE_PX
    if x == y == 1.0:
        return boxes
    return tuple(Box(b.finding, b.x_min * x, b.y_min * y, b.x_max * x, b.y_max * y) for b in boxes)


def _years(age: str) -> float | None:
    parts = re.fullmatch(r"(\d+)([YMD]?)", age)
    return None if parts is None else int(parts[1]) / {"Y": 1, "": 1, "M": 12, "D": 365.25}[parts[2]]
