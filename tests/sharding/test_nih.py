import os
import re
import shutil
import tarfile
from pathlib import Path

import boto3
import numpy as np
import pytest
from PIL import Image

from sharding.findings import NIH_FINDINGS
from sharding.nih import NihConfig, read_boxes, read_labels, read_nih
from sharding.privacy import pseudonym
from sharding.sample import Refusal, SourceImage, check_boxes
from sharding.source import read_source
from sharding.tables import read_list, read_table
from tests.sharding.cohorts import BAD_SECTOR, SECRET, write_csv, write_nih, write_pngs


def read(root: Path, **options: object) -> tuple[dict[str, object], list[Refusal]]:
    cohort = read_nih(NihConfig(root=root, out=root / "x", **options), SECRET)  # type: ignore[arg-type]
    return {image.key: image for image in cohort.images}, list(cohort.refusals)


def test_real_tables(real_data: Path) -> None:
    folder = real_data / "nih"
    refusals: list[Refusal] = []
    rows = read_labels(read_table(folder / "Data_Entry_2017_v2020.csv.gz", ["Image Index"]), refusals)
    assert len(rows) == 112_120
    assert not refusals
    lists = [read_list(folder / f"{name}_list.txt.gz") for name in ("train_val", "test")]
    assert [len(names) for names in lists] == [86_524, 25_596]
    assert [len({rows[name].patient for name in names}) for names in lists] == [28_008, 2_797]
    boxes, wrong = read_boxes(read_table(folder / "BBox_List_2017.csv.gz", ["Image Index"]))
    assert not wrong
    assert len(boxes) == 880
    assert sum(map(len, boxes.values())) == 984
    assert set(boxes) <= set(lists[1])
    assert all(check_boxes(found, 1024, 1024) is None for found in boxes.values())


def test_folders_lists_and_boxes(tmp_path: Path) -> None:
    names = write_nih(tmp_path)
    images, refusals = read(tmp_path, valid_share=0.5)
    assert not refusals
    assert list(images) == [name.removesuffix(".png") for name in names]
    first, second, last = (images[key] for key in ("00000001_000", "00000001_001", "00000006_002"))
    assert (first.findings, first.boxes, first.sex, first.age_band) == ((), None, "M", "30-39")  # type: ignore[attr-defined]
    assert second.findings == (1, 4)  # type: ignore[attr-defined]
    assert second.patient == first.patient != last.patient  # type: ignore[attr-defined]
    assert last.split == "test"  # type: ignore[attr-defined]
    assert [NIH_FINDINGS[box.finding] for box in last.boxes] == ["Infiltration"]  # type: ignore[attr-defined]
    assert {image.split for image in images.values()} == {"train", "valid", "test"}  # type: ignore[attr-defined]


def test_what_does_not_fit_together_is_named(tmp_path: Path) -> None:
    names = write_nih(tmp_path)
    (tmp_path / "images_001" / "images" / names[0]).unlink()
    write_pngs(tmp_path / "images_001", ["99999999_000.png", names[1]])
    images, refusals = read(tmp_path)
    reasons = {refusal.name: refusal.reason for refusal in refusals}
    assert set(reasons) == {names[0], "images_001/99999999_000.png", f"images_002/images/{names[1]}"}
    assert "no such file" in reasons[names[0]]
    assert "no usable row" in reasons["images_001/99999999_000.png"]
    assert "is in images_001" in reasons[f"images_002/images/{names[1]}"]
    assert len(images) == len(names) - 1


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    header = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position"]
    rows = [
        ["a.png", "Cardiomegalie", 1, 40, "M", "PA"],
        ["../b.png", "No Finding", 1, 40, "M", "PA"],
        ["c.png", "No Finding", 1, "414Y", "?", "XX"],
        ["c.png", "No Finding", 1, 40, "M", "PA"],
        ["d.png", "Mass", "Nodule", 1, 40, "M", "PA"],
    ]
    refusals: list[Refusal] = []
    found = read_labels(read_table(write_csv(tmp_path / "l.csv", [header, *rows]), header), refusals)
    assert [refusal.name for refusal in refusals] == ["a.png", "../b.png", "c.png", "d.png"]
    assert [re.search(r"line (\d)", refusal.reason)[1] for refusal in refusals] == ["2", "3", "5", "6"]  # type: ignore[index]
    assert "more values than columns" in refusals[3].reason
    assert "did you mean 'Cardiomegaly'" in refusals[0].reason
    assert (found["c.png"].age_band, found["c.png"].sex, found["c.png"].view_position) == (None, None, None)


