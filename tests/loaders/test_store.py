import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash

from loaders.store import BadSampleError, MissingShardError, Store


def digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"s-{number:06d}.tar")
        paths[-1].write_bytes(np.random.default_rng(number).bytes(10_000))
    return paths


def open_store(shards: list[Path], check: bool = True, max_open: int = 64) -> Store:
    return Store(shards, "image{}".format, check, max_open)


def test_bytes_come_from_their_place(shards: list[Path]) -> None:
    store = open_store(shards)
    data = shards[2].read_bytes()[100:700]
    assert store.read(0, 2, 100, 600, digest(data)).tobytes() == data
    store.close()


def test_a_digest_that_does_not_hold_names_sample_and_shard(shards: list[Path]) -> None:
    with pytest.raises(BadSampleError, match=r"'image7' in .*s-000001.tar.*digest differs.*cxr verify") as raised:
        open_store(shards).read(7, 1, 0, 10, digest(b"other"))
    assert (raised.value.key, raised.value.shard) == ("image7", shards[1])
    assert len(open_store(shards, check=False).read(7, 1, 0, 10, digest(b"other"))) == 10


@pytest.mark.parametrize("check", [False, True])
def test_a_short_shard_names_sample_and_shard(shards: list[Path], check: bool) -> None:
    with pytest.raises(BadSampleError, match=r"'image7' in .*ends 5 bytes too early"):
        open_store(shards, check).read(7, 1, 9_995, 10, b"")
    with pytest.raises(BadSampleError, match=r"ends 10 bytes too early"):
        open_store(shards, check).read(7, 1, 20_000, 10, b"")


def test_a_shard_that_is_gone_is_named(shards: list[Path]) -> None:
    shards[3].unlink()
    with pytest.raises(MissingShardError, match=r"s-000003.tar cannot be read \(No such file") as raised:
        open_store(shards).read(7, 3, 0, 10, b"")
    assert raised.value.shard == shards[3]


def test_few_files_stay_open_under_many_threads(shards: list[Path]) -> None:
    store = open_store(shards, max_open=2)
    contents = [path.read_bytes() for path in shards]
    before = len(os.listdir("/proc/self/fd"))

    def read(number: int) -> bool:
        shard, offset = number % 6, number * 37 % 9_000
        data = contents[shard][offset : offset + 500]
        return store.read(number, shard, offset, 500, digest(data)).tobytes() == data

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(2_000)))
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    store.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_errors_travel_between_processes() -> None:
    for error in (BadSampleError("k", Path("a/b.tar"), "why"), MissingShardError(Path("a/b.tar"), "why")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
