"""What a user's csv file says about images: findings, boxes, patients, splits, row by row."""

from __future__ import annotations

import math
import posixpath
import re
import sys
from collections import Counter
from dataclasses import dataclass, field

from cluster import storage
from cluster.spelling import near
from cluster.storage import Place
from sharding.findings import NIH_FINDINGS, VINDR_FINDINGS, is_no_finding
from sharding.sample import SPLITS, VIEW_POSITIONS, age_band
from sharding.tables import Table, read_table

BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")
FIELDS = ("patient", "split", "sex", "age", "view_position")
COLUMNS = ("path", "finding", "findings", *FIELDS, *BOX_COLUMNS)

PATH_NAMES = ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file", "image_id",
              "img", "dicom", "dicom_path", "dicom_file", "dicom_id", "png", "name", "id", "url", "uri")  # fmt: skip
"""What people call the column `path`."""

VIEW_NAMES = {"L": "LATERAL", "LAT": "LATERAL", "LATERAL LEFT": "LL", "LATERAL RIGHT": "RL"}

SPLIT_NAMES = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}


@dataclass(slots=True)
class Described:
    """What the csv file says about one image."""

    findings: dict[str, int] | None = None
    """Names and the lines that give them first; empty: healthy; None: not told."""
    boxes: list[tuple[str, float, float, float, float]] | None = None
    """Finding, x_min, y_min, x_max, y_max; None: nobody drew boxes."""
    told: dict[str, str] = field(default_factory=dict)
    """Of FIELDS those that are given, in the form that a sample has; `age` is an age band."""
    healthy_line: int = 0
    """The line that says that there is no finding, or 0."""
    wrong: str = ""
    """What is wrong with a row of it, with the line, or ""."""


def read_descriptions(csv: Place, root: Place) -> tuple[dict[str, Described], list[tuple[str, str]]]:
    """Descriptions by path below root, in the order of the file; and rows that name no path below root, with why.

    Raises ValueError for a csv file without a column `path`, with a part of the box columns, or with one twice. Columns
    that are not used are named on stderr.
    """
    try:
        table = read_table(csv, ["path"])  # which tells the separator
    except ValueError:
        _check_columns(read_table(csv, []))  # knows what else people call that column
        raise
    _check_columns(table)
    described: dict[str, Described] = {}
    lost: list[tuple[str, str]] = []
    columns = {name: table.column(name) for name in COLUMNS if name in table.columns}
    has_boxes = all(name in columns for name in BOX_COLUMNS)
    prefix = storage.absolute(root).rstrip("/") + "/"
    for position, raw in enumerate(columns["path"]):
        line = f"line {table.lines[position]}"
        name = below(raw, prefix)
        if name is None:
            why = "its path is not below root" if raw else "its path is blank"
            lost.append((raw or f"{table.name}, {line}", f"{table.name}, {line}: {why}"))
            continue
        about = described.setdefault(name, Described())
        try:
            if position in table.too_long:
                raise ValueError("more values than columns")
            _add_row(about, {column: values[position] for column, values in columns.items()}, table.lines[position])
        except ValueError as error:
            about.wrong = about.wrong or f"{table.name}, {line}: {error}"
    _tell_views(columns.get("view_position", []), table.name)
    for about in described.values():
        if about.healthy_line and about.findings:
            name, number = next(iter(about.findings.items()))
            about.wrong = about.wrong or (
                f"{table.name}: line {about.healthy_line} says that there is no finding, line {number} gives {name!r}"
            )
        elif about.healthy_line and has_boxes:
            about.boxes = []
    return described, lost


def _tell_views(values: list[str], name: str) -> None:
    other = Counter(value for value in values if value and not _canonical("view_position", value))
    if other:
        some = ", ".join(f"{value!r} ({number:,})" for value, number in other.most_common(5))
        print(
            f"{name}: view positions that are not kept, for they are none of {', '.join(VIEW_POSITIONS)}: {some}",
            file=sys.stderr,
        )


def below(raw: str, prefix: str) -> str | None:
    """A path or URL as a name below the folder `prefix` (which ends in a slash), None where it lies elsewhere."""
    if raw.startswith(prefix):
        raw = raw[len(prefix) :]
    elif raw.startswith("/") or storage.is_remote(raw):
        return None
    name = posixpath.normpath(raw) if raw else "."
    return None if name == "." or name.startswith("../") or name == ".." else name


def names_of(described: dict[str, Described]) -> tuple[str, ...]:
    """NIH's or VinDr's 14 findings where all names are among them, else the names in alphabetical order.

    Case does not tell findings apart: the spelling that comes first in the alphabet stands for all.
    """
    found: dict[str, str] = {}
    for name in sorted({name for about in described.values() for name in about.findings or ()}):
        found.setdefault(name.casefold(), name)
    for known in (NIH_FINDINGS, VINDR_FINDINGS):
        if found and found.keys() <= {name.casefold() for name in known}:
            return known
    return tuple(sorted(found.values()))


