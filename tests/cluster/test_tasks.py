"""The same function over many items."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.tasks import available_cores, cpu_share, map_tasks
from tests.cluster import work_for_tasks

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_one_process_is_this_one() -> None:
    answers = list(map_tasks(work_for_tasks.square, range(5), 1))
    assert answers == [(value * value, os.getpid()) for value in range(5)]
    assert list(map_tasks(work_for_tasks.square, [], 4)) == []


def test_two_processes_keep_the_order() -> None:
    answers = list(map_tasks(work_for_tasks.square, range(23), 2))
    assert [answer for answer, _ in answers] == [value * value for value in range(23)]
    assert os.getpid() not in {process for _, process in answers}


@pytest.mark.parametrize("processes", [1, 2])
def test_errors_come_at_their_place(processes: int) -> None:
    answers = map_tasks(work_for_tasks.square_but_three, range(9), processes)
    assert [next(answers) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(ValueError, match="there is no 3"):
        next(answers)


def test_a_killed_worker_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended without an answer"):
        list(map_tasks(work_for_tasks.die_at_three, range(9), 2))


def test_an_item_whose_worker_was_killed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_TEST_FOLDER", str(tmp_path))
    assert list(map_tasks(work_for_tasks.die_once_at_three, iter(range(9)), 2)) == list(range(9))
    assert (tmp_path / "died").exists()


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for value in range(100):
            taken.append(value)
            yield value

    answers = map_tasks(work_for_tasks.square_but_three, items(), 2)
    assert next(answers) == 0
    assert len(taken) <= 5
    answers.close()  # type: ignore[attr-defined]


def test_negative_is_refused() -> None:
    with pytest.raises(ValueError, match="processes is -1"):
        map_tasks(work_for_tasks.square, range(3), -1)


def test_interrupted_nothing_stays_behind(tmp_path: Path) -> None:
    program = (
        "import signal; from cluster.tasks import map_tasks; from tests.cluster.work_for_tasks import wait_for_ever\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
        "if __name__ == '__main__': list(map_tasks(wait_for_ever, range(9), 2))"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    (tmp_path / "seen").mkdir()
    environment = {**os.environ, "CXR_TEST_FOLDER": str(tmp_path / "seen"), "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    _until(lambda: len(os.listdir(tmp_path / "seen")) == 2)
    running.send_signal(2)
    assert running.wait(20) != 0
    for process in map(int, os.listdir(tmp_path / "seen")):
        _until(lambda process=process: not _lives(process))  # type: ignore[misc]


def _lives(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def _until(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("files", "group", "share"),
    [
        ({}, "/", None),
        ({"cpu.max": "max 100000\n"}, "/", None),
        ({"cpu.max": "150000 100000\n"}, "/", 1.5),
        ({"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, "/a/b", 4.0),
        ({"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "50000 100000\n"}, "/a/b", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "/", None),
        ({"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, "/x", 2.0),
    ],
)
def test_a_containers_share_of_the_cpu(tmp_path: Path, files: dict[str, str], group: str, share: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_share(tmp_path, [group]) == share
    assert cpu_share(tmp_path, ["/", group]) == share


def test_cores_are_those_of_the_affinity_at_most() -> None:
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))
