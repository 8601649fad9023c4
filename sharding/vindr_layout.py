"""Which edition of VinDr-CXR lies in a folder, and what belongs to it.

Kaggle: train.csv beside train/. PhysioNet 1.0.0: annotations/{annotations,image_labels}_{train,test}.csv beside train/
and test/; some people put the csv files into the root. Both may be there in part. All csv files may be .gz.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cluster import storage
from cluster.storage import Found, Place, join, name_of
from sharding.findings import VINDR_LOCAL_FINDINGS, folded
from sharding.sample import NOT_UTF8, Refusal
from sharding.tables import Table, find_table, read_table
from sharding.vindr_rows import columns_of, has_column

PARTS = ("train", "test")
KAGGLE = "train.csv"
SIZES = ("train_meta.csv", "test_meta.csv")
ENDINGS = (".dicom", ".dcm")
EXPECTED = (
    "Expected is Kaggle's edition, train/<image_id>.dicom and train.csv (image_id, class_name, class_id, rad_id, "
    "x_min, y_min, x_max, y_max), or PhysioNet's, train/ and test/ of <image_id>.dicom and in annotations/ or root "
    "annotations_train.csv, image_labels_train.csv, annotations_test.csv, image_labels_test.csv; plain or .gz"
)
NUM_NAMED = 12
"""Files of a folder that an error names; of one of images it names two."""

PEDIATRIC = frozenset(
    map(
        folded,
        (
            *("Anterior mediastinal mass", "Boot-shaped heart", "Brocho-pneumonia", "Broncho-pneumonia"),
            *("Bronchial thickening", "Bronchiolitis", "Bronchitis", "Congenital emphysema", "CPAM"),
            *("Dextro cardia", "Diaphragmatic hernia", "Diffuse alveolar opacity", "Diffuse aveolar opacity"),
            *("Egg on string sign", "Hyaline membrane disease", "Intrathoracic digestive structure"),
            *("Lung hyperinflation", "Peribronchovascular interstitial opacity", "Pleuro-pneumonia"),
            *("Reticulonodular opacity", "Situs inversus", "Stomach on the right side"),
        ),
    )
)
"""Findings of VinDr-PCXR that VinDr-CXR does not have."""


@dataclass(frozen=True, slots=True)
class Part:
    """The csv files of an official part."""

    name: str
    """ "train" or "test"."""
    boxes: Table
    votes: Table | None
    """Image-level findings; the Kaggle edition has none."""

    @property
    def tables(self) -> list[Table]:
        """All its csv files."""
        return [self.boxes] if self.votes is None else [self.boxes, self.votes]


@dataclass(frozen=True, slots=True)
class Layout:
    """What was found."""

    edition: Literal["kaggle", "physionet"]
    parts: tuple[Part, ...]
    sizes: tuple[Table, ...]
    files: Mapping[str, Found] = field(repr=False)
    """DICOM files by image id, names relative to the root."""
    refusals: tuple[Refusal, ...]
    """Files of the same id as another."""


def find_layout(root: Place, files_needed: bool) -> Layout:
    """The edition in `root`, its csv files read, its DICOM files listed (there may be none if none are needed).

    Raises ValueError, with what was expected and what is there, for another layout, a csv file that is missing or
    has other columns, and VinDr-PCXR.
    """
    if not storage.is_folder(root):
        raise ValueError(f"root: {root} is not a folder")
    kaggle = _table([root], KAGGLE)
    annotations = [join(root, "annotations"), root]
    boxes = {part: _table(annotations, f"annotations_{part}.csv") for part in PARTS}
    votes = {part: _table(annotations, f"image_labels_{part}.csv") for part in PARTS}
    if kaggle is not None and votes["train"] is not None and not has_column(kaggle, "class_id"):
        # annotations_train.csv under Kaggle's name.
        boxes = {"train": boxes["train"] or kaggle, "test": boxes["test"] or _table([root], "test.csv")}
        kaggle = None
    found = [table for table in (kaggle, *boxes.values(), *votes.values()) if table]
    for table in found:
        _refuse_pediatric(root, table)
    if not found:
        raise ValueError(
            f"root: {root} holds neither edition of VinDr-CXR. {EXPECTED}. {_contents(root)}. "
            "For DICOM files without these: cxr shard folder --root ... --out ..."
        )
    if kaggle is not None and len(found) > 1:
        raise ValueError(
            f"root: {root} holds {' and '.join(name_of(table.path) for table in found)}, that is both editions of "
            "VinDr-CXR; move the csv files of one of them elsewhere"
        )
    files, refusals = _find_images(root, ("train", "") if kaggle is not None else ("train", "test", ""))
    if files_needed and not files:
        raise ValueError(
            f"root: {root} has csv files but no DICOM file (*.dicom, *.dcm) in train/, test/ or root. {EXPECTED}. "
            f"{_contents(root)}"
        )
    sizes = tuple(filter(None, (_table([root], name) for name in SIZES)))
    if kaggle is not None:
        return Layout("kaggle", (Part("train", kaggle, None),), sizes, files, tuple(refusals))
    parts = tuple(
        Part(part, *_pair(root, part, boxes[part], votes[part]))
        for part in PARTS
        if boxes[part] or votes[part] or any(file.name.startswith(f"{part}/") for file in files.values())
    )
    return Layout("physionet", parts, sizes, files, tuple(refusals))


def _table(folders: Sequence[Place], name: str) -> Table | None:
    for folder in folders:
        place = find_table(folder, [name])
        if place is not None:
            return read_table(place, [])
    return None


def _pair(root: Place, part: str, boxes: Table | None, votes: Table | None) -> tuple[Table, Table]:
    if boxes is None or votes is None:
        pairs = ((f"annotations_{part}.csv", boxes), (f"image_labels_{part}.csv", votes))
        missing = " and ".join(name for name, table in pairs if table is None)
        raise ValueError(
            f"root: {root} lacks {missing} of the PhysioNet edition of VinDr-CXR, in annotations/ or root. {EXPECTED}. "
            f"{_contents(root)}"
        )
    return boxes, votes


def _refuse_pediatric(root: Place, table: Table) -> None:
    """Raises ValueError for a table of VinDr-PCXR, whose files have the same names as VinDr-CXR's."""
    names = {folded(name) for name in table.columns}
    if has_column(table, "class_name"):
        seen = {folded(name) for name in columns_of(table, ["class_name"])["class_name"]}
        adult = bool(seen & {folded(name) for name in VINDR_LOCAL_FINDINGS})
        names |= seen
    else:
        adult = "lung tumor" in names
    # It alone writes rad_ID, but so may somebody's copy of VinDr-CXR.
    suspect = "rad_ID" in table.columns and (not adult or "class_id" in table.columns)
    if suspect or names & PEDIATRIC:
        some = ", ".join(sorted(names & PEDIATRIC)[:3]) or "rad_ID"
        raise ValueError(
            f"root: {root} is VinDr-PCXR ({name_of(table.path)} has {some}), children's radiographs with other "
            "findings, and not VinDr-CXR; for its DICOM files and a csv file in our form: cxr shard folder --csv"
        )


