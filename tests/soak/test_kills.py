"""Processes killed at random moments leave work that the same command finishes, with the same bytes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Cxr
from tests.trainers.test_pretrain import weights_digest, words

pytestmark = pytest.mark.soak
NUM_KILLS = 4


def digests(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file of a shard set or cohort that is part of its result."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def kill_some_times(
    line: list[str], progress: Callable[[], int], seed: int, num: int = NUM_KILLS, most_seconds: float = 0.5
) -> int:
    """Starts `line` `num` times, each ended by SIGKILL to its whole session, a random while after it moved on.

    `progress` counts what is on disk. Gives how many kills struck a process that was still at work.
    """
    dice = random.Random(seed)
    struck = 0
    for _ in range(num):
        before = progress()
        process = subprocess.Popen(
            line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and progress() <= before:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, most_seconds))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            struck += 1
        process.wait()
    return struck


def test_phantoms_killed_and_finished_are_the_same(cxr: Cxr, tmp_path: Path) -> None:
    flags = ["--num_images", "40", "--seed", "3", "--side_px", "256"]
    line = [sys.executable, "-m", "cluster.console", "phantom", "--out", str(tmp_path / "a"), *flags]
    assert kill_some_times(line, lambda: len(list((tmp_path / "a").rglob("*.png"))), 1) > 0
    assert cxr("phantom", "--out", tmp_path / "a", *flags).returncode == 0
    assert cxr("phantom", "--out", tmp_path / "b", *flags).returncode == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_shard_set_killed_and_finished_is_the_same(cxr: Cxr, phantoms: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    flags = [
        "--root",
        str(phantoms / "vindr"),
        "--samples_per_shard",
        "4",
        "--key_file",
        str(key),
        "--max_side_px",
        "0",
    ]
    line = [sys.executable, "-m", "cluster.console", "shard", "vindr", *flags, "--out", str(tmp_path / "a")]
    assert kill_some_times(line, lambda: len(list((tmp_path / "a").parent.rglob("*.tar"))), 2) > 0
    for name in ("a", "b"):
        ended = cxr("shard", "vindr", *flags, "--out", tmp_path / name)
        assert ended.returncode == 0, ended.stderr
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert cxr("verify", tmp_path / "a").returncode == 0


def test_pretraining_killed_again_and_again_ends_the_same(cxr: Cxr, vindr_set: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    line = [sys.executable, "-m", "trainers.pretrain", *words(runs[0], vindr_set)]
    assert kill_some_times(line, lambda: len(list(runs[0].glob("checkpoints/*/manifest.json"))), 3) > 0
    for run in runs:
        ended = cxr("pretrain", *words(run, vindr_set))
        assert ended.returncode == 0, ended.stderr
    assert weights_digest(runs[0]) == weights_digest(runs[1])


def test_a_killed_ray_worker_is_replaced_and_the_run_ends_the_same(cxr: Cxr, vindr_set: Path, tmp_path: Path) -> None:
    """Two workers, one of them killed after the first checkpoint; compared with two that nobody killed."""
    runs = [tmp_path / "a", tmp_path / "b"]
    flags = ["--scale.workers", "2", "--epochs", "40"]
    line = [sys.executable, "-m", "trainers.pretrain", *words(runs[0], vindr_set), *flags]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(runs[0].glob("checkpoints/step-*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    victims = workers_below(process.pid)
    assert victims, "no Ray worker of this run was found"
    os.kill(victims[0], signal.SIGKILL)
    assert process.wait(300) == 0
    ended = cxr("pretrain", *words(runs[1], vindr_set), *flags)
    assert ended.returncode == 0, ended.stderr
    assert weights_digest(runs[0]) == weights_digest(runs[1])


def workers_below(pid: int) -> list[int]:
    """Ray Train workers among the descendants of a process."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_text()
            except (OSError, IndexError):
                continue

    def is_below(child: int) -> bool:
        while child in parents:
            child = parents[child]
            if child == pid:
                return True
        return False

    return [child for child, title in titles.items() if "RayTrainWorker" in title and is_below(child)]
