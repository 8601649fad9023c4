"""`--append`: next week's images are a further delivery; what is there stays as it is."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding.build import main, run
from sharding.folder import FolderConfig
from sharding.index import ShardSet
from sharding.verify import find_problems
from tests.sharding.cohorts import draw, write_csv, write_key, write_pngs
from tests.sharding.test_build import digests


def config(folder: Path, **options: object) -> FolderConfig:
    words: dict[str, object] = {"samples_per_shard": 2, "processes": 1} | options
    return FolderConfig(root=folder / "root", out=folder / "set", key_file=folder / "key", **words)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images and their shard set."""
    write_key(tmp_path / "key")
    write_pngs(tmp_path / "root", [f"a{number}.png" for number in range(5)])
    run(config(tmp_path))
    return tmp_path


def test_a_grown_folder_adds_what_is_new(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(folder / "set")
    write_pngs(folder / "root", [f"b{number}.png" for number in range(3)])
    with pytest.raises(ValueError, match=r"another config or other inputs .* --append"):
        run(config(folder))
    run(config(folder, append=True))
    assert "8 images (3 of them new)" in capsys.readouterr().out
    after = digests(folder / "set")
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: digest for name, digest in before.items() if name != "manifest.json"
    }
    assert set(after) - set(before) == {
        *("folder-000003.tar", "folder-000003.idx", "folder-000004.tar", "folder-000004.idx"),
        *("index-000001.parquet", "manifest-000000.json"),
    }
    assert after["manifest-000000.json"] == before["manifest.json"]
    shards = ShardSet.open(folder / "set")
    assert (len(shards), len(set(shards.column("key")))) == (8, 8)
    assert shards.level(0).shard.tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert [entry["num_samples"] for entry in shards.manifest["deliveries"]] == [5, 3]
    assert find_problems(folder / "set") == []
    names = (folder / "set.names.csv").read_text().splitlines()
    assert len(names) == 9
    run(config(folder, append=True))
    assert "has all 8 images already: nothing to do" in capsys.readouterr().out
    assert digests(folder / "set") == after


def test_an_earlier_version_can_be_opened(folder: Path) -> None:
    first = ShardSet.open(folder / "set")
    write_pngs(folder / "root", ["c.png"])
    run(config(folder, append=True))
    again = ShardSet.open(folder / "set", version=1)
    assert (len(again), again.digest) == (5, first.digest)
    assert again.column("key").tolist() == first.column("key").tolist()
    assert len(ShardSet.open(folder / "set", version=2)) == 6
    with pytest.raises(ValueError, match="has versions 1 to 2, not 3"):
        ShardSet.open(folder / "set", version=3)


