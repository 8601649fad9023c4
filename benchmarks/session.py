"""What every bench does around its arms: progress, rows as JSON lines, tables on the screen, a dated report."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from benchmarks.harness import Row, Summary, Table, measure, summarize
from benchmarks.machine import libraries, machine
from benchmarks.report import bar_line, report_text, table_text
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
    tables: Sequence[Table],
    bars: Sequence[Bar],
    used: Sequence[str],
    not_measured: Sequence[str],
) -> dict[str, list[Summary]]:
    """Measures all tables, shows them, and writes what the config asks for; gives the summaries by heading.

    `used`: distributions whose versions matter. Interrupted, it leaves the rows so far in `config.json`.
    """
    date, code = datetime.datetime.now(datetime.UTC).date().isoformat(), code_version()
    if config.report:
        check_lasting(RESULTS, "report")
    facts, versions = machine(work), libraries(used)
    rows: list[Row] = []
    with _lines(config.json) as file:
        _put(file, "run", bench=bench, date=date, code_version=code, machine=facts, libraries=versions)
        _put(file, "config", bench=bench, config=configs.to_dict(config))
        total = (config.rounds + 1) * sum(len(table.arms) for table in tables)
        with Progress(total, f"bench {bench}", "arms") as progress:
            for row in measure(tables, config.rounds):
                progress.update()
                if row is not None:
                    rows.append(row)
                    _put(file, "row", bench=bench, **dataclasses.asdict(row), rate=row.rate)
        found = {table.name: summarize(table, rows) for table in tables}
        for table in tables:
            for summary in found[table.name]:
                about = {"bench": bench, "table": table.name, "base": table.base, "unit": table.unit}
                _put(file, "summary", **about, **dataclasses.asdict(summary))
    parts = [table_text(table, found[table.name]) for table in tables]
    told = [_bar_line(bar, tables, found) for bar in bars]
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


def _bar_line(bar: Bar, tables: Sequence[Table], found: dict[str, list[Summary]]) -> str:
    (base,) = (table.base for table in tables if table.name == bar.table)
    (summary,) = (summary for summary in found[bar.table] if summary.arm == bar.arm)
    return bar_line(bar.table, summary, base, bar.least)


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
