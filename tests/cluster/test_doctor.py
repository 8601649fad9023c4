"""What this machine can do."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import doctor


def test_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--no_ray", "--json", str(tmp_path / "answers.json")]) == 0
    answers = {each["question"]: each for each in json.loads((tmp_path / "answers.json").read_text())}
    assert {
        "python",
        "packages",
        "gpus",
        "decoder cpu",
        "cores",
        "memory",
        "shared memory",
        "disk here",
        "open files",
    } <= answers.keys()
    assert answers["packages"]["state"] == "ok"
    assert all(each["repair"] for each in answers.values() if each["state"] == "failed")
    assert capsys.readouterr().out.count("\n") >= len(answers)


def test_a_busy_port_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert doctor.main(["--no_ray", "--ports", str(port)]) == 1
    told = capsys.readouterr()
    assert f"port {port}" in told.out
    assert "end what listens there" in told.out
    assert f"failed: port {port}" in told.err


def test_a_check_that_breaks_is_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(doctor, "check_machine", broken)
    assert doctor.main(["--no_ray"]) == 1
    told = capsys.readouterr()
    assert "OSError: [Errno 24]" in told.out
    assert "ulimit" in told.out
    assert "ok       python" in told.out


def test_too_little_is_a_warning() -> None:
    little = doctor._at_least("disk here", 1 << 20, 1 << 30, "free some space")
    assert (little.state, little.repair) == ("warning", "free some space")
    assert doctor._at_least("disk here", 1 << 30, 1 << 30, "free some space").state == "ok"


def test_a_device_that_does_not_decode_is_a_failure() -> None:
    assert doctor.judge_decoder("cpu", None).state == "ok"
    lame = doctor.judge_decoder("cuda:0", "nvJPEG error: 6")
    assert (lame.question, lame.state) == ("decoder cuda:0", "failed")
    assert "nvJPEG error: 6" in lame.answer
    assert "update the driver" in lame.repair


def test_a_pipeline_that_cannot_be_imported_is_a_failure(tmp_path: Path) -> None:
    """As where a library of the system is absent: the other answers come all the same."""
    (tmp_path / "loaders").mkdir()
    (tmp_path / "loaders" / "culprits.py").write_text("raise OSError('libnvjpeg.so: cannot open shared object file')")
    (tmp_path / "cluster").symlink_to(Path(doctor.__file__).parent)
    command = [sys.executable, "-m", "cluster.doctor", "--no_ray"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "failed   decoder        loaders.culprits cannot be imported: libnvjpeg.so: cannot open" in done.stdout
    assert "ok       python" in done.stdout
    assert "open files" in done.stdout
