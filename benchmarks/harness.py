"""Arms that take turns, and what their rounds come to.

A machine's speed drifts by more than the differences that are looked for. So the arms of a table run one after another
in every round, in an order that is rotated from round to round, and a ratio is formed within a round only.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.usage import cpu_seconds, on_cores, peak_bytes, reset_peak


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Meter:
    """How what an arm uses is read."""

    cpu_seconds: Callable[[], float]
    """CPU time so far, user and system."""
    memory_bytes: Callable[[], int]
    """Memory, asked after a turn."""


OWN = Meter(cpu_seconds, peak_bytes)
"""Of arms that work in this process."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to do the work of a table."""

    name: str
    """What it is called in the table."""
    work: Callable[[], int]
    """Does the work of one round and gives how many items that was."""
    prepare: Callable[[], None] = _nothing
    """Runs before each round, outside the clock."""
    note: str = ""
    """What else the table says of it."""
    meter: Meter = OWN
    """Another one where the work is done by processes that go on after it."""


@dataclass(frozen=True, slots=True)
class Table:
    """Arms to compare: they differ in one thing."""

    name: str
    """Its heading."""
    arms: tuple[Arm, ...]
    """At least one, names unique."""
    base: str
    """Name of the arm that the others are divided by."""
    unit: str = "images"
    """What the items are."""
    one_core: bool = False
    """Keep this process, and threads that the arms start, on one core: some decoders start threads by themselves."""
    close: Callable[[], None] = _nothing
    """Called when the table is measured."""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        assert len(set(names)) == len(names), names
        assert self.base in names, (self.base, names)


@dataclass(frozen=True, slots=True)
class Row:
    """One arm in one round."""

    table: str
    """Heading of its table."""
    arm: str
    """Its name."""
    round: int
    """From 1; the warm-up round is not kept."""
    items: int
    """Items that were done."""
    wall_seconds: float
    """Time that passed."""
    cpu_seconds: float
    """CPU time, user and system, by the arm's meter: of this process and of those of its children that have ended, or
    of the arm's own processes."""
    peak_bytes: int
    """Memory by the arm's meter: this process's largest, or what the arm's own processes hold after the turn."""

    @property
    def rate(self) -> float:
        """Items per second of wall time."""
        return self.items / self.wall_seconds


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One arm over all rounds."""

    arm: str
    """Its name."""
    rate: Spread
    """Items per second of wall time."""
    ratio: Spread
    """Its rate over the base arm's rate of the same round."""
    cpu_ratio: Spread
    """The same with items per second of CPU time: steadier where others use the machine, blind to waiting for disks."""
    cpu_seconds_per_item: float
    """Median."""
    peak_bytes: int
    """Largest."""


def turns(num_arms: int, round_number: int) -> list[int]:
    """The order of the arms in a round: 0 1 2, 2 1 0, 1 2 0, 0 2 1, 2 0 1, 1 0 2, and again.

    Rotated after every second round, so that each arm has every place, and reversed in between, so that none always
    follows the same one.
    """
    order = [(round_number // 2 + place) % num_arms for place in range(num_arms)]
    return order[::-1] if round_number % 2 else order


def measure(tables: Sequence[Table], rounds: int) -> Iterator[Row | None]:
    """Runs all tables `rounds` times after a warm-up round; a Row after each arm, None in the warm-up.

    What an arm raises ends the measurement.
    """
    for number in range(rounds + 1):
        for table in tables:
            for place in turns(len(table.arms), number):
                row = _measure_one(table, table.arms[place], number)
                yield row if number > 0 else None


def _measure_one(table: Table, arm: Arm, number: int) -> Row:
    arm.prepare()
    gc.collect()
    reset_peak()
    with on_cores(1 if table.one_core else None):
        cpu_before, before = arm.meter.cpu_seconds(), time.perf_counter()
        items = arm.work()
        wall, cpu = time.perf_counter() - before, arm.meter.cpu_seconds() - cpu_before
    assert items > 0, (table.name, arm.name)
    return Row(table.name, arm.name, number, items, wall, cpu, arm.meter.memory_bytes())


def summarize(table: Table, rows: Sequence[Row]) -> list[Summary]:
    """What the rows of a table come to, in the order of its arms; an arm without a whole round is left out.

    A round counts for an arm where both it and the base arm have run in it.
    """
    mine = {(row.arm, row.round): row for row in rows if row.table == table.name}
    summaries: list[Summary] = []
    for arm in table.arms:
        numbers = sorted(n for name, n in mine if name == arm.name and (table.base, n) in mine)
        if not numbers:
            continue
        own = [mine[arm.name, n] for n in numbers]
        base = [mine[table.base, n] for n in numbers]
        cpu = [_cpu_per_item(row) for row in own]
        summaries.append(
            Summary(
                arm.name,
                spread([row.rate for row in own]),
                spread([a.rate / b.rate for a, b in zip(own, base, strict=True)]),
                spread([_cpu_per_item(b) / c for b, c in zip(base, cpu, strict=True)]),
                median(cpu),
                max(row.peak_bytes for row in own),
            )
        )
    return summaries


def _cpu_per_item(row: Row) -> float:
    # A work of microseconds may take no CPU time that the system counts.
    return max(row.cpu_seconds, 1e-9) / row.items


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest."""
    return Spread(median(values), min(values), max(values))
