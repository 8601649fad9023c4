"""A checkpoint is whole or it is none."""

from pathlib import Path

import pytest
import torch

from trainers.checkpoint import (
    find_checkpoint,
    mark_best,
    newest_checkpoint,
    open_checkpoint,
    retain,
    same_run,
    write_checkpoint,
)


def write(run: Path, step: int, kind: str = "pretrain") -> Path:
    weights = {"encoder.w": torch.full((3, 2), float(step)), "n": torch.tensor(step)}
    return write_checkpoint(run, step, kind, weights, {"step": step, "m": torch.ones(2)}, {"a": 1}, {"loss": 0.5})


def test_round_trip(tmp_path: Path) -> None:
    write(tmp_path, 7)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.kind, found.metrics) == (7, "pretrain", {"loss": 0.5})
    assert torch.equal(found.weights()["encoder.w"], torch.full((3, 2), 7.0))
    assert found.state()["step"] == 7
    assert found.config() == {"a": 1}


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "config.json"])
def test_a_damaged_one_is_named_passed_over_and_kept(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 1)
    bad = write(tmp_path, 2)
    data = bytearray((bad / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bad / name).write_bytes(data)
    with pytest.raises(ValueError, match=name):
        open_checkpoint(bad)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert str(bad / name) in caplog.text
    assert bad.is_dir()


def test_without_a_manifest_it_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (write(tmp_path, 2) / "manifest.json").unlink()
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1


def test_retention_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    mark_best(tmp_path, 1, 0.9)
    retain(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*")) == [
        "step-00000001",
        "step-00000003",
        "step-00000004",
    ]
    assert find_checkpoint(tmp_path).step == 1


def test_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(ValueError, match="pretrain, not of finetune"):
        find_checkpoint(tmp_path, "finetune")
    with pytest.raises(ValueError, match="neither"):
        find_checkpoint(tmp_path / "nothing")


def test_a_run_folder_belongs_to_one_config(tmp_path: Path) -> None:
    same_run(tmp_path, {"lr": 1, "scale": 0}, ("scale",))
    same_run(tmp_path, {"lr": 1, "scale": 2}, ("scale",))
    with pytest.raises(ValueError, match="lr: 1 there, 2 now"):
        same_run(tmp_path, {"lr": 2, "scale": 0}, ("scale",))
