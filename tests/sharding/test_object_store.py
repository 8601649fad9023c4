"""An S3 server as source and as target: the same bytes as from and to a disk."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import storage
from cluster.target import lease, open_target
from sharding.build import main
from sharding.verify import find_problems
from sharding.verify import main as verify
from tests.conftest import ROOT
from tests.sharding.cohorts import write_key, write_nih
from tests.sharding.test_build import digests


@pytest.fixture(scope="module")
def nih(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, a key and its shard set on disk."""
    folder = tmp_path_factory.mktemp("nih")
    write_nih(folder / "root")
    write_key(folder / "key")
    assert main(words(folder, folder / "root", folder / "set")) == 0
    return folder


def words(nih: Path, root: str | Path, out: str | Path, *more: str) -> list[str]:
    line = ["nih", "--root", str(root), "--out", str(out), "--key_file", str(nih / "key"), "--samples_per_shard", "4"]
    return [*line, "--processes", "1", *more]


def upload(folder: Path, url: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            open_target(f"{url}/{path.relative_to(folder).parent}".rstrip("/.")).write(path.name, path.read_bytes())


def remote_digests(url: str) -> dict[str, bytes]:
    return {found.name: storage.read(found.path) for found in storage.files_in(url)}


def test_from_s3_to_s3_gives_the_bytes_of_the_disk(nih: Path, s3: str, tmp_path: Path) -> None:
    source, out = f"{s3}/{tmp_path.name}/nih", f"{s3}/{tmp_path.name}/set"
    upload(nih / "root", source)
    assert main(words(nih, source, out)) == 0
    on_disk = {path.name: path.read_bytes() for path in (nih / "set").iterdir()}
    assert remote_digests(out) == on_disk
    assert find_problems(out) == []
    assert verify([out, "--processes", "1"]) == 0
    assert main(words(nih, source, out)) == 0  # nothing to do
    assert not (nih / "set.partial").exists()


def test_two_processes_and_a_source_on_disk(nih: Path, s3: str, tmp_path: Path) -> None:
    out = f"{s3}/{tmp_path.name}/set"
    assert main([*words(nih, nih / "root", out)[:-1], "2"]) == 0
    assert {n: len(d) for n, d in remote_digests(out).items()} == {
        path.name: path.stat().st_size for path in (nih / "set").iterdir()
    }


def test_a_damaged_object_is_told_and_repaired(nih: Path, s3: str, tmp_path: Path) -> None:
    out = f"{s3}/{tmp_path.name}/set"
    assert main(words(nih, nih / "root", out)) == 0
    before = remote_digests(out)
    open_target(out).write("nih-000001.tar", b"x" * 100)
    assert verify([out, "--processes", "1"]) == 1
    line = [out, "--processes", "1", "--repair", "--root", str(nih / "root"), "--key_file", str(nih / "key")]
    assert verify(line) == 0
    assert remote_digests(out) == before


def test_a_killed_upload_goes_on(nih: Path, s3: str, tmp_path: Path) -> None:
    """Killed while it works; started again it is refused for a while, and after that ends with the same bytes."""
    out = f"{s3}/{tmp_path.name}/set"
    (tmp_path / "key").write_bytes((nih / "key").read_bytes())
    line = [sys.executable, "-m", "sharding.build", *words(tmp_path, nih / "root", out)]
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ) as process:
        deadline = time.monotonic() + 60
        while not any(name.endswith(".tar") for name in open_target(out).sizes()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
    assert "manifest.json" not in open_target(out).sizes(), "it was finished before it could be killed"
    assert main(words(tmp_path, nih / "root", out)) == 2
    for found in storage.files_in(f"{out}.leases"):
        open_target(f"{out}.leases").remove(found.name)  # what time would do
    assert main(words(tmp_path, nih / "root", out)) == 0
    assert remote_digests(out) == {path.name: path.read_bytes() for path in (nih / "set").iterdir()}


def test_two_runs_on_one_target_refuse_each_other(
    nih: Path, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{s3}/{tmp_path.name}/set"
    with lease(out):
        assert main(words(nih, nih / "root", out)) == 2
    assert "another run is writing" in capsys.readouterr().err


def test_mistakes_are_one_clear_line(nih: Path, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(nih, f"{s3}/nothing/here", tmp_path / "set")) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["nih", "--root", str(nih / "root"), "--out", f"{s3}/x"]) == 2
    assert "key_file" in capsys.readouterr().err
    assert main(words(nih, "ftp://host/folder", tmp_path / "set")) == 2
    assert "ftp:// is not known" in capsys.readouterr().err
    assert digests(nih / "set")