def test_other_layouts_are_refused_with_the_repair(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks Data_Entry_2017_v2020\.csv"):
        read(tmp_path)
    write_nih(tmp_path)
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(ValueError, match="--split patient"):
        read(tmp_path)
    assert read(tmp_path, split="none")[0]
    by_hash, _ = read(tmp_path, split="hash", valid_share=0.3, test_share=0.3)
    assert len({image.split for image in by_hash.values()}) > 1  # type: ignore[attr-defined]
    by_patient, _ = read(tmp_path, split="patient", valid_share=0.3, test_share=0.3)
    assert {image.split for image in by_patient.values()} == {"train"}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="valid_share"):
        NihConfig(root=tmp_path, out=tmp_path, valid_share=1.5)


def test_wrong_boxes_are_named_and_take_their_image_with_them(tmp_path: Path) -> None:
    """An image would otherwise be scored against a part of its boxes."""
    names = write_nih(tmp_path)
    rows = [
        ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"],
        [names[0], "Infiltrate", 1, 2, 3, 4],
        [names[0], "Infiltrat", 5, 6, 7, 8],
        [names[1], "Mass", 1, "two", 3, 4],
        [names[2], "Mass", 10, 20, 30, 40],
        ["99999999_000.png", "Masss", 1, 2, 3, 4],
    ]
    write_csv(tmp_path / "BBox_List_2017.csv", rows)
    images, refusals = read(tmp_path)
    reasons = {refusal.name: refusal.reason for refusal in refusals}
    assert set(reasons) == {names[0], names[1], "99999999_000.png"}
    assert reasons[names[0]].startswith("BBox_List_2017.csv, line 3: its box is wrong: unknown finding 'Infiltrat'")
    assert "line 4" in reasons[names[1]]
    assert len(images) == len(names) - 2
    assert images[names[2].removesuffix(".png")].boxes  # type: ignore[attr-defined]


def pack(root: Path) -> None:
    """Kaggle's folders to NIH's own archives: images_001/images/*.png to images_001.tar.gz with images/*.png."""
    for folder in ("images_001", "images_002"):
        with tarfile.open(root / f"{folder}.tar.gz", "w:gz") as tar:
            tar.add(root / folder / "images", "images")
        shutil.rmtree(root / folder)


def test_the_published_archives_give_what_the_unpacked_files_give(tmp_path: Path) -> None:
    write_nih(tmp_path)
    unpacked, _ = read(tmp_path)
    pixels = {key: read_source(image) for key, image in unpacked.items()}  # type: ignore[arg-type]
    pack(tmp_path)
    (tmp_path / "x.partial").mkdir()
    for _ in range(2):
        packed, refusals = read(tmp_path)
        assert not refusals
        assert list(packed) == list(unpacked)
        for key, image in packed.items():
            assert isinstance(image, SourceImage)
            other = unpacked[key]
            assert image.name == other.name.replace("/images/", ".tar.gz/images/")  # type: ignore[attr-defined]
            assert (image.boxes, image.split, image.patient) == (other.boxes, other.split, other.patient)  # type: ignore[attr-defined]
            assert read_source(image, tmp_path / "x.partial") == pixels[key]
        assert len(list((tmp_path / "x.partial").glob("*.gzidx"))) == 2


