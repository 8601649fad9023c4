from pathlib import Path

import pytest

from sharding.build import main
from sharding.findings import VINDR_FINDINGS
from sharding.index import ShardSet
from sharding.sample import Box, Cohort
from sharding.vindr import VindrConfig, read_vindr
from tests.sharding.cohorts import SECRET, write_csv, write_vindr


def read(root: Path, **options: object) -> Cohort:
    return read_vindr(VindrConfig(root=root, out=root / "x", **options), SECRET)  # type: ignore[arg-type]


def test_three_readers_become_one(tmp_path: Path) -> None:
    keys = write_vindr(tmp_path)
    cohort = read(tmp_path)
    assert not cohort.refusals
    assert [image.key for image in cohort.images] == keys
    assert cohort.images[0].boxes == (Box(3, 6.0, 10.0, 30.0, 41.0),)
    assert cohort.images[0].findings == (VINDR_FINDINGS.index("Cardiomegaly"),)
    assert (cohort.images[3].findings, cohort.images[3].boxes) == ((), ())
    assert len({image.split for image in cohort.images}) == 3
    assert len(read(tmp_path, keep_normals=False).images) == 6
    assert {image.split for image in read(tmp_path, split="none").images} == {"train"}


def test_wrong_rows_and_sizes_are_named(tmp_path: Path) -> None:
    keys = write_vindr(tmp_path, 12)
    path = tmp_path / "train.csv"
    lines = path.read_text().splitlines()

    def edit(key: str, old: str, new: str) -> None:
        number = next(i for i, line in enumerate(lines) if line.startswith(key))
        assert old in lines[number]
        lines[number] = lines[number].replace(old, new)

    edit(keys[0], "5,10,30,40", "30,10,5,40")
    edit(keys[1], "5,10,30,40", "5,10,300,40")
    edit(keys[2], "5,10,30,40", "nan,10,30,40")
    edit(keys[4], "Cardiomegaly", "Cardio")
    edit(keys[5], "Cardiomegaly,3", "Cardiomegaly,4")
    path.write_text("\n".join([*lines, f"{'f' * 32},No finding,14,R1,,,,"]))
    (tmp_path / "train" / f"{keys[6]}.dicom").unlink()
    (tmp_path / "train" / f"{keys[7]}.dicom").rename(tmp_path / "train" / "other.dcm")
    (tmp_path / "train" / f"{keys[8]}.dicom").write_bytes(b"")
    cohort = read(tmp_path)
    reasons = {refusal.name.split(".")[0]: refusal.reason for refusal in cohort.refusals}
    named = {keys[0]: "30 10 5 40", keys[1]: "300", keys[2]: "nan", keys[4]: "unknown finding", keys[5]: "class 4"}
    named |= {key: "no such file" for key in (keys[6], keys[7], "f" * 32)}
    named |= {"other": "no row", keys[8]: "header cannot be read"}
    assert set(reasons) == set(named)
    for key, part in named.items():
        assert part in reasons[key]
    assert {image.key for image in cohort.images} == set(keys) - set(named)


def test_other_editions_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cxr shard folder"):
        read(tmp_path)
    folder = tmp_path / "annotations"
    write_csv(folder / "annotations_train.csv", [["image_id", "rad_id", "class_name", "x_min"]])
    with pytest.raises(ValueError, match="PhysioNet edition"):
        read(tmp_path)
    write_csv(folder / "annotations_train.csv", [["image_id", "rad_ID", "class_name", "x_min"]])
    with pytest.raises(ValueError, match="VinDr-PCXR"):
        read(tmp_path)
    write_csv(tmp_path / "train.csv", [["image_id", "class_name"]])
    with pytest.raises(ValueError, match="lacks the columns 'rad_id', 'x_min'"):
        read(tmp_path)


def test_the_two_real_dicoms(real_data: Path, tmp_path: Path) -> None:
    rows: list[list[object]] = [["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]]
    (tmp_path / "root" / "train").mkdir(parents=True)
    for number, source in enumerate(sorted((real_data / "dicom").glob("*.dcm"))):
        (tmp_path / "root" / "train" / f"real{number}.dicom").symlink_to(source)
        rows += [
            [f"real{number}", "Cardiomegaly", 3, f"R{n}", 480 + n, 520, 800, 760] if number == 0 else
            [f"real{number}", "No finding", 14, f"R{n}", "", "", "", ""]
            for n in range(3)
        ]  # fmt: skip
    write_csv(tmp_path / "root" / "train.csv", rows)
    words = ["vindr", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "set"), "--processes", "1"]
    assert main(words) == 2
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "set.key").exists()
    assert main([*words, "--split", "none"]) == 0
    shards = ShardSet.open(tmp_path / "set")
    assert shards.column("key").tolist() == ["real0", "real1"]
    assert shards.boxes_of(0)[0].tolist() == [[481, 520, 800, 760]]
    assert shards.column("view_position").tolist() == ["PA", "PA"]
    assert shards.rows("train", has_boxes=True).tolist() == [0, 1]
