"""What a bench leaves: JSON lines, tables, the dated report."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import door, session
from benchmarks.harness import Arm, Meter, Spread, Summary, Table
from benchmarks.machine import file_system, libraries, machine
from benchmarks.report import Grid, bar_line, figure, grid
from benchmarks.session import Bar, BenchConfig, conduct, workplace
from cluster import config as configs
from cluster.version import code_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BenchConfig):
    """A bench of a test."""

    size: int = 3


def _three() -> int:
    return 3


def _broken() -> int:
    raise RuntimeError("an arm that fails")


TABLE = Table("two arms", (Arm("plain", _three), Arm("clever", _three, note="as many")), "plain", unit="things")


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_report_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "RESULTS", tmp_path / "results")
    config = Config(rounds=3, json=tmp_path / "rows.json", report=True)
    found = conduct("toy", config, tmp_path, [TABLE], [Bar("two arms", "clever", 0.85)], ["numpy"], ["the moon"])
    lines = _lines(tmp_path / "rows.json")
    kinds = [line["kind"] for line in lines]
    assert kinds == ["run", "config", *["row"] * 6, *["summary"] * 2]
    assert lines[0]["code_version"] == code_version()
    assert lines[1]["config"] == configs.to_dict(config)
    rows = [line for line in lines if line["kind"] == "row"]
    assert [(row["arm"], row["round"]) for row in rows] == [
        ("clever", 1), ("plain", 1), ("clever", 2), ("plain", 2), ("plain", 3), ("clever", 3)
    ]  # fmt: skip
    assert all(row["rate"] == pytest.approx(row["items"] / row["wall_seconds"]) for row in rows)  # type: ignore[operator]
    assert [summary.arm for summary in found["two arms"]] == ["plain", "clever"]
    (report,) = (tmp_path / "results").iterdir()
    assert report.name.endswith("-toy.md")
    text = report.read_text()
    for wanted in (
        code_version(),
        configs.describe(config),
        libraries(["numpy"])["numpy"],
        machine(tmp_path)["cpu"],
        "| clever",
        "things/s",
        "as many",
        "two arms: clever is ",
        "- the moon",
    ):
        assert wanted in text
    assert "| clever" in capsys.readouterr().out


def test_rows_are_there_when_an_arm_fails_and_a_second_run_is_added(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    first = Table("first", (Arm("a", _three),), "a")
    calls = iter([3, 3, 3, 0])

    def wears_out() -> int:
        return 3 if next(calls) else _broken()

    with pytest.raises(RuntimeError, match="an arm that fails"):
        conduct(
            "toy", Config(rounds=5, json=path), tmp_path, [first, Table("x", (Arm("b", wears_out),), "b")], [], [], []
        )
    assert [line["kind"] for line in _lines(path)] == ["run", "config", *["row"] * 5]
    conduct("toy", Config(rounds=1, json=path), tmp_path, [first], [], [], [])
    assert [line["kind"] for line in _lines(path)][7:] == ["run", "config", "row", "summary"]


def test_a_bar_says_whether_it_is_met() -> None:
    one = Spread(1.0, 1.0, 1.0)
    summary = Summary("ours", one, Spread(0.849, 0.8, 0.9), Spread(0.9, 0.9, 0.9), 0.1, 1)
    told = bar_line("png", summary, "ceiling", 0.85)
    assert told.startswith("png: ours is 0.85 (0.80 .. 0.90) of ceiling, by CPU time 0.90")
    assert told.endswith("NOT met")
    met = Summary("ours", one, Spread(0.85, 0.8, 0.9), one, 0.1, 1)
    assert bar_line("png", met, "ceiling", 0.85).endswith(": met")


def test_a_bar_may_have_another_base_and_a_further_aim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bars = [Bar("two arms", "clever", 0.001, "clever", 1000.0), Bar("two arms", "clever", 0.0, "plain", 1000.0)]
    conduct("toy", Config(rounds=1), tmp_path, [TABLE], bars, [], [])
    first, second = capsys.readouterr().out.splitlines()[-3:-1]
    assert first.startswith("- two arms: clever is 1.00 (1.00 .. 1.00) of clever")
    assert first.endswith("at least 0.00 is asked: met; the stretch is 1000.00: not met")
    assert "asked" not in second


def test_tables_one_by_one_and_figures_that_are_no_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    bars: list[Bar] = []
    missing: list[str] = []

    def make(name: str) -> Table:
        told.append(f"open {name}")
        arm = Arm("a", _three, meter=Meter(lambda: 0.0, lambda: 7_000_000))
        bars.append(Bar(name, "a", 1.0))
        missing.append(f"what {name} has not")
        return Table(name, (arm,), "a", close=lambda: told.append(f"close {name}"))

    def grids() -> Iterator[Grid]:
        told.append("grids")
        yield Grid("Heights", ("way", "m"), (("stairs", "3"),), "measured by eye")

    path = tmp_path / "rows.json"
    config = Config(rounds=2, json=path)
    found = conduct("toy", config, tmp_path, map(make, "xy"), bars, [], missing, grids(), one_by_one=True)
    assert told == ["open x", "close x", "open y", "close y", "grids"]
    assert missing == ["what x has not", "what y has not"]
    assert found["x"][0].peak_bytes == 7_000_000
    assert [line["kind"] for line in _lines(path)] == ["run", "config", *["row"] * 4, *["summary"] * 2, "grid"]
    said = capsys.readouterr().out
    assert "## Heights" in said
    assert "measured by eye" in said
    assert "y: a is 1.00" in said


def test_a_table_is_closed_when_an_arm_fails(tmp_path: Path) -> None:
    closed: list[bool] = []
    table = Table("x", (Arm("a", _broken),), "a", close=lambda: closed.append(True))
    with pytest.raises(RuntimeError, match="an arm that fails"):
        conduct("toy", Config(rounds=1), tmp_path, [table], [], [], [])
    assert closed == [True]


def test_figures_and_grids() -> None:
    assert [figure(v) for v in (1234.5, 100, 56.78, 0.12345)] == ["1,234", "100", "56.8", "0.123"]
    assert grid(["arm", "x"], [["a", "1"], ["long", "22"]]).splitlines() == [
        "| arm  |  x |",
        "|------|---:|",
        "| a    |  1 |",
        "| long | 22 |",
    ]


@pytest.mark.parametrize(("field", "value"), [("rounds", 0), ("seed", -1), ("json", Path("/absent/x.json"))])
def test_a_wrong_config_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        Config(**{field: value})  # type: ignore[arg-type]


def test_the_workplace_goes_or_stays(tmp_path: Path) -> None:
    with workplace(Config()) as folder:
        (folder / "x").write_text("x")
    assert not folder.exists()
    with workplace(Config(work=tmp_path / "kept")) as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "kept" / "x").is_file()


def test_the_file_system_is_told() -> None:
    assert file_system(Path("/proc/self")) == "proc"
    assert libraries(["no-such-distribution"]) == {"no-such-distribution": "absent"}


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ([], 2, "usage: cxr bench NAME"),
        (["--help"], 0, "usage: cxr bench NAME"),
        (["shardin"], 2, "'shardin' is not a bench; did you mean 'sharding'?"),
        (["sharding", "--rounds", "0"], 2, "rounds: 0 is below 1"),
        (["decoders", "--width_px", "1"], 2, "width_px: 1 is not in 128 to 8192"),
    ],
)
def test_the_door(words: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(words) == status
    said = capsys.readouterr()
    assert told in (said.err if status else said.out)
