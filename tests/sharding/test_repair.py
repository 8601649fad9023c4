"""A damaged shard set is made whole again from its source, to the byte, or left alone with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sharding.build import run
from sharding.folder import FolderConfig
from sharding.index import ShardSet
from sharding.manifest import partial_directory
from sharding.nih import NihConfig
from sharding.verify import find_problems, main
from tests.sharding.cohorts import write_csv, write_key, write_nih, write_pngs
from tests.sharding.test_build import digests
from tests.sharding.test_verify import add_a_member, change_an_idx, cut_a_tar, flip_a_byte, lose_a_tar


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two deliveries of 12 and 6 images, a bad file among the first."""
    folder = tmp_path_factory.mktemp("repair")
    write_key(folder / "key")
    write_pngs(folder / "root", [f"a{number:02d}.png" for number in range(12)])
    (folder / "root" / "a03.png").write_bytes(b"no png")
    rows = [[f"a{number:02d}.png", f"p{number // 2}", "Mass" if number % 3 else "No finding"] for number in range(12)]
    table = write_csv(folder / "table.csv", [["path", "patient", "findings"], *rows])
    options = {"csv": table, "split": "patient", "samples_per_shard": 3, "processes": 1, "max_bad_share": 0.2}
    config = FolderConfig(root=folder / "root", out=folder / "set", key_file=folder / "key", **options)
    run(config)
    write_pngs(folder / "root", [f"b{number}.png" for number in range(6)])
    rows += [[f"b{number}.png", f"q{number}", "Mass"] for number in range(6)]
    write_csv(folder / "table.csv", [["path", "patient", "findings"], *rows])
    run(FolderConfig(root=folder / "root", out=folder / "set", key_file=folder / "key", append=True, **options))
    return folder


def repairing(made: Path, directory: Path, *more: str) -> int:
    words = [str(directory), "--repair", "--root", str(made / "root"), "--csv", str(made / "table.csv")]
    return main([*words, "--key_file", str(made / "key"), "--processes", "1", *more])


def lose_the_index(directory: Path) -> None:
    (directory / "index.parquet").unlink()


def spoil_the_second_index(directory: Path) -> None:
    (directory / "index-000001.parquet").write_bytes(b"PAR1 no more")


def lose_every_tar(directory: Path) -> None:
    for path in directory.glob("*.tar"):
        path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        *(flip_a_byte, cut_a_tar, lose_a_tar, add_a_member, change_an_idx, lose_the_index),
        *(spoil_the_second_index, lose_every_tar),
    ],
)
def test_damage_is_repaired_to_the_byte(made: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    copy = tmp_path / "set"
    shutil.copytree(made / "set", copy)
    whole = digests(copy)
    # The damages of test_verify sign what they change, so that only a look inside can tell; here nobody signs.
    manifest = (copy / "manifest.json").read_bytes()
    damage(copy)
    (copy / "manifest.json").write_bytes(manifest)
    assert digests(copy) != whole
    assert main([str(copy), "--processes", "1"]) == 1
    assert repairing(made, copy) == 0
    assert digests(copy) == whole
    assert find_problems(copy) == []
    assert not partial_directory(copy).exists()


def test_a_source_that_has_changed_is_named_and_nothing_is_replaced(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "set"
    shutil.copytree(made / "set", copy)
    flip_a_byte(copy)
    damaged = digests(copy)
    other = tmp_path / "other"
    shutil.copytree(made / "root", other)
    write_pngs(other, ["x.png", *(f"a{number:02d}.png" for number in range(12))])
    assert repairing(made, copy, "--root", str(other)) == 1
    assert "no longer gives the same bytes" in capsys.readouterr().err
    assert digests(copy) == damaged
    for path in other.iterdir():
        path.unlink()
    write_pngs(other, ["x.png"])
    assert repairing(made, copy, "--root", str(other)) != 0
    (tmp_path / "key").write_text("ab" * 32)
    assert repairing(made, copy, "--key_file", str(tmp_path / "key")) == 2
    assert "is not the key" in capsys.readouterr().err
    assert digests(copy) == damaged


def test_five_damages_at_once_a_tar_and_its_index_among_them(tmp_path: Path) -> None:
    write_nih(tmp_path / "root")
    key = write_key(tmp_path / "key")
    options = {"folds": 2, "samples_per_shard": 3, "processes": 1, "valid_share": 0.3}
    run(NihConfig(root=tmp_path / "root", out=tmp_path / "set", key_file=key, **options))  # type: ignore[arg-type]
    copy = tmp_path / "set"
    whole = digests(copy)
    flip_a_byte(copy)
    tars = sorted(copy.glob("*.tar"))
    tars[1].write_bytes(b"")
    tars[2].unlink()
    tars[3].with_suffix(".idx").unlink()
    lose_the_index(copy)
    line = [str(copy), "--repair", "--root", str(tmp_path / "root"), "--key_file", str(key), "--processes", "1"]
    assert main(line) == 0
    assert digests(copy) == whole


def test_a_repair_needs_a_root(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(made / "set"), "--repair"]) == 2
    assert "root: --repair needs" in capsys.readouterr().err


def test_sets_taken_together(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same key file and the same patient in train there and in test here; the same key in both."""
    write_pngs(tmp_path / "root", ["a00.png", "new.png"])
    sides = ShardSet.open(made / "set")
    first = dict(zip(sides.column("key"), sides.column("split"), strict=True))
    with open(made / "set.names.csv") as file:
        names = {line.split(",")[1].strip(): first.get(line.split(",")[0]) for line in file}
    other = "test" if names["a00.png"] == "train" else "train"
    rows = [["path", "patient", "split"], ["a00.png", "p0", other], ["new.png", "z", "train"]]
    write_csv(tmp_path / "t.csv", rows)
    run(
        FolderConfig(
            root=tmp_path / "root", out=tmp_path / "set", key_file=made / "key", csv=tmp_path / "t.csv", processes=1
        )
    )
    assert main([str(tmp_path / "set"), "--processes", "1"]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "set"), str(made / "set"), "--processes", "1"]) == 1
    told = capsys.readouterr().out
    assert "1 keys are in" in told
    assert "1 patients are on two sides of these sets together" in told
    manifest = json.loads((made / "set" / "manifest.json").read_text())
    assert manifest["version"] == 2
