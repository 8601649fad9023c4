"""Nothing is written into the copy of the project that a Ray job runs in."""

from pathlib import Path

import pytest

from cluster.copies import check_lasting
from tests.cluster import verb_for_door


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is one as Ray makes it, reached by a link as Ray's session is."""
    folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0a1b2c"
    folder.mkdir(parents=True)
    (tmp_path / "latest").symlink_to(tmp_path / "session")
    monkeypatch.chdir(tmp_path / "latest" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0a1b2c")
    return folder


@pytest.mark.parametrize("out", ["here", "data/own", "../_ray_pkg_0a1b2c/here", "."])
def test_every_verb_refuses_a_relative_output_in_a_jobs_copy(
    copy: Path, out: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verb_for_door.main(["--out", out]) == 2
    seen = capfd.readouterr()
    assert f"cxr verb: error: out: {out} lies in this job's temporary copy of the project" in seen.err
    assert "give an absolute path on a disk that all nodes share" in seen.err
    assert not seen.out
    assert not list(copy.iterdir())


def test_elsewhere_it_stays(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verb_for_door.main(["--out", str(tmp_path / "out")]) == 0
    monkeypatch.chdir(tmp_path)
    assert verb_for_door.main(["--out", "out"]) == 0
    check_lasting(tmp_path / "working_dir_files" / "mine", "out")
