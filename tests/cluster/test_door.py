"""Words in, an exit status out, and one clear line when something is wrong: seen from outside, as a user sees it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import verb_for_door

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.cluster.verb_for_door"]


@pytest.fixture(autouse=True)
def no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_DEBUG", "")


@pytest.mark.parametrize(
    ("end", "status", "told"),
    [
        ("value", 2, "cxr verb: error: shards is 'nowhere': there is no such folder\n"),
        ("disk", 1, "cxr verb: error: OSError: [Errno 28] No space left on device: 'x' (the disk is full: free some"),
        ("port", 1, "EADDRINUSE, address already in use (the port is in use: end what listens there"),
        ("memory", 1, "cxr verb: error: MemoryError (out of memory: use a smaller batch"),
        ("bug", 1, "cxr verb: error: IndexError: list index out of range\n(--debug shows the whole traceback)\n"),
        ("interrupt", 130, "cxr verb: interrupted; the same command goes on where it stopped\n"),
        ("well", 0, ""),
    ],
)
def test_statuses(end: str, status: int, told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert verb_for_door.main(["--out", "x", "--end", end]) == status
    seen = capfd.readouterr()
    assert told in seen.err
    assert "Traceback" not in seen.err
    assert 'out = "x"' in seen.out


@pytest.mark.parametrize(
    "words", [["--debug", "--out", "x", "--end", "bug"], ["--out", "x", "--end", "value", "--debug"]]
)
def test_debug_anywhere_shows_the_traceback(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert verb_for_door.main(words) in (1, 2)
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def test_a_flag_that_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    assert verb_for_door.main(["--out", "x", "--model.projektor", "8"]) == 2
    told = capfd.readouterr().err
    assert "--model.projektor" in told
    assert "Perhaps you meant" in told
    assert "--model.projector" in told
    assert told.count("\n") < 20


def test_help_has_every_field(capfd: pytest.CaptureFixture[str]) -> None:
    assert verb_for_door.main(["--help"]) == 0
    told = capfd.readouterr().out
    for word in (
        "--model.projector",
        "widths of the layers, units",
        "8192 8192",
        "--dry_run",
        "(required)",
        "{resnet18,",
    ):
        assert word in told


def test_as_a_process(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, str(tmp_path / "no.toml")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"cxr verb: error: recipe {tmp_path}/no.toml is not there")


def test_a_signal_ends_it_as_a_failure_does() -> None:
    """SIGTERM unwinds: what `finally` guards is done, which is how children and temporary files go."""
    program = (
        "import sys, time; from cluster import door; from tests.cluster.verb_for_door import VerbConfig\n"
        "def run(config):\n"
        "    try: print('in', flush=True); time.sleep(60)\n"
        "    finally: print('out', flush=True)\n"
        "sys.exit(door.enter('cxr verb', VerbConfig, run, ['--out', 'x']))"
    )
    running = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "in\n"
    running.send_signal(signal.SIGTERM)
    assert running.stdout.read() == "out\n"
    assert running.wait(10) == 128 + signal.SIGTERM


def test_a_reader_that_has_gone() -> None:
    running = subprocess.Popen(
        [*COMMAND, "--out", "x"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    running.wait(10)
