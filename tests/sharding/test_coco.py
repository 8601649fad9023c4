import gzip
import hashlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sharding.coco import write_annotations
from sharding.findings import VINDR_ALL_FINDINGS, VINDR_FINDINGS
from sharding.fusion import FusionConfig
from sharding.quarantine import TooManyFailures
from sharding.vindr import VindrConfig
from tests.sharding.cohorts import write_csv, write_vindr
from tests.sharding.vindr_cohorts import edit_csv, key, write_physionet


def write(root: Path, out: Path, **options: object) -> dict[str, Any]:
    write_annotations(VindrConfig(root=root, out=out, annotations_only=True, **options))  # type: ignore[arg-type]
    return {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}


def test_real_annotations_give_the_references_file_to_the_bit(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    found = write(real_data / "vindr", tmp_path / "coco", keep_normals=False)
    assert time.monotonic() - started < 60
    assert {split: (len(d["images"]), len(d["annotations"])) for split, d in found.items()} == {
        "train": (3_075, 16_627),
        "valid": (659, 3_627),
        "test": (660, 3_680),
    }
    assert "left out: 10,606 without a finding" in capsys.readouterr().out
    with gzip.open(real_data / "vindr" / "fused_valid.json.gz") as file:
        reference = json.load(file)
    valid = found["valid"]

    def images(content: dict[str, Any]) -> list[tuple[Any, ...]]:
        return [(i["id"], i["file_name"].split(".")[0], i["height"], i["width"]) for i in content["images"]]

    def boxes(content: dict[str, Any]) -> Counter[str]:
        # repr tells floats apart to the bit
        return Counter(
            repr((a["image_id"], a["category_id"], a["bbox"], a["area"], a["iscrowd"])) for a in content["annotations"]
        )

    assert images(valid) == images(reference)
    assert boxes(valid) == boxes(reference)
    assert [a["image_id"] for a in valid["annotations"]] == [a["image_id"] for a in reference["annotations"]]
    assert [a["id"] for a in valid["annotations"]] == list(range(3_627))
    assert [(c["id"], c["name"].replace(" ", "_")) for c in valid["categories"]] == [
        (c["id"], c["name"]) for c in reference["categories"]
    ]
    sources = {source["name"]: source["sha256"] for source in valid["info"]["sources"]}
    for name in ("train.csv.gz", "train_meta.csv"):
        assert sources[name] == hashlib.sha256((real_data / "vindr" / name).read_bytes()).hexdigest()
    assert valid["info"]["counts"]["boxes_per_finding"]["Cardiomegaly"] > 300
    assert (tmp_path / "coco.quarantine.jsonl").read_text() == ""


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vindr(tmp_path / "root")
    assert write(tmp_path / "root", tmp_path / "out", dry_run=True) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert "train.json: " in capsys.readouterr().out


def test_normals_stay_by_choice(tmp_path: Path) -> None:
    keys = write_vindr(tmp_path / "root")
    found = write(tmp_path / "root", tmp_path / "a")
    assert sorted(i["file_name"] for d in found.values() for i in d["images"]) == [f"{key}.dicom" for key in keys]
    assert {(i["height"], i["width"]) for d in found.values() for i in d["images"]} == {(60, 50)}
    boxed = write(tmp_path / "root", tmp_path / "b", keep_normals=False)
    assert sum(len(d["images"]) for d in boxed.values()) == 6
    for contents in boxed.values():
        assert contents["info"]["counts"]["images_with_boxes"] == len(contents["images"])
    assert boxed["train"]["annotations"][0]["bbox"] == [6.0, 10.0, 24.0, 31.0]
    assert boxed["train"]["annotations"][0]["area"] == 744.0


def test_needs_sizes_but_no_files(tmp_path: Path) -> None:
    keys = write_vindr(tmp_path)
    for path in (tmp_path / "train").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"tells no image's size.*train_meta\.csv"):
        write(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_csv(tmp_path / "train_meta.csv", [["image_id", "dim0", "dim1"], *([key, 60, 50] for key in keys[:-1])])
    with pytest.raises(TooManyFailures, match=r"1 of 8 .*its size is unknown.*out\.quarantine\.jsonl"):
        write(tmp_path, tmp_path / "out")
    with pytest.raises(TooManyFailures, match=f"{keys[-1]}: its size is unknown"):
        write(tmp_path, tmp_path / "out", strict=True)
    found = write(tmp_path, tmp_path / "out", max_bad_share=0.2)
    assert sum(len(d["images"]) for d in found.values()) == 7
    (line,) = (tmp_path / "out.quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == keys[-1]


def test_other_content_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = write_vindr(tmp_path / "root")
    first = write(tmp_path / "root", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert write(tmp_path / "root", tmp_path / "out") == first
    assert capsys.readouterr().out.count("is there already: nothing to do") == len(first)
    edit_csv(tmp_path / "root" / "train.csv", keys[0], "5,10,30,40", "5,10,30,44")
    with pytest.raises(ValueError, match="with other content; give another --out"):
        write(tmp_path / "root", tmp_path / "out")
    with pytest.raises(ValueError, match="with other content"):
        write(tmp_path / "root", tmp_path / "out", split="none")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "test.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"test\.json is there with other content"):
        write(tmp_path / "root", tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["test.json"]


def test_physionet_with_all_findings(tmp_path: Path) -> None:
    write_physionet(tmp_path / "root")
    found = write(tmp_path / "root", tmp_path / "out", labels="all", keep_normals=False, valid_share=0.0)
    assert {split: len(d["images"]) for split, d in found.items()} == {"train": 7, "test": 3}
    assert [c["name"] for c in found["test"]["categories"]] == list(VINDR_ALL_FINDINGS)
    by_name = {image["file_name"].split(".")[0]: image for d in found.values() for image in d["images"]}
    assert [VINDR_ALL_FINDINGS[n] for n in by_name[key(2)]["findings"]] == ["Pneumonia"]
    boxes = [(VINDR_ALL_FINDINGS[a["category_id"]], a["bbox"]) for a in found["test"]["annotations"]]
    assert boxes[:2] == [("Cardiomegaly", [5.2, 10.0, 24.8, 30.0]), ("Rib fracture", [10.0, 10.0, 10.0, 10.0])]
    fourteen = write(tmp_path / "root", tmp_path / "14")
    assert [c["name"] for c in fourteen["test"]["categories"]] == list(VINDR_FINDINGS)
    assert "findings" not in fourteen["test"]["images"][0]


def test_one_reader_leaves_out_what_he_has_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = write_vindr(tmp_path / "root")
    lines = (tmp_path / "root" / "train.csv").read_text().splitlines()
    kept = [line for line in lines if not (line.startswith(keys[1]) and "R2" in line)]
    (tmp_path / "root" / "train.csv").write_text("\n".join(kept))
    fusion = FusionConfig(method="reader", reader="R2")
    found = write(tmp_path / "root", tmp_path / "out", fusion=fusion)
    names = {image["file_name"].split(".")[0] for d in found.values() for image in d["images"]}
    assert names == set(keys) - {keys[1]}
    assert "left out: 1 that R2 has not read" in capsys.readouterr().out


def test_what_looks_into_images_is_refused(tmp_path: Path) -> None:
    for options, part in (
        ({"split": "patient"}, "split: patient looks into the images"),
        ({"folds": 3}, "folds: --annotations_only knows none"),
        ({"subsets": (10.0,)}, "subsets:"),
        ({"only": ("sex=F",)}, "only:"),
        ({"append": True}, "append:"),
    ):
        with pytest.raises(ValueError, match=part):
            write(tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