def _find_images(root: Place, folders: Sequence[str]) -> tuple[dict[str, Found], list[Refusal]]:
    files: dict[str, Found] = {}
    refusals: list[Refusal] = []
    for folder in folders:
        for found in storage.files_in(join(root, folder) if folder else root):
            stem, _, ending = found.name.rpartition(".")
            if f".{ending.lower()}" not in ENDINGS or found.name.startswith("."):
                continue
            file = Found(f"{folder}/{found.name}" if folder else found.name, found.path, found.stat)
            if (name := storage.spelled(file.name)) != file.name:
                refusals.append(Refusal(name, NOT_UTF8))
            elif stem in files:
                refusals.append(Refusal(file.name, f"{files[stem].name} is the same image"))
            else:
                files[stem] = file
    return files, refusals


def _contents(root: Place) -> str:
    """What lies in a folder and in those that belong to VinDr, for people."""
    told: list[str] = []
    for folder in ("", "annotations", *PARTS):
        names = [found.name for found in storage.files_in(join(root, folder) if folder else root)]
        if not folder and not storage.is_remote(root):
            names += [f"{path.name}/" for path in sorted(Path(root).iterdir()) if path.is_dir()]
        if names or not folder:
            most = 2 if folder in PARTS else NUM_NAMED
            more = f" and {len(names) - most:,} more" if len(names) > most else ""
            told.append(f"{folder or 'root'}{'/' * bool(folder)}: {', '.join(names[:most]) or 'no file'}{more}")
    return f"Found is in {'; in '.join(told)}"
