"""What every bench does around its arms: progress, rows as JSON lines, tables on the screen, a dated report."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from benchmarks.harness import Row, Summary, Table, measure, summarize
from benchmarks.machine import libraries, machine
from benchmarks.report import Grid, bar_line, report_text, table_text
from cluster import config as configs
from cluster.copies import check_lasting
from cluster.files import write_atomic
from cluster.progress import Progress
from cluster.version import code_version

RESULTS = Path(__file__).resolve().parent / "results"
"""Where the dated reports lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """What every bench lets its user choose."""

    rounds: int = 5
    """Rounds that count; one more comes first and is dropped."""
    seed: int = 0
    """What is drawn follows from it."""
    work: Path | None = None
    """Folder for what is made to be measured, kept for the next run; none: a temporary one, removed at the end."""
    json: Path | None = None
    """File to append to, one JSON object a line: the run, then every arm of every round as it ends, then summaries."""
    report: bool = False
    """Write benchmarks/results/DATE-BENCH.md beside this code; one of the same day is replaced."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds: {self.rounds} is below 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: {self.seed} is not in 0 to {2**32 - 1}")
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise ValueError(f"json: {self.json.parent} is not a folder: make it first")


@dataclass(frozen=True, slots=True)
class Bar:
    """What an arm has to reach."""

    table: str
    """Heading of the table."""
    arm: str
    """The arm."""
    least: float
    """Share of the base arm's rate."""
    base: str = ""
    """Another arm of that table to be measured by; "" is the table's own base."""
    stretch: float = 0.0
    """A further aim; 0 is none."""


@contextmanager
def workplace(config: BenchConfig) -> Iterator[Path]:
    """The folder to work in: the config's own, or one that goes with the context."""
    if config.work is not None:
        config.work.mkdir(parents=True, exist_ok=True)
        yield config.work.absolute()
        return
    with TemporaryDirectory(prefix="cxr-bench-") as folder:
        yield Path(folder)


def conduct(
    bench: str,
    config: BenchConfig,
    work: Path,
    tables: Iterable[Table],
    bars: Sequence[Bar],
    used: Sequence[str] | Mapping[str, str],
    not_measured: Sequence[str],
    grids: Iterable[Grid] = (),
    one_by_one: bool = False,
) -> dict[str, list[Summary]]:
    """Measures all tables, shows them, and writes what the config asks for; gives the summaries by heading.

    `used`: distributions whose versions matter, or their versions too. `grids` are made after the tables.
    `one_by_one`: all rounds of a table before the next one is made; `bars` and `not_measured` may grow meanwhile.
    Interrupted, it leaves the rows so far in `config.json`.
    """
    date, code = datetime.datetime.now(datetime.UTC).date().isoformat(), code_version()
    if config.report:
        check_lasting(RESULTS, "report")
    facts = machine(work)
    versions = dict(used) if isinstance(used, Mapping) else libraries(used)
    rows: list[Row] = []
    groups: Iterable[list[Table]] = ([table] for table in tables) if one_by_one else [list(tables)]
    done: list[Table] = []
    shown: list[Grid] = []
    with _lines(config.json) as file:
        _put(file, "run", bench=bench, date=date, code_version=code, machine=facts, libraries=versions)
        _put(file, "config", bench=bench, config=configs.to_dict(config))
        for group in groups:
            done += group
            try:
                _measure(bench, config.rounds, group, rows, file)
            finally:
                for table in group:
                    table.close()
        found = {table.name: summarize(table, rows) for table in done}
        for table in done:
            for summary in found[table.name]:
                about = {"bench": bench, "table": table.name, "base": table.base, "unit": table.unit}
                _put(file, "summary", **about, **dataclasses.asdict(summary))
        for grid in grids:
            shown.append(grid)
            _put(file, "grid", bench=bench, **dataclasses.asdict(grid))
    parts = [table_text(table, found[table.name]) for table in done] + [grid.text() for grid in shown]
    told = [_bar_line(bar, done, rows) for bar in bars]
    if told:
        parts.append("## What was asked\n\n" + "\n".join(f"- {line}" for line in told) + "\n")
    print("\n".join(parts))
    if config.report:
        settings = configs.describe(config)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{date}-{bench}.md"
        write_atomic(
            path, report_text(bench, date, code, facts, versions, settings, config.rounds, parts, not_measured)
        )
        print(path)
    return found


def _measure(bench: str, rounds: int, tables: Sequence[Table], rows: list[Row], file: TextIO | None) -> None:
    total = (rounds + 1) * sum(len(table.arms) for table in tables)
    with Progress(total, f"bench {bench}", "arms") as progress:
        for row in measure(tables, rounds):
            progress.update()
            if row is not None:
                rows.append(row)
                _put(file, "row", bench=bench, **dataclasses.asdict(row), rate=row.rate)


def _bar_line(bar: Bar, tables: Sequence[Table], rows: Sequence[Row]) -> str:
    (table,) = (table for table in tables if table.name == bar.table)
    other = dataclasses.replace(table, base=bar.base or table.base)
    (summary,) = (summary for summary in summarize(other, rows) if summary.arm == bar.arm)
    return bar_line(bar.table, summary, other.base, bar.least, bar.stretch)


@contextmanager
def _lines(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with open(path, "a", encoding="utf-8") as file:
        yield file


def _put(file: TextIO | None, kind: str, **values: Any) -> None:
    if file is not None:
        file.write(json.dumps({"kind": kind, **values}) + "\n")
        file.flush()
