"""The recipe: killed and resumed it ends as if undisturbed; torchrun and Ray give what one process gives; bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sharding.index import ShardSet
from tests.conftest import ROOT, Cxr
from trainers.checkpoint import newest_checkpoint
from trainers.models.barlow_twins import BarlowTwins, BarlowTwinsConfig
from trainers.models.detector import Detector, DetectorConfig
from trainers.models.encoder import EncoderConfig, build_encoder
from trainers.runlog import read_metrics

WORDS = """--model.projector 64 64 --view.size_px 64 --encoder.name resnet10 --encoder.channels 1 --optim.name adamw
--optim.lr 1e-3 --optim.lr_1d 0 --optim.lr_batch 0 --optim.warmup_epochs 0 --global_batch 5 --epochs 4
--checkpoint.every_steps 2 --checkpoint.keep_last 3 --log.every_steps 1 --engine.precision fp32 --data.num_threads 1"""


def words(run: Path, shards: Path) -> list[str]:
    return ["--run_dir", str(run), "--data.shards", str(shards), *WORDS.split()]


def weights_digest(run: Path) -> str:
    found = newest_checkpoint(run)
    assert found is not None
    return found.digest


@pytest.fixture(scope="module")
def whole(cxr: Cxr, vindr_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    ended = cxr("pretrain", *words(run, vindr_set))
    assert ended.returncode == 0, ended.stderr
    return run


def test_it_logs_every_step_and_ends_with_a_checkpoint(whole: Path) -> None:
    losses = [entry["loss"] for entry in read_metrics(whole, "train")]
    found = newest_checkpoint(whole)
    assert found is not None
    assert found.step == len(losses) == len(set(losses)) == 12
    assert found.metrics["loss"] == losses[-1]
    for entry in read_metrics(whole, "train"):
        assert entry["data_wait_seconds"] >= 0
        assert entry["read_bytes"] > 0
        assert entry["decode_images_per_second"] > 0
        assert entry["num_given_up"] == 0


def test_started_again_it_is_finished(cxr: Cxr, whole: Path, vindr_set: Path) -> None:
    before = weights_digest(whole)
    ended = cxr("pretrain", *words(whole, vindr_set))
    assert ended.returncode == 0
    assert "is finished" in ended.stdout
    assert weights_digest(whole) == before


def test_killed_and_resumed_it_ends_bit_for_bit_the_same(
    cxr: Cxr, whole: Path, vindr_set: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    line = [sys.executable, "-m", "trainers.pretrain", *words(run, vindr_set)]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/step-*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = newest_checkpoint(run)
    assert killed_at is not None
    assert killed_at.step < 12, "the run ended before it could be killed"
    ended = cxr("pretrain", *words(run, vindr_set))
    assert ended.returncode == 0, ended.stderr
    assert weights_digest(run) == weights_digest(whole)
    curves = [[(e["step"], e["loss"]) for e in read_metrics(r, "train")] for r in (run, whole)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("launcher", ["torchrun", "ray"])
def test_two_ranks_follow_one(launcher: str, cxr: Cxr, whole: Path, vindr_set: Path, tmp_path: Path) -> None:
    """A global batch of 5 over 2 ranks: the first losses agree to float32; later ones drift with rounding."""
    run = tmp_path / launcher
    if launcher == "ray":
        ended = cxr("pretrain", *words(run, vindr_set), "--scale.workers", 2)
    else:
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        line += ["-m", "trainers.pretrain", *words(run, vindr_set)]
        ended = subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, timeout=180, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    assert ended.returncode == 0, ended.stderr
    mine, theirs = ([e["loss"] for e in read_metrics(r, "train")] for r in (run, whole))
    assert len(mine) == len(theirs)
    assert mine[0] == pytest.approx(theirs[0], rel=1e-4)
    assert mine[1] == pytest.approx(theirs[1], rel=1e-2)


def test_resumed_by_another_number_of_ranks_it_follows_the_undisturbed_run(
    cxr: Cxr, whole: Path, vindr_set: Path, tmp_path: Path
) -> None:
    """Its first steps on one rank, the rest on two: only float32 rounding differs, and it grows with the steps."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for folder in sorted(run.glob("checkpoints/step-*"))[1:]:
        shutil.rmtree(folder)
    start = newest_checkpoint(run)
    assert start is not None
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [*line, "-m", "trainers.pretrain", *words(run, vindr_set)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    mine, theirs = ({e["step"]: e["loss"] for e in read_metrics(r, "train")} for r in (run, whole))
    assert mine.keys() == theirs.keys()
    assert mine[start.step + 1] == pytest.approx(theirs[start.step + 1], rel=1e-4)
    assert mine[start.step + 2] == pytest.approx(theirs[start.step + 2], rel=2e-2)


def test_pretraining_and_fine_tuning_begin_with_the_same_encoder(whole: Path) -> None:
    """And the detector's other layers are the same whether or not the encoder's weights come from a run."""
    torch.manual_seed(3)
    pretrained = BarlowTwins(EncoderConfig("resnet10", 1), BarlowTwinsConfig((8,))).encoder.state_dict()
    detectors = []
    for weights in ("none", str(whole)):
        torch.manual_seed(3)
        encoder = build_encoder(EncoderConfig("resnet10", 1, weights))
        detectors.append(Detector(encoder, DetectorConfig(norm="batch", frozen_stages=0), 3).state_dict())
    scratch, loaded = detectors
    for name, value in pretrained.items():
        assert torch.equal(scratch[f"backbone.body.{name}"], value)
    different = [name for name in scratch if not torch.equal(scratch[name], loaded[name])]
    assert different
    assert all(name.startswith("backbone.body.") for name in different)


def test_a_dry_run_tells_and_starts_nothing(cxr: Cxr, vindr_set: Path, tmp_path: Path) -> None:
    ended = cxr("pretrain", *words(tmp_path / "dry", vindr_set), "--dry_run")
    assert ended.returncode == 0, ended.stderr
    for line in ("samples", "steps", "memory per rank", "time", "projector = [64, 64]"):
        assert line in ended.stdout
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--global_batch", "1000"], "global_batch"),
        (["--data.shards", "/nowhere"], "/nowhere"),
        (["--data.splits", "tset"], "tset"),
        (["--encoder.weights", "/no/such/file.pth"], "/no/such/file.pth"),
        (["--optim.lr", "-1"], "optim.lr"),
        (["--model.projektor", "8"], "--model.projector"),
    ],
)
def test_mistakes_are_named_with_status_2(
    flags: list[str], said: str, cxr: Cxr, vindr_set: Path, tmp_path: Path
) -> None:
    ended = cxr("pretrain", *words(tmp_path / "run", vindr_set), *flags)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_bad_image_stops_the_run_and_the_same_command_with_skip_goes_on(
    cxr: Cxr, vindr_set: Path, tmp_path: Path
) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(vindr_set, shards)
    index = ShardSet.open(shards)
    level, row = index.level(0), int(index.rows("train")[3])
    with open(index.shard_path(int(level.shard[row])), "r+b") as file:
        file.seek(int(level.offset[row]) + 20)
        file.write(b"\0")
    stopped = cxr("pretrain", *words(run, shards))
    assert stopped.returncode == 1
    assert index.key_of(row) in stopped.stderr
    assert "digest differs" in stopped.stderr
    ended = cxr("pretrain", *words(run, shards), "--data.on_bad", "skip")
    assert ended.returncode == 0, ended.stderr
    found = newest_checkpoint(run)
    assert found is not None
    (given_up,) = found.state()["loader"]["given_up"]
    assert index.key_of(row) in given_up[3]
    (event,) = read_metrics(run, "event")
    assert (event["event"], event["num"]) == ("samples left out", 1)
    assert read_metrics(run, "train")[-1]["num_given_up"] == 1
    shutil.rmtree(found.path)
    again = cxr("pretrain", *words(run, shards), "--data.on_bad", "skip")
    assert again.returncode == 0, again.stderr
    assert read_metrics(run, "event") == [event]  # an earlier start told of it
    assert read_metrics(run, "train")[-1]["num_given_up"] == 1


def test_a_run_of_another_config_is_left_untouched(cxr: Cxr, whole: Path, vindr_set: Path) -> None:
    before = json.loads((whole / "config.json").read_text())
    ended = cxr("pretrain", *words(whole, vindr_set), "--optim.lr", "0.5")
    assert ended.returncode == 2
    assert "another config" in ended.stderr
    assert json.loads((whole / "config.json").read_text()) == before
