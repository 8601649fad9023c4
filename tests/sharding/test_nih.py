from pathlib import Path

import pytest

from sharding.findings import NIH_FINDINGS
from sharding.nih import NihConfig, read_boxes, read_labels, read_nih
from sharding.sample import Refusal, check_boxes
from sharding.tables import read_list, read_table
from tests.sharding.cohorts import SECRET, write_csv, write_nih, write_pngs


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
    assert set(reasons) == {names[0], "99999999_000.png", f"images_002/images/{names[1]}"}
    assert "no such file" in reasons[names[0]]
    assert "no usable row" in reasons["99999999_000.png"]
    assert "is in images_001" in reasons[f"images_002/images/{names[1]}"]
    assert len(images) == len(names) - 1


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    header = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position"]
    rows = [
        ["a.png", "Cardiomegalie", 1, 40, "M", "PA"],
        ["../b.png", "No Finding", 1, 40, "M", "PA"],
        ["c.png", "No Finding", 1, "414Y", "?", "XX"],
        ["c.png", "No Finding", 1, 40, "M", "PA"],
    ]
    refusals: list[Refusal] = []
    found = read_labels(read_table(write_csv(tmp_path / "l.csv", [header, *rows]), header), refusals)
    assert [refusal.name for refusal in refusals] == ["a.png", "../b.png", "c.png"]
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
    by_patient, _ = read(tmp_path, split="patient", valid_share=0.3, test_share=0.3)
    assert len({image.split for image in by_patient.values()}) > 1  # type: ignore[attr-defined]
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
    assert reasons[names[0]].startswith("BBox_List_2017.csv: its box in row 2 is wrong: unknown finding 'Infiltrat'")
    assert "row 3" in reasons[names[1]]
    assert len(images) == len(names) - 2
    assert images[names[2].removesuffix(".png")].boxes  # type: ignore[attr-defined]
