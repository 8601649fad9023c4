import errno
import os
import re
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from cluster import object_store, storage
from cluster.storage import Found, Stat

NAMES = (
    "b.png",
    "a/ü x.png",
    "a/.hidden/c.png",
    ".d.png",
    "e/f/g/h/i/j.txt",
    "plus+and%20.txt",
    "q?x=1#y.png",
    "a-b/z",
)


@pytest.fixture
def folder(s3: str, request: pytest.FixtureRequest) -> str:
    """A folder of its own in the bucket, with NAMES, each of ten bytes."""
    name = request.node.name
    client = boto3.client("s3")
    for key in NAMES:
        client.put_object(Bucket="radiographs", Key=f"{name}/{key}", Body=b"0123456789")
    return f"{s3}/{name}"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"0123456789")
    return tmp_path


def names(found: Iterator[Found]) -> list[str]:
    return [one.name for one in found]


def fail(error: OSError) -> None:
    raise error


def test_a_bucket_is_walked_as_a_disk_is(folder: str, local: Path) -> None:
    visible = sorted((n for n in NAMES if not n.startswith(".") and "/." not in n), key=lambda n: n.split("/"))
    assert names(storage.walk(folder, fail)) == visible == names(storage.walk(folder + "/", fail))
    assert sorted(names(storage.walk(local, fail)), key=lambda n: n.split("/")) == visible
    assert names(iter(storage.files_in(folder))) == names(iter(storage.files_in(local)))
    for found in storage.walk(folder, fail):
        assert found.path == f"{folder}/{found.name}"
        assert found.stat == storage.stat(found.path)
        assert storage.read(found.path) == b"0123456789"


def test_objects_that_stand_for_folders_are_none(folder: str) -> None:
    client = boto3.client("s3")
    name = storage.name_of(folder)
    for key in ("", "a/", "a/deep/"):
        client.put_object(Bucket="radiographs", Key=f"{name}/{key}", Body=b"")
    client.put_object(Bucket="radiographs", Key=f"{name}/a/deep/x.png", Body=b"")
    assert names(storage.walk(f"{folder}/a", fail)) == ["deep/x.png", "ü x.png"]
    assert storage.is_folder(f"{folder}/a")
    assert not storage.is_file(f"{folder}/a")


