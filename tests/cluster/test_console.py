"""`cxr`: the verbs."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import console, version

ROOT = Path(__file__).parents[2]


def test_every_verb_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main([]) == 0
    told = capsys.readouterr().out
    for verb, (module, line) in console.VERBS.items():
        assert verb in told
        assert line in told
        assert importlib.util.find_spec(module) is not None, f"{verb}: {module}"
    assert max(map(len, told.splitlines())) <= 120


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cxr 0.")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrian"], "'pretrian' is not a verb; did you mean 'pretrain'?"),
        (["xyz"], "'xyz' is not a verb; there are: phantom, shard"),
        (["--on"], "--on needs an address and a verb"),
        (["--on", "http://127.0.0.1:1", "pretrian"], "did you mean 'pretrain'?"),
        (["--on", "http://127.0.0.1:1", "doctor"], "nothing answers at 127.0.0.1:1"),
        (["--on", "ftp://127.0.0.1", "doctor"], "give the address of the cluster's dashboard"),
    ],
)
def test_mistakes(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--debug", "doctor", "--no_rayy"], ["doctor", "--debug", "--no_rayy"]])
def test_debug_before_the_verb_too(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    before = os.environ.get("CXR_DEBUG")
    try:
        assert console.main(words) == 2
    finally:
        os.environ.pop("CXR_DEBUG", None)
        if before is not None:
            os.environ["CXR_DEBUG"] = before
    told = capfd.readouterr().err
    assert "is not a verb" not in told
    assert "--no_rayy" in told


def test_debug_reaches_a_verb_of_several_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["--debug", "shard", "nowhere"]) == 2
    assert "usage: cxr shard nih|vindr|folder" in capsys.readouterr().err


@pytest.fixture
def bare_copy(tmp_path: Path) -> Path:
    """The code without its distribution: what is uploaded to a cluster. Run it by `python -S`, without packages."""
    (tmp_path / "cluster").mkdir()
    for path in (ROOT / "cluster").glob("*.py"):
        shutil.copy(path, tmp_path / "cluster")
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tmp_path / "trainers").mkdir()
    return tmp_path


def run_bare(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    hidden = ("PYTHONPATH", "CXR_DEBUG", "CXR_CODE_VERSION")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-S", "-m", "cluster.console", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_version_where_the_distribution_is_not_installed(bare_copy: Path) -> None:
    done = run_bare(bare_copy, "--version")
    assert (done.returncode, done.stdout) == (0, f"cxr {version.release()}\n"), done.stderr
    (bare_copy / "setup.cfg").unlink()
    assert run_bare(bare_copy, "--version").stdout == "cxr 0+unknown\n"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import tyro", "lacks the package 'tyro': run `make setup`"),
        (
            "raise OSError('libGL.so.1: cannot open\\nshared object')",
            "trainers.pretrain cannot be imported: libGL.so.1:",
        ),
        ("from json import no_such_name", "cannot import name 'no_such_name'"),
    ],
)
def test_a_verb_that_cannot_be_imported_is_one_line(bare_copy: Path, source: str, told: str) -> None:
    (bare_copy / "trainers" / "pretrain.py").write_text(source)
    done = run_bare(bare_copy, "pretrain")
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("\n(--debug shows the whole traceback)\n")
    assert done.stderr.count("\n") == 2
    done = run_bare(bare_copy, "--debug", "pretrain")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert told in done.stderr.splitlines()[-1]
