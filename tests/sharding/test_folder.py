import os
import re
from pathlib import Path

import pytest

from sharding.findings import VINDR_FINDINGS
from sharding.folder import BOX_COLUMNS, FolderConfig, read_folder
from sharding.privacy import pseudonym
from sharding.sample import Box, Cohort
from tests.sharding.cohorts import SECRET, dicom, draw, save, write_csv, write_pngs


def read(root: Path, **options: object) -> Cohort:
    return read_folder(FolderConfig(root=root, out=root / "x", **options), SECRET)  # type: ignore[arg-type]


def test_every_radiograph_at_any_depth(tmp_path: Path) -> None:
    write_pngs(tmp_path, ["b.png", "a/b.PNG", "a/.hidden.png", ".git/c.png"])
    for name in ("a/John Doe.dcm", "d.DICOM", "IM0001", "1.2.840.113"):
        save(dicom(draw(1), 8), tmp_path / name)
    (tmp_path / "README").write_text("text " * 99)
    (tmp_path / "notes.txt").write_text("text " * 99)
    cohort = read(tmp_path)
    assert [image.name for image in cohort.images] == sorted(
        ["b.png", "a/b.PNG", "a/John Doe.dcm", "d.DICOM", "IM0001", "1.2.840.113"]
    )
    keys = {image.name: image.key for image in cohort.images}
    assert all(re.fullmatch(r"[0-9a-f]{16}", key) for key in keys.values())
    assert keys["a/b.PNG"] == pseudonym(SECRET, "key", "a/b.PNG")
    assert {image.split for image in cohort.images} == {"train"}
    assert all(image.findings is None and image.boxes is None for image in cohort.images)
    named = {image.name: image.key for image in read(tmp_path, keep_names=True).images}
    assert named["a/b.PNG"] == "a__b"
    assert named["a/John Doe.dcm"] == "a__John_Doe"
    assert named["1.2.840.113"] == "1_2_840_113"


def test_names_that_fall_together_stay_apart(tmp_path: Path) -> None:
    write_pngs(tmp_path, ["a.b.png", "a_b.png", "c.png", "ä.png", "ö.png"])
    first = {image.name: image.key for image in read(tmp_path, keep_names=True).images}
    assert len(set(first.values())) == 5
    assert first["c.png"] == "c"
    assert first["a.b.png"].startswith("a_b-")
    assert first == {image.name: image.key for image in read(tmp_path, keep_names=True).images}


def test_csv_describes_the_images(tmp_path: Path) -> None:
    write_pngs(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    rows = [
        ["path", "finding", "findings", "patient", "split", "sex", "age", "view_position", *BOX_COLUMNS],
        ["a.png", "Cardiomegaly", "Cardiomegaly|Pleural effusion", "Ann", "train", "female", 47, "pa", 1, 2, 30, 40],
        ["a.png", "Pleural effusion", "", "Ann", "train", "", "", "", 5, 6, 7, 8],
        ["b.png", "", "No finding", "Bob", "valid", "M", 95, "AP", "", "", "", ""],
        ["c.png", "", "Cardiomegaly; ILD", "Ann", "train", "", "", "", "", "", "", ""],
        ["d.png", "", "", "", "", "", "", "", "", "", "", ""],
    ]  # fmt: skip
    cohort = read(tmp_path, csv=write_csv(tmp_path / "about.csv", rows))
    assert not cohort.refusals
    assert cohort.findings == VINDR_FINDINGS
    a, b, c, d = cohort.images
    assert (a.findings, a.boxes) == ((3, 10), (Box(3, 1, 2, 30, 40), Box(10, 5, 6, 7, 8)))
    assert (a.sex, a.age_band, a.view_position, a.split) == ("F", "40-49", "PA", "train")
    assert (b.findings, b.boxes, b.split, b.age_band) == ((), (), "valid", "90+")
    assert (c.findings, c.boxes) == ((3, 5), None)
    assert (d.findings, d.boxes, d.patient, d.split) == (None, None, None, "train")
    assert a.patient == c.patient != b.patient
    assert "Ann" not in str(a.patient)


def test_own_findings_in_alphabetical_order_or_as_given(tmp_path: Path) -> None:
    write_pngs(tmp_path, ["a.png", "b.png"])
    table = write_csv(tmp_path / "t.csv", [["path", "findings"], ["a.png", "Zebra|Ant"], ["b.png", "Gnu"]])
    assert read(tmp_path, csv=table).findings == ("Ant", "Gnu", "Zebra")
    cohort = read(tmp_path, csv=table, findings=("Zebra", "Ant"))
    assert cohort.images[0].findings == (0, 1)
    assert "unknown finding 'Gnu'" in cohort.refusals[0].reason


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    write_pngs(tmp_path, [f"{name}.png" for name in "abcdefg"])
    rows = [
        ["path", "split", "sex", "age", "patient", "finding", "x_min", "y_min", "x_max", "y_max"],
        ["a.png", "training", "", "", "", "", "", "", "", ""],
        ["b.png", "", "x", "", "", "", "", "", "", ""],
        ["c.png", "", "", "old", "", "", "", "", "", ""],
        ["d.png", "", "", "", "", "Mass", "1", "2", "three", "4"],
        ["e.png", "", "", "", "", "", "1", "2", "3", "4"],
        ["f.png", "", "", "", "P1", "", "", "", "", ""],
        ["f.png", "", "", "", "P2", "", "", "", "", ""],
        ["h.png", "", "", "", "", "", "", "", "", ""],
    ]
    cohort = read(tmp_path, csv=write_csv(tmp_path / "t.csv", rows))
    reasons = {refusal.name: refusal.reason for refusal in cohort.refusals}
    expected = {
        "a": "split",
        "b": "sex",
        "c": "age",
        "d": "four numbers",
        "e": "no finding",
        "f": "both",
        "g": "does not name",
    }
    expected["h"] = "no such file"
    assert {name: expected[name[0]] in reason for name, reason in reasons.items()} == {
        f"{name}.png": True for name in expected
    }
    assert not cohort.images


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no radiograph"):
        read(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        read(tmp_path / "absent")


def test_a_file_that_cannot_be_opened_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Root may open everything but a link that leads nowhere."""
    write_pngs(tmp_path, ["a.png"])
    (tmp_path / "IM0001").symlink_to(tmp_path / "gone")
    (tmp_path / "IM0002").symlink_to("IM0002")
    os.mkfifo(tmp_path / "IM0003")  # opened, it would wait for ever
    cohort = read(tmp_path)
    assert [image.name for image in cohort.images] == ["a.png"]
    reasons = {refusal.name: refusal.reason for refusal in cohort.refusals}
    assert set(reasons) == {"IM0001", "IM0002"}
    assert "No such file" in reasons["IM0001"]
    assert "symbolic links" in reasons["IM0002"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    write_pngs(tmp_path, ["a.png", "closed/b.png"])
    (tmp_path / "IM0001").touch(mode=0)
    (tmp_path / "closed").chmod(0)
    reasons = {refusal.name: refusal.reason for refusal in read(tmp_path).refusals}
    (tmp_path / "closed").chmod(0o700)
    assert set(reasons) == {"IM0001", "closed"}
    assert "cannot be listed" in reasons["closed"]
