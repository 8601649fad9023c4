"""The csv files of VinDr-CXR row by row: who drew which box, who named which disease, how large the images are.

Rows are numbered as a spreadsheet shows them: the header is row 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.storage import name_of
from sharding.findings import VINDR_DISEASES, VINDR_FINDINGS, VINDR_SPELLINGS, finding_number, is_no_finding
from sharding.sample import KEY_PATTERN, Box, Refusal, check_boxes
from sharding.tables import Table

CORNERS = ("x_min", "y_min", "x_max", "y_max")
BOX_COLUMNS = ("image_id", "rad_id", "class_name", *CORNERS)
CONSENSUS_COLUMNS = ("image_id", "class_name", *CORNERS)
SIZE_COLUMNS = ("image_id", "dim0", "dim1")
OTHER_SPELLINGS: Mapping[str, str] = {"Other disease": "Other diseases"}
"""Columns that the label files of one edition spell in two ways."""
NO_READER = ""
"""Who has drawn the boxes of the official test part: five readers together."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A row that holds a box."""

    box: Box
    reader: str
    """`rad_id`, or NO_READER."""
    row: int


@dataclass(slots=True)
class Reading:
    """What all readers say about one image."""

    part: str = "train"
    """ "train" or "test": which of the official parts the image is in."""
    csv: str = ""
    """Name of the file that its boxes are from."""
    drawn: list[Drawn] = field(default_factory=list)
    """All readers' boxes in the order of the csv file."""
    normal: dict[str, int] = field(default_factory=dict)
    """Readers who wrote "No finding", and in which row."""
    voted: dict[str, int] = field(default_factory=dict)
    """Readers who have a row in the label file, and which."""
    diseases: dict[int, set[str]] = field(default_factory=dict)
    """Who named a disease, by its position in VINDR_DISEASES."""
    wrong: list[str] = field(default_factory=list)
    """What is wrong with rows of it."""

    @property
    def boxes(self) -> list[Box]:
        """All readers' boxes in the order of the csv file."""
        return [drawn.box for drawn in self.drawn]

    @property
    def readers(self) -> set[str]:
        """Everybody who has read it."""
        return {drawn.reader for drawn in self.drawn} | self.normal.keys() | self.voted.keys()

    def misplaced(self, height: int, width: int) -> str | None:
        """What is wrong with the boxes in an image of this size, or None."""
        found = [(drawn.row, check_boxes((drawn.box,), height, width)) for drawn in self.drawn]
        return several([f"{self.csv} row {row}: {what}" for row, what in found if what is not None]) or None


Readings = dict[str, Reading]
"""By image, in order of first appearance."""


def several(reasons: Sequence[str]) -> str:
    """The first of them, and how many more there are; "" for none."""
    more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}" if reasons else ""


def columns_of(table: Table, required: Sequence[str]) -> dict[str, list[str]]:
    """The required columns by these names, in whatever case and with whatever blanks and underscores the file has them.

    Raises ValueError where one is missing.
    """
    spelled = {_plain(column): column for column in reversed(table.columns)}
    actual: dict[str, str] = {}
    missing: list[str] = []
    for name in required:
        tried = [name, spelled.get(_plain(name)), spelled.get(_plain(OTHER_SPELLINGS.get(name, "")))]
        found = next((column for column in tried if column in table.columns), None)
        if found is None:
            missing.append(name)
        else:
            actual[name] = found
    if missing:
        raise ValueError(
            f"root: {table.path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, table.columns)) or 'none'}"
        )
    return {name: table.column(column) for name, column in actual.items()}


def has_column(table: Table, name: str) -> bool:
    """Whether there is such a column, in whatever spelling."""
    return _plain(name) in map(_plain, table.columns)


def _plain(column: str) -> str:
    return re.sub(r"[\s_]+", "", column).casefold()


def read_boxes(
    table: Table, readings: Readings, local: tuple[str, ...] = VINDR_FINDINGS, part: str = "train"
) -> list[Refusal]:
    """Adds the rows of train.csv, annotations_train.csv or (`part` "test", no reader named) annotations_test.csv.

    `local` are the 14 local findings, into which the 8 rare ones fold, or all 22. A row that repeats an earlier one
    is refused and left out; any other wrong row makes its image wrong.
    """
    columns = columns_of(table, BOX_COLUMNS if part == "train" else CONSENSUS_COLUMNS)
    # The PhysioNet edition numbers no classes; where a file does, its numbers are Kaggle's.
    numbers = columns_of(table, ["class_id"])["class_id"] if has_column(table, "class_id") else None
    csv = name_of(table.path)
    readers = columns["rad_id"] if part == "train" else [NO_READER] * len(table.rows)
    corners = zip(*(columns[name] for name in CORNERS), strict=True)
    positions: dict[str, int] = {}
    seen: dict[tuple[str, ...], int] = {}
    refusals: list[Refusal] = []
    for row, (key, reader, name, texts) in enumerate(
        zip(columns["image_id"], readers, columns["class_name"], corners, strict=True), 2
    ):
        reading = _reading(key, part, csv, row, readings, refusals)
        if reading is None:
            continue
        reading.csv = csv
        number = numbers[row - 2] if numbers is not None and local is VINDR_FINDINGS else ""
        healthy = is_no_finding(name)
        first = seen.setdefault((key, reader, name, *(() if healthy else texts)), row)
        if first != row:
            refusals.append(Refusal(key, f"{csv}: row {row} repeats row {first} and was left out"))
            continue
        try:
            if part == "train" and not reader:
                raise ValueError("rad_id is empty")
            if healthy:
                _check_number(name, number, 14)
                reading.normal[reader] = row
                continue
            if name not in positions:
                positions[name] = finding_number(name, local, VINDR_SPELLINGS if local is VINDR_FINDINGS else None)
            _check_number(name, number, positions[name])
            reading.drawn.append(Drawn(_box(positions[name], texts), reader, row))
        except ValueError as error:
            reading.wrong.append(f"{csv} row {row}: {error}")
    for reading in readings.values():
        if reading.part == part and reading.normal and reading.drawn:
            for drawn in reading.drawn:
                if drawn.reader in reading.normal:
                    reading.wrong.append(
                        f"{csv} row {drawn.row}: a box, but in row {reading.normal[drawn.reader]} the same reader says "
                        "that there is no finding"
                    )
    return refusals