def test_a_killed_append_leaves_the_set_as_it_was_and_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the tars and before the manifest: readers see the first version, the same words finish."""
    from sharding import build

    write_pngs(folder / "root", ["b.png", "c.png", "d.png"])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(build, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config(folder, append=True))
    assert (folder / "set" / "folder-000003.tar").exists()
    assert len(ShardSet.open(folder / "set")) == 5
    assert find_problems(folder / "set") == []
    times = {path: path.stat().st_mtime_ns for path in (folder / "set").glob("*.tar")}
    run(config(folder, append=True))
    assert {path: path.stat().st_mtime_ns for path in (folder / "set").glob("*.tar")} == times
    assert len(ShardSet.open(folder / "set")) == 8
    assert find_problems(folder / "set") == []


def test_what_does_not_fit_is_refused_with_the_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pngs(folder / "root", ["c.png"])
    words = ["folder", "--root", str(folder / "root"), "--out", str(folder / "set"), "--append", "--processes", "1"]
    before = digests(folder / "set")
    (folder / "other").write_text("ab" * 32)
    assert main([*words, "--key_file", str(folder / "other")]) == 2
    assert "another key" in capsys.readouterr().err
    words += ["--key_file", str(folder / "key")]
    assert main([*words, "--quality", "80"]) == 2
    assert "quality: 95 there, 80 here" in capsys.readouterr().err
    assert main([*words, "--findings", "Rust"]) == 2
    assert "has other findings (+ Rust): leave --findings away" in capsys.readouterr().err
    assert digests(folder / "set") == before


def test_a_patient_stays_on_their_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_key(tmp_path / "key")
    write_pngs(tmp_path / "root", [f"{number}.png" for number in range(40)])
    rows = [["path", "patient"], *([f"{number}.png", f"p{number // 2}"] for number in range(40))]
    options = {"split": "patient", "csv": tmp_path / "a.csv", "valid_share": 0.3, "test_share": 0.3}
    write_csv(tmp_path / "a.csv", rows)
    run(config(tmp_path, **options, folds=3, subsets=(10.0, 100.0)))
    first = ShardSet.open(tmp_path / "set")
    sides = dict(zip(first.column("patient"), first.column("split"), strict=True))
    assert set(sides.values()) == {"train", "valid", "test"}
    write_pngs(tmp_path / "root", [f"n{number}.png" for number in range(30)])
    write_csv(tmp_path / "a.csv", [*rows, *([f"n{number}.png", f"p{number}"] for number in range(30))])
    run(config(tmp_path, **options, folds=3, subsets=(10.0, 100.0), append=True))
    both = ShardSet.open(tmp_path / "set")
    assert len(both) == 70
    assert both.manifest["num_patients_on_two_sides"] == 0
    now = dict(zip(both.column("patient"), both.column("split"), strict=True))
    assert {patient: now[patient] for patient in sides} == sides
    folds: dict[str, set[object]] = {}
    for patient, fold in zip(both.column("patient"), both.table(["fold"]).column("fold").to_pylist(), strict=True):
        folds.setdefault(patient, set()).add(fold)
    assert all(len(seen) == 1 for seen in folds.values())
    # A table that puts a patient of the set on another side is refused, and names the patient.
    moved = next(patient for patient, side in sides.items() if side == "test")
    number = first.column("patient").tolist().index(moved)
    with open(tmp_path / "set.names.csv") as file:
        name = {line.split(",")[0]: line.split(",")[1] for line in file}[first.column("key")[number]]
    write_pngs(tmp_path / "more", ["x.png"])
    write_csv(tmp_path / "b.csv", [["path", "patient", "split"], ["x.png", f"p{int(name[:-4]) // 2}", "train"]])
    words = ["folder", "--root", str(tmp_path / "more"), "--out", str(tmp_path / "set"), "--append", "--csv"]
    words += [str(tmp_path / "b.csv"), "--key_file", str(tmp_path / "key")]
    capsys.readouterr()
    assert main(words) == 2
    assert f"{moved} (test and train)" in capsys.readouterr().err


def test_another_image_under_a_known_name_is_set_aside_and_not_taken_for_the_old_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An inbox whose files are replaced week after week: same names, other pictures."""
    before = digests(folder / "set")
    Image.fromarray(draw(77)).save(folder / "root" / "a2.png")
    assert main([*append_words(folder), "--max_bad_share", "0.1"]) == 1
    assert "a2.png: the set has another image under this name" in capsys.readouterr().err
    assert main([*append_words(folder), "--max_bad_share", "0.5"]) == 0
    assert "nothing to do; 1 set aside" in capsys.readouterr().out
    assert main([*append_words(folder), "--max_bad_share", "0.5"]) == 0  # and again: it is not forgotten
    assert "nothing to do; 1 set aside" in capsys.readouterr().out
    assert json.loads((folder / "set.quarantine.jsonl").read_text())["name"] == "a2.png"
    assert digests(folder / "set") == before


def test_the_same_files_elsewhere_are_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (folder / "root").iterdir():
        (folder / "moved").mkdir(exist_ok=True)
        (folder / "moved" / path.name).write_bytes(path.read_bytes())
    assert main([*append_words(folder), "--root", str(folder / "moved")]) == 0
    assert "has all 5 images already" in capsys.readouterr().out


def test_kept_names_stay_when_a_new_file_would_share_one(tmp_path: Path) -> None:
    write_key(tmp_path / "key")
    write_pngs(tmp_path / "root", ["a.png", f"{'long' * 60}.png"])
    run(config(tmp_path, keep_names=True))
    Image.fromarray(draw(9)).save(tmp_path / "root" / "a.jpg")
    run(config(tmp_path, keep_names=True, append=True))
    keys = ShardSet.open(tmp_path / "set").column("key").tolist()
    assert keys[:2] == ["a", ("long" * 60)[-80:]]
    assert len(keys) == 3
    assert keys[2].startswith("a-")
    assert find_problems(tmp_path / "set") == []


