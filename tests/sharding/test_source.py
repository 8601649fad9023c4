import gzip
import os
import socket
from pathlib import Path

import boto3
import pytest

from cluster import storage
from cluster.storage import Stat
from sharding import source
from sharding.archives import index_path
from sharding.pixels import UnreadableImage
from sharding.sample import SourceImage
from sharding.source import read_source
from tests.sharding.cohorts import BAD_SECTOR, powerless


def image(place: storage.Place, stat: Stat | None = None, span: tuple[int, int] | None = None) -> SourceImage:
    return SourceImage(
        storage.absolute(place), "image", "n", "k", "s", "", findings=None, boxes=None, span=span, stat=stat
    )


def reason(*words: object) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_source(image(*words))  # type: ignore[arg-type]
    return str(caught.value)


def test_a_file_comes_whole_or_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(b"0123456789")
    assert read_source(image(path)) == b"0123456789"
    assert read_source(image(path, storage.stat(path))) == b"0123456789"
    assert "changed" in reason(path, Stat(11, storage.stat(path).mtime_ns))
    assert reason(tmp_path / "b") == "the file has gone"
    assert reason(tmp_path) == "is not a plain file"
    os.mkfifo(tmp_path / "pipe")
    assert reason(tmp_path / "pipe") == "is not a plain file"
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in reason(tmp_path / "loop")
    os.truncate(path, (2 << 30) + 1)
    assert "holds 2,147,483,649 bytes; more than" in reason(path)
    os.truncate(path, 0)
    assert read_source(image(path)) == b""


def test_a_span_of_a_plain_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"0123456789")
    assert read_source(image(path, None, (2, 3))) == b"234"
    assert "too early" in reason(path, None, (8, 3))
    assert "more than" in reason(path, None, (0, 1 << 40))
    assert reason(tmp_path / "b.tar", None, (8, 3)) == "the file has gone"


def test_what_may_not_be_read_is_named() -> None:
    with powerless() as folder:
        (folder / "a").touch(mode=0)
        assert "may not be read" in reason(folder / "a")


@pytest.mark.parametrize("span", [None, (0, 3)])
def test_a_disk_that_fails_is_no_fault_of_the_file(span: tuple[int, int] | None, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(BAD_SECTOR)
    with pytest.raises(OSError, match=f"Input/output error: '{tmp_path}/a'"):
        read_source(image(tmp_path / "a", None, span))


def test_a_store_that_does_not_answer_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # bound and never listening
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with pytest.raises(OSError, match="does not answer"):
            read_source(image("s3://radiographs/x.png", Stat(3, 4)))


def test_a_file_that_is_shorter_than_was_told_is_named(s3: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"0123456789")
    boto3.client("s3").put_object(Bucket="radiographs", Key="source/short.png", Body=b"01234")
    assert reason(f"{s3}/source/short.png", Stat(9, 1)) == "it ends 4 bytes too early"


def test_a_tar_in_place_of_another_is_read_anew(tmp_path: Path) -> None:
    """Of the same name and time, as a tool that keeps times leaves them."""
    path = tmp_path / "a.tar.gz"
    for data in (b"0123456789", b"abcdefghijklm"):
        (tmp_path / "new").write_bytes(gzip.compress(data, mtime=0))
        os.utime(tmp_path / "new", ns=(5, 5))
        (tmp_path / "new").rename(path)
        assert read_source(image(path, None, (2, 3))) == data[2:5]
        assert read_source(image(path, Stat(3, 5), (2, 3))) == data[2:5]


def test_tars_without_compression_close_no_archive(tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(b"0123456789"))
    assert read_source(image(packed, None, (2, 3))) == b"234"
    kept = dict(source._open)
    for number in range(5):
        (tmp_path / f"{number}.tar").write_bytes(b"abcdefghij")
        assert read_source(image(tmp_path / f"{number}.tar", None, (2, 3))) == b"cde"
    assert dict(source._open) == kept


def test_damaged_seek_points_are_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(b"0123456789"))
    index_path(path, storage.stat(path), tmp_path).write_bytes(b"no seek points")
    assert read_source(image(path, None, (2, 3)), tmp_path) == b"234"


def test_objects(s3: str) -> None:
    boto3.client("s3").put_object(Bucket="radiographs", Key="source/ä.png", Body=b"0123456789")
    place = f"{s3}/source/ä.png"
    assert read_source(image(place)) == read_source(image(place, storage.stat(place))) == b"0123456789"
    assert read_source(image(place, None, (4, 2))) == b"45"
    assert reason(f"{s3}/source/none.png") == "the file has gone"
    assert reason(f"{s3}/source") == "is not a plain file"
    assert "more than" in reason(place, Stat(3 << 30, 1))
