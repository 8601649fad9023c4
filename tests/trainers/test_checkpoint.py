"""A checkpoint is whole or it is none."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trainers.checkpoint import (
    agreed_checkpoint,
    best_step,
    find_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    retain,
    same_run,
    write_checkpoint,
)


def write(run: Path, step: int, kind: str = "pretrain", best: float | None = None) -> Path:
    weights = {"encoder.w": torch.full((3, 2), float(step)), "n": torch.tensor(step)}
    metrics = {"loss": 0.5} if best is None else {"loss": 0.5, "valid_map50": best}
    return write_checkpoint(run, step, kind, weights, {"step": step, "m": torch.ones(2)}, {"a": 1}, metrics)


def steps(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


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
    for step, value in ((1, 0.9), (2, 0.2), (3, 0.9), (4, 0.1)):
        write(tmp_path, step, best=value)
    assert best_step(tmp_path) == 1
    retain(tmp_path, 1)
    assert steps(tmp_path) == [1, 4]
    assert find_checkpoint(tmp_path).step == 1


def test_retention_counts_and_touches_no_damaged_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    (tmp_path / "checkpoints/step-00000002/model.safetensors").write_bytes(b"short")
    retain(tmp_path, 2)
    assert steps(tmp_path) == [1, 2, 3]


def test_a_damaged_best_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = write(tmp_path, 1, best=0.9)
    write(tmp_path, 2, best=0.1)
    data = bytearray((bad / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (bad / "model.safetensors").write_bytes(data)
    assert find_checkpoint(tmp_path).step == 2
    assert "best checkpoint is passed over" in caplog.text


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"schema_version": 1, "step": 2}'])
def test_a_manifest_that_is_none_is_a_damaged_one(tmp_path: Path, content: str) -> None:
    write(tmp_path, 1)
    (write(tmp_path, 2) / "manifest.json").write_text(content)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1


def test_leftovers_of_a_kill_are_swept_by_the_next_write(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    (folder / "manifest.json").unlink()
    (folder / ".model.safetensors.123.tmp").write_bytes(b"x")
    write(tmp_path, 1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "state.pt",
    ]


def test_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(ValueError, match="pretrain, not of finetune"):
        find_checkpoint(tmp_path, "finetune")
    with pytest.raises(ValueError, match="neither"):
        find_checkpoint(tmp_path / "nothing")


def test_a_run_with_checkpoints_belongs_to_one_config(tmp_path: Path) -> None:
    data = {"shards": ["a"], "num_threads": 1, "splits": ["train"]}
    config = {"lr": 1, "scale": 0, "run_dir": "x", "data": data, "shard_digests": ["d"]}
    same_run(tmp_path, {**config, "lr": 7})
    (tmp_path / "metrics.jsonl").write_text("the failed start")
    same_run(tmp_path, config, write=False)
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 7
    same_run(tmp_path, config)  # nothing was done yet: the corrected command replaces it
    assert json.loads((tmp_path / "config.json").read_text()) == config
    assert not (tmp_path / "metrics.jsonl").exists()
    assert (tmp_path / "metrics-before.jsonl").read_text() == "the failed start"
    write(tmp_path, 1)
    same_run(tmp_path, {**config, "scale": 2, "run_dir": "/y", "data": {**data, "shards": ["/b"], "num_threads": 4}})
    for other in ({"lr": 2}, {"shard_digests": ["e"]}, {"data": {**data, "splits": ["valid"]}}):
        with pytest.raises(ValueError, match=rf"{next(iter(other))}[.\w]*: .* there, .* now"):
            same_run(tmp_path, {**config, **other})


def _agree(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = agreed_checkpoint(Path(folder) / f"disk{rank}")
    assert found is not None
    assert found.step == 3
    assert torch.equal(found.weights()["n"], torch.tensor(3))
    dist.destroy_process_group()


def test_ranks_go_on_from_what_rank_0_sees(tmp_path: Path) -> None:
    """The disk of rank 1 lags behind: it shows an older checkpoint."""
    for step in (2, 3):
        write(tmp_path / "disk0", step)
    write(tmp_path / "disk1", 2)
    mp.spawn(_agree, args=(str(tmp_path),), nprocs=2)
