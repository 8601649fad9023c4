"""Small cohorts on disk for the tests of this room."""

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECRET = bytes(range(32))

BAD_SECTOR = "/proc/self/mem"
"""A plain file that opens, and whose beginning gives EIO when it is read, as a failing disk or network does."""


@contextlib.contextmanager
def powerless() -> Iterator[Path]:
    """An empty folder, and none of root's rights until the end of the block."""
    was = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        if was == 0:
            os.seteuid(65534)  # nobody
        try:
            yield Path(folder)
        finally:
            os.seteuid(was)


def draw(seed: int, height: int = 60, width: int = 50) -> npt.NDArray[np.uint8]:
    """A smooth gray image with some texture, [height, width] uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = 110 + 60 * np.sin(x / 7 + seed) + 50 * np.cos(y / 9 - seed)
    return np.clip(waves + rng.normal(0, 4, (height, width)), 0, 255).astype(np.uint8)


def write_pngs(root: Path, names: list[str]) -> None:
    """One drawn PNG for each relative path."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(seed)).save(path)


def write_key(path: Path) -> Path:
    """A key file with SECRET."""
    path.write_text(SECRET.hex())
    return path


def write_csv(path: Path, rows: list[list[Any]]) -> Path:
    """A csv file of these rows, header first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def dicom(stored: npt.NDArray[Any], bits: int = 12, **tags: Any) -> FileDataset:
    """An uncompressed one-frame DICOM of these stored values; `tags` overwrite or add elements."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["instance"])
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    signed = stored.dtype.kind == "i"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(signed)
    whole = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    dataset.PixelData = stored.astype(whole).tobytes() + b"\0" * (stored.size % 2 if bits <= 8 else 0)
    dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def save(dataset: FileDataset, path: Path) -> Path:
    """Writes it, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=False)
    return path


def write_nih(root: Path, num_patients: int = 6) -> list[str]:
    """NIH's layout in two folders: three images a patient, the last third of the patients on the test list."""
    names = [f"{patient:08d}_{image:03d}.png" for patient in range(1, num_patients + 1) for image in range(3)]
    write_pngs(root, [f"images_00{1 + i % 2}/images/{name}" for i, name in enumerate(names)])
    labels = ["No Finding", "Cardiomegaly|Effusion", "Infiltration"]
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    header += "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    rows = [
        [name, labels[i % 3], i % 3, i // 3 + 1, 30 + i, "MF"[i // 3 % 2], "PA", 9, 9, 0.1, 0.1, ""]
        for i, name in enumerate(names)
    ]
    write_csv(root / "Data_Entry_2017.csv", [header.split(","), *rows])
    border = num_patients * 2 // 3 * 3
    (root / "train_val_list.txt").write_text("\n".join(names[:border]))
    (root / "test_list.txt").write_text("\n".join(names[border:]))
    write_csv(
        root / "BBox_List_2017.csv",
        [
            ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", ""],
            [names[-1], "Infiltrate", 102.4, 204.8, 512, 256, "", "", ""],
        ],
    )
    return names


def write_vindr(root: Path, num_images: int = 8) -> list[str]:
    """VinDr's Kaggle layout: three readers an image; every fourth image has no finding."""
    keys = [f"{number:032x}" for number in range(num_images)]
    rows: list[list[Any]] = [["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]]
    for number, key in enumerate(keys):
        stored = draw(number).astype(np.uint16) * 16
        save(dicom(stored, PatientSex="F", PatientAge="047Y"), root / "train" / f"{key}.dicom")
        for reader in range(3):
            if number % 4 == 3:
                rows.append([key, "No finding", 14, f"R{reader}", "", "", "", ""])
            else:
                rows.append([key, "Cardiomegaly", 3, f"R{reader}", 5 + reader, 10, 30, 40 + reader])
    write_csv(root / "train.csv", rows)
    return keys


def noisy_png(seed: int, side: int) -> bytes:
    """A PNG [side, side] of noise, which no compression makes smaller."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    text = io.BytesIO()
    Image.fromarray(noise).save(text, "PNG")
    return text.getvalue()
