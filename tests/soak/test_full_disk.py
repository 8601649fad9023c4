"""A disk that fills up: one clear error, what was there stays whole, and with room the same command goes on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cxr
from tests.trainers.test_pretrain import weights_digest, words

pytestmark = [pytest.mark.soak, pytest.mark.root]


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounting a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this container may not mount file systems")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_sharding(cxr: Cxr, small_disk: Path, phantoms: Path) -> None:
    resize(small_disk, "200k")
    line = ["shard", "nih", "--root", phantoms / "nih", "--out", small_disk / "set", "--max_side_px", 0]
    ended = cxr(*line)
    assert ended.returncode == 1
    assert "the disk is full" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert cxr("verify", small_disk / "set").returncode == 2
    resize(small_disk, "200m")
    assert cxr(*line).returncode == 0
    assert cxr("verify", small_disk / "set").returncode == 0


def test_saving_a_checkpoint(cxr: Cxr, small_disk: Path, vindr_set: Path, tmp_path: Path) -> None:
    run, undisturbed = small_disk / "run", tmp_path / "undisturbed"
    resize(small_disk, "140m")  # two checkpoints of 59 MB fit, the third does not
    ended = cxr("pretrain", *words(run, vindr_set))
    assert ended.returncode == 1
    assert "the disk is full" in ended.stderr
    before = weights_digest(run)
    resize(small_disk, "500m")
    assert cxr("pretrain", *words(run, vindr_set)).returncode == 0
    assert cxr("pretrain", *words(undisturbed, vindr_set)).returncode == 0
    assert weights_digest(run) == weights_digest(undisturbed) != before