def _check_columns(table: Table) -> None:
    if "path" not in table.columns:
        plain = {name.casefold().replace(" ", "_").replace("-", "_"): name for name in table.columns}
        meant = next((plain[name] for name in ("path", "paths", *PATH_NAMES) if name in plain), None)
        hint = f"; rename its column {meant!r} to 'path' if that is it" if meant else ""
        raise ValueError(f"csv: {table.path} lacks the column 'path' (file of the image below root){hint}; "
                         f"it has {', '.join(map(repr, table.columns)) or 'none'}")  # fmt: skip
    twice = sorted({name for name in table.columns if name in COLUMNS and table.columns.count(name) > 1})
    if twice:
        raise ValueError(f"csv: {table.path} has the column {twice[0]!r} twice; remove one")
    missing = [name for name in BOX_COLUMNS if name not in table.columns]
    if 0 < len(missing) < len(BOX_COLUMNS):
        raise ValueError(f"csv: {table.path} has a part of the box columns: it lacks {', '.join(missing)}")
    unused = [name for name in table.columns if name and name not in COLUMNS]
    if unused:
        free = [name for name in COLUMNS if name not in table.columns]
        told = [f"{name} (did you mean {meant}?)" if (meant := near(name, free, 0.7)) else name for name in unused]
        print(f"{table.name}: columns that are not used: {', '.join(told)}", file=sys.stderr)


def _add_row(about: Described, row: dict[str, str], line: int) -> None:
    """Raises ValueError for what is wrong in the row or contradicts an earlier one."""
    for name in FIELDS:
        if value := row.get(name, ""):
            value = sys.intern(_canonical(name, value))  # few values, many rows
            if value and about.told.setdefault(name, value) != value:
                raise ValueError(f"{name} {value!r}, but {about.told[name]!r} in an earlier row of the same image")
    given = [part.strip() for part in re.split(r"[|;]", row.get("findings", "")) if part.strip()]
    corners = [row.get(name, "") for name in BOX_COLUMNS]
    single = row.get("finding", "")
    if re.search(r"[|;]", single):
        raise ValueError(f"finding {single!r} is several; column finding holds one, column findings takes a|b")
    for name in [*given, *([single] if single else [])]:
        about.findings = {} if about.findings is None else about.findings
        if is_no_finding(name):
            about.healthy_line = about.healthy_line or line
        else:
            about.findings.setdefault(name, line)
    if any(corners):
        name = single or (given[0] if len(given) == 1 else "")
        if not name or is_no_finding(name):
            raise ValueError("a box of it has no finding (column finding)")
        box = (name, *_corners(corners))
        if box in (about.boxes or ()):
            raise ValueError(f"the same box of {name!r} a second time")
        about.boxes = [*(about.boxes or []), box]


def _corners(texts: list[str]) -> tuple[float, float, float, float]:
    try:
        x_min, y_min, x_max, y_max = (float(text) for text in texts)
    except ValueError:
        raise ValueError(f"a box of it is not four numbers: {' '.join(text or '(blank)' for text in texts)}") from None
    if not all(math.isfinite(value) for value in (x_min, y_min, x_max, y_max)):
        raise ValueError(f"a box of it is not finite: {' '.join(texts)}")
    if not (0 <= x_min < x_max and 0 <= y_min < y_max):
        what = "begins below 0" if min(x_min, y_min) < 0 else "is empty or has its corners swapped"
        raise ValueError(f"a box of it {what}: {' '.join(texts)} (x_min y_min x_max y_max)")
    return x_min, y_min, x_max, y_max


def _canonical(name: str, value: str) -> str:
    """The value of one of FIELDS in the form that a sample has. Raises ValueError."""
    match name:
        case "split" if value not in SPLITS:
            meant = SPLIT_NAMES.get(value.casefold()) or near(value, SPLITS[:3], 0.7)
            hint = f"; did you mean {meant!r}?" if meant else ""
            raise ValueError(f"split {value!r} is none of train, valid, test{hint}")
        case "sex":
            if value.upper() not in ("F", "M", "FEMALE", "MALE"):
                raise ValueError(f"sex {value!r} is neither F nor M (leave it blank where it is another or unknown)")
            return value.upper()[:1]
        case "age":
            try:
                years = float(value)
            except ValueError:
                raise ValueError(f"age {value!r} is not a number of years") from None
            return age_band(years) or _refuse(f"age {value!r} is not 0 to 130 years")
        case "view_position":
            view = VIEW_NAMES.get(value.upper(), value.upper())
            return view if view in VIEW_POSITIONS else ""  # free text could hold anything
    return value


def _refuse(text: str) -> str:
    raise ValueError(text)
