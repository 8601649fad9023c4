"""`cxr bench plan`: does a step, or a start, cost more where the data set is larger? At 10^5, 10^6, 10^7 rows.

Every figure is of a process of its own. The rows are synthetic, the schema, the reader and the tars' bytes are not
(see `benchmarks.rows`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.children import ROOT
from benchmarks.report import Grid, figure
from benchmarks.rows import make_rows
from benchmarks.session import BenchConfig, conduct, workplace
from cluster import door
from cluster.progress import Progress

NIH_ROWS = 112_120
"""Images of NIH ChestX-ray14."""
PLAN_MS, NIH_SECONDS, LARGE_SECONDS = 2.0, 3.0, 30.0
"""What is asked of a plan of a global batch; of a start with NIH's images; of a start with ten million."""
USED = ("numpy", "pyarrow", "torch", "nvidia-dali-cuda130", "xxhash")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBenchConfig(BenchConfig):
    """Measure what a step and a start cost with 10^5, 10^6 and 10^7 rows; the largest takes 0.5 GB of disk."""

    rounds: int = 3
    """Processes of each kind for each number of rows."""
    rows: tuple[int, ...] = (100_000, NIH_ROWS, 1_000_000, 10_000_000)
    """Numbers of rows."""
    plan_batch: int = 8192
    """Images of the global batch that is planned."""
    read_batch: int = 256
    """Images that are read at a time."""
    batch: int = 32
    """Images of the first batch that a loader gives."""
    steps: int = 60
    """Global batches that are planned, half of them in a second epoch."""

    def __post_init__(self) -> None:
        BenchConfig.__post_init__(self)
        if not self.rows or min(self.rows) < max(1000, self.batch, self.read_batch):
            raise ValueError(f"rows: {self.rows}: at least one number, each 1,000 and a batch or more")
        for field, least in (("plan_batch", 1), ("read_batch", 1), ("batch", 1), ("steps", 8)):
            if getattr(self, field) < least:
                raise ValueError(f"{field}: {getattr(self, field)} is below {least}")


def main(argv: Sequence[str] | None = None) -> int:
    """The bench's door; gives the exit status."""
    return door.enter("cxr bench plan", PlanBenchConfig, run, argv)


def run(config: PlanBenchConfig) -> None:
    """Measures, shows the tables and writes what the config asks for."""
    missing = [
        "a cold disk: the index and the tars were in the page cache",
        "boxes, findings and several sets: the rows have none, and are one set of one level",
    ]
    with workplace(config) as work:
        conduct("plan", config, work, [], [], USED, missing, make_grids(config, work))


def make_grids(config: PlanBenchConfig, work: Path) -> Iterator[Grid]:
    """The two tables."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    folders = {number: make_rows(work, number, config.seed) for number in config.rows}
    total = 2 * config.rounds * len(config.rows)
    with Progress(total, "bench plan", "processes") as progress:
        for _ in range(config.rounds):
            for number, folder in folders.items():
                for what in ("start", "steps"):
                    found.setdefault((number, what), []).append(measure_once(config, folder, what))
                    progress.update()
    yield steps_grid(config, {number: found[number, "steps"] for number in config.rows})
    yield starts_grid({number: found[number, "start"] for number in config.rows})


def measure_once(config: PlanBenchConfig, folder: Path, what: str) -> dict[str, float]:
    """What one process of `benchmarks.plan_child` found."""
    about: dict[str, Any] = {"what": what, "shards": str(folder), "seed": config.seed}
    about |= {name: getattr(config, name) for name in ("plan_batch", "read_batch", "batch", "steps")}
    words = [sys.executable, "-m", "benchmarks.plan_child", json.dumps(about)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if told.returncode:
        raise RuntimeError(f"benchmarks.plan_child ended: {(told.stderr.strip().splitlines() or [''])[-1][:300]}")
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def steps_grid(config: PlanBenchConfig, found: Mapping[int, Sequence[Mapping[str, float]]]) -> Grid:
    """What a step costs, by number of rows."""
    lines = tuple(
        (
            f"{number:,}",
            _range([1000 * one["plan_seconds"] for one in several]),
            _range([1000 * one["plan_cpu_seconds"] for one in several]),
            _range([1000 * one["plan_rows_seconds"] for one in several]),
            _range([1000 * one["plan_for_cpu_seconds"] for one in several]),
            _range([1000 * one["plan_first_seconds"] for one in several]),
            _range([1000 * one["plan_epoch_seconds"] for one in several]),
            _range([1000 * one["read_seconds"] for one in several]),
            _range([1000 * one["read_first_seconds"] for one in several]),
            _range([one["peak_bytes"] / 1e6 for one in several]),
        )
        for number, several in found.items()
    )
    worst = max(median(one["plan_seconds"] for one in several) for several in found.values()) * 1000
    cpu = max(median(one["plan_cpu_seconds"] for one in several) for several in found.values()) * 1000
    asked = (
        f"The plan, with the arrays for a GPU: the largest median is {worst:.2f} ms, {cpu:.2f} ms of CPU time; "
        f"less than {PLAN_MS:g} are asked: "
        f"{_met(worst, PLAN_MS)}, by CPU time {_met(cpu, PLAN_MS)}."
    )
    note = (
        f"Milliseconds; median and range over {config.rounds} processes. Plan: which images a global batch of "
        f"{config.plan_batch:,} holds, the level each is read from, all parameters of their two views, and the arrays "
        f"that a GPU's pipeline takes; for a CPU: with the regions and weights of blurs that a CPU's takes instead. Of "
        f"an epoch's steps the median, the run's first, and the first of a second epoch that nothing "
        f"was prepared for (a loader prepares it in the midst of the one before). Read: "
        f"{config.read_batch} images of {config.plan_batch:,} by the store, digests checked. Memory: the peak, "
        f"MB.\n\n{asked}"
    )
    headings = (
        "rows",
        "plan",
        "its CPU time",
        "rows alone",
        "for a CPU",
        "first",
        "next epoch's first",
        "read",
        "read, first",
        "peak MB",
    )
    return Grid("A step", headings, lines, note)


def starts_grid(found: Mapping[int, Sequence[Mapping[str, float]]]) -> Grid:
    """What a start costs, by number of rows."""
    lines = tuple(
        (
            f"{number:,}",
            _range([one["open_seconds"] for one in several]),
            _range([one["first_batch_seconds"] for one in several]),
            _range([one["start_seconds"] for one in several]),
            _range([one["peak_bytes"] / 1e6 for one in several]),
        )
        for number, several in found.items()
    )
    told = []
    for number, limit in ((NIH_ROWS, NIH_SECONDS), (10_000_000, LARGE_SECONDS)):
        if number in found:
            took = median(one["start_seconds"] for one in found[number])
            told.append(f"With {number:,} rows: {took:.2f} s, less than {limit:g} are asked: {_met(took, limit)}.")
    note = "Seconds, from the call of open_pretrain_loader on; the process and its imports are not counted. Memory: MB."
    headings = ("rows", "open", "first batch", "together", "peak MB")
    return Grid("A start", headings, lines, "\n\n".join([note, *told]))


def _range(values: Sequence[float]) -> str:
    return f"{figure(median(values))} ({figure(min(values))} .. {figure(max(values))})"


def _met(value: float, limit: float) -> str:
    return "met" if value < limit else "NOT met"


if __name__ == "__main__":
    from benchmarks.plan import main as imported_main

    sys.exit(imported_main())
