"""Recipe files and flags to one frozen config, and back: the only importer of the command line library.

A config is a tree of frozen dataclasses whose leaves are int, float, str, bool, Path, Literal, None or
tuples of these.
"""

import contextlib
import dataclasses
import io
import json
import math
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from cluster.recipe import check, hints_of, merge, read_recipe

C = TypeVar("C")


def parse(config_type: type[C], argv: Sequence[str], prog: str) -> C:
    """`config_type` from `argv`: leading words that end in `.toml` are recipes (a later one wins), then come flags.

    Flags are `--model.projector 8192`, with underscores or hyphens, and win over recipes. Paths, in a
    recipe too, are relative to the current folder. Raises ValueError for a recipe or a value that is wrong;
    SystemExit(0) after `--help` and SystemExit(2) after the command line library has told what is wrong with a flag.
    """
    num_recipes = next((i for i, word in enumerate(argv) if not word.endswith(".toml")), len(argv))
    recipe: dict[str, Any] = {}
    for name in argv[:num_recipes]:
        recipe = merge(recipe, check(config_type, read_recipe(Path(name)), name, ""))
    default = _unchecked(config_type, recipe) if num_recipes else tyro.MISSING_NONPROP
    flags = list(argv[num_recipes:])
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            parsed: C = tyro.cli(config_type, prog=prog, args=flags, default=default, use_underscores=True)
            return parsed
    except SystemExit as stop:
        refusal = _refusal_of_a_config(stop)
        if refusal is not None:
            raise ValueError(str(refusal)) from None
        sys.stderr.write(told.getvalue())
        raise


def from_dict(config_type: type[C], d: Mapping[str, Any], where: str) -> C:
    """A `config_type` from nested tables (a config.json read back, a parsed recipe). `where` names them in errors.

    Strict: ValueError for an unknown key (with the nearest right one), a wrong type, a required field that is absent
    and for whatever the config itself refuses.
    """
    checked = check(config_type, d, where, "")
    built: C = _build(config_type, checked, where, "")
    return built


def to_dict(config: Any) -> dict[str, Any]:
    """Nested tables that JSON can hold: Path -> str, tuple -> list, inf and nan -> "inf", "nan"."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def describe(config: Any) -> str:
    """The config as a recipe (TOML) that gives it again; a field that is None is a comment, for TOML has no null."""
    return "\n".join(_toml_lines(to_dict(config), "")) + "\n"


# Checked tables to instances


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return dataclasses.MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()


def _over(default: Any, table: dict[str, Any]) -> dict[str, Any]:
    """`table` laid over the fields of a default instance, where there is one."""
    if default is dataclasses.MISSING:
        return table
    fields = dataclasses.fields(default)
    values = {field.name: getattr(default, field.name) for field in fields}
    return {
        k: _over(v, table.get(k, {})) if dataclasses.is_dataclass(v) else table.get(k, v) for k, v in values.items()
    }


def _build(config_type: type[Any], table: dict[str, Any], where: str, prefix: str) -> Any:
    values: dict[str, Any] = {}
    hints = hints_of(config_type)
    for field in dataclasses.fields(config_type):
        default = _default(field)
        if dataclasses.is_dataclass(hints[field.name]):
            below = _over(default, table.get(field.name, {}))
            nested = typing.cast(type[Any], hints[field.name])
            values[field.name] = _build(nested, below, where, f"{prefix}{field.name}.")
        elif field.name in table:
            values[field.name] = table[field.name]
        elif default is dataclasses.MISSING:
            raise ValueError(f"{where}: {prefix}{field.name} is absent, and it has no default")
        else:
            values[field.name] = default
    try:
        return config_type(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _unchecked(config_type: type[Any], table: dict[str, Any]) -> Any:
    """An instance that has not judged itself: flags may still complete or correct what the recipe says."""
    instance = object.__new__(config_type)
    hints = hints_of(config_type)
    for field in dataclasses.fields(config_type):
        default = _default(field)
        value: Any
        if dataclasses.is_dataclass(hints[field.name]):
            below = _over(default, table.get(field.name, {}))
            value = _unchecked(typing.cast(type[Any], hints[field.name]), below)
        elif field.name in table:
            value = table[field.name]
        else:
            value = tyro.MISSING if default is dataclasses.MISSING else default
        object.__setattr__(instance, field.name, value)
    return instance


def _refusal_of_a_config(error: BaseException) -> ValueError | None:
    """The ValueError by which a config refused itself, if that is what ended the parsing."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ValueError):
            trace = seen.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_name == "__post_init__":
                    return seen
                trace = trace.tb_next
        seen = seen.__context__
    return None


# Instances to text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _toml_lines(table: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"# {key}: none" if value is None else f"{key} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield f"\n[{prefix}{key}]"
            yield from _toml_lines(value, f"{prefix}{key}.")
