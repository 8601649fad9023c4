"""The structure says what it promises: who imports what once, no corridors, nothing at import of a room."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("sharding", "loaders", "trainers", "cluster", "eval", "benchmarks")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_ray_train_has_one_importer() -> None:
    users = [p for p in FILES if any(n == "ray.train" or n.startswith("ray.train.") for n in imported(p))]
    assert users == [ROOT / "cluster" / "workers.py"]


def test_rank_and_world_size_have_one_reader() -> None:
    readers = [
        path
        for path in FILES
        if {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        & {"RANK", "WORLD_SIZE"}
    ]
    assert readers == [ROOT / "cluster" / "world.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_a_room_and_not_a_corridor(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem not in {"utils", "util", "common", "helpers", "helper", "misc", "core", "base"}
    if path.name == "__init__.py":
        (docstring,) = ast.parse(path.read_text()).body
        assert isinstance(docstring, ast.Expr)
