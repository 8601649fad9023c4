import os
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import boto3
import pytest

from cluster.storage import Found, Stat
from sharding.findings import VINDR_FINDINGS
from sharding.folder import FolderConfig, read_folder
from sharding.folder_csv import BOX_COLUMNS
from sharding.folder_files import _classified, find_files
from sharding.folder_patients import header_patients
from sharding.privacy import pseudonym
from sharding.sample import Box, Cohort, SourceImage
from sharding.source import read_source
from tests.sharding.cohorts import BAD_SECTOR, SECRET, dicom, draw, powerless, save, write_csv, write_pngs


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
        "f": "line 8: patient 'P2', but 'P1' in an earlier row",
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


def test_what_may_not_be_read_is_named() -> None:
    with powerless() as folder:
        write_pngs(folder, ["a.png", "closed/b.png"])
        (folder / "IM0001").write_bytes(bytes(200))
        (folder / "IM0001").chmod(0)
        (folder / "closed").chmod(0)
        reasons = {refusal.name: refusal.reason for refusal in read(folder).refusals}
        (folder / "closed").chmod(0o700)
    assert set(reasons) == {"IM0001", "closed"}
    assert "cannot be listed" in reasons["closed"]


def test_a_disk_that_fails_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        list(_classified([Found("IM0001", BAD_SECTOR, Stat(200, 0))], Counter(), []))
    write_pngs(tmp_path, ["a.png"])
    (tmp_path / "b.dcm").symlink_to(BAD_SECTOR)
    with pytest.raises(OSError, match="Input/output error"):
        read(tmp_path, split="patient")  # which looks into headers


def test_a_name_that_is_no_text_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_pngs(tmp_path, ["a.png", "ä.png"])
    for name in (b"\xe4.png", b"\xe4/b.png", b"\xe4.txt", b"IM\xe4"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((tmp_path / "a.png").read_bytes())
    cohort = read(tmp_path)
    assert [image.name for image in cohort.images] == ["a.png", "ä.png"]
    assert {name.encode() for name in told(cohort)} == {rb"\xe4.png", rb"\xe4/b.png"}
    assert all("no Unicode text" in why for why in told(cohort).values())


def told(cohort: Cohort) -> dict[str, str]:
    return {refusal.name: refusal.reason for refusal in cohort.refusals}


def test_what_is_no_radiograph_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pngs(tmp_path, ["a.png"])
    for name in ("b.zip", "c/d.zip", "e.tar.gz", "notes.TXT", "DICOMDIR", "c/DICOMDIR", "README", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * 200)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "c" / ".hidden").mkdir()
    (tmp_path / "linked").symlink_to("c")
    assert not read(tmp_path).refusals
    line = capsys.readouterr().err
    for part in ("2 x .zip", "1 x .gz", "1 x .txt", "2 x DICOMDIR", "1 x no ending and no DICOM", "1 x pipe or device"):
        assert part in line
    assert "2 x hidden, " in line
    assert "1 x link to a folder" in line
    assert "archives are not opened: unpack them" in line
    assert line.count("\n") == 1


def test_paths_of_many_forms(tmp_path: Path) -> None:
    names = ["a.png", "b c.png", "d/e.png", "f.png", "g.png"]
    write_pngs(tmp_path, names)
    raw = [
        "./a.png",
        "b c.png",
        "d//e.png",
        str(tmp_path / "f.png"),
        "d/../g.png",
        "/etc/h.png",
        "../i.png",
        "s3://b/j.png",
        "",
    ]
    table = write_csv(tmp_path / "t.csv", [["path", "sex"], *([path, "F"] for path in raw)])
    cohort = read(tmp_path, csv=table)
    assert [image.name for image in cohort.images] == names
    assert all(image.sex == "F" for image in cohort.images)
    assert list(told(cohort)) == ["/etc/h.png", "../i.png", "s3://b/j.png", "t.csv, line 10"]
    why = {f"t.csv, line {line}: its path is not below root" for line in range(7, 10)}
    assert set(told(cohort).values()) == why | {"t.csv, line 10: its path is blank"}


