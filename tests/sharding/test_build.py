import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cluster.files import sha256_file
from cluster.target import open_target
from sharding.build import main, run
from sharding.commit import hold
from sharding.folder import FolderConfig, read_folder
from sharding.index import ShardSet
from sharding.manifest import partial_directory
from sharding.pixels import UnreadableImage
from sharding.privacy import pseudonym, read_key
from sharding.quarantine import TooManyFailures
from sharding.shards import look_up
from sharding.source import read_source
from sharding.verify import find_problems
from tests.sharding.cohorts import SECRET, dicom, draw, save, write_csv, write_key, write_nih, write_pngs


def digests(directory: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images, a key, and `undisturbed`, their shard set made by one process."""
    folder = tmp_path_factory.mktemp("build")
    write_pngs(folder / "root", [f"{number:02d}.png" for number in range(40)])
    write_key(folder / "key")
    assert main(words(folder, folder / "undisturbed")) == 0
    return folder


def words(source: Path, out: Path, *more: str, processes: int = 1) -> list[str]:
    return [
        *("folder", "--root", str(source / "root"), "--out", str(out), "--key_file", str(source / "key")),
        *("--samples_per_shard", "1", "--processes", str(processes), *more),
    ]


def test_two_processes_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    assert main(words(source, tmp_path / "set", processes=2)) == 0
    assert digests(tmp_path / "set") == digests(source / "undisturbed")
    assert len(digests(tmp_path / "set")) == 82


def test_killed_and_started_again_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = [sys.executable, "-m", "sharding.build", *words(source, out)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(list(partial_directory(out).glob("*.json"))) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    num_kept = len(list(partial_directory(out).glob("*.json")))
    kept = {path: path.stat().st_mtime_ns for path in list(out.glob("*.tar"))[: num_kept - 1]}
    assert not (out / "manifest.json").exists(), "it was finished before it could be killed"
    with pytest.raises(ValueError, match="unfinished"):
        ShardSet.open(out)
    assert main(words(source, out)) == 0
    assert digests(out) == digests(source / "undisturbed")
    assert not partial_directory(out).exists()
    unchanged = [path for path, written in kept.items() if path.stat().st_mtime_ns == written]
    assert len(unchanged) >= len(kept) - 1


def test_killed_and_started_again_with_other_words_leaves_nothing_of_the_first(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(source / "undisturbed", out)
    (out / "manifest.json").unlink()
    partial_directory(out).mkdir()
    assert main(words(source, out, "--samples_per_shard", "30", "--quality", "80")) == 0
    assert sorted(path.name for path in out.glob("*.tar")) == ["folder-000000.tar", "folder-000001.tar"]
    assert find_problems(out) == []


def test_a_complete_set_is_left_alone(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (source / "undisturbed").iterdir()}
    assert main(words(source, source / "undisturbed", processes=2)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(words(source, source / "undisturbed", "--quality", "90")) == 2
    assert "complete shard set of another config" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (source / "undisturbed").iterdir()} == before


def test_two_runs_on_one_target_refuse_each_other(source: Path, tmp_path: Path) -> None:
    with hold(FolderConfig(root=tmp_path, out=tmp_path / "set"), open_target(tmp_path / "set")):
        assert main(words(source, tmp_path / "set")) == 2
    assert not (tmp_path / "set").exists()


def test_a_folder_with_other_files_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").write_text("mine")
    assert main(words(source, tmp_path / "set")) == 2
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["thesis.txt"]


def test_bad_files_are_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_nih(tmp_path / "root")
    folder = tmp_path / "root" / "images_001" / "images"
    broken = sorted(folder.iterdir())[:4]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(broken[1].read_bytes()[:500])
    Image.fromarray(draw(1)).save(broken[2], format="GIF")
    broken[3].unlink()
    config = ["nih", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "set"), "--processes", "1"]
    assert main(config) == 1
    assert main([*config, "--strict"]) == 1
    assert main([*config, "--max_bad_share", "0.5"]) == 0
    listed = [json.loads(line) for line in (tmp_path / "set.quarantine.jsonl").read_text().splitlines()]
    reasons = {Path(entry["name"]).name: entry["reason"] for entry in listed}
    assert set(reasons) == {path.name for path in broken}
    for path, reason in zip(broken, ("0 bytes", "cannot be decoded", "not a PNG", "no such file"), strict=True):
        assert (reason.split("(")[0] and reason in reasons[path.name]) or reason in reasons[path.name]
    shards = ShardSet.open(tmp_path / "set")
    assert (len(shards), shards.manifest["num_quarantined"]) == (14, 4)
    assert find_problems(tmp_path / "set") == []


def test_a_shard_of_nothing_but_bad_images_leaves_no_tar(tmp_path: Path) -> None:
    write_pngs(tmp_path / "root", ["a.png", "b.png", "c.png"])
    (tmp_path / "root" / "b.png").write_bytes(b"")
    run(FolderConfig(root=tmp_path / "root", out=tmp_path / "set", processes=1, samples_per_shard=1, max_bad_share=0.5))
    assert sorted(path.name for path in (tmp_path / "set").glob("*.tar")) == ["folder-000000.tar", "folder-000002.tar"]
    assert ShardSet.open(tmp_path / "set").level(0).shard.tolist() == [0, 2]
    assert find_problems(tmp_path / "set") == []


def test_too_many_failures_stop_the_run_and_name_the_first(tmp_path: Path) -> None:
    write_pngs(tmp_path / "root", ["a.png", "b.png"])
    (tmp_path / "root" / "a.png").write_bytes(b"")
    with pytest.raises(TooManyFailures, match=r"1 of 2 .* a\.png: the file is empty"):
        run(FolderConfig(root=tmp_path / "root", out=tmp_path / "set", processes=1))
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_a_patient_on_two_sides_is_refused_whether_table_or_header_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "root", tmp_path / "set"
    for number in range(2):
        save(dicom(draw(number), 8, PatientID="Ann"), root / f"{number}.dcm")
    rows = [["path", "split", "patient"], ["0.dcm", "train", "Ann"], ["1.dcm", "test", "Ann"]]
    config = ["folder", "--root", str(root), "--out", str(out), "--processes", "1", "--csv"]
    told = []
    for table in (write_csv(tmp_path / "a.csv", rows), write_csv(tmp_path / "b.csv", [row[:2] for row in rows])):
        assert main([*config, str(table), "--key_file", str(write_key(tmp_path / "key"))]) == 2
        told.append(capsys.readouterr().err.splitlines()[-1])
    assert f"1 patients are on two sides: {pseudonym(SECRET, 'patient', 'Ann')} (test and train)" in told[0]
    assert told[0] == told[1]
    assert not out.exists()


def test_next_weeks_images_of_a_patient_go_to_their_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Patients are named by DICOM headers alone."""
    for number in range(12):
        save(dicom(draw(number), 8, PatientID=f"P{number}"), tmp_path / "root" / f"a{number}.dcm")
    options = {"split": "patient", "valid_share": 0.3, "test_share": 0.3, "processes": 1}
    run(FolderConfig(root=tmp_path / "root", out=tmp_path / "set", **options))  # type: ignore[arg-type]
    for number in range(12):
        save(dicom(draw(number + 50), 8, PatientID=f"P{number}"), tmp_path / "root" / f"b{number}.dcm")
    run(FolderConfig(root=tmp_path / "root", out=tmp_path / "set", append=True, **options))  # type: ignore[arg-type]
    shards = ShardSet.open(tmp_path / "set")
    sides: dict[str, set[str]] = {}
    for patient, split in zip(shards.column("patient"), shards.column("split"), strict=True):
        sides.setdefault(patient, set()).add(split)
    assert len(shards) == 24
    assert [len(seen) for seen in sides.values()] == [1] * 12
    words = ["folder", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "set"), "--append", "--processes", "1"]
    secret = read_key(tmp_path / "set.key")
    tested = next(n for n in range(12) if sides[pseudonym(secret, "patient", f"P{n}")] == {"test"})
    save(dicom(draw(99), 8, PatientID=f"P{tested}"), tmp_path / "root" / "c.dcm")
    assert main([*words, "--split", "none"]) == 2
    assert "1 patients are on two sides" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(source, tmp_path / "set", "--dry_run")) == 0
    assert list(tmp_path.iterdir()) == []
    told = capsys.readouterr().out
    assert "40 (40 train)" in told
    assert "shard set   about" in told


