"""Where the images of NIH ChestX-ray14 lie: Kaggle's folders, one folder, tar.gz parts, or some of each."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import storage
from cluster.storage import Place, Stat
from sharding.archives import ARCHIVE_ENDINGS, list_archives
from sharding.sample import NOT_UTF8, Refusal, unlisted
from sharding.tables import find_table, read_table

_LINKED = re.compile(r"images.*")
"""Links to folders directly below root that people make instead of copies."""

LABELS = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")


@dataclass(frozen=True, slots=True)
class Where:
    """A PNG file, unpacked or in an archive."""

    name: str
    """Below root, the archive's name a part of it."""
    path: str
    """As in SourceImage."""
    span: tuple[int, int] | None = None
    """As in SourceImage."""
    stat: Stat | None = None
    """As in SourceImage."""
    head: bytes = b""
    """Its first bytes where the archive's list has them."""


def find_labels(root: Place) -> str:
    """The label file in root. Raises ValueError with what is there instead, and with the root that was meant."""
    if not storage.is_folder(root):
        raise ValueError(f"root: {root} is not a folder")
    found = find_table(root, LABELS)
    if found is not None:
        return found
    meant = next((place for place in _nearby(root) if find_table(place, LABELS) is not None), None)
    hint = f"; did you mean --root {meant}?" if meant else _other_data_set(root)
    raise ValueError(f"root: {root} lacks {' or '.join(LABELS)} (plain or .gz) of NIH ChestX-ray14{hint}")


def find_images(
    root: Place, wanted: Collection[str], index_folder: Path | None, processes: int
) -> tuple[dict[str, Where], list[Refusal]]:
    """Every PNG file below root by its name, and what was found twice or could not be read.

    Archives `images*.tar.gz` (.tgz, .tar) are listed if some of `wanted` is not unpacked; what is both is taken
    unpacked. Raises ValueError where there is no image.
    """
    refusals: list[Refusal] = []
    images: dict[str, Where] = {}
    archives: list[tuple[str, Place]] = []
    others: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    walked = storage.walk(root, lambda error: refusals.append(unlisted(Path(root), error)), passed, _LINKED)
    for found in sorted(walked, key=lambda found: found.name.split("/")):
        base = found.name.rsplit("/", 1)[-1]
        if (name := storage.spelled(found.name)) != found.name:
            refusals.append(Refusal(name, NOT_UTF8))
        elif base.endswith(".png"):
            _add(images, base, Where(found.name, found.path, stat=found.stat), refusals)
        elif base.startswith("images") and base.endswith(ARCHIVE_ENDINGS):
            archives.append((found.name, found.path))
        else:
            others[Path(base).suffix.lower()] += 1
    if passed["link to a folder"]:
        _note(f"links to folders, which are not followed (but images* in root is): {passed['link to a folder']:,}")
    if archives and all(name in images for name in wanted):
        _note(f"{len(archives)} archives are not read: every image of the label file lies unpacked too")
    elif archives:
        _add_archives(images, archives, index_folder, processes, refusals)
    if not images:
        some = ", ".join(f"{number} x {ending or 'no ending'}" for ending, number in others.most_common(5))
        above = storage.parent_of(root)
        near = storage.is_folder(storage.join(above, "images_001")) or storage.is_folder(storage.join(above, "images"))
        raise ValueError(
            f"root: {root} holds no PNG file (images_001/images/*.png, images/*.png, *.png or images_001.tar.gz); "
            f"it holds {some or 'nothing'}"
            + (f"; the images seem to be in {above}: the csv files must lie there, or above them" if near else "")
            + "".join(f"; {refusal.name}: {refusal.reason}" for refusal in refusals[:3])
        )
    return images, refusals


def _add(images: dict[str, Where], base: str, where: Where, refusals: list[Refusal]) -> None:
    if base in images:
        refusals.append(Refusal(where.name, f"the same image is in {images[base].name} too"))
    else:
        images[base] = where


def _add_archives(
    images: dict[str, Where],
    archives: list[tuple[str, Place]],
    index_folder: Path | None,
    processes: int,
    refusals: list[Refusal],
) -> None:
    unpacked = frozenset(images)
    for (name, _), listing in zip(archives, list_archives(archives, index_folder, processes), strict=True):
        refusals += listing.refusals
        num_twice, num_others = 0, 0
        for member in listing.members:
            base = member.name.rsplit("/", 1)[-1]
            if not base.endswith(".png") or any(
                part.startswith(".") and part != "." for part in member.name.split("/")
            ):
                num_others += 1
            elif base in unpacked:
                num_twice += 1
            else:
                stat = Stat(member.span[1], listing.stat.mtime_ns)
                where = Where(f"{name}/{member.name}", listing.place, member.span, stat, member.head)
                _add(images, base, where, refusals)
        if num_twice:
            _note(f"{name}: {num_twice:,} of its images lie unpacked too; those are taken")
        if num_others:
            _note(f"{name}: {num_others:,} members that are no PNG file are passed over")


def _nearby(root: Place) -> Iterator[Place]:
    """Folders one or two levels above and, on a disk, below."""
    above = storage.parent_of(root)
    yield from (above, storage.parent_of(above))
    if not storage.is_remote(root):
        for pattern in ("*/", "*/*/"):
            yield from sorted(path for path in Path(root).glob(pattern) if path.is_dir())[:50]


def _other_data_set(root: Place) -> str:
    tables = [found for found in storage.files_in(root) if found.name.endswith((".csv", ".csv.gz"))]
    for found in tables:
        try:
            columns = set(read_table(found.path, []).columns)
        except ValueError:
            continue
        if {"Path", "Frontal/Lateral"} <= columns:
            return f"; {found.name} is CheXpert's: cxr shard folder --csv reads a csv file with a column path"
        if {"image_id", "class_name"} <= columns or {"image_id", "rad_id"} <= columns:
            return f"; {found.name} is VinDr-CXR's: cxr shard vindr"
        if {"dicom_id", "study_id"} <= columns:
            return f"; {found.name} is MIMIC-CXR's: cxr shard folder --csv reads a csv file with a column path"
        if "Image Index" in columns:
            return f"; {found.name} has its columns: give it one of these names"
    names = [found.name for found in storage.files_in(root)][:6]
    return f"; it holds {', '.join(names) or 'no files'}"


def _note(text: str) -> None:
    print(text, file=sys.stderr)
