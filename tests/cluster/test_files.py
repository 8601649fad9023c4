"""Files that are there in full or not at all."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.files import sha256_file, write_atomic


def test_text_and_bytes(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "é\n")
    assert (tmp_path / "a").read_bytes() == "é\n".encode()
    write_atomic(tmp_path / "a", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_failure_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", "new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_between_writes(tmp_path: Path, call: str) -> None:
    """SIGKILL at each of the two points: the old content stays."""
    write_atomic(tmp_path / "a", "old")
    program = (
        "import os, signal, sys; from pathlib import Path; from cluster import files\n"
        f"os.{call} = lambda *words: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomic(Path(sys.argv[1]), 'new')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert (tmp_path / "a").read_text() == "old"


def test_digest(tmp_path: Path) -> None:
    content = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_private_file_is_private_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    sync = os.fsync

    def look(file: int) -> None:
        seen.append(os.fstat(file).st_mode & 0o777)
        sync(file)

    monkeypatch.setattr(os, "fsync", look)
    write_atomic(tmp_path / "a", "names", mode=0o600)
    assert seen[0] == 0o600
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
