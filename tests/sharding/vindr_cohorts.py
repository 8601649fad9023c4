"""Small VinDr-CXR cohorts on disk, in the form of the PhysioNet edition."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from sharding.findings import VINDR_DISEASES, VINDR_LOCAL_FINDINGS
from tests.sharding.cohorts import dicom, draw, save, write_csv

READERS = ("R1", "R2", "R3")
BOX_HEADER = ["image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
LOCAL_COLUMNS = [*sorted(set(VINDR_LOCAL_FINDINGS) - {"Other lesion"}), "Other lesion"]
HEIGHT, WIDTH = 60, 50


def key(number: int) -> str:
    """The id of an image."""
    return f"{number:032x}"


def write_images(root: Path, numbers: range, ending: str = ".dicom") -> None:
    """One DICOM of HEIGHT by WIDTH pixels for each number."""
    for number in numbers:
        save(dicom(draw(number, HEIGHT, WIDTH).astype(np.uint16) * 16, PatientSex="F"), root / f"{key(number)}{ending}")


def label_rows(named: dict[tuple[int, str], list[str]], numbers: range, last: str) -> list[list[Any]]:
    """Rows of an image_labels file: `named` are the ones of (image, reader); reader "" is the consensus of the test
    part. `last` is how the file spells "Other disease"."""
    readers = READERS if numbers.start == 0 else ("",)
    findings = [*LOCAL_COLUMNS, *VINDR_DISEASES]
    header = ["image_id", *(["rad_id"] if readers[0] else []), *findings[:-1], last, "No finding"]
    rows: list[list[Any]] = [header]
    for number in numbers:
        for reader in readers:
            ones = named.get((number, reader), [])
            marks = [int(finding in ones) for finding in findings]
            rows.append([key(number), *([reader] if reader else []), *marks, int(not ones)])
    return rows


def write_physionet(root: Path, annotations: str = "annotations", packed: bool = False, ending: str = ".dicom") -> None:
    """Eight train images read by three, and four test images; the csv files in root / `annotations`.

    train 0: Cardiomegaly by all; 1: nearly the same rectangle is a rib fracture to R1, another lesion to R2; and R3
    alone sees an effusion; 2: no box, pneumonia to two readers, tuberculosis to one; 3: nothing; 4: a box by R1 alone
    and another disease to all; 5 to 7: as 0. test 8: two boxes and COPD; 9: nothing; 10 and 11: edema.
    """
    heart = ["Cardiomegaly", 5, 10, 30, 40]
    rows: list[list[Any]] = [BOX_HEADER]
    for number in range(8):
        for turn, reader in enumerate(READERS):
            if number in (0, 5, 6, 7):
                boxes = [[heart[0], 5 + turn, 10, 30, 40 + turn]]
            elif number == 1:
                boxes = [
                    [["Rib fracture", 10, 10, 20, 20]],
                    [["Other lesion", 10, 10, 20, 21]],
                    [["Pleural effusion", 30, 40, 48, 58]],
                ][turn]
            elif number == 4 and reader == "R1":
                boxes = [["Lung Opacity", 2, 2, 12, 12]]
            else:
                boxes = []
            rows += [[key(number), reader, *box] for box in boxes] or [[key(number), reader, "No finding", *[""] * 4]]
    consensus: list[list[Any]] = [
        [column for column in BOX_HEADER if column != "rad_id"],
        [key(8), "Rib fracture", 10, 10, 20, 20],
        [key(8), "Cardiomegaly", 5.25, 10, 30, 40],
        [key(9), "No finding", *[""] * 4],
        *([key(number), "Edema", 1, 2, 40, 50] for number in (10, 11)),
    ]
    named = {(2, "R1"): ["Pneumonia"], (2, "R2"): ["Pneumonia", "Tuberculosis"], (4, "R1"): ["Lung Opacity"]}
    for reader in READERS:
        named[4, reader] = [*named.get((4, reader), []), "Other disease"]
    tables = {
        "annotations_train": rows,
        "annotations_test": consensus,
        "image_labels_train": label_rows(named, range(8), "Other diseases"),
        "image_labels_test": label_rows(
            {(8, ""): ["Cardiomegaly", "Rib fracture", "COPD"]}, range(8, 12), "Other disease"
        ),
    }
    for name, content in tables.items():
        path = write_csv(root / annotations / f"{name}.csv", content)
        if packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    write_images(root / "train", range(8), ending)
    write_images(root / "test", range(8, 12), ending)


def edit_csv(path: Path, start: str, old: str, new: str) -> int:
    """Replaces text in the first line that starts so; gives its row number, as a spreadsheet shows it."""
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(start))
    assert old in lines[number], lines[number]
    lines[number] = lines[number].replace(old, new)
    path.write_text("\n".join(lines) + "\n")
    return number + 1
