import socket
import threading
import time
from concurrent.futures import CancelledError
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Queue
from typing import Any

import boto3
import pytest
import torch

from cluster import object_store
from cluster.kept import default_cache
from cluster.world import World
from loaders.failures import BadSampleError, MissingShardError
from loaders.loader import DataConfig, open_predict_loader
from loaders.store import StoreOptions
from loaders.views import PlainViewConfig
from tests.loaders.conftest import NUM_TRAIN
from tests.loaders.samples import TAR_BYTES, as_bytes, make_samples, make_tars, open_store, wanted
from tests.servers import Answer, give, refuse, server

__all__ = ["server"]


@pytest.fixture
def tars(tmp_path: Path) -> list[Path]:
    return make_tars(tmp_path / "set")


@pytest.fixture
def urls(tars: list[Path], s3: str, tmp_path: Path) -> list[str]:
    for tar in tars:
        boto3.client("s3").upload_file(str(tar), "radiographs", f"{tmp_path.name}/{tar.name}")
    return [f"{s3}/{tmp_path.name}/{tar.name}" for tar in tars]


def key_of(url: str) -> str:
    return url.removeprefix("s3://radiographs/")


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_bytes_of_objects_are_those_of_the_disk(
    tars: list[Path], urls: list[str], tmp_path: Path, cache_bytes: int
) -> None:
    samples, data = make_samples(tars, 300)
    store = open_store(urls, StoreOptions(cache=tmp_path / "cache", cache_bytes=cache_bytes))
    for _ in range(2):
        assert as_bytes(store.submit(wanted(samples)).result()) == data
    counts = store.counters.snapshot()
    assert counts.cache_hits == counts.cache_misses == (300 if cache_bytes else 0)
    store.close()


