"""Phantom cohorts as a whole: the same bytes always, resumable, and never on top of something else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharding.phantom.cohort import PhantomConfig, main, run
from sharding.phantom.plan import PHANTOM_VERSION, is_test_patient, patients_in_test, plan_cohort

# Of `cxr phantom --num_images 6 --seed 0`. If they change, later numbers no longer compare with earlier ones:
# raise PHANTOM_VERSION in the same commit.
PINNED_VERSION = 1
PINNED = {
    "nih": "8addf839f2d648a8bbdf82a8a3ff8d67c5c75f8371b39fae727a63f99dc52d78",
    "vindr": "98b062d15af5635747a4e2ec83a016ebf3645f504651fdd08b6f690cfd7bb3d3",
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def small(out: Path, num_images: int = 4, **fields: object) -> PhantomConfig:
    return PhantomConfig(out=out, num_images=num_images, side_px=160, **{"processes": 1, **fields})  # type: ignore[arg-type]


def test_digests_of_the_default_cohorts(tmp_path: Path) -> None:
    run(PhantomConfig(out=tmp_path, num_images=6, processes=1))
    found = {name: json.loads((tmp_path / name / "cohort.json").read_text())["digest"] for name in PINNED}
    assert (PHANTOM_VERSION, found) == (PINNED_VERSION, PINNED)


def test_files_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    run(small(tmp_path / "one"))
    run(small(tmp_path / "two", processes=2))
    one = tree(tmp_path / "one")
    assert one == tree(tmp_path / "two")
    assert not [name for name in one if name.startswith(".") or "/." in name]


def test_a_killed_cohort_goes_on(tmp_path: Path) -> None:
    words = ["--num_images", "20", "--side_px", "160", "--cohort", "nih", "--processes", "1"]
    command = [sys.executable, "-m", "sharding.phantom.cohort", "--out", str(tmp_path / "killed"), *words]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed" / "nih" / ".parts"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(parts.glob("*.json"))) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    drawn = {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "nih").rglob("*.png")}
    recorded = {path.stem for path in parts.glob("*.json")}
    assert 2 <= len(recorded) < 20
    run(small(tmp_path / "killed", 20, cohort="nih"))
    run(small(tmp_path / "whole", 20, cohort="nih"))
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    for path in (tmp_path / "killed" / "nih").rglob("*.png"):  # what had its record was not drawn again
        assert path.stem not in recorded or path.stat().st_mtime_ns == drawn[path.stem]


def test_a_finished_cohort_is_left_alone_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(tmp_path, 3, cohort="nih")
    run(config)
    before = tree(tmp_path)
    run(config)
    assert "complete already" in capsys.readouterr().out
    next(tmp_path.rglob("*.png")).unlink()
    run(config)
    assert tree(tmp_path) == before


def test_another_cohort_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(small(tmp_path, 2, cohort="nih"))
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="another phantom cohort: seed 0"):
        run(small(tmp_path, 2, seed=1))
    with pytest.raises(ValueError, match="num_images"):
        run(small(tmp_path, 3))
    assert tree(tmp_path) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vindr").mkdir()
    (tmp_path / "vindr" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="no phantom cohort"):
        run(small(tmp_path))
    assert tree(tmp_path) == {"vindr/letter.txt": b"dear"}


@pytest.mark.parametrize("words", [["--num_images", "0"], ["--num_images", "2", "--side_px", "8"], []])
def test_the_door_refuses(tmp_path: Path, words: list[str]) -> None:
    assert main(["--out", str(tmp_path / "x"), *words]) == 2
    assert not (tmp_path / "x").exists()


def test_plans_share_their_beginning_and_split_by_patient() -> None:
    cases = plan_cohort("nih", 3, 2000, 1024)
    assert cases[:7] == plan_cohort("nih", 3, 7, 1024)
    assert len({case.key for case in cases}) == 2000
    patients = {case.patient for case in cases}
    assert 3.1 < len(cases) / len(patients) < 4.1
    share = sum(case.patient in patients_in_test(cases) for case in cases) / len(cases)
    assert 0.15 < share < 0.31
    assert patients_in_test(cases) == {p for p in patients if is_test_patient(3, p)}
    ids = [case.key for case in plan_cohort("vindr", 3, 500, 1024)]
    assert len(set(ids)) == 500
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in ids)


@pytest.mark.parametrize("left", ["nothing", "folders", "mark"])
def test_killed_before_the_mark_it_starts_again(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "nih"
    folder.mkdir()
    if left == "folders":  # what an earlier version made first
        (folder / ".parts").mkdir()
        (folder / "images_001" / "images").mkdir(parents=True)
    elif left == "mark":
        (folder / "..started.json.0a1b2c3d.tmp").write_text('{"vers')
    run(small(tmp_path, 2, cohort="nih"))
    run(small(tmp_path / "whole", 2, cohort="nih"))
    assert tree(folder) == tree(tmp_path / "whole" / "nih")
