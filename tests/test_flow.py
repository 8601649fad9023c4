"""The whole chain, as `cxr demo` runs it, on few phantoms and few steps; then again, and into a wall or two."""

import json
import re
from pathlib import Path

import pytest

from eval import measure, predictions
from sharding.index import ShardSet
from tests.conftest import Cxr
from trainers.runlog import read_metrics

WORDS = """--num_images 24 --side_px 256 --num_resamples 50 --pretrain.epochs 2 --pretrain.global_batch 16
--pretrain.view.size_px 64 --pretrain.model.projector 32 32 --finetune.epochs 1 --finetune.view.size_px 96
--finetune.global_batch 8"""
TINY = WORDS.split()


@pytest.fixture(scope="module")
def study(cxr: Cxr, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flow") / "demo"
    ended = cxr("demo", "--out", out, *TINY)
    assert ended.returncode == 0, ended.stderr
    assert "report.html" in ended.stdout
    return out


def test_every_artifact_is_there_and_whole(study: Path) -> None:
    shard_set = ShardSet.open(study / "shards" / "vindr")
    test_keys = {shard_set.key_of(int(row)) for row in shard_set.rows("test", has_boxes=True)}
    for arm in ("barlow", "scratch"):
        found = predictions.read(study / arm / "predictions.parquet")
        assert set(found.keys) == test_keys
        numbers = measure.read(study / arm / "metrics.json")
        assert numbers["num_images"] == len(test_keys)
        assert numbers["shards"][0]["digest"] == shard_set.digest
        assert numbers["checkpoint"]["digest"]
        assert numbers["prior"]["metrics"].keys() == numbers["metrics"].keys()


def test_the_arms_differ_in_the_encoders_weights_alone(study: Path) -> None:
    configs = [json.loads((study / arm / "run" / "config.json").read_text()) for arm in ("barlow", "scratch")]
    assert configs[1]["encoder"]["weights"] == "none"
    assert configs[0]["encoder"]["weights"].endswith("pretrain")
    for config in configs:
        del config["encoder"]["weights"], config["run_dir"]
    assert configs[0] == configs[1]


def test_the_page_stands_alone(study: Path) -> None:
    page = (study / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    for wanted in ("mAP50", "Location prior", "data:image", "<svg", "Pleural effusion", "deepspeed"):
        assert wanted in page


def test_a_second_time_nothing_is_repeated(cxr: Cxr, study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*.safetensors")}
    ended = cxr("demo", "--out", study, *TINY)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("done before") == 10
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*.safetensors")} == before


def test_another_config_in_the_same_folder_is_refused(cxr: Cxr, study: Path) -> None:
    ended = cxr("demo", "--out", study, *TINY, "--seed", 9)
    assert ended.returncode == 2
    assert "seed: 1 there, 9 now" in ended.stderr


def test_the_page_shows_the_configs_as_they_ran(study: Path) -> None:
    shown = json.loads((study / "study.json").read_text())["config"]
    assert shown["pretrain"]["seed"] == shown["finetune scratch"]["seed"] == 1
    assert shown["finetune barlow"]["encoder"]["weights"] == str(study / "pretrain")


def test_what_the_study_sets_cannot_be_given(cxr: Cxr, tmp_path: Path) -> None:
    ended = cxr("demo", "--out", tmp_path / "new", "--finetune.seed", 3)
    assert ended.returncode == 2
    assert "finetune.seed is set by the study" in ended.stderr
    assert not (tmp_path / "new").exists()


def test_a_foreign_checkpoint_is_refused(cxr: Cxr, study: Path, tmp_path: Path) -> None:
    ended = cxr(
        "predict",
        "--checkpoint",
        study / "pretrain",
        "--shards",
        study / "shards/vindr",
        "--out",
        tmp_path / "p.parquet",
    )
    assert ended.returncode == 2
    assert "pretrain, not of finetune" in ended.stderr
    assert not (tmp_path / "p.parquet").exists()


def test_evaluate_from_a_checkpoint_gives_the_same_numbers(cxr: Cxr, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "not" / "there yet"
    words = ["--shards", study / "shards/vindr", "--out", out, "--num_resamples", 50, "--seed", 1]
    ended = cxr("evaluate", "--checkpoint", study / "scratch/run", *words)
    assert ended.returncode == 0, ended.stderr
    mine, theirs = measure.read(out / "metrics.json"), measure.read(study / "scratch/metrics.json")
    assert mine["metrics"]["map50"] == pytest.approx(theirs["metrics"]["map50"], abs=1e-6)
    assert mine["prior"] == theirs["prior"]


def test_real_radiographs_are_sharded_and_pretrained_on(cxr: Cxr, real_data: Path, tmp_path: Path) -> None:
    shards, run = tmp_path / "own", tmp_path / "run"
    ended = cxr("shard", "folder", "--root", real_data / "radiographs", "--out", shards, "--max_side_px", 512)
    assert ended.returncode == 0, ended.stderr
    assert len(ShardSet.open(shards)) == 55
    ended = cxr(
        *("pretrain", "configs/pretrain/own_radiographs_cpu.toml", "--data.shards", shards),
        *("--run_dir", run, "--epochs", 4),
    )
    assert ended.returncode == 0, ended.stderr
    losses = [entry["loss"] for entry in read_metrics(run, "train")]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_two_real_dicoms_go_through_the_vindr_reader(cxr: Cxr, real_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "vindr"
    (root / "train").mkdir(parents=True)
    lines = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    for number, path in enumerate(sorted((real_data / "dicom").glob("*.dcm"))):
        (root / "train" / f"{number:032x}.dicom").write_bytes(path.read_bytes())
        lines += [f"{number:032x},Cardiomegaly,3,R{reader},300,400,700,7{reader}0" for reader in (1, 2, 3)]
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    ended = cxr("shard", "vindr", "--root", root, "--out", tmp_path / "set", "--split", "none")
    assert ended.returncode == 0, ended.stderr
    shard_set = ShardSet.open(tmp_path / "set")
    boxes, findings = shard_set.boxes_of(0)
    assert findings.tolist() == [3]
    assert boxes[0].tolist() == pytest.approx([300, 400, 700, 720], abs=0.1)
    assert cxr("verify", tmp_path / "set").returncode == 0
