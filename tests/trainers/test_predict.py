"""Predictions from a trained run: whole, once per image, in original pixels, and only where they mean something."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from eval import predictions as predictions_file
from eval.truth import align, truth_from_shards
from sharding import build
from sharding.index import ShardSet
from tests.trainers.scenes import make_shards
from tests.trainers.test_finetune import config_for
from trainers import finetune, predict
from trainers.checkpoint import CheckpointConfig, write_checkpoint
from trainers.predict import PredictConfig, load_trained


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    config = config_for(run, shards)
    optim, rare = replace(config.optim, lr=3e-3), CheckpointConfig(1000)
    finetune.run(
        replace(config, global_batch=6, epochs=12, valid_every_epochs=12, valid_split="", optim=optim, checkpoint=rare)
    )
    return run


def test_the_whole_split_is_predicted_in_original_pixels(tmp_path: Path, shards: Path, trained: Path) -> None:
    out = tmp_path / "new" / "folder" / "predictions.parquet"
    predict.run(PredictConfig(trained, shards, out, batch=4, precision="fp32"))
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    found = predictions_file.read(out)
    truth = truth_from_shards(ShardSet.open(shards), "test")
    assert sorted(found.keys) == sorted(truth.keys)
    assert found.origin.checkpoint["run"] == "run"
    assert found.origin.shards[0]["digest"] == ShardSet.open(shards).digest
    aligned = align(truth, found)
    hits = 0
    for image in range(len(truth.keys)):
        true = truth.boxes_K4[truth.offsets[image] : truth.offsets[image + 1]]
        boxes = aligned.boxes_D4[aligned.offsets[image] : aligned.offsets[image + 1]]
        if len(true) and len(boxes):
            hits += bool(np.abs(boxes[0] - true[0]).max() < 12)
    assert hits >= 4  # of 8: it learned for some seconds, and a wrong scale hits none


def test_the_best_checkpoint_is_taken(tmp_path: Path, shards: Path, trained: Path) -> None:
    start = load_trained(trained)
    kept = start.checkpoint.config()
    for step in (1, 2):
        weights = {
            k: torch.full_like(v, step) if k.endswith("fc7.bias") else v for k, v in start.checkpoint.weights().items()
        }
        write_checkpoint(tmp_path, step, "finetune", weights, {}, kept, {"valid_map50": 1 / step})
    best = load_trained(tmp_path)
    assert best.checkpoint.step == 1
    assert (best.detector.roi_heads.box_head.fc7.bias == 1).all()
    assert not best.detector.training


def test_other_findings_are_refused(tmp_path: Path, trained: Path) -> None:
    other = make_shards(tmp_path, ("dim", "bright"), {"test": 2})
    with pytest.raises(ValueError, match="number 0 is 'dim' there and 'bright' in the checkpoint"):
        predict.run(PredictConfig(trained, other, tmp_path / "predictions.parquet"))
    assert not (tmp_path / "predictions.parquet").exists()


def test_what_is_no_detector_is_refused(tmp_path: Path, shards: Path) -> None:
    write_checkpoint(tmp_path / "run", 1, "pretrain", {"a": torch.zeros(1)}, {}, {}, {})
    for place in (tmp_path / "run", tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"finetune"):
            predict.run(PredictConfig(place, shards, tmp_path / "predictions.parquet"))


def test_a_folder_as_the_file_is_refused(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match="a folder; give the file"):
        PredictConfig(tmp_path, shards, tmp_path)


def test_a_split_that_nobody_annotated_is_refused_before_predicting(tmp_path: Path, trained: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), np.zeros((80, 80), np.uint8))
    (tmp_path / "images.csv").write_text("path,split,findings\na.png,test,bright\n")
    place = ["--root", str(images), "--csv", str(tmp_path / "images.csv"), "--out", str(tmp_path / "set")]
    assert build.main(["folder", *place, "--findings", "bright", "dim", "--processes", "1"]) == 0
    out = tmp_path / "new" / "predictions.parquet"
    with pytest.raises(ValueError, match="'test' was annotated with boxes; give --no_annotated_only"):
        predict.run(PredictConfig(trained, tmp_path / "set", out))
    assert not out.parent.exists()
    words = ["--checkpoint", str(trained), "--shards", str(tmp_path / "set"), "--out", str(out)]
    assert predict.main([*words, "--no_annotated_only"]) == 0
    assert len(predictions_file.read(out).keys) == 1
