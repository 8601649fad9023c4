"""The phantoms' files against the originals' form: names, headers, pixels, readers."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless

from sharding.findings import NIH_FINDINGS, VINDR_FINDINGS
from sharding.phantom.cohort import PhantomConfig, run
from sharding.phantom.nih_files import BBOX_HEADER, DATA_ENTRY_HEADER, nih_tables
from sharding.phantom.plan import generator, plan_cohort
from sharding.phantom.readers import read_image
from sharding.phantom.vindr_files import SENTINEL, Form, _draw_form, dicom_bytes, draw_vindr, stored_pixels


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms")
    run(PhantomConfig(out=out, num_images=14, seed=4, side_px=192, processes=1))
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_nih_headers_are_the_originals_to_the_letter(cohorts: Path, real_data: Path) -> None:
    with gzip.open(real_data / "nih" / "BBox_List_2017.csv.gz", "rt") as file:
        assert file.readline() == BBOX_HEADER + "\n"
    with gzip.open(real_data / "nih" / "Data_Entry_2017_v2020.csv.gz", "rt") as file:
        assert file.readline().rstrip("\n") + "," == DATA_ENTRY_HEADER
    with gzip.open(real_data / "vindr" / "train.csv.gz", "rt") as file:
        assert (cohorts / "vindr" / "train.csv").read_text().startswith(file.readline())


def test_nih_lists_and_entries_agree(cohorts: Path) -> None:
    folder = cohorts / "nih"
    lists = [(folder / name).read_text() for name in ("train_val_list.txt", "test_list.txt")]
    assert not any(text.endswith("\n") for text in lists)
    train, test = (set(text.split("\n")) for text in lists)
    lines = (folder / "Data_Entry_2017.csv").read_text().splitlines()
    assert lines[0].endswith(",")
    assert all(line.count(",") == lines[0].count(",") == 11 for line in lines)
    entries = rows_of(folder / "Data_Entry_2017.csv")
    assert train | test == {row["Image Index"] for row in entries}
    assert train
    assert test
    assert not {name[:8] for name in train} & {name[:8] for name in test}
    for row in entries:
        words = row["Finding Labels"].split("|")
        assert words == ["No Finding"] or set(words) <= set(NIH_FINDINGS)
        assert int(row["Image Index"][:8]) == int(row["Patient ID"])
        assert (folder / "images_001" / "images" / row["Image Index"]).is_file()


def test_nih_pngs_are_gray_or_rgba(cohorts: Path) -> None:
    images = json.loads((cohorts / "nih" / "truth.json").read_text())["images"]
    for record in images:
        with Image.open(cohorts / "nih" / record["path"]) as image:
            assert image.size == (192, 192)
            assert image.mode == ("RGBA" if record["rgba"] else "L")
        pixels = cv2.imread(str(cohorts / "nih" / record["path"]), cv2.IMREAD_GRAYSCALE)
        assert pixels.std() > 30


def test_nih_boxes_lie_in_test_images_only() -> None:
    cases = plan_cohort("nih", 1, 60, 1024)
    finding = {"finding": "Infiltration", "kind": "patches", "strength": 1.0, "box": [10.5, 20.25, 110.5, 220.25]}
    record = {"follow_up": 0, "age_years": 50, "sex": "F", "view_position": "PA", "original": [2500, 2048, 0.168]}
    made = [
        {**record, "key": case.key, "patient": case.patient, "boxed": i % 2 == 0, "findings": [finding]}
        for i, case in enumerate(cases)
    ]
    tables = nih_tables(cases, made)
    lines = tables["BBox_List_2017.csv"].splitlines()[1:]
    assert lines
    assert all(line.split(",")[1:] == ["Infiltrate", "10.5", "20.25", "100.0", "200.0"] for line in lines)
    assert {line.split(",")[0] for line in lines} < set(tables["test_list.txt"].split("\n"))
    assert "Infiltration" in tables["Data_Entry_2017.csv"]


def test_vindr_tables_agree_with_the_files(cohorts: Path) -> None:
    folder = cohorts / "vindr"
    sizes = {row["image_id"]: (int(row["dim0"]), int(row["dim1"])) for row in rows_of(folder / "train_meta.csv")}
    readers: dict[str, set[str]] = defaultdict(set)
    for row in rows_of(folder / "train.csv"):
        height, width = sizes[row["image_id"]]
        readers[row["image_id"]].add(row["rad_id"])
        if row["class_id"] == "14":
            assert (row["class_name"], row["x_min"], row["y_max"]) == ("No finding", "", "")
            continue
        assert VINDR_FINDINGS[int(row["class_id"])] == row["class_name"]
        box = [float(row[name]) for name in ("x_min", "y_min", "x_max", "y_max")]
        assert all(v == int(v) for v in box)
        assert 0 <= box[0] < box[2] < width
        assert 0 <= box[1] < box[3] < height
    assert set(map(len, readers.values())) == {3}
    assert set(readers) == set(sizes) == {path.stem for path in (folder / "train").iterdir()}
    for key, (height, width) in sizes.items():
        data = pydicom.dcmread(folder / "train" / f"{key}.dicom")
        assert (data.Rows, data.Columns) == (height, width) == data.pixel_array.shape
        assert SENTINEL in str(data.PatientName)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "inverted", "windows"), [(12, True, 2), (14, False, 0), (16, False, 1)])
def test_dicom_gives_back_its_pixels(compressed: bool, signed: bool, bits: int, inverted: bool, windows: int) -> None:
    case = plan_cohort("vindr", 2, 1, 128)[0]
    record = {"view_position": "PA", "sex": "M", "age_years": 61}
    image = (np.arange(90 * 70).reshape(90, 70) * 13 % (1 << bits)).astype(np.uint16)
    image[0, :2] = 0, (1 << bits) - 1
    form = Form(bits, compressed, inverted, signed, signed, windows)
    data = pydicom.dcmread(io.BytesIO(dicom_bytes(case, image, form, record)))
    assert (data.file_meta.TransferSyntaxUID == JPEG2000Lossless) == compressed
    assert data.PhotometricInterpretation == ("MONOCHROME1" if inverted else "MONOCHROME2")
    np.testing.assert_array_equal(data.pixel_array, stored_pixels(image, form))
    values = data.pixel_array.astype(np.int64) + int(data.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(((1 << bits) - 1 - values) if inverted else values, image)
    assert (0 if "WindowCenter" not in data else data["WindowCenter"].VM) == windows


def test_vindr_forms_are_mixed() -> None:
    forms = [_draw_form(generator("vindr", 0, "image", i)) for i in range(300)]
    assert {form.bits for form in forms} == {12, 14, 15, 16}
    assert {form.windows for form in forms} == {0, 1, 2}
    for share, low, high in [("compressed", 0.2, 0.5), ("inverted", 0.15, 0.4), ("signed", 0.02, 0.2)]:
        assert low < np.mean([getattr(form, share) for form in forms]) < high


def test_drawing_twice_gives_the_same() -> None:
    case = plan_cohort("vindr", 9, 3, 160)[2]
    first, second = draw_vindr(case), draw_vindr(case)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1:] == second[1:]


def test_readers_disagree_but_not_wildly() -> None:
    finding = {
        "finding": "Consolidation",
        "kind": "consolidation",
        "strength": 0.9,
        "box": [200.0, 300.0, 400.0, 560.0],
    }
    faint = {**finding, "finding": "Nodule/Mass", "strength": 0.05, "box": [500.0, 300.0, 540.0, 345.0]}
    seen: Counter[str] = Counter()
    boxes = set()
    for i in range(300):
        for reading in read_image([finding, faint], 1200, 1000, generator("vindr", 0, "readers", i)):
            if reading.finding is None:
                seen["nothing"] += 1
                assert reading.box is None
                continue
            seen[VINDR_FINDINGS[reading.finding]] += 1
            assert reading.box is not None
            if VINDR_FINDINGS[reading.finding] == "Consolidation":
                boxes.add(reading.box)
                assert np.abs(np.array(reading.box) - [200, 300, 400, 560]).max() < 30
    assert len(boxes) > 600
    assert seen["Consolidation"] > 1.4 * seen["Nodule/Mass"] > 300
    assert seen["Lung Opacity"] + seen["Infiltration"] > 30
    assert seen["nothing"] > 0
    nothing = read_image([], 1200, 1000, generator("vindr", 0, "readers", 5))
    assert len({reading.reader for reading in nothing}) == 3