def test_only_what_the_csv_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pngs(tmp_path, ["a.png", "b.png", "c/d.png"])
    save(dicom(draw(1), 8), tmp_path / "IM1")
    table = write_csv(tmp_path / "t.csv", [["path"], ["c/d.png"], ["IM1"], ["a.png"], ["notes.txt"], ["gone.dcm"]])
    cohort = read(tmp_path, csv=table, listed_only=True)
    assert [(image.name, image.kind) for image in cohort.images] == [
        ("IM1", "dicom"), ("a.png", "image"), ("c/d.png", "image"), ("gone.dcm", "dicom")
    ]  # fmt: skip
    assert list(told(cohort)) == ["notes.txt"]
    assert not capsys.readouterr().err
    with pytest.raises(ValueError, match="give --csv too"):
        FolderConfig(root=tmp_path, out=tmp_path / "x", listed_only=True)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["Filename", "patient"], "rename its column 'Filename' to 'path'"),
        (["image", "label"], "rename its column 'image' to 'path'"),
        (["Image Path", "x"], "rename its column 'Image Path' to 'path'"),
        (["x", "y"], "lacks the column 'path'"),
        (["path", "sex", "sex"], "the column 'sex' twice"),
        (["path", "finding", "x_min", "y_min", "x_max"], "lacks y_max"),
    ],
)
def test_an_almost_right_csv_is_refused(header: list[str], message: str, tmp_path: Path) -> None:
    write_pngs(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match=f"csv: .*{message}"):
        read(tmp_path, csv=write_csv(tmp_path / "t.csv", [header, ["a.png"]]))


def test_columns_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pngs(tmp_path, ["a.png"])
    read(tmp_path, csv=write_csv(tmp_path / "t.csv", [["path", "patient_id", "zebra", ""], ["a.png", "1", "2", ""]]))
    assert "t.csv: columns that are not used: patient_id (did you mean patient?), zebra\n" in capsys.readouterr().err


def test_a_csv_of_other_paths_is_refused(tmp_path: Path) -> None:
    write_pngs(tmp_path, ["data/a.png"])
    with pytest.raises(
        ValueError, match=r"none of the 1 files that t\.csv names .*it names x/a\.png, and there is data/a"
    ):
        read(tmp_path, csv=write_csv(tmp_path / "t.csv", [["path"], ["x/a.png"]]))
    with pytest.raises(ValueError, match="with / between folders"):
        read(tmp_path, csv=write_csv(tmp_path / "t.csv", [["path"], ["data\\a.png"]]))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([["Mass", "", 30, 2, 10, 4]], "line 2: a box of it is empty or has its corners swapped: 30 2 10 4"),
        ([["Mass", "", 3, 2, 3, 4]], "is empty"),
        ([["Mass", "", -1, 2, 3, 4]], "begins below 0"),
        ([["Mass", "", "nan", 2, 3, 4]], "not finite"),
        ([["Mass", "", 1, 2, "inf", 4]], "not finite"),
        ([["Mass", "", 1, "", 3, 4]], r"not four numbers: 1 \(blank\) 3 4"),
        ([["Mass", "", "1,5", 2, 3, 4]], "not four numbers"),
        ([["", "", 1, 2, 3, 4]], "has no finding"),
        ([["No finding", "", 1, 2, 3, 4]], "has no finding"),
        ([["", "Mass|ILD", 1, 2, 3, 4]], "has no finding"),
        ([["Mass", "", 1, 2, 3, 4], ["Mass", "", 1, 2, 3, 4]], "line 3: the same box of 'Mass' a second time"),
        (
            [["", "No finding", "", "", "", ""], ["Mass", "", 1, 2, 3, 4]],
            "line 2 says that there is no finding, line 3",
        ),
        ([["", "No finding|Mass", "", "", "", ""]], "line 2 says that there is no finding, line 2 gives 'Mass'"),
        ([["Mas", "", 1, 2, 3, 4]], "line 2: unknown finding 'Mas'; did you mean 'Mass'"),
        ([["Mass", "", 1, 2, 3, 4, 5]], "line 2: more values than columns"),
    ],
)
def test_wrong_boxes_and_findings_are_named_with_their_line(
    rows: list[list[object]], reason: str, tmp_path: Path
) -> None:
    write_pngs(tmp_path, ["a.png", "b.png"])
    header = ["path", "finding", "findings", *BOX_COLUMNS]
    table = write_csv(
        tmp_path / "t.csv", [header, *(["a.png", *row] for row in rows), ["b.png", "Mass", "", 1, 2, 3, 4]]
    )
    cohort = read(tmp_path, csv=table, findings=("Mass", "ILD"))
    assert [image.name for image in cohort.images] == ["b.png"]
    assert re.search(reason, told(cohort)["a.png"]), told(cohort)
    assert told(cohort)["a.png"].startswith("t.csv")


