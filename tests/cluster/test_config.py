"""Recipes and flags to one frozen config, and back."""

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import config as configs
from tests.cluster.verb_for_door import ModelConfig, VerbConfig

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
paths = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).map(Path)
models = st.builds(
    ModelConfig,
    projector=st.lists(st.integers(1, 9000), max_size=4).map(tuple),
    encoder=st.sampled_from(["resnet18", "resnet50"]),
    learning_rate=st.floats(0, exclude_min=True, allow_nan=False),
)
verbs = st.builds(
    VerbConfig,
    out=paths,
    model=models,
    shards=st.lists(paths, max_size=3).map(tuple),
    size_px=st.tuples(st.integers(), st.integers()),
    limit=st.none() | st.integers(1, 10**9),
    name=texts,
    dry_run=st.booleans(),
)


@given(verbs)
def test_there_and_back(config: VerbConfig) -> None:
    table = json.loads(json.dumps(configs.to_dict(config), allow_nan=False))
    assert configs.from_dict(VerbConfig, table, "config.json") == config


@given(verbs)
def test_a_description_is_a_recipe(config: VerbConfig) -> None:
    table = tomllib.loads(configs.describe(config))
    assert configs.from_dict(VerbConfig, table, "recipe") == config


@given(verbs)
def test_flags_say_the_same_as_recipes(config: VerbConfig) -> None:
    flags = [
        f"--out={config.out}",
        f"--name={config.name}",
        f"--limit={config.limit}",
        "--dry_run" if config.dry_run else "--no_dry_run",
        f"--model.learning_rate={config.model.learning_rate!r}",
        f"--model.encoder={config.model.encoder}",
        "--model.projector",
        *map(str, config.model.projector),
    ]
    parsed = configs.parse(VerbConfig, flags, "cxr verb")
    assert (parsed.out, parsed.name, parsed.limit) == (config.out, config.name, config.limit)
    assert (parsed.model, parsed.dry_run) == (config.model, config.dry_run)


def write(folder: Path, text: str, name: str = "recipe.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_recipes_in_order_then_flags(tmp_path: Path) -> None:
    first = write(tmp_path, 'out = "there"\nname = "one"\n[model]\nlearning_rate = 1\nprojector = [1, 2]')
    second = write(tmp_path, 'name = "two"\n[model]\nprojector = [3]', "second.toml")
    config = configs.parse(VerbConfig, [first, second, "--model.learning-rate", "3", "--size_px", "5", "6"], "cxr verb")
    assert config == VerbConfig(Path("there"), ModelConfig((3,), "resnet50", 3.0), size_px=(5, 6), name="two")
    assert isinstance(config.model.learning_rate, float)


def test_flags_may_repair_a_recipe(tmp_path: Path) -> None:
    wrong = write(tmp_path, 'out = "there"\n[model]\nlearning_rate = -1')
    with pytest.raises(ValueError, match=r"^model.learning_rate is -1.0: it must be above 0$"):
        configs.parse(VerbConfig, [wrong], "cxr verb")
    assert configs.parse(VerbConfig, [wrong, "--model.learning_rate", "1"], "cxr verb").model.learning_rate == 1.0


@pytest.mark.parametrize("flags", [["--model.learning_rate", "-1"], ["--limit", "0"]])
def test_what_a_config_refuses_is_told_as_it_is(flags: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^(model.learning_rate is -1.0: it must|limit is 0: give 1)"):
        configs.parse(VerbConfig, ["--out", "x", *flags], "cxr verb")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[model]\nprojektor = 8", "unknown key model.projektor = 8; did you mean 'model.projector'?"),
        ("zzz = 1", "unknown key zzz = 1; there are: out, model, shards, size_px"),
        ("model = 3", "model is 3, but it is a table: write [model] and its fields below"),
        ("[model]\nlearning_rate = 'fast'", "model.learning_rate is 'fast' (text), but it must be a number"),
        ("limit = true", "limit is True (true or false), but it must be a whole number or absent"),
        ("limit = 1.5", "limit is 1.5 (a number), but it must be a whole number or absent"),
        ("dry_run = 1", "dry_run is 1 (a whole number), but it must be true or false"),
        ("shards = 'a'", "shards is 'a' (text), but it must be a list, each item a path in quotes"),
        ("size_px = [1]", "size_px is [1] (a list), but it must be a list of 2: a whole number, a whole number"),
        ("[model]\nencoder = 'vit'", "model.encoder is 'vit' (text), but it must be one of 'resnet18', 'resnet50'"),
        ("out = 1979-05-27", "out is datetime.date(1979, 5, 27) (date), but it must be a path in quotes"),
    ],
)
def test_bad_recipes_are_named(tmp_path: Path, text: str, told: str) -> None:
    recipe = write(tmp_path, text)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below, whole
        configs.parse(VerbConfig, [recipe, "--out", "x"], "cxr verb")
    assert str(error.value).startswith(f"{recipe}: {told}")
    assert "\n" not in str(error.value)


def test_recipes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.toml is not there"):
        configs.parse(VerbConfig, ["nowhere.toml"], "cxr verb")
    with pytest.raises(ValueError, match=r"is not TOML: .*line 1"):
        configs.parse(VerbConfig, [write(tmp_path, "model = \n")], "cxr verb")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"is not TOML"):
        configs.parse(VerbConfig, [str(tmp_path / "binary.toml")], "cxr verb")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory"):
        configs.parse(VerbConfig, [str(tmp_path / "folder.toml")], "cxr verb")


def test_required_fields(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.json: out is absent, and it has no default"):
        configs.from_dict(VerbConfig, {}, "config.json")
    with pytest.raises(SystemExit, match="2"):
        configs.parse(VerbConfig, [write(tmp_path, "limit = 3")], "cxr verb")


@dataclass(frozen=True, slots=True)
class Inner:
    must: int
    might: int = 5


@dataclass(frozen=True, slots=True)
class Outer:
    given: Inner = field(default_factory=lambda: Inner(1, might=7))


@pytest.mark.parametrize(
    ("table", "expected"),
    [({}, Inner(1, 7)), ({"given": {"must": 3}}, Inner(3, 7)), ({"given": {"might": 2}}, Inner(1, 2))],
)
def test_a_default_of_a_whole_table_stays_below(tmp_path: Path, table: dict[str, Any], expected: Inner) -> None:
    assert configs.from_dict(Outer, table, "here").given == expected
    text = "".join(f"given.{key} = {value}\n" for key, value in table.get("given", {}).items())
    assert configs.parse(Outer, [write(tmp_path, text)], "cxr verb").given == expected
