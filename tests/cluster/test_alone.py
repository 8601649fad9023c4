import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.alone import alone_in
from tests.conftest import ROOT


@pytest.fixture
def other(tmp_path: Path) -> "subprocess.Popen[bytes]":
    """A process that is alone in the folder."""
    line = "from cluster.alone import alone_in; from pathlib import Path; import sys\n"
    line += "with alone_in(Path(sys.argv[1]), 0) as alone: print(alone, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", line, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    return process


def test_a_process_that_is_stopped_is_waited_for_as_long_as_was_said(
    other: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    os.kill(other.pid, signal.SIGSTOP)
    start = time.monotonic()
    with alone_in(tmp_path, 0.2) as alone:
        assert not alone
    assert 0.2 <= time.monotonic() - start < 5
    other.kill()
    other.communicate()


def test_a_process_that_is_killed_makes_room(other: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    other.kill()
    with alone_in(tmp_path, 60) as alone:
        assert alone
    other.communicate()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), alone_in(tmp_path / "none", 1):
        pass
