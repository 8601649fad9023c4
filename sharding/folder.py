"""Reader of a folder of one's own: DICOM, PNG and JPEG at any depth, with or without a csv file that describes them."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from cluster import storage
from sharding.findings import finding_number
from sharding.folder_csv import Described, names_of, read_descriptions
from sharding.folder_files import File, find_files, kind_by_name
from sharding.folder_patients import header_patients
from sharding.known import read_way_back
from sharding.options import OutputConfig
from sharding.privacy import pseudonym
from sharding.sample import Box, Cohort, Refusal, SourceImage
from sharding.splits import hash_split

KEPT_CHARACTERS = 80
"""Of a file's name, from its end."""

ENDINGS = "*.dcm, *.dicom, *.ima, DICOM without ending, *.png, *.jpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderConfig(OutputConfig):
    """Radiographs of one's own, at any depth below a folder: *.dcm, *.dicom, *.ima, without ending, *.png, *.jpg."""

    name: str = "folder"
    """Start of the tars' names, and the samples' `source`."""
    csv: str | Path | None = None
    """Describes the images: column `path` (below root, or whole), and any of findings ("a|b"; "No finding" is healthy,
    blank unknown), patient, split (train, valid, test), sex, age (years), view_position, and x_min y_min x_max y_max
    with finding (one box a row, original pixels; blank: no box if the row says "No finding", else not annotated)."""
    listed_only: bool = False
    """Take the files that the csv file names and look for no others, so that root is not listed."""
    split: Literal["csv", "patient", "hash", "none"] = "csv"
    """csv: the csv file's, or train; patient: by patient with the findings balanced; hash: by a hash of the patient,
    which stays when images are added; none: everything is train. A patient is the csv file's or else the DICOM
    header's; an image without one is its own."""
    findings: tuple[str, ...] = ()
    """Names of the findings in their order; default is NIH's or VinDr's 14 where the csv file's names fit one, or else
    the names themselves in alphabetical order."""
    keep_names: bool = False
    """Name samples after their files, in letters, digits, - and _; by default keys are keyed pseudonyms, for
    file names often name people. Either way `<out>.names.csv` (its owner's alone, never to be given away) has both."""

    def __post_init__(self) -> None:
        OutputConfig.__post_init__(self)
        if self.listed_only and self.csv is None:
            raise ValueError("listed_only: takes what a csv file names; give --csv too")


def read_folder(config: FolderConfig, secret: bytes) -> Cohort:
    """Every radiograph below `config.root`, sorted by path.

    Findings and boxes are None where the csv file does not tell. An image whose row is wrong, a row without an
    image and, where there is a csv file, an image without a row are refused. Where the split is by patient, all are
    "train" until they are dealt out. Raises ValueError where nothing is found or the csv file is of another form.
    """
    if not storage.is_folder(config.root):
        raise ValueError(f"root: {config.root} is not a folder")
    refusals: list[Refusal] = []
    described: dict[str, Described] | None = None
    if config.csv is not None:
        described, lost = read_descriptions(config.csv, config.root)
        refusals += [Refusal(*row) for row in lost]
    if config.listed_only and described is not None:
        files = _listed(described, refusals)
    else:
        files = find_files(config.root, refusals)
    if not files:
        some = "".join(f"; {refusal.name}: {refusal.reason}" for refusal in refusals[:3])
        raise ValueError(f"root: {config.root} holds no radiograph ({ENDINGS}){some}")
    if described is not None and not config.listed_only:
        refusals += _without_file(config, files, described)
    names = config.findings or names_of(described or {})
    earlier: dict[str, str] = {}
    if config.append and config.keep_names:
        earlier = {name: key for key, (name, *_) in read_way_back(config.private(".names.csv")).items()}
    keys = _keys([name for name, _, _ in files], secret, config.keep_names, earlier)
    root = storage.absolute(config.root)
    images: list[SourceImage] = []
    unknown = Described()
    for file, key in zip(files, keys, strict=True):
        about = unknown if described is None else described.pop(file[0], None)
        if about is None:
            refusals.append(Refusal(file[0], f"{storage.name_of(config.csv or '')} does not name it"))
            continue
        try:
            images.append(_image(root, file, key, about, names, config, secret))
        except ValueError as error:
            refusals.append(Refusal(file[0], str(error)))
    if config.split in ("patient", "hash") or config.append or len({image.split for image in images}) > 1:
        # Who is on which side must be known before any pixel is read.
        images = header_patients(images, secret, config.processes)
    if config.split == "hash":
        shares = config.valid_share, config.test_share
        images = [dataclasses.replace(i, split=hash_split(i.patient or i.key, *shares)) for i in images]
    return Cohort(names, tuple(images), tuple(refusals), () if config.csv is None else (config.csv,))


