"""Shard sets opened at a URL: as in a folder, and with little asked of the store."""

import hashlib
import json
import shutil
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.kept import cache_folder
from sharding.build import run
from sharding.index import ShardSet
from sharding.manifest import INDEX, MANIFEST
from sharding.nih import NihConfig
from tests.sharding.cohorts import write_key, write_nih

BUCKET = "radiographs"


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_nih(folder / "root")
    key = write_key(folder / "key")
    run(NihConfig(root=folder / "root", out=folder / "set", key_file=key, processes=1, samples_per_shard=8))
    return folder / "set"


@pytest.fixture
def url(small_set: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for path in small_set.iterdir():
        boto3.client("s3").upload_file(str(path), BUCKET, f"{tmp_path.name}/{path.name}")
    return f"{s3}/{tmp_path.name}"


def put(url: str, name: str, data: bytes | None) -> None:
    key = f"{url.removeprefix(f's3://{BUCKET}/')}/{name}"
    if data is None:
        boto3.client("s3").delete_object(Bucket=BUCKET, Key=key)
    else:
        boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=data)


def test_it_is_the_set_in_the_folder(small_set: Path, url: str) -> None:
    here, there = ShardSet.open(small_set), ShardSet.open(url)
    assert (there.digest, there.findings, len(there)) == (here.digest, here.findings, len(here))
    assert there.column("key").tolist() == here.column("key").tolist()
    assert there.shard_place(1) == f"{url}/{here.shard_path(1).name}"
    assert there.shard_digest(1) == here.shard_digest(1)
    assert there.rows("train").tolist() == here.rows("train").tolist()
    with pytest.raises(ValueError, match="is in an object store, and this needs a folder on a disk: copy"):
        there.shard_path(1)


def test_a_second_start_fetches_the_manifest_alone(small_set: Path, url: str, tmp_path: Path) -> None:
    ShardSet.open(url)
    (index,) = (tmp_path / "home/barlow-cxr/shards/index").glob("*.parquet")
    data = (small_set / INDEX).read_bytes()
    assert index.read_bytes() == data
    put(url, INDEX, bytes(len(data)))  # would not be accepted if it were fetched
    keys = ShardSet.open(small_set).column("key").tolist()
    assert ShardSet.open(url).column("key").tolist() == keys
    with pytest.raises(ValueError, match=r"index.parquet is not the file its manifest names \(digest differs\)"):
        ShardSet.open(url, cache=tmp_path / "other")
    put(url, INDEX, data)
    for damage in (bytes(len(data)), b"short"):
        index.write_bytes(damage)
        assert ShardSet.open(url).column("key").tolist() == keys
        assert index.read_bytes() == data
    opened = ShardSet.open(url)
    shutil.rmtree(tmp_path / "home")  # in mid-run
    assert opened.column("key").tolist() == keys


def test_a_run_goes_on_with_the_version_it_opened(small_set: Path, url: str) -> None:
    opened = ShardSet.open(url)
    put(url, MANIFEST, b"another delivery's")
    put(url, INDEX, b"another")
    assert opened.column("key").tolist() == ShardSet.open(small_set).column("key").tolist()


def test_an_index_of_another_program_is_refused(small_set: Path, url: str, tmp_path: Path) -> None:
    table = pq.read_table(small_set / INDEX)
    pq.write_table(table.append_column("more", pa.array([1] * len(table))), tmp_path / "newer")
    data = (tmp_path / "newer").read_bytes()
    manifest = json.loads((small_set / MANIFEST).read_text())
    manifest["files"][INDEX] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    put(url, INDEX, data)
    put(url, MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(ValueError, match=rf"{url}/index.parquet has other columns than this version: run `cxr verify"):
        ShardSet.open(url)


def test_without_a_place_to_keep_it_the_index_is_in_memory(
    small_set: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_folder(None) is None
    assert ShardSet.open(url).column("key").tolist() == ShardSet.open(small_set).column("key").tolist()
    with pytest.raises(ValueError, match=r"cache = .*file/x: cannot be written"):
        ShardSet.open(url, cache=tmp_path / "file" / "x")


def test_what_is_no_shard_set_is_refused_as_in_a_folder(small_set: Path, s3: str, url: str) -> None:
    with pytest.raises(ValueError, match=r"nobody-has-this-bucket/set is not a shard set"):
        ShardSet.open("s3://nobody-has-this-bucket/set")
    with pytest.raises(ValueError, match="nothing/here is not a shard set"):
        ShardSet.open(f"{s3}/nothing/here")
    with pytest.raises(ValueError, match=r"abc:// is not known: give a local path"):
        ShardSet.open("abc://x/y")
    with pytest.raises(ValueError, match=r"s3:/x/y is a URL, and this takes a folder on a disk"):
        ShardSet.open(Path("s3://x/y"))
    manifest = json.loads((small_set / MANIFEST).read_text())
    put(url, MANIFEST, json.dumps(manifest | {"schema_version": 99}).encode())
    with pytest.raises(ValueError, match=r"schema version 99.*update"):
        ShardSet.open(url)
    put(url, MANIFEST, b"{")
    with pytest.raises(ValueError, match="not the manifest"):
        ShardSet.open(url)
    put(url, MANIFEST, None)
    with pytest.raises(ValueError, match=r"has tars but no manifest\.json"):
        ShardSet.open(url)
    put(url, MANIFEST, (small_set / MANIFEST).read_bytes())
    put(url, INDEX, b"short")
    with pytest.raises(ValueError, match="has 5 bytes instead of"):
        ShardSet.open(url)
    put(url, INDEX, None)
    with pytest.raises(ValueError, match="is missing"):
        ShardSet.open(url)
