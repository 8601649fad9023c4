"""Shard sets under hard conditions: killed twenty times, damaged in five ways, made by two nodes that lose a worker."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from sharding.index import ShardSet
from sharding.manifest import MANIFEST, partial_directory
from tests.conftest import Cxr
from tests.soak.test_kills import digests, kill_some_times
from tests.soak.test_nodes import Nodes, nodes

__all__ = ["nodes"]
pytestmark = pytest.mark.soak
NUM_KILLS = 20


@pytest.fixture(scope="module")
def films(cxr: Cxr, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VinDr phantoms, 240 DICOM files, and a key."""
    folder = tmp_path_factory.mktemp("films")
    drawn = cxr("phantom", "--out", folder, "--num_images", 240, "--seed", 11, "--side_px", 512, "--cohort", "vindr")
    assert drawn.returncode == 0, drawn.stderr
    (folder / "key").write_text("cd" * 32)
    return folder


def words(films: Path, out: Path, *more: object) -> list[str]:
    line = ["shard", "vindr", "--root", films / "vindr", "--out", out, "--key_file", films / "key"]
    line += ["--samples_per_shard", 4, "--codec", "jpeg2000", "--max_side_px", 0, "--levels", 256, *more]
    return [str(word) for word in line]


@pytest.fixture(scope="module")
def undisturbed(films: Path, cxr: Cxr) -> dict[str, str]:
    """Digests of the shard set that one process makes without a break."""
    made = cxr(*words(films, films / "undisturbed", "--processes", 1))
    assert made.returncode == 0, made.stderr
    assert cxr("verify", films / "undisturbed").returncode == 0
    return digests(films / "undisturbed")


def test_killed_at_twenty_random_moments_the_bytes_are_the_same(
    films: Path, undisturbed: dict[str, str], cxr: Cxr, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    line = [sys.executable, "-m", "cluster.console", *words(films, out, "--processes", 1)]
    records = partial_directory(out)
    struck = kill_some_times(line, lambda: len(list(records.glob("*.json"))), 5, NUM_KILLS, 0.25)
    assert struck == NUM_KILLS, f"{struck} kills struck a run that was at work"
    assert not (out / "manifest.json").exists()
    ended = cxr(*words(films, out, "--processes", 1))
    assert ended.returncode == 0, ended.stderr
    assert "are there from an earlier run" in ended.stderr
    assert digests(out) == undisturbed


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_workers_gives_the_same_bytes(
    films: Path, undisturbed: dict[str, str], cxr: Cxr, tmp_path: Path, processes: int
) -> None:
    ended = cxr(*words(films, tmp_path / "set", "--processes", processes))
    assert ended.returncode == 0, ended.stderr
    assert digests(tmp_path / "set") == undisturbed


def test_two_ray_nodes_one_worker_of_which_is_killed(
    films: Path, undisturbed: dict[str, str], nodes: Nodes, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    job = nodes.submit("python", "-m", "sharding.build", *words(films, out, "--processes", 2)[1:])
    victim = 0
    end = time.monotonic() + 180
    while not victim and job.poll() is None and time.monotonic() < end:
        victim = next(iter(_workers(nodes.folder, "ray::write_shard")), 0)
        time.sleep(0.02)
    assert victim, job.communicate()[0]
    os.kill(victim, signal.SIGKILL)
    said = job.communicate(timeout=300)[0]
    assert job.returncode == 0, said
    found = digests(out)
    # The manifest tells the code's version, and a job's uploaded copy is no clone that knows its commit.
    assert {n: d for n, d in found.items() if n != MANIFEST} == {n: d for n, d in undisturbed.items() if n != MANIFEST}


def _workers(folder: Path, title: str) -> list[int]:
    """Processes with this title whose environment or open logs belong to the cluster in `folder`."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                if (path / "cmdline").read_text().startswith(title) and str(folder) in (path / "environ").read_text():
                    found.append(int(path.name))
            except OSError:
                continue
    return found


def flip_a_byte(directory: Path) -> None:
    tar = ShardSet.open(directory).shard_path(1)
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 255
    tar.write_bytes(data)


def cut_a_tar(directory: Path) -> None:
    tar = directory / "nih-000002.tar"
    tar.write_bytes(tar.read_bytes()[:70_000])


def lose_a_tar(directory: Path) -> None:
    (directory / "nih-000003.tar").unlink()


def zero_a_dali_index(directory: Path) -> None:
    path = directory / "nih-000004.idx"
    path.write_bytes(bytes(path.stat().st_size))


def lose_the_index(directory: Path) -> None:
    (directory / "index.parquet").unlink()


def test_a_cohort_of_two_thousand_is_sharded_verified_damaged_and_repaired(cxr: Cxr, tmp_path: Path) -> None:
    drawn = cxr("phantom", "--out", tmp_path, "--num_images", 2000, "--seed", 4, "--side_px", 192, "--cohort", "nih")
    assert drawn.returncode == 0, drawn.stderr
    root, out = tmp_path / "nih", tmp_path / "set"
    made = cxr("shard", "nih", "--root", root, "--out", out, "--folds", 5, "--subsets", 1, 10, 100)
    assert made.returncode == 0, made.stderr
    assert "2,000 images" in made.stdout
    assert cxr("verify", out).returncode == 0
    whole = digests(out)
    assert len(list(out.glob("*.tar"))) >= 8
    for damage in (flip_a_byte, cut_a_tar, lose_a_tar, zero_a_dali_index, lose_the_index):
        damage(out)
        assert cxr("verify", out).returncode == 1
        ended = cxr("verify", out, "--repair", "--root", root)
        assert ended.returncode == 0, (damage.__name__, ended.stdout, ended.stderr)
        assert digests(out) == whole, damage.__name__
    for damage in (flip_a_byte, cut_a_tar, lose_a_tar, zero_a_dali_index):
        damage(out)
    assert cxr("verify", out, "--repair", "--root", root).returncode == 0
    assert digests(out) == whole
    shutil.rmtree(out)