def _listed(described: dict[str, Described], refusals: list[Refusal]) -> list[File]:
    files: list[File] = []
    for name in sorted(described):
        kind = kind_by_name(name)
        if kind is None:
            refusals.append(Refusal(name, f"is no radiograph by its ending ({ENDINGS})"))
        else:
            files.append((name, kind, None))
    return files


def _without_file(config: FolderConfig, files: list[File], described: dict[str, Described]) -> list[Refusal]:
    """Rows whose files are not among those found. Raises ValueError where that is all of them."""
    known = {name for name, _, _ in files}
    lost = [name for name in described if name not in known]
    csv = storage.name_of(config.csv or "")
    if lost and len(lost) == len(described):
        slashes = ", with / between folders" if "\\" in lost[0] else ""
        raise ValueError(
            f"csv: none of the {len(described):,} files that {csv} names is below root {config.root}: it names "
            f"{lost[0]}, and there is {files[0][0]}; paths must be relative to root, or whole{slashes}"
        )
    return [
        Refusal(
            name,
            f"{csv} names it, but there is no such file under root"
            if kind_by_name(name)
            else f"{csv} names it, but it is no radiograph by its ending ({ENDINGS})",
        )
        for name in lost
    ]


def _keys(names: list[str], secret: bytes, keep_names: bool, earlier: dict[str, str]) -> list[str]:
    """A key for each relative path: it depends on that path alone, unless two paths would get the same one.

    `earlier`: name -> key of the files that a set to be added to has, which keep theirs.
    """
    keys: list[str] = []
    for name in names:
        if not keep_names:
            keys.append(pseudonym(secret, "key", name))
        else:
            stem = re.sub(r"\.(png|jpe?g|dcm|dicom)$", "", name, flags=re.IGNORECASE)
            keys.append(re.sub(r"[^A-Za-z0-9_-]", "_", stem.replace("/", "__"))[-KEPT_CHARACTERS:])
    if not earlier and len(set(keys)) == len(keys):
        return keys
    counts = Counter(keys)
    taken = set(earlier.values())
    return [
        earlier.get(name) or (key if counts[key] == 1 and key not in taken else f"{key}-{_mark(name)}")
        for name, key in zip(names, keys, strict=True)
    ]


def _mark(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


@cache
def _shared(findings: tuple[int, ...]) -> tuple[int, ...]:
    """The same tuple for the same findings, for there may be millions."""
    return findings


def _image(
    root: str, file: File, key: str, about: Described, names: tuple[str, ...], config: FolderConfig, secret: bytes
) -> SourceImage:
    """Raises ValueError for what is wrong in the image's rows."""
    if about.wrong:
        raise ValueError(about.wrong)
    name, kind, stat = file
    numbers: dict[str, int] = {}
    for finding, line in (about.findings or {}).items():
        try:
            numbers[finding] = finding_number(finding, names)
        except ValueError as error:
            raise ValueError(f"{storage.name_of(config.csv or '')}, line {line}: {error}") from None
    patient = about.told.get("patient")
    return SourceImage(
        path=f"{root}/{name}",
        kind=kind,
        name=name,
        key=key,
        source=config.name,
        split=about.told.get("split", "train") if config.split == "csv" else "train",
        findings=None if about.findings is None else _shared(tuple(sorted(set(numbers.values())))),
        boxes=None if about.boxes is None else tuple(Box(numbers[finding], *box) for finding, *box in about.boxes),
        patient=pseudonym(secret, "patient", patient) if patient else None,
        sex=about.told.get("sex"),
        age_band=about.told.get("age"),
        view_position=about.told.get("view_position"),
        stat=stat,
    )