def test_some_unpacked_some_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_nih(tmp_path)
    shutil.copytree(tmp_path / "images_001", tmp_path / "kept")
    pack(tmp_path)
    images, refusals = read(tmp_path)
    assert not refusals
    assert len(images) == len(names)
    assert {image.path.endswith(".png") for image in images.values()} == {True, False}  # type: ignore[attr-defined]
    assert "images_001.tar.gz: 9 of its images lie unpacked too; those are taken" in capsys.readouterr().err
    write_nih(tmp_path)
    (tmp_path / "images_003.tar.gz").write_bytes(b"never looked at")
    shutil.rmtree(tmp_path / "kept")
    images, refusals = read(tmp_path)
    assert not refusals
    assert "3 archives are not read" in capsys.readouterr().err


def test_a_damaged_archive_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_nih(tmp_path)
    pack(tmp_path)
    path = tmp_path / "images_002.tar.gz"
    path.write_bytes(path.read_bytes()[:-9000])
    images, refusals = read(tmp_path)
    assert 9 < len(images) < 18
    (archive,) = (refusal for refusal in refusals if refusal.name == "images_002.tar.gz")
    assert "damaged" in archive.reason
    assert sum("no such file" in refusal.reason for refusal in refusals) == 18 - len(images)


@pytest.mark.parametrize("packed", [False, True])
def test_boxes_on_smaller_copies_are_scaled(packed: bool, tmp_path: Path) -> None:
    """The drawn files are 60 high and 50 wide."""
    write_nih(tmp_path)
    if packed:
        pack(tmp_path)
    (box,) = read(tmp_path)[0]["00000006_002"].boxes  # type: ignore[attr-defined]
    expected = np.array([102.4, 204.8, 614.4, 460.8]) / 1024 * [50, 60, 50, 60]
    assert np.allclose([box.x_min, box.y_min, box.x_max, box.y_max], expected)


def test_a_boxed_file_without_a_png_header_is_named(tmp_path: Path) -> None:
    names = write_nih(tmp_path)
    (path,) = tmp_path.rglob(names[-1])
    Image.open(path).save(path, "JPEG")
    images, refusals = read(tmp_path)
    assert len(images) == len(names) - 1
    assert "does not begin as a PNG file" in refusals[0].reason


def test_linked_folders_and_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_nih(tmp_path / "root")
    (tmp_path / "root" / "images_001").rename(tmp_path / "elsewhere")
    (tmp_path / "root" / "images_001").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / os.fsdecode(b"\xe4.png")).touch()
    images, refusals = read(tmp_path / "root")
    assert list(images) == [name.removesuffix(".png") for name in names]
    assert [refusal.name for refusal in refusals] == [r"images_001/\xe4.png"]
    assert "links to folders, which are not followed (but images* in root is): 1\n" in capsys.readouterr().err


def test_a_disk_that_fails_is_no_fault_of_the_file(tmp_path: Path) -> None:
    boxed = write_nih(tmp_path)[-1]
    path = next(tmp_path.rglob(boxed))
    path.unlink()
    path.symlink_to(BAD_SECTOR)
    with pytest.raises(OSError, match="Input/output error"):
        read(tmp_path)


