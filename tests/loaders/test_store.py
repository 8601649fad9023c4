import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from loaders.failures import BadSampleError, MissingShardError
from loaders.store import Result, Store, StoreOptions, Wanted
from tests.loaders.samples import TAR_BYTES, Sample, digest, make_samples, make_tars, open_store, wanted


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return make_tars(tmp_path)


def read(shards: list[Path], samples: Sequence[Sample], options: StoreOptions | None = None) -> list[Result]:
    store = open_store(shards, options)
    try:
        return store.submit(wanted(samples)).result()
    finally:
        store.close()


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("num_samples", [1, 2, 300])
def test_bytes_come_in_the_order_asked_for(shards: list[Path], num_samples: int, num_threads: int) -> None:
    samples, data = make_samples(shards, num_samples)
    found = read(shards, samples, StoreOptions(num_threads))
    assert [one.tobytes() for one in found if isinstance(one, np.ndarray)] == data


def test_nothing_is_a_batch_too(shards: list[Path]) -> None:
    store = Store(shards, str, StoreOptions())
    none = np.zeros(0, np.int64)
    assert store.submit(Wanted(none, none.astype(np.int32), none, none, np.zeros((0, 16), np.uint8))).result() == []
    store.close()


def test_a_digest_that_does_not_hold_is_that_samples_alone(shards: list[Path]) -> None:
    samples, data = make_samples(shards, 20)
    samples[7] = (*samples[7][:3], digest(b"other"))
    found = read(shards, samples)
    bad = found[7]
    assert isinstance(bad, BadSampleError)
    assert (bad.key, bad.shard) == ("image7", shards[samples[7][0]])
    assert f"digest differs); run `cxr verify {shards[0].parent}`" in str(bad)
    assert [one.tobytes() for one in found if isinstance(one, np.ndarray)] == data[:7] + data[8:]
    unchecked = read(shards, samples, StoreOptions(check_digests=False))
    assert [one.tobytes() for one in unchecked if isinstance(one, np.ndarray)] == data


@pytest.mark.parametrize("check", [False, True])
def test_a_short_shard_names_sample_and_shard(shards: list[Path], check: bool) -> None:
    options = StoreOptions(check_digests=check)
    found = read(shards, [(1, TAR_BYTES - 5, 10, bytes(16)), (1, TAR_BYTES + 10_000, 10, bytes(16))], options)
    assert [str(one).split(";")[0] for one in found] == [
        f"sample 'image{row}' in {shards[1]}: the shard ends {short} bytes too early"
        for row, short in ((0, 5), (1, 10))
    ]


def test_a_shard_that_is_gone_is_named(shards: list[Path]) -> None:
    samples, _ = make_samples(shards, 50)
    shards[3].unlink()
    with pytest.raises(MissingShardError, match=r"s-000003.tar cannot be read \(No such file") as raised:
        read(shards, samples)
    assert raised.value.shard == shards[3]


def test_few_files_stay_open_under_many_threads(shards: list[Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = Store(shards, str, StoreOptions(num_threads=8, max_open=2))
    samples, data = make_samples(shards, 2_000)
    batches = [store.submit(wanted(samples[begin : begin + 50])) for begin in range(0, 2_000, 50)]
    found = [one for batch in batches for one in batch.result()]
    assert [one.tobytes() for one in found if isinstance(one, np.ndarray)] == data
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert store.counters.snapshot().bytes_read == sum(map(len, data))
    store.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_errors_travel_between_processes() -> None:
    for error in (BadSampleError("k", Path("a/b.tar"), "why"), MissingShardError("s3://a/b.tar", "why")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