def _reading(key: str, part: str, csv: str, row: int, readings: Readings, refusals: list[Refusal]) -> Reading | None:
    """The reading that a row belongs to; None, with a refusal, where it belongs to none."""
    if not key:
        refusals.append(Refusal(f"{csv} row {row}", "its image_id is empty"))
        return None
    reading = readings.get(key)
    if reading is None:
        reading = readings[key] = Reading(part)
        if not KEY_PATTERN.fullmatch(key):
            reading.wrong.append(f"{csv} row {row}: an image_id may hold letters, digits, - and _ only")
    if reading.part != part:
        reading.wrong.append(f"{csv} row {row}: the image is in the {reading.part} part too")
    return reading


def _check_number(name: str, number: str, expected: int) -> None:
    if not number:
        return
    try:
        agrees = float(number) == expected
    except ValueError:
        agrees = False
    if not agrees:
        raise ValueError(f"it calls {name!r} class {number}; that is {expected}")


def _box(finding: int, texts: Sequence[str]) -> Box:
    values: list[float] = []
    if not any(texts):
        raise ValueError("its box is empty, though it names a finding")
    for name, text in zip(CORNERS, texts, strict=True):
        try:
            values.append(float(text))
        except ValueError:
            raise ValueError(f"{name} is {text!r}, not a number of pixels") from None
        if not math.isfinite(values[-1]):
            raise ValueError(f"{name} is {text}, not a number of pixels")
    box = Box(finding, *values)
    # Whether it is inside the image is known once the image's size is.
    if (wrong := check_boxes((box,), 10**9, 10**9)) is not None:
        low = "below 0" if min(values) < 0 else "empty or its corners are swapped"
        raise ValueError(f"{wrong.split(' (')[0]} is {low}")
    return box


def read_votes(table: Table, readings: Readings, part: str, diseases: bool) -> list[Refusal]:
    """image_labels_train.csv or image_labels_test.csv, added to `readings`: the diseases only if they are asked for.

    Of the train part there is a row for each image and reader, of the test part one for each image.
    """
    wanted = VINDR_DISEASES if diseases else ()
    columns = columns_of(table, ["image_id", *(["rad_id"] if part == "train" else []), *wanted])
    csv = name_of(table.path)
    readers = columns["rad_id"] if part == "train" else [NO_READER] * len(table.rows)
    refusals: list[Refusal] = []
    for row, (key, reader) in enumerate(zip(columns["image_id"], readers, strict=True), 2):
        reading = _reading(key, part, csv, row, readings, refusals)
        if reading is None:
            continue
        first = reading.voted.setdefault(reader, row)
        if first != row:
            who = f"reader {reader}" if reader else "the image"
            reading.wrong.append(f"{csv} row {row}: {who} has row {first} already")
            continue
        for number, name in enumerate(wanted):
            value = columns[name][row - 2]
            if value in ("1", "1.0"):
                reading.diseases.setdefault(number, set()).add(reader)
            elif value not in ("0", "0.0"):
                reading.wrong.append(f"{csv} row {row}: {name} is {value!r}; expected 0 or 1")
    if diseases:
        for reading in readings.values():
            if reading.part == part and not reading.voted:
                reading.wrong.append(f"{csv} has no row for it")
    return refusals


def read_sizes(table: Table) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """train_meta.csv: (height, width) in pixels by image, its dim0 being the height; and what is wrong, by image."""
    columns = columns_of(table, SIZE_COLUMNS)
    csv = name_of(table.path)
    sizes: dict[str, tuple[int, int]] = {}
    wrong: dict[str, str] = {}
    for row, (key, *texts) in enumerate(zip(*(columns[name] for name in SIZE_COLUMNS), strict=True), 2):
        try:
            height, width = (float(text) for text in texts)
            if not (height.is_integer() and width.is_integer() and height > 0 and width > 0):
                raise ValueError
        except ValueError:
            wrong[key] = f"{csv} row {row}: dim0 {texts[0]!r} and dim1 {texts[1]!r} are not whole numbers of pixels"
            continue
        size = int(height), int(width)
        if sizes.setdefault(key, size) != size:
            wrong[key] = (
                f"{csv} row {row}: {size[0]} high and {size[1]} wide, but an earlier row says {sizes[key][0]} and "
                f"{sizes[key][1]}"
            )
    return sizes, wrong