def append_words(folder: Path) -> list[str]:
    words = ["folder", "--root", str(folder / "root"), "--out", str(folder / "set"), "--append", "--processes", "1"]
    return [*words, "--key_file", str(folder / "key")]


def test_a_later_delivery_has_the_findings_of_the_first(tmp_path: Path) -> None:
    """Whichever of them its csv file names; one that is new is no finding of this set."""
    write_key(tmp_path / "key")
    write_pngs(tmp_path / "root", ["a.png", "b.png"])
    rows = [["path", "findings"], ["a.png", "Rust"], ["b.png", "Dust|Rust"]]
    run(config(tmp_path, csv=write_csv(tmp_path / "t.csv", rows)))
    write_pngs(tmp_path / "root", ["c.png", "d.png"])
    rows = [["path", "findings"], ["c.png", "Dust"], ["d.png", "Mould"], ["a.png", "Rust"], ["b.png", "Dust|Rust"]]
    run(config(tmp_path, csv=write_csv(tmp_path / "t.csv", rows), append=True, max_bad_share=0.5))
    shards = ShardSet.open(tmp_path / "set")
    assert shards.findings == ("Dust", "Rust")
    assert [shards.findings_of(row) for row in range(3)] == [(1,), (0, 1), (0,)]
    (listed,) = (tmp_path / "set.quarantine.jsonl").read_text().splitlines()
    assert "unknown finding 'Mould'" in json.loads(listed)["reason"]


def test_nothing_to_store_is_a_failure_and_no_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pngs(tmp_path / "root", ["a.png"])
    write_key(tmp_path / "key")
    rows = [["path", "sex"], ["a.png", "F"]]
    line = [word for word in append_words(tmp_path) if word != "--append"]
    line += ["--csv", str(write_csv(tmp_path / "t.csv", rows)), "--only", "sex=M"]
    assert main(line) != 0
    assert "gives no usable image (0 refused, 1 left out by --only)" in capsys.readouterr().err
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_files_set_aside_before_do_not_count_as_a_bad_delivery(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five good and one bad file at the limit: the bad one is tried again at every delivery, and only named."""
    (folder / "root" / "bad.png").write_bytes(b"")
    run(config(folder, append=True, max_bad_share=0.2))
    told = capsys.readouterr().out
    assert "none of the 1 new images could be taken" in told
    assert ShardSet.open(folder / "set").manifest["version"] == 1
    listed = [json.loads(line)["name"] for line in (folder / "set.quarantine.jsonl").read_text().splitlines()]
    assert listed == ["bad.png"]


def test_the_filter_counts_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pngs(tmp_path / "root", [f"{number}.png" for number in range(6)])
    write_key(tmp_path / "key")
    views = ["PA", "AP", "LATERAL", "", "PA", "AP"]
    rows = [["path", "view_position"], *([f"{number}.png", view] for number, view in enumerate(views))]
    run(config(tmp_path, csv=write_csv(tmp_path / "a.csv", rows), only=("view_position=PA,AP",)))
    assert "left out as asked for by --only or --no-keep_normals: 2" in capsys.readouterr().out
    shards = ShardSet.open(tmp_path / "set")
    assert shards.column("view_position").tolist() == ["PA", "AP", "PA", "AP"]
    assert shards.manifest["num_left_out"] == 2
    assert find_problems(tmp_path / "set") == []


def test_levels_codecs_and_bits_are_in_the_manifest(tmp_path: Path) -> None:
    write_key(tmp_path / "key")
    wide = draw(1, 90, 70).astype(np.uint16) * 257 + 3
    (tmp_path / "root").mkdir()
    Image.fromarray(wide).save(tmp_path / "root" / "wide.png")
    run(config(tmp_path, codec="htj2k", bits=16, levels=(32,), max_side_px=64))
    shards = ShardSet.open(tmp_path / "set")
    assert (shards.manifest["codec"], shards.manifest["bits"]) == ("htj2k", 16)
    assert find_problems(tmp_path / "set") == []
