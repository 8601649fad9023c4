"""Tables as text (Markdown, padded, so that a terminal shows them as well) and the dated report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness import Summary, Table

WORDS = frozenset({"", "what", "arm", "note", "way", "source"})
"""Headings of columns that hold words."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of figures that are not rates of arms."""

    name: str
    """Its heading."""
    headings: tuple[str, ...]
    """Of its columns."""
    lines: tuple[tuple[str, ...], ...]
    """Its cells."""
    note: str = ""
    """What is said below it."""

    def text(self) -> str:
        """As Markdown, with its heading."""
        below = f"\n{self.note}\n" if self.note else ""
        return f"## {self.name}\n\n{grid(self.headings, self.lines)}\n{below}"


def grid(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns that hold words (`WORDS`) are left, the others right."""
    widths = [max(len(line[i]) for line in [headings, *lines]) for i in range(len(headings))]
    sides = ["<" if heading in WORDS else ">" for heading in headings]

    def text(cells: Sequence[str]) -> str:
        return "| " + " | ".join(f"{c:{s}{w}}" for c, s, w in zip(cells, sides, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if s == "<" else ":") for s, w in zip(sides, widths, strict=True)) + "|"
    return "\n".join([text(headings), rule, *map(text, lines)])


def table_text(table: Table, summaries: Sequence[Summary]) -> str:
    """The table with its heading: rates and ratios as median and range, CPU time per item, peak memory."""
    notes = {arm.name: arm.note for arm in table.arms}
    headings = ["arm", f"{table.unit}/s", "range", f"x {table.base}", "range", "x by CPU", "CPU ms each", "peak MB"]
    lines = [
        [
            summary.arm,
            figure(summary.rate.median),
            f"{figure(summary.rate.low)} .. {figure(summary.rate.high)}",
            f"{summary.ratio.median:.2f}",
            f"{summary.ratio.low:.2f} .. {summary.ratio.high:.2f}",
            f"{summary.cpu_ratio.median:.2f}",
            figure(1000 * summary.cpu_seconds_per_item),
            f"{summary.peak_bytes / 1e6:,.0f}",
        ]
        for summary in summaries
    ]
    if any(notes.values()):
        headings.append("note")
        for line, summary in zip(lines, summaries, strict=True):
            line.append(notes[summary.arm])
    return f"## {table.name}\n\n{grid(headings, lines)}\n"


def figure(value: float) -> str:
    """Three digits or so: 1,234 / 56.7 / 0.891."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def bar_line(table: str, summary: Summary, base: str, least: float, stretch: float = 0.0) -> str:
    """Whether an arm reaches `least` (and the further aim `stretch`) of another's rate, with the range over the rounds.

    `summary`: the arm's, its ratios to that other arm.
    """
    ratio = summary.ratio
    asked = []
    if least:
        asked.append(f"at least {least:.2f} is asked: {'met' if ratio.median >= least else 'NOT met'}")
    if stretch:
        asked.append(f"the stretch is {stretch:.2f}: {'met' if ratio.median >= stretch else 'not met'}")
    return (
        f"{table}: {summary.arm} is {ratio.median:.2f} ({ratio.low:.2f} .. {ratio.high:.2f}) of {base}, by CPU time "
        f"{summary.cpu_ratio.median:.2f}; {'; '.join(asked)}"
    )


def report_text(
    bench: str,
    date: str,
    code: str,
    facts: Mapping[str, str],
    versions: Mapping[str, str],
    config: str,
    rounds: int,
    parts: Sequence[str],
    not_measured: Sequence[str],
) -> str:
    """The whole report as Markdown; `config` is TOML, `parts` are the tables and what they come to."""
    lines = [
        f"# {bench}, {date}",
        "",
        grid(["", "what"], [["code", code], *map(list, facts.items())]),
        "",
        "Libraries: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
        "```toml",
        config.rstrip("\n"),
        "```",
        "",
        f"Median and range over {rounds} rounds, after one that is dropped. The arms of a table take turns within each "
        "round, in an order that is rotated; a ratio is formed within a round. CPU time counts all threads and "
        "children; peak memory is this process's, its children's not counted. Of an arm that is a program of its own, "
        "both are those of all its processes, memory as it is after a turn, shared pages in equal parts.",
        "",
        *parts,
        "## Not measured",
        "",
        *(f"- {line}" for line in not_measured),
    ]
    return "\n".join(lines) + "\n"
