"""A process may die between any two writes: readers see the old set or the new one, and the same words finish it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.target import LocalTarget
from sharding import records
from sharding.build import run
from sharding.folder import FolderConfig
from sharding.index import ShardSet
from sharding.inspection import find_problems
from sharding.manifest import partial_directory
from sharding.verify import main as verify
from tests.sharding.cohorts import write_key, write_pngs
from tests.sharding.test_build import digests
from tests.sharding.test_verify import cut_a_tar


class Died(BaseException):
    """What `kill -9` is to a process, as far as one test in one process can have it."""


def config(folder: Path, **options: Any) -> FolderConfig:
    more: dict[str, Any] = {"samples_per_shard": 2, "processes": 1} | options
    return FolderConfig(root=folder / "root", out=folder / "set", key_file=folder / "key", **more)


def dying_at(monkeypatch: pytest.MonkeyPatch, call: int, late: bool) -> None:
    """The `call`-th write to the set or to the records dies, before (or `late`) after it was done."""
    seen = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == call and not late:
                raise Died
            answer = real(*arguments, **named)
            if seen == call:
                raise Died
            return answer

        return wrapper

    for method in ("write", "put", "remove"):
        monkeypatch.setattr(LocalTarget, method, counted(getattr(LocalTarget, method)))
    monkeypatch.setattr(records, "write_atomic", counted(records.write_atomic))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images as `first`, with three more as `both`, undisturbed."""
    folder = tmp_path_factory.mktemp("windows")
    write_key(folder / "key")
    write_pngs(folder / "root", [f"a{number}.png" for number in range(5)])
    run(config(folder))
    shutil.copytree(folder / "set", folder / "first")
    shutil.copy(folder / "set.names.csv", folder / "first.csv")
    write_pngs(folder / "more", [f"b{number}.png" for number in range(3)])
    for path in (folder / "more").iterdir():
        shutil.copy2(path, folder / "root" / path.name)
    run(config(folder, append=True))
    (folder / "set").rename(folder / "both")
    return folder


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("append", [False, True])
def test_killed_at_every_write(
    made: Path, tmp_path: Path, append: bool, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(made / "key", tmp_path / "key")
    shutil.copytree(made / "root", tmp_path / "root")
    if not append:
        for path in (tmp_path / "root").glob("b*.png"):
            path.unlink()
    wanted = digests(made / ("both" if append else "first"))
    num_deaths = 0
    for call in range(1, 60):
        for leftover in (tmp_path / "set", partial_directory(tmp_path / "set")):
            shutil.rmtree(leftover, ignore_errors=True)
        if append:
            shutil.copytree(made / "first", tmp_path / "set")
            shutil.copy(made / "first.csv", tmp_path / "set.names.csv")
        before = digests(tmp_path / "set") if append else {}
        with monkeypatch.context() as patched:
            dying_at(patched, call, late)
            try:
                run(config(tmp_path, append=append))
            except Died:
                num_deaths += 1
            else:
                break
        if (tmp_path / "set" / "manifest.json").exists():
            num_samples = len(ShardSet.open(tmp_path / "set"))
            assert num_samples in ((5, 8) if append else (5,))
            assert find_problems(tmp_path / "set") == []
            now = digests(tmp_path / "set")
            assert all(now[name] == digest for name, digest in before.items() if name != "manifest.json")
        else:
            assert not append
            with pytest.raises(ValueError, match=r"unfinished|not a shard set|is not a folder"):
                ShardSet.open(tmp_path / "set")
        run(config(tmp_path, append=append))
        assert digests(tmp_path / "set") == wanted
        assert not partial_directory(tmp_path / "set").exists()
    else:
        raise AssertionError("it never ended by itself")
    assert num_deaths >= 8


def lose_two_tars(directory: Path) -> None:
    cut_a_tar(directory)
    (directory / "folder-000002.tar").unlink()


def lose_the_index(directory: Path) -> None:
    (directory / "index.parquet").unlink()


@pytest.mark.parametrize("damage", [lose_two_tars, lose_the_index])
def test_a_repair_killed_at_every_write_is_finished_by_another(
    made: Path, tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(tmp_path / "set"), "--repair", "--root", str(made / "root"), "--key_file", str(made / "key")]
    wanted = digests(made / "first")
    num_deaths = 0
    for call in range(1, 60):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        shutil.copytree(made / "first", tmp_path / "set")
        damage(tmp_path / "set")
        with monkeypatch.context() as patched:
            dying_at(patched, call, False)
            try:
                assert verify([*words, "--processes", "1"]) == 0
            except Died:
                num_deaths += 1
            else:
                break
        assert verify([*words, "--processes", "1"]) == 0
        assert digests(tmp_path / "set") == wanted
    assert num_deaths >= 3


def test_a_plain_run_and_a_repair_leave_an_unfinished_delivery_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(made / "key", tmp_path / "key")
    shutil.copytree(made / "root", tmp_path / "root")
    shutil.copytree(made / "first", tmp_path / "set")
    shutil.copy(made / "first.csv", tmp_path / "set.names.csv")
    with monkeypatch.context() as patched:
        dying_at(patched, 5, False)
        with pytest.raises(Died):
            run(config(tmp_path, append=True))
    kept = sorted(path.name for path in partial_directory(tmp_path / "set").glob("*.json"))
    assert kept == ["folder-000003.tar.json"]
    for path in (tmp_path / "root").glob("b*.png"):
        path.rename(tmp_path / path.name)
    run(config(tmp_path))
    assert "nothing to do" in capsys.readouterr().out
    cut_a_tar(tmp_path / "set")
    line = [str(tmp_path / "set"), "--repair", "--root", str(tmp_path / "root"), "--key_file", str(tmp_path / "key")]
    assert verify([*line, "--processes", "1"]) == 0
    assert "a further delivery has begun there" in capsys.readouterr().out
    assert sorted(path.name for path in partial_directory(tmp_path / "set").glob("*.json")) == kept
    for path in tmp_path.glob("b*.png"):
        path.rename(tmp_path / "root" / path.name)
    run(config(tmp_path, append=True))
    assert "1 of 2 shards are there from an earlier run" in capsys.readouterr().err
    assert digests(tmp_path / "set") == digests(made / "both")