@pytest.mark.parametrize("label_file", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"])
def test_columns_of_both_label_files(label_file: str, tmp_path: Path) -> None:
    row = ["00000001_000.png", "Mass|Nodule", 0, 1, "058Y", "F", "AP", 1, 2, 3, 4]
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,a,b,c,d"
    if "v2020" in label_file:
        header = header.replace("Gender", "Sex")
    else:
        header, row = header + ",", [*row, ""]
    found = read_labels(read_table(write_csv(tmp_path / label_file, [header.split(","), row]), []), [])
    first = found["00000001_000.png"]
    assert (first.findings, first.patient, first.sex, first.age_band) == ((9, 10), "1", "F", "50-59")


def test_the_newer_label_file_is_taken(tmp_path: Path) -> None:
    write_nih(tmp_path)
    shutil.copy(tmp_path / "Data_Entry_2017.csv", tmp_path / "Data_Entry_2017_v2020.csv")
    cohort = read_nih(NihConfig(root=tmp_path, out=tmp_path / "x"), SECRET)
    assert str(tmp_path / "Data_Entry_2017_v2020.csv") in cohort.tables
    assert str(tmp_path / "Data_Entry_2017.csv") not in cohort.tables


def test_almost_right_roots(tmp_path: Path) -> None:
    root = tmp_path / "archive" / "nih"
    write_nih(root)
    for wrong in (tmp_path / "archive", tmp_path, root / "images_001", root / "images_001" / "images"):
        with pytest.raises(ValueError, match=re.escape(f"did you mean --root {root}?")):
            read(wrong)
    with pytest.raises(ValueError, match="is not a folder"):
        read(tmp_path / "absent")
    for name, columns, hint in (
        ("train.csv", ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"], "CheXpert's"),
        ("train.csv", ["image_id", "class_name", "rad_id"], "cxr shard vindr"),
        ("mimic.csv", ["dicom_id", "study_id"], "MIMIC"),
        ("labels.csv", ["Image Index", "Finding Labels"], "labels.csv has its columns"),
        ("other.csv", ["x"], "it holds other.csv"),
    ):
        shutil.rmtree(tmp_path)
        write_csv(tmp_path / name, [columns])
        with pytest.raises(ValueError, match=hint):
            read(tmp_path)


def test_labels_without_images(tmp_path: Path) -> None:
    write_nih(tmp_path)
    below = tmp_path / "csv"
    below.mkdir()
    for path in [*tmp_path.glob("*.csv"), *tmp_path.glob("*.txt")]:
        path.rename(below / path.name)
    (below / "a.jpg").touch()
    with pytest.raises(ValueError, match=re.escape(f"the images seem to be in {tmp_path}")) as caught:
        read(below)
    assert "1 x .jpg" in str(caught.value)


def test_lists_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_nih(tmp_path)
    (tmp_path / "test_list.txt").write_text("\n".join([*names[12:-1], "99999999_000.png"]))
    images, _ = read(tmp_path)
    assert images["00000006_002"].split == ""  # type: ignore[attr-defined]
    told = capsys.readouterr().err
    assert "test_list.txt: Data_Entry_2017.csv has no usable row for 1: 99999999_000.png" in told
    assert "on neither list, so in no split: 1: 00000006_002.png" in told
    (tmp_path / "test_list.txt").write_text("\n".join(names[11:]))
    with pytest.raises(ValueError, match=f"share 1 images: {names[11]}"):
        read(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_an_object_store_gives_what_a_disk_gives(packed: bool, s3: str, tmp_path: Path) -> None:
    write_nih(tmp_path, num_patients=3)
    if packed:
        pack(tmp_path)
    local, _ = read(tmp_path)
    client = boto3.client("s3")
    for path in tmp_path.rglob("*.*"):
        if path.is_file():
            client.upload_file(str(path), "radiographs", f"nih-{packed}/{path.relative_to(tmp_path).as_posix()}")
    cohort = read_nih(NihConfig(root=f"{s3}/nih-{packed}", out=tmp_path / "y"), SECRET)
    assert not cohort.refusals
    assert [image.name for image in cohort.images] == [image.name for image in local.values()]  # type: ignore[attr-defined]
    for image in cohort.images:
        other = local[image.key]
        assert isinstance(other, SourceImage)
        assert (image.boxes, image.split, image.findings) == (other.boxes, other.split, other.findings)
        assert read_source(image) == read_source(other)
        assert image.patient == pseudonym(SECRET, "patient", image.key[7])
    with pytest.raises(ValueError, match="is not a folder" if packed else "did you mean"):
        read_nih(NihConfig(root=f"{s3}/nih-{packed}/images_001", out=tmp_path / "y"), SECRET)
