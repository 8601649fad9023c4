"""A cohort as NIH ChestX-ray14 comes: PNG folders, Data_Entry_2017.csv, the two lists and BBox_List_2017.csv."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cluster.files import write_atomic
from sharding.phantom.anatomy import Pose
from sharding.phantom.domain import Exposure, expose, window_hard
from sharding.phantom.marker import write_text
from sharding.phantom.plan import Case, generator, patients_in_test, people
from sharding.phantom.scene import draw_scene

DATA_ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
BBOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"

_RGBA_SHARE = 0.05
_BOXED_SHARE = 0.5
_BOXED = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax")
_ORIGINALS = ((2500, 2048, 0.168), (2048, 2500, 0.168), (2992, 2991, 0.143), (2682, 2749, 0.143), (3056, 2544, 0.139))
_FROM_VINDR = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "ILD": "Edema",
    "Infiltration": "Infiltration",
    "Lung Opacity": "Pneumonia",
    "Pleural effusion": "Effusion",
    "Pleural thickening": "Pleural_Thickening",
    "Pneumothorax": "Pneumothorax",
    "Pulmonary fibrosis": "Fibrosis",
}
_FROM_KIND = {"nodule": "Nodule", "mass": "Mass", "cavity": "Mass", "bulla": "Emphysema", "hernia": "Hernia"}


def nih_finding(vindr_name: str, kind: str) -> str | None:
    """NIH's word for a drawn finding, or None where NIH has none (aorta, calcification)."""
    return _FROM_KIND.get(kind) or _FROM_VINDR.get(vindr_name)


def draw_nih(case: Case) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The film as uint8 [side, side] and its record for the tables."""
    rng = generator(case.cohort, case.seed, "image", case.index)
    patient, pose, planned = people(case, rng)
    shape = (case.side_px, case.side_px)
    scene = draw_scene(patient, pose, planned, shape, float(rng.uniform(0.415, 0.445)), rng)
    lying = pose.view_position == "AP"
    exposure = Exposure(
        scatter=float(rng.uniform(0.18, 0.32)) + (0.06 if lying else 0.0),
        photons=float(rng.uniform(900, 4_000) if lying else rng.uniform(2_500, 14_000)),
        flatten=float(rng.uniform(0.15, 0.45)),
        blur_px=1,
    )
    film, lung, bone = expose(scene.attenuation_HW, shape, exposure, rng)
    image = window_hard(film, lung, bone, float(rng.uniform(0.38, 0.52)), float(rng.uniform(4.0, 6.5)))
    _burn_in(image, pose, rng)
    record = {
        "key": case.key,
        "path": case.path,
        "patient": case.patient,
        "follow_up": case.follow_up,
        "age_years": min(95, patient.age_years + case.follow_up // 2),
        "sex": patient.sex,
        "view_position": pose.view_position,
        "height": shape[0],
        "width": shape[1],
        "original": list(_ORIGINALS[int(rng.integers(0, len(_ORIGINALS)))]),
        "rgba": bool(rng.random() < _RGBA_SHARE),
        "boxed": bool(rng.random() < _BOXED_SHARE),
        "findings": [finding.as_json() for finding in scene.findings],
        "lookalikes": list(scene.lookalikes),
    }
    return image, record


def _burn_in(image: NDArray[np.uint8], pose: Pose, rng: np.random.Generator) -> None:
    side = image.shape[0]
    x, y, tall = float(rng.uniform(0.88, 0.94)), float(rng.uniform(0.02, 0.10)), side * float(rng.uniform(0.022, 0.040))
    masks = []
    if rng.random() < 0.8:
        masks.append(write_text((side, side), ("L",), x, y, tall))
    if pose.view_position == "AP" and rng.random() < 0.7:
        words = (("PORTABLE",), ("PORTABLE", "AP"), ("SUPINE",), ("AP", "ERECT"))[int(rng.integers(0, 4))]
        masks.append(write_text((side, side), words, float(rng.uniform(0.03, 0.10)), y, tall * 0.8))
    for mask in masks:
        np.maximum(image, mask, out=image)


def write_nih_image(folder: Path, case: Case) -> dict[str, Any]:
    """Draws and writes one PNG; gives its record with the digest of its gray pixels."""
    image, record = draw_nih(case)
    stored = cv2.merge([image, image, image, np.full_like(image, 255)]) if record["rgba"] else image
    done, data = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done, case.key
    write_atomic(folder / case.path, data.tobytes())
    form = f"{stored.shape} {stored.dtype}".encode()
    return {**record, "pixels": hashlib.blake2b(form + stored.tobytes(), digest_size=16).hexdigest()}


def nih_tables(cases: tuple[Case, ...], records: list[dict[str, Any]]) -> dict[str, str]:
    """File name -> text of the csv files and lists, to the letter as the originals are written."""
    tests = patients_in_test(cases)
    entries, boxes = [DATA_ENTRY_HEADER], [BBOX_HEADER]
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    for record in records:
        name = f"{record['key']}.png"
        named = [(nih_finding(finding["finding"], finding["kind"]), finding["box"]) for finding in record["findings"]]
        words = sorted({word for word, _ in named if word})
        width, height, spacing = record["original"]
        entries.append(
            f"{name},{'|'.join(words) or 'No Finding'},{record['follow_up']},{record['patient']},{record['age_years']},"
            f"{record['sex']},{record['view_position']},{width},{height},{spacing},{spacing},"
        )
        is_test = record["patient"] in tests
        lists["test_list.txt" if is_test else "train_val_list.txt"].append(name)
        if is_test and record["boxed"]:
            for word, (x_min, y_min, x_max, y_max) in named:
                if word in _BOXED:
                    spelled = "Infiltrate" if word == "Infiltration" else word
                    sides = (x_min, y_min, x_max - x_min, y_max - y_min)
                    boxes.append(f"{name},{spelled}," + ",".join(repr(round(v, 9)) for v in sides))
    return {
        "Data_Entry_2017.csv": "\n".join(entries) + "\n",
        "BBox_List_2017.csv": "\n".join(boxes) + "\n",
        **{name: "\n".join(lines) for name, lines in lists.items()},
    }
