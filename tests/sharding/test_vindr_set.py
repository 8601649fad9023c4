import dataclasses
from pathlib import Path

import boto3

from sharding.build import main
from sharding.index import ShardSet
from sharding.vindr import VindrConfig, read_vindr
from tests.sharding.cohorts import SECRET, write_csv
from tests.sharding.vindr_cohorts import write_physionet


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


def test_from_an_object_store(s3: str, tmp_path: Path) -> None:
    write_physionet(tmp_path / "root")
    client = boto3.client("s3")
    for path in sorted((tmp_path / "root").rglob("*.*")):
        client.upload_file(str(path), s3.removeprefix("s3://"), f"vindr/{path.relative_to(tmp_path / 'root')}")
    here = read_vindr(VindrConfig(root=tmp_path / "root", out=tmp_path / "x", labels="all"), SECRET)
    there = read_vindr(VindrConfig(root=f"{s3}/vindr", out=tmp_path / "x", labels="all"), SECRET)
    assert not there.refusals
    assert [dataclasses.replace(image, path="", stat=None) for image in there.images] == [
        dataclasses.replace(image, path="") for image in here.images
    ]
    assert there.images[0].path == f"{s3}/vindr/{there.images[0].name}"
    assert there.images[0].stat is not None
    assert there.images[0].stat.num_bytes == (tmp_path / "root" / there.images[0].name).stat().st_size