def test_the_default_cache_is_in_the_users_folder(
    tars: list[Path], urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    samples, data = make_samples(tars, 300)
    for place, name in ((tars, "local"), (urls, "remote")):
        store = open_store(place)
        assert as_bytes(store.submit(wanted(samples)).result()) == data
        store.close()
        assert (tmp_path / "home/barlow-cxr/shards/tars").is_dir() == (name == "remote")


def test_a_default_folder_that_cannot_be_written_is_told_and_done_without(
    tars: list[Path],
    urls: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    samples, data = make_samples(tars, 300)
    for _ in range(2):
        store = open_store(urls)
        assert as_bytes(store.submit(wanted(samples)).result()) == data
        store.close()
    assert capsys.readouterr().err.count("nothing is cached, for ") == 1


def test_an_object_that_goes_in_mid_run(tars: list[Path], urls: list[str], tmp_path: Path) -> None:
    samples, data = make_samples(tars, 300)
    store = open_store(urls, StoreOptions(cache=tmp_path / "cache", retry_seconds=60))
    assert as_bytes(store.submit(wanted(samples[:150])).result()) == data[:150]
    boto3.client("s3").delete_object(Bucket="radiographs", Key=key_of(urls[2]))
    start = time.monotonic()
    with pytest.raises(
        MissingShardError, match=r"s-000002.tar cannot be read \(no such object.*Copy the shard set again"
    ):
        store.submit(wanted(samples)).result()
    assert time.monotonic() - start < 20
    assert as_bytes(store.submit(wanted(samples[:150])).result()) == data[:150]  # that was kept
    store.close()


def test_an_object_that_becomes_shorter_or_another(tars: list[Path], urls: list[str]) -> None:
    samples, _ = make_samples(tars, 300)
    client = boto3.client("s3")
    client.put_object(Bucket="radiographs", Key=key_of(urls[1]), Body=tars[1].read_bytes()[: TAR_BYTES // 2])
    client.put_object(Bucket="radiographs", Key=key_of(urls[3]), Body=bytes(TAR_BYTES))
    store = open_store(urls, StoreOptions(cache_bytes=0))
    found = store.submit(wanted(samples)).result()
    bad = [(one, sample) for one, sample in zip(found, samples, strict=True) if isinstance(one, BadSampleError)]
    assert {sample[0] for _, sample in bad} == {1, 3}
    assert all(sample[0] == 3 or sample[1] + sample[2] > TAR_BYTES // 2 for _, sample in bad)
    assert any("bytes too early" in str(one) for one, _ in bad)
    assert any("digest differs" in str(one) for one, _ in bad)
    store.close()


def test_a_loader_gives_the_same_from_a_url(
    shard_set: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for path in shard_set.iterdir():
        boto3.client("s3").upload_file(str(path), "radiographs", f"{tmp_path.name}/{path.name}")
    found = []
    place: Any
    for place in (shard_set, f"{s3}/{tmp_path.name}", f"{s3}/{tmp_path.name}"):
        with open_predict_loader(DataConfig((place,)), PlainViewConfig(96), 5, World(0, 1, 0, "cpu")) as loader:
            found.append(torch.cat([batch.images.clone() for batch in loader]))
    assert len(found[0]) == NUM_TRAIN
    assert all(torch.equal(found[0], other) for other in found[1:])


def one_read(server: list[Answer], answer: Answer, tars: list[Path], retry_seconds: float) -> list[bytes]:
    server.append(answer)
    samples, _ = make_samples(tars[:1], 3)
    store = open_store(["s3://bucket/s-000000.tar"], StoreOptions(cache_bytes=0, retry_seconds=retry_seconds))
    try:
        return as_bytes(store.submit(wanted(samples)).result())
    finally:
        store.close()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (400, "ExpiredToken", "refused: the credentials have run out, or region"),
        (403, "AccessDenied", "access denied: check the credentials"),
        (404, "NoSuchKey", "no such object"),
    ],
)
def test_what_will_not_pass_is_told_at_once(
    server: list[Answer], tars: list[Path], status: int, code: str, told: str
) -> None:
    start = time.monotonic()
    with pytest.raises(MissingShardError, match=told):
        one_read(server, refuse(status, code), tars, 0.5 if status == 400 else 60)
    assert time.monotonic() - start < 20


def test_rights_that_are_lost_in_mid_run(server: list[Answer], tars: list[Path]) -> None:
    samples, data = make_samples(tars[:1], 200)
    server.append(give(tars[0].read_bytes()))
    store = open_store(["s3://bucket/s-000000.tar"], StoreOptions(cache_bytes=0, retry_seconds=0.5))
    assert as_bytes(store.submit(wanted(samples)).result()) == data
    refusals = [(403, "AccessDenied", "access denied"), (400, "ExpiredToken", "the credentials have run out")]
    for status, code, told in [*refusals, (403, "RequestTimeTooSkewed", "clock|run out")]:
        server.append(refuse(status, code))
        with pytest.raises(MissingShardError, match=told):
            store.submit(wanted(samples)).result()
    store.close()


def test_a_store_that_comes_back_costs_only_time(
    server: list[Answer], tars: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    samples, data = make_samples(tars[:1], 3)
    server.append(give(tars[0].read_bytes()))

    def come_back() -> None:
        time.sleep(3)
        server.append(server[0])

    threading.Thread(target=come_back, daemon=True).start()
    assert one_read(server, refuse(503, "SlowDown"), tars, 60) == data
    assert capsys.readouterr().err.count("trying again for 60 seconds") == 1
    assert len(samples) == 3


def test_a_store_that_takes_and_never_answers_is_no_hang(tars: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "SILENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = open_store(["s3://bucket/s-000000.tar"], StoreOptions(cache_bytes=0, retry_seconds=0.1))
        start = time.monotonic()
        with pytest.raises(MissingShardError, match=r"does not answer: .*tried for \d+ seconds"):
            store.submit(wanted(make_samples(tars[:1], 3)[0])).result()
        assert time.monotonic() - start < 30
        store.close()


FAR_APART = [(0, number << 20, 1000, bytes(16)) for number in range(6)]
"""Samples that are a request each."""


@pytest.fixture
def asked(server: list[Answer]) -> "Queue[float]":
    """When a store was asked that refuses after a second, as one that does not answer does after several."""
    times: Queue[float] = Queue()

    def answer(request: BaseHTTPRequestHandler) -> None:
        times.put(time.monotonic())
        time.sleep(1)
        refuse(400, "ExpiredToken")(request)

    server.append(answer)
    return times


def test_requests_that_wait_for_one_attempt_share_its_failure(asked: "Queue[float]") -> None:
    store = open_store(["s3://bucket/s-000000.tar"], StoreOptions(cache_bytes=0, retry_seconds=0))
    for reading in [store.submit(wanted([sample])) for sample in FAR_APART]:
        with pytest.raises(MissingShardError, match="the credentials have run out"):
            reading.result()
    assert asked.qsize() == 1
    store.close()


def test_closing_waits_for_one_attempt_and_begins_none(asked: "Queue[float]") -> None:
    store = open_store(["s3://bucket/s-000000.tar"], StoreOptions(cache_bytes=0, retry_seconds=600))
    reading = store.submit(wanted(FAR_APART))
    asked.get(timeout=60)
    start = time.monotonic()
    store.close()
    assert time.monotonic() - start < 5
    assert asked.empty()
    with pytest.raises((MissingShardError, CancelledError), match=r"its loader was closed|^$"):
        reading.result()


def test_closing_does_not_wait_for_a_store_that_is_away(server: list[Answer], tars: list[Path]) -> None:
    asked = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        refuse(503, "SlowDown")(request)
        asked.set()

    server.append(answer)
    store = open_store(["s3://bucket/s-000000.tar"], StoreOptions(cache_bytes=0, retry_seconds=600))
    store.submit(wanted(make_samples(tars[:1], 3)[0]))
    assert asked.wait(60)
    start = time.monotonic()
    store.close()
    assert time.monotonic() - start < 15


def test_what_tests_cache_by_default_is_not_in_the_users_folder(
    s3: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert default_cache().is_relative_to(tmp_path_factory.getbasetemp())
