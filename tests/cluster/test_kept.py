import hashlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cluster.kept import cache_folder, default_cache, kept
from tests.conftest import ROOT
from tests.servers import Answer, give, server

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


def child(folder: Path, before: str = "") -> "subprocess.Popen[bytes]":
    line = "from cluster.kept import kept; from pathlib import Path; import sys\n"
    line += f"{before}\nkept('s3://bucket/index.parquet', {len(DATA)}, {SHA256!r}, Path(sys.argv[1]))"
    return subprocess.Popen([sys.executable, "-c", line, str(folder)], cwd=ROOT)


def test_a_process_that_is_killed_while_it_fetches_is_not_waited_for(server: list[Answer], tmp_path: Path) -> None:
    begun, killed = threading.Event(), threading.Event()

    def hang(request: BaseHTTPRequestHandler) -> None:
        if request.command == "GET":
            begun.set()
            killed.wait(60)
            request.close_connection = True
        else:
            give(DATA)(request)

    server.append(hang)
    process = child(tmp_path)
    assert begun.wait(60)
    with ThreadPoolExecutor(1) as threads:
        fetched = threads.submit(fetch, tmp_path)
        time.sleep(0.1)
        assert not fetched.done()
        server.append(give(DATA))
        process.kill()
        process.wait()
        killed.set()
        assert fetched.result(60) == tmp_path / f"{SHA256}.parquet"


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_that_stays(asked: list[str], tmp_path: Path) -> None:
    die = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
    die += "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    assert child(tmp_path, die).wait(60) == -signal.SIGXFSZ
    (half,) = tmp_path.glob(".*.tmp")
    assert half.read_bytes() == DATA[:1000]
    fetch(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{SHA256}.parquet", "lock"]
    assert (tmp_path / f"{SHA256}.parquet").read_bytes() == DATA
    assert len(asked) == 2


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
