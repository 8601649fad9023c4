"""Validation while fine-tuning: measured on exactly the images that are predicted, and refused where there is none."""

from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pytest

from eval.predictions import Origin, Predictions
from eval.truth import Truth
from loaders.config import DataConfig
from sharding.index import ShardSet
from tests.trainers.scenes import make_shards
from tests.trainers.test_finetune import config_for
from trainers import finetune
from trainers.detections import map50, validation_truth
from trainers.runlog import read_metrics

KINDS = ("bright", "dim")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("scenes"))


def kind_of(shards: Path, row: int) -> str:
    """Which square an image shows; "none" where none."""
    numbers = ShardSet.open(shards).findings_of(row)
    assert numbers is not None
    return KINDS[numbers[0]] if numbers else "none"


def keys_of(shards: Path, split: str, kind: str) -> list[str]:
    index = ShardSet.open(shards)
    return [index.key_of(row) for row in index.rows(split).tolist() if kind_of(shards, row) == kind]


def all_found(truth: Truth) -> Predictions:
    """The true boxes themselves, of images in another order."""
    assert len(truth.keys) == len(truth.finding_K)  # one box an image
    order = np.arange(len(truth.keys))[::-1]
    keys = tuple(truth.keys[i] for i in order)
    scores = np.ones(len(keys), np.float32)
    offsets = np.arange(len(keys) + 1, dtype=np.int64)
    return Predictions(
        truth.findings, keys, offsets, truth.finding_K[order], scores, truth.boxes_K4[order], None, Origin("valid")
    )


def test_a_filter_holds_for_the_truth_as_for_the_predictions(tmp_path: Path, shards: Path) -> None:
    config = config_for(tmp_path / "run", shards)
    data = replace(config.data, only=("finding=bright",))
    assert 0 < len(keys_of(shards, "valid", "bright")) < len(ShardSet.open(shards).rows("valid"))
    finetune.run(replace(config, data=data, global_batch=4, epochs=1))
    (line,) = read_metrics(config.run_dir, "valid")
    assert 0 <= line["map50"] <= 1
    truth = validation_truth(data, "valid")
    assert list(truth.keys) == keys_of(shards, "valid", "bright")
    assert map50(all_found(truth), truth) == pytest.approx(1)
    with pytest.raises(ValueError, match="were not predicted"):
        map50(all_found(truth), validation_truth(config.data, "valid"))


def test_a_filter_that_leaves_no_validation_image_is_refused_before_the_start(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, counts={"train": 24, "valid": 1})
    (row,) = ShardSet.open(shards).rows("valid").tolist()
    other = KINDS[1 - KINDS.index(kind_of(shards, row))]
    config = config_for(tmp_path / "run", shards)
    data = replace(config.data, only=(f"finding={other}",))
    with pytest.raises(ValueError, match=rf"valid_split = 'valid': no image in it that data\.only = .*finding={other}"):
        finetune.run(replace(config, data=data, global_batch=4))
    assert not config.run_dir.exists()


def test_one_of_several_sets_may_have_no_validation_image(tmp_path: Path, shards: Path) -> None:
    other = make_shards(tmp_path, counts={"train": 2})
    truth = validation_truth(DataConfig((other, shards)), "valid")
    assert truth.keys == validation_truth(DataConfig((shards,)), "valid").keys


def test_indexes_of_sets_at_urls_are_kept_in_the_run_s_cache(
    tmp_path: Path, shards: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "default"))
    for path in shards.iterdir():
        boto3.client("s3").upload_file(str(path), "radiographs", f"{tmp_path.name}/{path.name}")
    config = config_for(tmp_path / "run", shards)
    data = replace(config.data, shards=(f"{s3}/{tmp_path.name}",), cache=tmp_path / "cache")
    finetune.run(replace(config, data=data, epochs=1))
    assert len(read_metrics(config.run_dir, "valid")) == 1
    assert any((tmp_path / "cache").rglob("*"))
    assert not (tmp_path / "default").exists()
