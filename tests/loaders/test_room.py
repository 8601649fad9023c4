import contextlib
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cluster.alone import alone_in
from loaders.room import GRANTS, Mirror, Room
from tests.conftest import ROOT

NUM_TARS, TAR_BYTES = 200, 4096


def never(mirror: Mirror) -> bool:
    return False


def take(room: Room, num_bytes: int) -> bool:
    with room.writing(num_bytes) as may:
        return may


def usage(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (folder / "tars").iterdir())


def epochs(num_epochs: int, seed: int) -> list[list[int]]:
    """Tars in the order in which a block shuffle reads them."""
    random = np.random.default_rng(seed)
    return [random.permutation(NUM_TARS).tolist() for _ in range(num_epochs)]


def lru_hits(orders: list[list[int]], capacity: int) -> float:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for tar in (tar for order in orders for tar in order):
        hits += tar in held
        held.pop(tar, None)
        held[tar] = None
        if len(held) > capacity:
            held.popitem(last=False)
    return hits / NUM_TARS / len(orders)


def our_hits(folder: Path, orders: list[list[int]], capacity: int) -> float:
    names = [f"{tar}.tar" for tar in range(NUM_TARS)]
    room = Room(folder, names, capacity * TAR_BYTES, never)
    hits = 0
    for tar in (tar for order in orders for tar in order):
        path = folder / "tars" / names[tar]
        if path.exists():
            hits += 1
        elif take(room, TAR_BYTES):
            path.write_bytes(bytes(TAR_BYTES))
    room.close()
    return hits / NUM_TARS / len(orders)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_cache_of_a_part_of_the_set_serves_that_part_of_the_reads(tmp_path: Path, share: float) -> None:
    first, *later = epochs(9, seed=3)
    capacity = int(share * NUM_TARS)
    our_hits(tmp_path, [first], capacity)
    ours = our_hits(tmp_path, later, capacity)
    assert share - 0.02 <= ours <= share  # no cache of that size has more, over epochs in random order
    assert ours > lru_hits(later, capacity) + 0.1


def test_what_belongs_to_no_running_process_goes_first_and_the_longest_unused_of_it(tmp_path: Path) -> None:
    before = Room(tmp_path, ["a", "b", "c"], 1 << 20, never)
    for number, name in enumerate("abc"):
        (tmp_path / "tars" / name).write_bytes(bytes(100_000))
        os.utime(tmp_path / "tars" / name, (0, 1_000 - number))
    beside = Room(tmp_path, ["b"], 1 << 20, never)
    before.close()
    room = Room(tmp_path, ["d"], 320_000, never)
    assert take(room, 50_000)
    assert sorted(path.name for path in (tmp_path / "tars").iterdir()) == ["a", "b"]
    assert take(room, 100_000)
    assert [path.name for path in (tmp_path / "tars").iterdir()] == ["b"]
    assert not take(room, 250_000)  # b is in use beside
    beside.close()


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    line = "from loaders.room import Room; from pathlib import Path; import sys; "
    line += "room = Room(Path(sys.argv[1]), ['a'], 1 << 20, bool); print('ready', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", line, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    (tmp_path / "tars" / "a").write_bytes(bytes(100_000))
    room = Room(tmp_path, ["b"], 110_000, never)
    assert not take(room, 50_000)
    child.kill()
    child.communicate()
    again = Room(tmp_path, ["b"], 110_000, never)
    assert take(again, 50_000)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_useless_mirror_is_emptied_and_an_open_one_swallows_nothing(tmp_path: Path) -> None:
    room = Room(tmp_path, ["a", "b"], 150_000, lambda mirror: mirror.path.name == "a")
    for name in "ab":
        (tmp_path / "tars" / name).write_bytes(bytes(60_000))
    with open(tmp_path / "tars" / "a", "rb") as held:
        assert take(room, 60_000)
        assert os.fstat(held.fileno()).st_blocks == 0
        assert held.read() == b""
        assert os.fstat(held.fileno()).st_nlink == 1
    assert (tmp_path / "tars" / "b").stat().st_size == 60_000


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_processes_keep_the_limit_together(tmp_path: Path, num_processes: int) -> None:
    limit = 4 << 20
    names = [f"a{number}" for number in range(num_processes)]
    rooms = [Room(tmp_path, names, limit, never) for _ in names]
    random = np.random.default_rng(num_processes)
    files = [open(tmp_path / "tars" / name, "wb") for name in names]  # noqa: SIM115
    open_ones = set(range(num_processes))
    while open_ones:
        number = int(random.choice(sorted(open_ones)))
        if take(rooms[number], 4096):
            files[number].write(bytes(4096))
            files[number].flush()
        else:
            open_ones.remove(number)
        assert usage(tmp_path) <= limit
    assert usage(tmp_path) >= limit - 2 * limit // GRANTS
    for room, file in zip(rooms, files, strict=True):
        room.close()
        file.close()


def test_the_folder_may_go_and_come_again(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    room = Room(folder, ["a"], 1 << 20, never)
    assert take(room, 10_000)
    shutil.rmtree(folder)
    while take(room, 4096):  # what was granted before
        if folder.exists():
            break
    assert (folder / "tars").is_dir()
    assert len(list((folder / "runs").iterdir())) == 1
    room.close()


def test_a_run_is_registered_while_others_look_at_its_file(tmp_path: Path) -> None:
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            for path in (tmp_path / "runs").glob(".*") if (tmp_path / "runs").exists() else ():
                with contextlib.suppress(FileNotFoundError), open(path) as file:
                    fcntl.flock(file, fcntl.LOCK_SH)
                    time.sleep(0.001)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            room = Room(tmp_path, ["a"], 1 << 20, never)
            assert len([path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]) == 1
            room.close()
            assert not [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_a_run_that_cannot_be_registered_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            Room(tmp_path, ["a"], 1 << 20, never)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "runs").iterdir()) == []


def test_nobody_waits_long_for_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.room._ALONE_SECONDS", 60.0)
    room = Room(tmp_path, ["a"], 1 << 20, never)
    with ThreadPoolExecutor(9) as threads:
        with alone_in(tmp_path, 0):  # as another process does
            looking = threads.submit(take, room, 4096)
            while not room._looking:
                time.sleep(0.001)
            start = time.monotonic()
            assert not any(threads.map(take, [room] * 8, [4096] * 8))
            assert time.monotonic() - start < 30
            assert not looking.done()
        assert looking.result()
    assert take(room, 4096)


def test_what_is_refused_during_a_look_is_refused_after_it(tmp_path: Path) -> None:
    room = Room(tmp_path, ["a"], 1 << 20, never)
    with ThreadPoolExecutor(1) as threads:
        with alone_in(tmp_path, 0):
            looking = threads.submit(take, room, 4096)
            while not room._looking:
                time.sleep(0.001)
            room.refuse()
        assert not looking.result()


def test_closing_never_raises(tmp_path: Path) -> None:
    room = Room(tmp_path, ["a"], 1 << 20, never)
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_bytes(b"")
    room.close()
