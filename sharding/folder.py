"""Reader of a folder of one's own: DICOM, PNG and JPEG at any depth, with or without a csv file that describes them."""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharding.findings import NIH_FINDINGS, VINDR_FINDINGS, finding_number, is_no_finding
from sharding.options import OutputConfig
from sharding.privacy import pseudonym
from sharding.sample import SPLITS, Box, Cohort, PixelKind, Refusal, SourceImage, age_band, unlisted
from sharding.tables import Table, read_table

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
DICOM_ENDINGS = (".dcm", ".dicom")
BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderConfig(OutputConfig):
    """Radiographs of one's own, at any depth below a folder: *.dcm, *.dicom, DICOM without ending, *.png, *.jpg."""

    name: str = "folder"
    """Start of the tars' names, and the samples' `source`."""
    csv: Path | None = None
    """Describes the images: column `path` (relative to root), and any of findings ("a|b"; "No finding" is healthy,
    blank unknown), patient, split (train, valid, test), sex, age (years), view_position, and x_min y_min x_max y_max
    with finding (one box a row, original pixels; blank: no box if the row says "No finding", else not annotated)."""
    findings: tuple[str, ...] = ()
    """Names of the findings in their order; default is NIH's or VinDr's 14 where the csv file's names fit one, or else
    the names themselves in alphabetical order."""
    keep_names: bool = False
    """Name samples after their files, in letters, digits, - and _; by default keys are keyed pseudonyms, for
    file names often name people. Either way `<out>.names.csv` (its owner's alone, never to be given away) has both."""


@dataclass(slots=True)
class _Described:
    """What the csv file says about one image."""

    finding_names: set[str] | None = None
    boxes: list[tuple[str, float, float, float, float]] | None = None
    patient: str = ""
    split: str = ""
    sex: str = ""
    age: str = ""
    view_position: str = ""
    wrong: str = ""


def read_folder(config: FolderConfig, secret: bytes) -> Cohort:
    """Every radiograph below `config.root`, sorted by path, in the split that the csv file gives or else in "train".

    Findings and boxes are None where the csv file does not tell. An image whose row is wrong, a row without an
    image and, where there is a csv file, an image without a row are refused. Raises ValueError where nothing is found.
    """
    root = config.root.absolute()
    if not root.is_dir():
        raise ValueError(f"root: {config.root} is not a folder")
    refusals: list[Refusal] = []
    files = sorted(_walk(root, refusals), key=lambda found: found[0])
    if not files:
        some = "".join(f"; {refusal.name}: {refusal.reason}" for refusal in refusals[:3])
        raise ValueError(
            f"root: {config.root} holds no radiograph (*.dcm, *.dicom, DICOM without ending, *.png, *.jpg){some}"
        )
    described: dict[str, _Described] | None = None
    names: tuple[str, ...] = config.findings
    if config.csv is not None:
        table = read_table(config.csv, ["path"])
        described = _describe(table)
        names = config.findings or _names_of(described)
        known = {name for name, _ in files}
        refusals += [
            Refusal(name, f"{config.csv.name} names it, but there is no such file under root")
            for name in described
            if name not in known
        ]
    keys = _keys(files, secret, config.keep_names)
    images: list[SourceImage] = []
    for name, kind in files:
        about = _Described() if described is None else described.get(name)
        if about is None:
            refusals.append(Refusal(name, f"{config.csv and config.csv.name} does not name it"))
            continue
        try:
            images.append(_image(root, name, kind, keys[name], about, names, config.name, secret))
        except ValueError as error:
            refusals.append(Refusal(name, str(error)))
    return Cohort(names, tuple(images), tuple(refusals), () if config.csv is None else (config.csv,))