def test_findings_without_boxes(tmp_path: Path) -> None:
    write_pngs(tmp_path, [f"{name}.png" for name in "abcd"])
    rows = [
        ["path", "finding", *BOX_COLUMNS],
        ["a.png", "No finding", "", "", "", ""],
        ["b.png", "Mass", "", "", "", ""],
        ["c.png", "", "", "", "", ""],
        ["d.png", "Mass", 1, 2, 3, 4],
        ["d.png", "Nodule", "", "", "", ""],
    ]
    images = read(tmp_path, csv=write_csv(tmp_path / "t.csv", rows)).images
    assert [(image.findings, image.boxes) for image in images] == [
        ((), ()), ((9,), None), (None, None), ((9, 10), (Box(9, 1, 2, 3, 4),))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [("split", "val", "did you mean 'valid'"), ("split", "Train", "did you mean 'train'"), ("split", "x", "none of"),
     ("sex", "U", "leave it blank"), ("age", "131", "0 to 130"), ("finding", "Rust|Dust", "is several")],
)  # fmt: skip
def test_fields_that_are_wrong(field: str, value: str, hint: str, tmp_path: Path) -> None:
    write_pngs(tmp_path, ["a.png"])
    cohort = read(tmp_path, csv=write_csv(tmp_path / "t.csv", [["path", field], ["a.png", value]]))
    assert hint in told(cohort)["a.png"]


def test_patients_come_from_the_csv_or_else_the_header(tmp_path: Path) -> None:
    for number in range(4):
        save(dicom(draw(1), 8, PatientID=f"P{number // 2} ", PatientName="Doe^John"), tmp_path / f"{number}.dcm")
    (tmp_path / "4.dcm").write_bytes(b"broken" * 99)
    save(dicom(draw(1), 8), tmp_path / "5.dcm")
    write_pngs(tmp_path, ["6.png"])
    table = write_csv(
        tmp_path / "t.csv",
        [["path", "patient"], ["0.dcm", "Ann"], *([f"{n}.dcm", ""] for n in range(1, 6)), ["6.png", ""]],
    )
    one, zero = pseudonym(SECRET, "patient", "P1"), pseudonym(SECRET, "patient", "P0")
    expected = [pseudonym(SECRET, "patient", "Ann"), zero, one, one, None, None, None]
    for processes in (1, 2):
        cohort = read(tmp_path, csv=table, split="patient", processes=processes)
        assert [image.patient for image in cohort.images] == expected
        assert {image.split for image in cohort.images} == {"train"}
    assert [image.patient for image in read(tmp_path, csv=table).images][1:] == [None] * 6
    images = list(read(tmp_path).images)
    assert [image.patient for image in header_patients(images, SECRET, 1)][:2] == [zero, zero]


