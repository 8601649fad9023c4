"""The plan's bench: synthetic rows that the real reader takes, and the tables."""

import json
from pathlib import Path

import pytest

from benchmarks import plan
from benchmarks import rows as rows_of
from benchmarks.plan import PlanBenchConfig
from benchmarks.rows import make_rows
from sharding.index import ShardSet

PER_TAR, NUM_ROWS = 125, 1050


def test_rows_are_a_shard_set_and_the_bench_runs_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_of, "PER_TAR", PER_TAR)
    folder = make_rows(tmp_path / "work", NUM_ROWS, 0)
    shard_set = ShardSet.open(folder)
    assert len(shard_set) == NUM_ROWS
    assert len(set(shard_set.column("digest").tolist())) == len(shard_set), "a digest of its own each"
    assert sorted(folder.glob("*.tar"))[-1].name.endswith("-000008.tar")
    times = {path: path.lstat().st_mtime_ns for path in folder.iterdir()}
    rows = tmp_path / "rows.json"
    words = ["--rows", NUM_ROWS, "--rounds", 1, "--steps", 8, "--plan_batch", 300, "--batch", 4]
    assert plan.main([*map(str, words), "--work", str(tmp_path / "work"), "--json", str(rows)]) == 0
    assert {path: path.lstat().st_mtime_ns for path in folder.iterdir()} == times, "made once"
    grids = {line["name"]: line for line in map(json.loads, rows.read_text().splitlines()) if line["kind"] == "grid"}
    assert list(grids) == ["A step", "A start"]
    assert grids["A step"]["lines"][0][0] == "1,050"
    assert "are asked" in grids["A step"]["note"]
    assert "for a CPU" in grids["A step"]["headings"]
    assert all(len(line) == len(grid["headings"]) for grid in grids.values() for line in grid["lines"])


@pytest.mark.parametrize(("field", "value"), [("rows", ()), ("rows", (10,)), ("steps", 1), ("batch", 0)])
def test_a_wrong_config_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        PlanBenchConfig(**{field: value})  # type: ignore[arg-type]
