"""The arithmetic of the harness against numbers worked out by hand."""

import mmap
import os

import pytest

from benchmarks.harness import Arm, Row, Spread, Table, measure, summarize, turns
from benchmarks.usage import cpu_seconds, on_cores, peak_bytes, reset_peak


def _idle() -> int:
    return 1


def _row(arm: str, number: int, items: int, wall: float, cpu: float, peak: int = 1) -> Row:
    return Row("t", arm, number, items, wall, cpu, peak)


TABLE = Table("t", (Arm("slow", _idle), Arm("fast", _idle)), "slow")


def test_turns_rotate_and_hold_every_arm() -> None:
    assert [turns(3, n) for n in range(7)] == [
        *([0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2], [0, 1, 2])
    ]
    assert turns(1, 7) == [0]


def test_ratios_are_formed_within_a_round() -> None:
    # The machine halves its speed in round 2; every ratio is 3 all the same, and ratios of medians would not be.
    rows = [
        _row("slow", 1, 10, 1.0, 0.5),  # 10/s
        _row("fast", 1, 30, 1.0, 0.5, peak=7),  # 30/s
        _row("fast", 2, 30, 2.0, 0.6, peak=9),  # 15/s
        _row("slow", 2, 10, 2.0, 0.8),  # 5/s
        _row("slow", 3, 10, 1.0, 0.4),
        _row("fast", 3, 30, 1.0, 0.3, peak=8),
    ]
    slow, fast = summarize(TABLE, rows)
    assert (slow.arm, fast.arm) == ("slow", "fast")
    assert slow.rate == Spread(10.0, 5.0, 10.0)
    assert slow.ratio == Spread(1.0, 1.0, 1.0)
    assert fast.rate == Spread(30.0, 15.0, 30.0)
    assert fast.ratio == Spread(3.0, 3.0, 3.0)
    assert fast.peak_bytes == 9
    # CPU seconds per item: slow .05 .08 .04, fast 1/60 .02 .01, so the ratios are 3, 4, 4.
    assert fast.cpu_seconds_per_item == pytest.approx(1 / 60)
    assert (fast.cpu_ratio.median, fast.cpu_ratio.low, fast.cpu_ratio.high) == pytest.approx((4.0, 3.0, 4.0))


def test_a_round_without_its_base_does_not_count() -> None:
    rows = [_row("slow", 1, 1, 1.0, 1.0), _row("fast", 1, 4, 1.0, 1.0), _row("fast", 2, 100, 1.0, 1.0)]
    slow, fast = summarize(TABLE, rows)
    assert fast.rate == Spread(4.0, 4.0, 4.0)
    assert slow.rate == Spread(1.0, 1.0, 1.0)
    assert summarize(TABLE, rows[2:]) == []


def test_measure_drops_the_warm_up_and_takes_turns() -> None:
    said: list[str] = []

    def arm(name: str, items: int) -> Arm:
        def work() -> int:
            said.append(name)
            return items

        return Arm(name, work, prepare=lambda: said.append(f"prepare {name}"))

    table = Table("t", (arm("a", 2), arm("b", 5)), "b")
    rows = list(measure([table], 2))
    assert [None if row is None else (row.arm, row.round, row.items) for row in rows] == [
        None,
        None,
        ("b", 1, 5),
        ("a", 1, 2),
        ("b", 2, 5),
        ("a", 2, 2),
    ]
    order = ["a", "b", "b", "a", "b", "a"]
    assert said == [word for name in order for word in (f"prepare {name}", name)]
    assert all(row is None or (row.wall_seconds > 0 and row.peak_bytes > 1 << 20) for row in rows)


@pytest.mark.parametrize("one_core", [True, False])
def test_one_core_is_given_back(one_core: bool) -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def work() -> int:
        seen.append(os.sched_getaffinity(0))
        return 1

    list(measure([Table("t", (Arm("a", work),), "a", one_core=one_core)], 1))
    assert os.sched_getaffinity(0) == before
    assert {len(cores) for cores in seen} == {1 if one_core else len(before)}


def test_an_arm_that_fails_gives_the_cores_back() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError, match="on purpose"), on_cores(1):
        raise RuntimeError("on purpose")
    assert os.sched_getaffinity(0) == before


def _burn() -> int:
    return sum(i * i for i in range(2_000_000))


def test_cpu_time_counts_work_and_not_waiting() -> None:
    before = cpu_seconds()
    _burn()
    assert cpu_seconds() - before > 0.02


def test_peak_memory_sees_what_was_given_back() -> None:
    if not reset_peak():
        pytest.skip("this system does not let a process reset its peak")
    before = peak_bytes()
    with mmap.mmap(-1, 80 << 20) as block:  # malloc may give what an earlier test gave back
        for _ in range(80):
            block.write(b"x" * (1 << 20))
    assert peak_bytes() - before > 70 << 20
    assert reset_peak()
    assert peak_bytes() - before < 40 << 20


def test_a_table_needs_its_base() -> None:
    with pytest.raises(AssertionError):
        Table("t", (Arm("a", _idle),), "b")
    with pytest.raises(AssertionError):
        Table("t", (Arm("a", _idle), Arm("a", _idle)), "a")