def test_mistakes_end_with_2_and_touch_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert main([]) == 2
    assert main(["dicom"]) == 2
    assert main(["--help"]) == 0
    for wrong in (["--levels", "32", "64"], ["--quality", "101"], ["--samples_per_shard", "-1"], ["--name", "a b"]):
        assert main(words(source, out, *wrong)) == 2
    assert main(["folder", "--root", str(tmp_path / "absent"), "--out", str(out)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_real_radiographs_in_every_form(real_data: Path, tmp_path: Path) -> None:
    for path in sorted((real_data / "radiographs").iterdir())[::5]:
        (tmp_path / "root").mkdir(exist_ok=True)
        os.symlink(path, tmp_path / "root" / path.name)
    run(FolderConfig(root=tmp_path / "root", out=tmp_path / "set", processes=1, max_side_px=512))
    shards = ShardSet.open(tmp_path / "set")
    assert len(shards) == 11
    level = shards.level(0)
    longer = [max(h, w) for h, w in zip(level.height, level.width, strict=True)]
    assert max(longer) == 512
    assert shards.rows("train").size == 11
    assert find_problems(tmp_path / "set") == []


def test_a_link_to_nothing_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pngs(tmp_path / "root", ["a.png", "c.png"])
    (tmp_path / "root" / "b.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "root" / "d.png")
    config = ["folder", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "set"), "--processes", "1"]
    config += ["--max_bad_share", "0.5"]
    assert main([*config, "--dry_run"]) == 0
    assert "set aside   2 before any is opened" in capsys.readouterr().out
    assert main(config) == 0
    listed = [json.loads(line) for line in (tmp_path / "set.quarantine.jsonl").read_text().splitlines()]
    assert {entry["name"]: entry["reason"] for entry in listed} == {
        "b.png": "a link to nothing: No such file or directory",
        "d.png": "is not a plain file",
    }
    assert ShardSet.open(tmp_path / "set").manifest["num_quarantined"] == 2


def test_a_file_that_goes_while_the_run_is_on_is_set_aside(tmp_path: Path) -> None:
    write_pngs(tmp_path / "root", ["a.png", "b.png"])
    save(dicom(draw(1), 8), tmp_path / "root" / "c.dcm")
    config = FolderConfig(root=tmp_path / "root", out=tmp_path / "set")
    cohort = look_up(read_folder(config, SECRET))
    assert len(cohort.images) == 3
    (tmp_path / "root" / "b.png").unlink()
    (tmp_path / "root" / "c.dcm").unlink()
    reasons = []
    for image in cohort.images[1:]:
        with pytest.raises(UnreadableImage) as refused:
            read_source(image)
        reasons.append(str(refused.value))
    assert reasons == ["the file has gone", "the file has gone"]
