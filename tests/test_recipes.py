"""Every recipe parses into the config that it is for."""

from pathlib import Path

import pytest

from cluster.config import parse
from tests.conftest import ROOT
from trainers.finetune import FinetuneConfig
from trainers.pretrain import PretrainConfig

KINDS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
RECIPES = sorted((ROOT / "configs").rglob("*.toml"))


def test_there_are_recipes() -> None:
    assert {path.parent.name for path in RECIPES} == set(KINDS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_parses_and_says_what_to_expect(path: Path) -> None:
    config = parse(KINDS[path.parent.name], [str(path)], "cxr")
    assert config.run_dir.parts[0] == "runs"
    opening = path.read_text()[:1200]
    assert all(word in opening for word in ("# Expect:", "# Takes:", "# Run:"))
