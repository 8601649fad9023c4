import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders.cache import Cache
from loaders.counts import Counts
from loaders.failures import BadSampleError
from loaders.store import StoreOptions
from tests.conftest import ROOT
from tests.loaders.samples import NUM_TARS, as_bytes, digest, make_samples, make_tars, open_store, wanted

NUM_SAMPLES = 300


@pytest.fixture
def tars(tmp_path: Path) -> list[Path]:
    return make_tars(tmp_path / "set")


def mirrors(cache: Path) -> list[Path]:
    return sorted((cache / "tars").iterdir())


def used_bytes(cache: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in mirrors(cache))


def child(tars: list[Path], cache: Path, num_epochs: int, cache_bytes: int = 1 << 30) -> "subprocess.Popen[str]":
    words = [tars[0].parent, cache, cache_bytes, num_epochs]
    line = [sys.executable, "-m", "tests.loaders.samples", *map(str, words)]
    process = subprocess.Popen(
        line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_what_was_read_once_needs_no_source(tars: list[Path], tmp_path: Path) -> None:
    samples, data = make_samples(tars, NUM_SAMPLES)
    num_bytes = sum(map(len, data))
    store = open_store(tars, StoreOptions(cache=tmp_path / "cache"))
    assert as_bytes(store.submit(wanted(samples)).result()) == data
    first = store.counters.snapshot()
    assert (first.cache_hits, first.cache_misses, first.cache_unkept) == (0, NUM_SAMPLES, 0)
    assert first.bytes_read == num_bytes <= first.bytes_fetched
    shutil.rmtree(tars[0].parent)
    assert as_bytes(store.submit(wanted(samples)).result()) == data
    assert store.counters.snapshot() == Counts(2 * num_bytes, first.bytes_fetched, NUM_SAMPLES, NUM_SAMPLES, 0)
    store.close()
    again = open_store(tars, StoreOptions(cache=tmp_path / "cache"))
    assert as_bytes(again.submit(wanted(samples)).result()) == data
    assert again.counters.snapshot() == Counts(num_bytes, 0, NUM_SAMPLES, 0, 0)
    again.close()


def test_a_flipped_bit_is_a_miss_and_mended(tars: list[Path], tmp_path: Path) -> None:
    samples, data = make_samples(tars, NUM_SAMPLES)
    store = open_store(tars, StoreOptions(cache=tmp_path / "cache"))
    store.submit(wanted(samples)).result()
    shard, offset, length, _ = samples[17]
    with open(mirrors(tmp_path / "cache")[shard], "r+b") as file:
        file.seek(offset + length // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    for misses in (1, 0):
        before = store.counters.snapshot().cache_misses
        assert as_bytes(store.submit(wanted(samples)).result()) == data
        assert store.counters.snapshot().cache_misses == before + misses
    store.close()


@pytest.mark.parametrize("damage", ["garbage", "shorter", "gone", "folder gone", "a folder in its place", "a link"])
def test_whatever_is_done_to_a_mirror_every_byte_is_right(tars: list[Path], tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    samples, data = make_samples(tars, NUM_SAMPLES)
    stores = [open_store(tars, StoreOptions(cache=cache, max_open=4)) for _ in range(2)]
    stores[0].submit(wanted(samples)).result()
    mirror = mirrors(cache)[2]
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    match damage:
        case "garbage":
            mirror.write_bytes(os.urandom(300_000))
        case "shorter":
            os.truncate(mirror, 50_000)
        case "gone":
            mirror.unlink()
        case "folder gone":
            shutil.rmtree(cache)
        case "a folder in its place":
            mirror.unlink()
            mirror.mkdir()
        case "a link":
            mirror.unlink()
            mirror.symlink_to(other)
    for store in stores:
        for _ in range(2):
            assert as_bytes(store.submit(wanted(samples)).result()) == data
        store.close()
    assert other.read_bytes() == b"kept"
    if damage not in ("a folder in its place", "a link"):
        last = open_store(tars, StoreOptions(cache=cache))
        last.submit(wanted(samples)).result()
        assert last.counters.snapshot().cache_misses == 0
        last.close()


def test_a_bad_source_is_told_and_never_kept(tars: list[Path], tmp_path: Path) -> None:
    samples, data = make_samples(tars, NUM_SAMPLES)
    samples[5] = (*samples[5][:3], digest(b"other"))
    store = open_store(tars, StoreOptions(cache=tmp_path / "cache", check_digests=False))
    for _ in range(2):
        found = store.submit(wanted(samples)).result()
        assert isinstance(found[5], BadSampleError)
        assert as_bytes(found) == data[:5] + data[6:]
    shard, offset, length, _ = samples[5]
    assert mirrors(tmp_path / "cache")[shard].read_bytes()[offset : offset + length].strip(b"\0") == b""
    assert store.counters.snapshot().cache_misses == NUM_SAMPLES + 1
    store.close()


def test_a_small_cache_keeps_its_limit_and_every_byte_is_right(tars: list[Path], tmp_path: Path) -> None:
    samples, data = make_samples(tars, NUM_SAMPLES)
    limit = 400_000
    store = open_store(tars, StoreOptions(cache=tmp_path / "cache", cache_bytes=limit))
    for _ in range(3):
        assert as_bytes(store.submit(wanted(samples)).result()) == data
        assert used_bytes(tmp_path / "cache") <= limit
    counts = store.counters.snapshot()
    assert counts.cache_hits + counts.cache_misses == 3 * NUM_SAMPLES
    assert counts.cache_hits >= NUM_SAMPLES / 2
    assert counts.cache_unkept >= NUM_SAMPLES
    store.close()


def test_another_set_takes_the_place_of_one_that_nobody_reads(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tars = make_tars(tmp_path / name)
        samples, data = make_samples(tars, NUM_SAMPLES)
        store = open_store(tars, StoreOptions(cache=tmp_path / "cache", cache_bytes=1_000_000))
        for _ in range(2):
            assert as_bytes(store.submit(wanted(samples)).result()) == data
        assert store.counters.snapshot().cache_hits > NUM_SAMPLES / 2
        assert used_bytes(tmp_path / "cache") <= 1_000_000
        store.close()


def test_two_processes_share_a_cache(tars: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    children = [child(tars, cache, num_epochs=4) for _ in range(2)]
    for process in children:
        go(process)
    for process in children:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "cache_unkept=0" in out
    assert len(mirrors(cache)) == NUM_TARS
    samples, data = make_samples(tars, NUM_SAMPLES)
    store = open_store(tars, StoreOptions(cache=cache))
    assert as_bytes(store.submit(wanted(samples)).result()) == data
    assert store.counters.snapshot().cache_misses == 0
    store.close()


def test_two_processes_keep_a_small_limit(tars: list[Path], tmp_path: Path) -> None:
    cache, limit = tmp_path / "cache", 1_100_000
    children = [child(tars, cache, 20, limit) for _ in range(2)]
    for process in children:
        go(process)
    while any(process.poll() is None for process in children):
        assert used_bytes(cache) <= limit
        time.sleep(0.01)
    assert [process.returncode for process in children] == [0, 0]


def test_killed_while_it_fills(tars: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    samples, data = make_samples(tars, NUM_SAMPLES)
    delays = random.Random(1)
    for _ in range(10):
        process = child(tars, cache, num_epochs=1_000)
        go(process)
        time.sleep(delays.uniform(0, 0.03))
        process.kill()
        process.communicate()
        for mirror in mirrors(cache):  # so that the next one fills again, and over what is torn
            if delays.random() < 0.5:
                mirror.write_bytes(mirror.read_bytes()[: delays.randrange(200_000)])
    store = open_store(tars, StoreOptions(cache=cache))
    for _ in range(2):
        assert as_bytes(store.submit(wanted(samples)).result()) == data
    assert 0 < store.counters.snapshot().cache_misses < NUM_SAMPLES
    store.close()


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tars: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cache = .*/file/x: cannot be written \(Not a directory\); name another"):
        open_store(tars, StoreOptions(cache=tmp_path / "file" / "x"))


def test_a_full_disk_means_going_on_with_what_is_there(tars: list[Path], tmp_path: Path) -> None:
    """A disk that takes no file longer than 100 kB stands in for one that is full (tests/soak has a real one)."""
    line = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from tests.loaders.samples import main; main(*sys.argv[1:])"
    )
    words = [tars[0].parent, tmp_path / "cache", 1 << 30, 2]
    ended = subprocess.run(
        [sys.executable, "-c", line, *map(str, words)], cwd=ROOT, input="\n", capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("cannot be written (File too large); what it has is used") == 1
    assert "cache_unkept=0" not in ended.stdout


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder below which nothing can be written from now on, by whoever opens a file: root needs a mount for it."""
    if os.geteuid() != 0:
        modes = {place: place.stat().st_mode for place in [folder, *folder.rglob("*")]}
        try:
            for place, mode in modes.items():
                place.chmod(mode & ~0o222)
            yield
        finally:
            for place, mode in modes.items():
                place.chmod(mode)
        return
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("root can write anywhere, and this container may not mount file systems")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("when", ["at the start", "in mid-run"])
def test_a_cache_that_cannot_be_written_serves_what_it_has(
    tars: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    folder = tmp_path / "cache"
    samples, data = make_samples(tars, NUM_SAMPLES)
    store = open_store(tars, StoreOptions(cache=folder))
    store.submit(wanted(samples[:200])).result()
    store.close()
    store = open_store(tars, StoreOptions(cache=folder))
    assert store._cache is not None
    with read_only(folder):
        if when == "at the start":  # where the folder is named, a store refuses to begin
            store._cache.close()
            store._cache = Cache(folder, tars, (), 1 << 30, 64)
        for _ in range(2):
            assert as_bytes(store.submit(wanted(samples)).result()) == data
        counts = store.counters.snapshot()
        assert (counts.cache_hits, counts.cache_misses, counts.cache_unkept) == (400, 200, 200)
        store.close()  # cannot remove its file
    assert capsys.readouterr().err.count("cannot be written (") == 1


def test_nothing_to_keep_asks_for_no_folder(tars: list[Path], tmp_path: Path) -> None:
    samples, data = make_samples(tars, NUM_SAMPLES)
    store = open_store(tars, StoreOptions(cache=tmp_path / "cache", cache_bytes=0))
    assert as_bytes(store.submit(wanted(samples)).result()) == data
    assert not (tmp_path / "cache").exists()
    store.close()


def test_a_mirror_of_no_use_gives_way(tars: list[Path], tmp_path: Path) -> None:
    """What another filter kept is old; this run asks for other images of the same tars."""
    cache = tmp_path / "cache"
    samples, data = make_samples(tars, NUM_SAMPLES)
    one = open_store(tars, StoreOptions(cache=cache))
    one.submit(wanted(samples[:150])).result()
    one.close()
    limit = used_bytes(cache)  # full
    long_ago = time.time() - 1_000
    for mirror in mirrors(cache):
        os.utime(mirror, (long_ago, long_ago))
    other = open_store(tars, StoreOptions(cache=cache, cache_bytes=limit))
    assert other._cache is not None
    for number in range(NUM_TARS):  # it has looked in vain for a while
        other._cache._looks[number] = (time.time() - 500, 64)
    assert as_bytes(other.submit(wanted(samples[150:])).result()) == data[150:]
    before = other.counters.snapshot().cache_hits
    other.submit(wanted(samples[150:])).result()
    assert other.counters.snapshot().cache_hits - before > 30
    assert used_bytes(cache) <= limit
    other.close()