def test_a_split_by_hash_keeps_patients_together_and_stays(tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(40)]
    write_pngs(tmp_path, names)
    rows = [["path", "patient"], *([name, f"P{number // 4}"] for number, name in enumerate(names))]
    first = read(tmp_path, csv=write_csv(tmp_path / "t.csv", rows), split="hash", valid_share=0.3, test_share=0.3)
    splits = {image.name: image.split for image in first.images}
    assert set(splits.values()) == {"train", "valid", "test"}
    assert all(len({splits[name] for name in names[begin : begin + 4]}) == 1 for begin in range(0, 40, 4))
    (tmp_path / "03.png").unlink()
    write_pngs(tmp_path, ["99.png"])
    later = read(
        tmp_path,
        csv=write_csv(tmp_path / "t.csv", [*rows, ["99.png", "P0"]]),
        split="hash",
        valid_share=0.3,
        test_share=0.3,
    )
    assert all(splits.get(image.name, splits["00.png"]) == image.split for image in later.images)
    alone = read(tmp_path, split="hash", valid_share=0.3, test_share=0.3).images
    assert len({image.split for image in alone}) == 3
    assert {image.split for image in read(tmp_path, csv=tmp_path / "t.csv", split="none").images} == {"train"}


def test_an_object_store_gives_what_a_disk_gives(s3: str, tmp_path: Path) -> None:
    write_pngs(tmp_path, ["a/b.png", "ü x.png", "c.jpg", "no.png"])
    save(dicom(draw(1), 8, PatientID="P"), tmp_path / "a" / "IM0001")
    (tmp_path / "README").write_text("text " * 99)
    (tmp_path / "short").write_text("text")
    rows = [
        ["path", "sex"],
        ["a/b.png", "F"],
        ["ü x.png", "M"],
        ["c.jpg", ""],
        ["s3://radiographs/folder/a/IM0001", ""],
        ["gone.png", ""],
    ]
    client = boto3.client("s3")
    write_csv(tmp_path / "t.csv", rows)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "radiographs", f"folder/{path.relative_to(tmp_path).as_posix()}")
    write_csv(tmp_path / "t.csv", [*rows[:4], ["a/IM0001", ""], rows[5]])
    local = read(tmp_path, csv=tmp_path / "t.csv", split="patient")
    words = {"root": f"{s3}/folder/", "csv": f"{s3}/folder/t.csv", "out": tmp_path / "x"}
    remote = read_folder(FolderConfig(split="patient", **words), SECRET)  # type: ignore[arg-type]
    assert remote.refusals == local.refusals
    assert [refusal.name for refusal in remote.refusals] == ["gone.png", "no.png"]
    for ours, theirs in zip(remote.images, local.images, strict=True):
        assert (ours.name, ours.key, ours.kind, ours.sex, ours.patient) == (
            theirs.name, theirs.key, theirs.kind, theirs.sex, theirs.patient
        )  # fmt: skip
        assert ours.stat is not None
        assert read_source(ours) == read_source(theirs)
    listed = read_folder(FolderConfig(listed_only=True, **words), SECRET)  # type: ignore[arg-type]
    assert [image.name for image in listed.images] == ["a/IM0001", "a/b.png", "c.jpg", "gone.png", "ü x.png"]
    with pytest.raises(ValueError, match="is not a folder"):
        read_folder(FolderConfig(root=f"{s3}/none", out=tmp_path / "x"), SECRET)


def test_memory_for_an_image_is_small() -> None:
    """So that ten million files fit: below 600 bytes each."""
    names = (f"2024/{number // 100:06d}/{number:08d}.dcm" for number in range(20_000))
    tracemalloc.start()
    images = [
        SourceImage(f"/archive/{name}", "dicom", name, pseudonym(SECRET, "key", name), "folder", "train", None, None)
        for name in names
    ]
    used = tracemalloc.get_traced_memory()[0] / len(images)
    tracemalloc.stop()
    assert used < 600, used


def test_files_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_pngs(tmp_path, ["b.png", "a.png", "a/z.png", "a-b/y.png"])
    assert [name for name, _, _ in find_files(tmp_path, [])] == ["a-b/y.png", "a.png", "a/z.png", "b.png"]
