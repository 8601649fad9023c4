"""A cohort as VinDr-CXR's Kaggle edition comes: train/<id>.dicom, train.csv by three readers, train_meta.csv."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from cluster.files import write_atomic
from sharding.findings import VINDR_FINDINGS
from sharding.phantom.domain import Exposure, expose, keep_range
from sharding.phantom.marker import write_text
from sharding.phantom.plan import Case, generator, people
from sharding.phantom.readers import read_image
from sharding.phantom.scene import draw_scene

SENTINEL = "ZYXWSENTINEL"
"""Stands in every header field that could name a person or a place: search what was made for it to find a leak."""

_COMPRESSED_SHARE, _INVERTED_SHARE, _WINDOWED_SHARE, _SEVERAL_WINDOWS_SHARE, _SIGNED_SHARE = (
    0.35,
    0.25,
    0.65,
    0.25,
    0.08,
)
_BITS = (12, 12, 12, 14, 14, 15, 16)


@dataclass(frozen=True, slots=True)
class Form:
    """How the pixels of one file are stored."""

    bits: int
    compressed: bool
    inverted: bool
    signed: bool
    rescaled: bool
    windows: int


def _draw_form(rng: np.random.Generator) -> Form:
    windowed = rng.random() < _WINDOWED_SHARE
    signed = bool(rng.random() < _SIGNED_SHARE)
    return Form(
        bits=_BITS[int(rng.integers(0, len(_BITS)))],
        compressed=bool(rng.random() < _COMPRESSED_SHARE),
        inverted=bool(rng.random() < _INVERTED_SHARE),
        signed=signed,
        rescaled=signed or bool(rng.random() < 0.3),
        windows=0 if not windowed else 2 if rng.random() < _SEVERAL_WINDOWS_SHARE else 1,
    )


def _draw_shape(side_px: int, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width: .88 to 1.3 times `side_px` wide (one in ten up to 1.5), mostly taller than wide."""
    width = side_px * float(rng.uniform(1.3, 1.5) if rng.random() < 0.1 else rng.uniform(0.88, 1.3))
    height = width * float(rng.uniform(0.92, 1.24))
    return max(64, round(height)), max(64, round(width))


