"""Folders to write into, on a disk and on a local S3 server: the same words, the same answers."""

import time
from pathlib import Path

import pytest

from cluster import storage, target
from cluster.target import LocalTarget, RemoteTarget, lease, open_target


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "set")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}/set"


def test_files_come_go_and_are_replaced(place: str, tmp_path: Path) -> None:
    folder = open_target(place)
    assert isinstance(folder, RemoteTarget if storage.is_remote(place) else LocalTarget)
    assert folder.sizes() == {}
    folder.make()
    folder.write("a.json", "one")
    folder.write("a.json", b"three")
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 40_000)
    folder.put("b.tar", large)
    assert not large.exists()
    assert folder.sizes() == {"a.json": 5, "b.tar": 10_240_000}
    assert folder.read("a.json") == b"three"
    with folder.local("b.tar") as path:
        assert path.read_bytes() == bytes(range(256)) * 40_000
    folder.remove("a.json")
    assert set(folder.sizes()) == {"b.tar"}
    with pytest.raises(FileNotFoundError):
        folder.read("a.json")
    with pytest.raises(FileNotFoundError), folder.local("a.json") as path:
        path.read_bytes()


def test_one_lease_at_a_time(s3: str, tmp_path: Path) -> None:
    place = f"{s3}/{tmp_path.name}/set"
    with lease(place):
        with pytest.raises(ValueError, match="another run is writing"), lease(place):
            pass
        with lease(f"{place}2"):
            pass
    with lease(place):
        pass
    assert storage.files_in(f"{place}.leases") == []


def test_a_suspended_holder_learns_that_it_was_taken_for_dead(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "RENEWAL_SECONDS", 600.0)  # it never gets to it
    place = f"{s3}/{tmp_path.name}/set"
    with lease(place) as check:
        check()
        monkeypatch.setattr(target, "LEASE_SECONDS", 1.0)
        time.sleep(2.1)
        with pytest.raises(RuntimeError, match="taken it over"):
            check()
        with lease(place) as other:
            other()
            monkeypatch.setattr(target, "LEASE_SECONDS", 90.0)
            with pytest.raises(RuntimeError, match="taken it over"):
                check()
    assert storage.files_in(f"{place}.leases") == []


def test_the_lease_of_a_killed_run_is_forgotten(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{s3}/{tmp_path.name}/set"
    RemoteTarget(f"{place}.leases").write("dead", "dead")
    with pytest.raises(ValueError, match="or was killed"), lease(place):
        pass
    monkeypatch.setattr(target, "LEASE_SECONDS", 1.0)
    time.sleep(2.1)
    with lease(place):
        pass
    assert storage.files_in(f"{place}.leases") == []
