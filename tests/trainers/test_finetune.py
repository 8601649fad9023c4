"""Fine-tuning on small scenes: it learns, resumes to the bit, and is the same on any number of ranks."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster import config as configs
from loaders.config import DataConfig
from loaders.views import DetectViewConfig, TwoViewConfig
from tests.trainers.scenes import make_shards
from trainers import finetune, pretrain
from trainers.checkpoint import CheckpointConfig, best_step, newest_checkpoint, open_checkpoint
from trainers.engine import EngineConfig
from trainers.finetune import FinetuneConfig, sampling_seeds
from trainers.models.barlow_twins import BarlowTwinsConfig
from trainers.models.detector import DetectorConfig
from trainers.models.encoder import EncoderConfig
from trainers.optim import OptimConfig
from trainers.pretrain import PretrainConfig
from trainers.runlog import LogConfig, read_metrics

SMALL = DetectorConfig(
    norm="batch",
    frozen_stages=0,
    strides_px=(8, 16),
    fpn_channels=32,
    anchor_scales=(3.0,),
    num_anchors_sampled=32,
    num_before_nms_train=60,
    num_before_nms_test=40,
    num_proposals_train=30,
    num_proposals_test=20,
    num_rois=12,
    head_width=32,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("scenes"))


def config_for(run: Path, shards: Path) -> FinetuneConfig:
    return FinetuneConfig(
        run_dir=run,
        data=DataConfig((shards,), num_threads=1),
        view=DetectViewConfig(64),
        encoder=EncoderConfig("resnet10", 1),
        detector=SMALL,
        optim=OptimConfig("adamw", lr=2e-3, lr_1d=0.0, lr_batch=0, warmup_epochs=0.0, warmup_steps=2),
        engine=EngineConfig("fp32"),
        checkpoint=CheckpointConfig(every_steps=4, keep_last=9),
        log=LogConfig(every_steps=1),
        global_batch=8,
        epochs=3,
        keep_empty=True,
    )


def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = config_for(tmp_path / "whole", shards), config_for(tmp_path / "broken", shards)
    finetune.run(whole)
    step = finetune.train_step
    calls = 0

    def breaks(*words: object) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise RuntimeError("power is gone")
        return step(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "train_step", breaks)
        with pytest.raises(RuntimeError, match="power"):
            finetune.run(broken)
    finetune.close_process_group()
    finetune.run(broken)
    ends = [newest_checkpoint(c.run_dir) for c in (whole, broken)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].step == 9
    assert ends[0].digest == ends[1].digest

    losses = [line["loss"] for line in read_metrics(whole.run_dir, "train")]
    assert len(losses) == 9
    assert losses[-1] < losses[0]
    values = {line["step"]: line["map50"] for line in read_metrics(whole.run_dir, "valid")}
    assert list(values) == [3, 6, 9]
    best = best_step(whole.run_dir)
    assert best is not None
    assert values[best] == max(values.values())
    assert json.loads((ends[0].path / "config.json").read_text())["findings"] == ["bright", "dim"]

    before = (ends[0].path / "manifest.json").stat().st_mtime_ns
    finetune.run(whole)
    assert (ends[0].path / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="global_batch"):
        finetune.run(replace(whole, global_batch=4))


def test_two_ranks_with_uneven_shares_equal_one(tmp_path: Path, shards: Path) -> None:
    often = CheckpointConfig(every_steps=1, keep_last=9)
    alone = replace(config_for(tmp_path / "alone", shards), global_batch=7, epochs=1, checkpoint=often)
    finetune.run(alone)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(configs.describe(replace(alone, run_dir=tmp_path / "two")))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*words, "-m", "trainers.finetune", str(recipe)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(finetune.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (read_metrics(run, "train") for run in (alone.run_dir, tmp_path / "two"))
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
    weights = [
        open_checkpoint(run / "checkpoints" / "step-00000002").weights() for run in (alone.run_dir, tmp_path / "two")
    ]
    # AdamW's first update has the size of the rate: where a gradient is all rounding, its sign is too.
    for name, value in weights[0].items():
        apart = (value - weights[1][name]).abs().float()
        assert (apart > 1e-4).float().mean() < 0.02, name


def test_sampling_differs_by_image_epoch_and_seed_only() -> None:
    rows = torch.tensor([3, 8, 5])
    seeds = sampling_seeds(1, 2, rows)
    assert torch.equal(seeds[1:2], sampling_seeds(1, 2, rows[1:2]))
    others = [sampling_seeds(2, 2, rows), sampling_seeds(1, 3, rows), seeds]
    assert len(torch.cat(others).unique()) == 9


def test_a_dry_run_tells_and_makes_nothing(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune.run(replace(config_for(tmp_path / "run", shards), dry_run=True))
    told = capsys.readouterr().out
    assert "steps              9" in told
    assert "samples            24" in told
    assert not (tmp_path / "run").exists()


def test_a_dry_run_fetches_no_weights(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And counts Adam's four copies of the state: pretraining here, 11.2 M parameters and a small projector."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    config = replace(config_for(tmp_path / "run", shards), encoder=EncoderConfig("resnet18", 3, "imagenet_v1"))
    finetune.run(replace(config, dry_run=True))
    pretrain.run(
        PretrainConfig(
            tmp_path / "run",
            config.data,
            TwoViewConfig(size_px=32),
            config.encoder,
            BarlowTwinsConfig((8,)),
            OptimConfig("adamw", lr=1e-3),
            global_batch=2,
            dry_run=True,
        )
    )
    assert not (tmp_path / "torch").exists()
    assert (
        f"{4 * 4 * 11.2e6 / 2**30:.1f} weights, gradients, optimizer" in capsys.readouterr().out.split("projector")[1]
    )


def test_random_layers_are_not_frozen(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder\.weights is none"):
        replace(config_for(tmp_path, shards), detector=DetectorConfig())


def test_a_split_without_images_is_refused_before_the_start(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match="absent"):
        finetune.run(replace(config_for(tmp_path / "run", shards), valid_split="absent"))
    assert not (tmp_path / "run").exists()


def test_the_defaults_are_the_references(tmp_path: Path, shards: Path) -> None:
    config = configs.parse(
        FinetuneConfig,
        [
            "--run_dir",
            str(tmp_path),
            "--data.shards",
            str(shards),
            "--encoder.weights",
            "imagenet_v2",
            "--optim.lr",
            "0.01",
        ],
        "cxr finetune",
    )
    optim = config.optim
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay, optim.decay_1d) == ("sgd", 0.01, 0.9, 1e-4, True)
    assert (optim.warmup_steps, optim.warmup_start_ratio, config.global_batch, config.epochs) == (500, 0.001, 32, 50)