def draw_vindr(case: Case) -> tuple[NDArray[np.uint16], Form, dict[str, Any]]:
    """The detector's image (uint16 [H, W], bright is dense), how it is to be stored, and its record for the tables."""
    rng = generator(case.cohort, case.seed, "image", case.index)
    patient, pose, planned = people(case, rng)
    shape, form = _draw_shape(case.side_px, rng), _draw_form(rng)
    scene = draw_scene(patient, pose, planned, shape, float(rng.uniform(0.40, 0.46)), rng)
    exposure = Exposure(
        scatter=float(rng.uniform(0.08, 0.18)),
        photons=float(rng.uniform(6_000, 50_000)),
        flatten=float(rng.uniform(0.30, 0.50)),
        blur_px=0,
    )
    film, lung, bone = expose(scene.attenuation_HW, shape, exposure, rng)
    image = keep_range(film, lung, bone, form.bits)
    top = (1 << form.bits) - 1
    open_field = _collimate(image, top, rng)
    if rng.random() < 0.85:
        x, y = (0.90, float(rng.uniform(0.04, 0.14))) if rng.random() < 0.8 else (0.05, float(rng.uniform(0.04, 0.14)))
        word = "L" if x > 0.5 else "R"
        mask = write_text(shape, (word,), x, y, shape[0] * float(rng.uniform(0.018, 0.030)), 0.22)
        np.maximum(image, (mask.astype(np.int64) * top // 255).astype(np.uint16), out=image)
    findings = []
    for finding in scene.findings:
        box = [
            max(finding.box[0], open_field[0]),
            max(finding.box[1], open_field[1]),
            min(finding.box[2], open_field[2]),
            min(finding.box[3], open_field[3]),
        ]
        if box[2] - box[0] >= 4 and box[3] - box[1] >= 4:
            findings.append({**finding.as_json(), "box": box})
    record = {
        "key": case.key,
        "path": case.path,
        "patient": case.patient,
        "age_years": patient.age_years,
        "sex": patient.sex,
        "view_position": pose.view_position,
        "height": shape[0],
        "width": shape[1],
        "findings": findings,
        "lookalikes": list(scene.lookalikes),
    }
    return image, form, record


def _collimate(image: NDArray[np.uint16], top: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Blades in front of the tube: half the images have a border, mostly black. Gives the open field's box."""
    height, width = image.shape
    left, upper, right, lower = (float(v) for v in rng.uniform(0.0, 0.045, size=4))
    shade = 0 if rng.random() < 0.75 else top * 9 // 10
    if rng.random() < 0.5:
        return 0.0, 0.0, float(width), float(height)
    x_min, y_min, x_max, y_max = round(left * width), round(upper * height), round(width - right * width), height
    y_max = round(height - lower * height)
    image[:y_min], image[y_max:] = shade, shade
    image[:, :x_min], image[:, x_max:] = shade, shade
    return float(x_min), float(y_min), float(x_max), float(y_max)


def stored_pixels(image: NDArray[np.uint16], form: Form) -> NDArray[np.uint16] | NDArray[np.int16]:
    """The values as they lie in the file: inverted for MONOCHROME1, shifted below zero where signed."""
    values = ((1 << form.bits) - 1) - image if form.inverted else image
    if form.signed:
        return (values.astype(np.int32) - (1 << (form.bits - 1))).astype(np.int16)
    return values.astype(np.uint16)


def dicom_bytes(case: Case, image: NDArray[np.uint16], form: Form, record: dict[str, Any]) -> bytes:
    """A complete DICOM file (Digital X-Ray for presentation); names, dates and places are invented."""
    stored = stored_pixels(image, form)
    uid = [generate_uid(entropy_srcs=[case.key, part]) for part in ("instance", "study", "series")]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.file_meta.MediaStorageSOPInstanceUID = uid[0]
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless if form.compressed else ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = DigitalXRayImageStorageForPresentation, uid[0]
    data.StudyInstanceUID, data.SeriesInstanceUID = uid[1], uid[2]
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", record["view_position"]
    data.PatientName, data.PatientID = f"{SENTINEL}^PATIENT^{case.index}", f"{SENTINEL}-{case.index:06d}"
    data.PatientSex, data.PatientAge = record["sex"], f"{record['age_years']:03d}Y"
    data.PatientBirthDate, data.StudyDate, data.StudyTime = "19010203", "19990405", "060708"
    data.InstitutionName, data.ReferringPhysicianName = f"{SENTINEL} HOSPITAL", f"{SENTINEL}^PHYSICIAN"
    data.AccessionNumber, data.StationName = f"{SENTINEL[:10]}", SENTINEL
    data.Manufacturer = ("Phantom Optics", "Drawn Rays", "Plain Film Works")[case.index % 3]
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 16, form.bits, form.bits - 1
    data.PixelRepresentation = int(form.signed)
    data.PhotometricInterpretation = "MONOCHROME1" if form.inverted else "MONOCHROME2"
    data.PixelSpacing = [0.139, 0.139]
    shift = 1 << (form.bits - 1) if form.signed else 0
    if form.rescaled:
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = "1", str(shift), "US"
    if form.windows:
        # keep_range puts the lung at .45 / 1.75 of the range and bone at 1.45 / 1.75
        top = (1 << form.bits) - 1
        centre, width = round(top * 0.55), round(top * 0.72)
        centre = top - centre if form.inverted else centre
        data.WindowCenter = [centre, centre + top // 16][: form.windows] if form.windows > 1 else centre
        data.WindowWidth = [width, width * 3 // 4][: form.windows] if form.windows > 1 else width
    if form.compressed:
        data.PixelData = encapsulate([encode_array(stored, bits_stored=form.bits)])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
    else:
        data.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
        data["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_vindr_image(folder: Path, case: Case) -> dict[str, Any]:
    """Draws and writes one DICOM file; gives its record with the digest of its stored pixels."""
    image, form, record = draw_vindr(case)
    write_atomic(folder / case.path, dicom_bytes(case, image, form, record))
    stored = stored_pixels(image, form)
    words = f"{stored.shape} {form}".encode()
    little = stored.astype(stored.dtype.newbyteorder("<"))
    return {**record, "pixels": hashlib.blake2b(words + little.tobytes(), digest_size=16).hexdigest()}


def vindr_tables(cases: tuple[Case, ...], records: list[dict[str, Any]]) -> dict[str, str]:
    """File name -> text of train.csv (rows in no order, as in the original) and train_meta.csv."""
    rows = []
    for case, record in zip(cases, records, strict=True):
        rng = generator(case.cohort, case.seed, "readers", case.index)
        for reading in read_image(record["findings"], record["height"], record["width"], rng):
            if reading.finding is None or reading.box is None:
                rows.append(f"{case.key},No finding,14,{reading.reader},,,,")
            else:
                corners = ",".join(f"{v}.0" for v in reading.box)
                name = VINDR_FINDINGS[reading.finding]
                rows.append(f"{case.key},{name},{reading.finding},{reading.reader},{corners}")
    order = generator("vindr", cases[0].seed, "order", 0).random(len(rows)).argsort(kind="stable")
    sizes = sorted(f"{record['key']},{record['height']},{record['width']}" for record in records)
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    return {
        "train.csv": "\n".join([header, *(rows[i] for i in order)]) + "\n",
        "train_meta.csv": "\n".join(["image_id,dim0,dim1", *sizes]) + "\n",
    }
