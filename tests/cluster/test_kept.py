import fcntl
import hashlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cluster.kept import cache_folder, default_cache, kept
from tests.loaders.test_objects import Answer, give, server

__all__ = ["server"]

DATA = b"an index" * 10_000
SHA256 = hashlib.sha256(DATA).hexdigest()


def fetch(folder: Path) -> Path | bytes:
    return kept("s3://bucket/index.parquet", len(DATA), SHA256, folder)


@pytest.fixture
def asked(server: list[Answer]) -> list[str]:
    """Ranges that were fetched, of an object that holds DATA."""
    ranges: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.command == "GET":
            ranges.append(request.headers.get("Range", ""))
        give(DATA)(request)

    server.append(answer)
    return ranges


def test_many_at_once_fetch_it_once(asked: list[str], tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(fetch, [tmp_path] * 8))
    assert paths == [tmp_path / f"{SHA256}.parquet"] * 8
    assert (tmp_path / f"{SHA256}.parquet").read_bytes() == DATA
    assert len(asked) == 1


def test_a_killed_process_leaves_nothing_that_stays(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / f".{SHA256}.parquet.0a1b2c3d.tmp").write_bytes(b"half")
    with open(tmp_path / "lock", "w") as lock:  # its lock went with it
        fcntl.flock(lock, fcntl.LOCK_EX)
    fetch(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{SHA256}.parquet", "lock"]
    assert len(asked) == 1


def test_another_file_than_the_manifest_names_is_refused(asked: list[str], tmp_path: Path) -> None:
    for num_bytes, sha256 in ((len(DATA), "ab" * 32), (5, SHA256)):
        with pytest.raises(
            ValueError, match=r"index.parquet is not the file its manifest names \(digest differs\): copy"
        ):
            kept("s3://bucket/index.parquet", num_bytes, sha256, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert asked


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == default_cache() == tmp_path / "barlow-cxr" / "shards"
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for unset in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_cache() == tmp_path / "me" / ".cache" / "barlow-cxr" / "shards"