def _walk(root: Path, refusals: list[Refusal]) -> Iterator[tuple[str, PixelKind]]:
    """Relative path and kind of every radiograph; hidden files and folders, and what is not one, are passed over.

    A folder that cannot be listed, and a file that cannot be opened to see what it is, go to `refusals`.
    """
    for folder, folders, names in os.walk(root, onerror=lambda error: refusals.append(unlisted(root, error))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            ending = path.suffix.lower()
            if ending in IMAGE_ENDINGS:
                yield relative, "image"
                continue
            try:
                if ending in DICOM_ENDINGS or (not re.fullmatch(r"\.[a-z]\w*", ending) and _has_dicom_mark(path)):
                    yield relative, "dicom"
            except OSError as error:
                refusals.append(Refusal(relative, f"cannot be opened to see what it is: {error.strerror}"))


def _has_dicom_mark(path: Path) -> bool:
    if not stat.S_ISREG(path.stat().st_mode):
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _keys(files: list[tuple[str, PixelKind]], secret: bytes, keep_names: bool) -> dict[str, str]:
    """A key for each relative path: it depends on that path alone, unless two paths would get the same one."""
    keys: dict[str, str] = {}
    for name, _ in files:
        if not keep_names:
            keys[name] = pseudonym(secret, "key", name)
        else:
            stem = re.sub(r"\.(png|jpe?g|dcm|dicom)$", "", name, flags=re.IGNORECASE)
            keys[name] = re.sub(r"[^A-Za-z0-9_-]", "_", stem.replace("/", "__"))[-180:]
    shared = {key for key, count in Counter(keys.values()).items() if count > 1}
    for name, key in keys.items():
        if key in shared:
            keys[name] = f"{key}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    return keys


def _describe(table: Table) -> dict[str, _Described]:
    columns = {name: table.column(name) for name in table.columns}
    described: dict[str, _Described] = {}
    for number, raw in enumerate(columns["path"]):
        row = {name: values[number] for name, values in columns.items()}
        about = described.setdefault(Path(raw).as_posix(), _Described())
        for field in ("patient", "split", "sex", "age", "view_position"):
            value = row.get(field, "")
            if value and getattr(about, field) not in ("", value):
                about.wrong = f"its rows give {field} both {getattr(about, field)!r} and {value!r}"
            elif value:
                setattr(about, field, value)
        if "findings" in row:
            given = {part.strip() for part in re.split(r"[|;]", row["findings"]) if part.strip()}
            if given:
                about.finding_names = (about.finding_names or set()) | {n for n in given if not is_no_finding(n)}
        if all(name in row for name in BOX_COLUMNS):
            corners = [row[name] for name in BOX_COLUMNS]
            if about.finding_names == set():
                about.boxes = about.boxes or []
            if any(corners):
                _add_box(about, row.get("finding", "") or row.get("findings", ""), corners)
    return described


def _add_box(about: _Described, name: str, corners: list[str]) -> None:
    try:
        x_min, y_min, x_max, y_max = (float(value) for value in corners)
    except ValueError:
        about.wrong = f"a box of it is not four numbers: {' '.join(corners)}"
        return
    if not all(math.isfinite(value) for value in (x_min, y_min, x_max, y_max)):
        about.wrong = f"a box of it is not finite: {' '.join(corners)}"
    elif not name:
        about.wrong = "a box of it has no finding (column finding)"
    else:
        about.boxes = [*(about.boxes or []), (name, x_min, y_min, x_max, y_max)]
        about.finding_names = (about.finding_names or set()) | {name}


def _names_of(described: dict[str, _Described]) -> tuple[str, ...]:
    found = {name for about in described.values() for name in about.finding_names or ()}
    for known in (NIH_FINDINGS, VINDR_FINDINGS):
        if found and found <= set(known):
            return known
    return tuple(sorted(found))


def _image(
    root: Path,
    name: str,
    kind: PixelKind,
    key: str,
    about: _Described,
    names: tuple[str, ...],
    source: str,
    secret: bytes,
) -> SourceImage:
    """Raises ValueError for what is wrong in the image's rows."""
    if about.wrong:
        raise ValueError(about.wrong)
    split = about.split or "train"
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of train, valid, test")
    sex = about.sex.upper()[:1]
    if about.sex and sex not in ("F", "M"):
        raise ValueError(f"sex {about.sex!r} is neither F nor M")
    try:
        years = float(about.age) if about.age else None
    except ValueError:
        raise ValueError(f"age {about.age!r} is not a number of years") from None
    view = about.view_position.upper()
    if not re.fullmatch(r"[A-Z]{0,12}", view):
        raise ValueError(f"view_position {about.view_position!r} is not one word of letters")
    return SourceImage(
        path=str(root / name),
        kind=kind,
        name=name,
        key=key,
        source=source,
        split=split,
        findings=None
        if about.finding_names is None
        else tuple(sorted({finding_number(finding, names) for finding in about.finding_names})),
        boxes=None
        if about.boxes is None
        else tuple(Box(finding_number(finding, names), *corners) for finding, *corners in about.boxes),
        patient=pseudonym(secret, "patient", about.patient) if about.patient else None,
        sex=sex or None,
        age_band=age_band(years),
        view_position=view or None,
    )