@pytest.mark.parametrize("where", ["folder", "local"])
def test_reading(where: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(where)
    place = storage.join(root, "a", "ü x.png")
    assert storage.read(place) == b"0123456789"
    assert storage.read(place, (2, 3)) == b"234"
    assert storage.read(place, (0, 0)) == b""
    with pytest.raises(OSError, match="ends 25 bytes too early"):
        storage.read(place, (5, 30))
    with storage.open_input(place) as file:
        assert file.name == place
        file.seek(4)
        assert (file.read(2), file.tell(), file.read(), file.read(1)) == (b"45", 6, b"6789", b"")
        file.seek(-1, os.SEEK_END)
        assert file.read() == b"9"
    assert storage.stat(place).num_bytes == 10
    assert storage.stat(place).is_plain
    assert (storage.is_file(place), storage.is_folder(place)) == (True, False)
    above = storage.parent_of(place)
    assert above == storage.join(root, "a")
    assert (storage.is_file(above), storage.is_folder(above)) == (False, True)


@pytest.mark.parametrize("where", ["folder", "local"])
def test_what_is_missing(where: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(where)
    gone = storage.join(root, "gone")
    for function in (storage.stat, storage.read, storage.open_input):
        with pytest.raises(FileNotFoundError) as caught:
            function(gone)
        assert caught.value.filename == gone
        assert caught.value.strerror
    assert not storage.is_file(gone)
    assert not storage.is_folder(gone)
    assert storage.files_in(gone) == []
    errors: list[OSError] = []
    assert list(storage.walk(gone, errors.append)) == []


def test_no_such_bucket(s3: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("s3://no-such-bucket/x")
    assert not storage.is_folder("s3://no-such-bucket/x")


@pytest.mark.parametrize(
    ("place", "message"),
    [("ftp://host/x", "ftp:// is not known"), ("s3://", "names no bucket"), ("s3:///x", "names no bucket")],
)
def test_urls_that_are_none(place: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        storage.stat(place)


def test_wrong_credentials_are_told_in_one_line(folder: str) -> None:
    control = os.environ["AWS_ENDPOINT_URL"] + "/moto-api/reset-auth"
    header = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(control, b"0", header))  # from now on the server looks at keys
    try:
        for attempt in (
            lambda: storage.stat(f"{folder}/b.png"),
            lambda: storage.is_file(f"{folder}/b.png"),
            lambda: storage.is_folder(folder),
            lambda: storage.read(f"{folder}/b.png"),
            lambda: list(storage.walk(folder, fail)),
        ):
            with pytest.raises(PermissionError, match="check the credentials") as caught:
                attempt()
            assert "\n" not in str(caught.value)
            assert storage.lasting(caught.value)
            assert str(caught.value.filename).startswith(folder)
    finally:
        urllib.request.urlopen(urllib.request.Request(control, b"inf", header))


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # bound and never listening: nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        for read in (storage.read, storage.stat, storage.open_input):
            with pytest.raises(OSError, match="does not answer: check the network and AWS_ENDPOINT_URL") as caught:
                read("s3://radiographs/ACCESS_DENIED permission/forbidden signature.png")
            assert not storage.lasting(caught.value)
            assert str(caught.value).count("does not answer") == 1


def test_local_oddities(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "void").symlink_to("gone")
    assert not storage.stat(tmp_path / "pipe").is_plain
    assert not storage.is_file(tmp_path / "pipe")
    for name in ("loop", "void"):
        assert not storage.is_file(tmp_path / name)
        with pytest.raises(OSError, match=r"symbolic links|No such file"):
            storage.stat(tmp_path / name)
    assert names(storage.walk(tmp_path, fail)) == ["loop", "pipe", "void"]


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/b/") == str(tmp_path / "a" / "b")
    assert storage.absolute("s3://b/c/") == "s3://b/c"
    assert storage.parent_of("s3://b/c") == storage.parent_of("s3://b") == "s3://b"
    assert storage.name_of("s3://b/c/") == "c"
    assert storage.join("s3://b/", "c", "d") == "s3://b/c/d"
    assert not storage.is_remote("/s3://x")
    assert not storage.is_remote(Path("s3://x"))
    assert Stat(1, 2) == Stat(1, 2, True)


def test_errors_that_last_and_errors_that_may_pass(local: Path) -> None:
    def failing(place: Path, *span: tuple[int, int]) -> OSError:
        with pytest.raises(OSError, match=re.escape(str(place))) as caught:
            storage.read(place, *span)
        return caught.value

    (local / "loop").symlink_to("loop")
    for error in (
        failing(local / "none"),
        failing(local / "loop"),
        failing(local / "a"),
        failing(local / "b.png" / "x"),
        failing(local / ("x" * 300)),
        failing(local / "b.png", (5, 30)),
    ):
        assert storage.lasting(error), error
    # The first page of one's own memory is never there: what a bad sector or a network file system gives.
    assert not storage.lasting(failing(Path("/proc/self/mem")))
    with storage.open_input("/proc/self/mem") as file, pytest.raises(OSError, match="'/proc/self/mem'"):
        file.read(4)
    for number in (errno.ETIMEDOUT, errno.ESTALE, errno.EHOSTUNREACH, errno.EMFILE, errno.ENOMEM):
        assert not storage.lasting(OSError(number, ""))
    assert not storage.lasting(OSError("without a number"))


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("ACCESS_DENIED", errno.EACCES),
        ("UNKNOWN (HTTP status 403)", errno.EACCES),
        ("SIGNATURE_DOES_NOT_MATCH", errno.EACCES),
        ("UNKNOWN (HTTP status 503)", errno.EHOSTUNREACH),
        ("NETWORK_CONNECTION", errno.EHOSTUNREACH),
        ("NO_SUCH_BUCKET", errno.ENOENT),
        ("INTERNAL_FAILURE", None),
    ],
)
def test_a_message_is_known_by_its_code_and_not_by_the_name_in_it(code: str, number: int | None) -> None:
    for key in ("a/b.png", "AWS Error ACCESS_DENIED during/HTTP status 403.png", "NO_SUCH_BUCKET  signature"):
        text = (
            f"When reading information for key '{key}' in bucket 'forbidden': AWS Error {code} during HeadObject: No."
        )
        assert object_store.kind_of(" ".join(text.split()), f"s3://forbidden/{key}")[0] == number
    google = "google::cloud::Status(UNAVAILABLE: permission of a/PERMISSION_DENIED)"
    assert object_store.kind_of(google, "gs://bucket/a/PERMISSION_DENIED")[0] == errno.EHOSTUNREACH


def test_links_to_folders_and_hidden_files_are_counted(local: Path) -> None:
    (local / "e" / "up").symlink_to("..")
    (local / "e" / "images_1").symlink_to(local / "a-b")
    (local / "images_1").symlink_to(local / "a-b")
    (local / "images_2").symlink_to(local)
    (local / "images_3").symlink_to("/")
    (local / "other").symlink_to(local / "a-b")
    passed: Counter[str] = Counter()
    found = names(storage.walk(local, fail, passed))
    assert passed == {"hidden": 2, "link to a folder": 6}
    passed.clear()
    assert {*names(storage.walk(local, fail, passed, re.compile(r"images_\d")))} == {*found, "images_1/z"}
    assert passed == {"hidden": 2, "link to a folder": 5}


def test_a_bucket_counts_what_is_hidden(folder: str) -> None:
    passed: Counter[str] = Counter()
    assert len(names(storage.walk(folder, fail, passed))) == len(NAMES) - 2
    assert passed == {"hidden": 2}


def test_many_are_asked_after_at_once(folder: str, local: Path) -> None:
    for root in (folder, str(local)):
        places = [storage.join(root, name) for name in (*NAMES, "none")]
        *found, none = storage.stats(places)
        assert found == [storage.stat(place) for place in places[:-1]]
        assert isinstance(none, FileNotFoundError)


def test_names_that_are_no_text_can_be_written() -> None:
    assert storage.spelled("a/ä x.png") == "a/ä x.png"
    assert storage.spelled(os.fsdecode(b"a/\xe4 x.png")) == r"a/\xe4 x.png"
