"""A recipe's tables checked against a config's types, key by key; what is wrong comes with place and repair."""

import contextlib
import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

from cluster.spelling import nearest

_MAX_SHOWN = 200
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path in quotes",
    list: "a list",
    dict: "a table",
    type(None): "absent",
}


def read_recipe(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, unchecked. ValueError where it is absent, unreadable or not TOML."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"recipe {path} is not there: recipes live in configs/, and paths start at {Path.cwd()}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not TOML: {error}") from None
    except OSError as error:
        raise ValueError(f"recipe {path} cannot be read: {error.strerror}") from None


def hints_of(config_type: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(config_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_type)}


def check(config_type: type[Any], table: Any, where: str, prefix: str) -> dict[str, Any]:
    """The same nested tables with converted leaves; only the keys that are there."""
    if not isinstance(table, Mapping):
        name = prefix.rstrip(".")
        raise ValueError(f"{where}: {name} is {_show(table)}, but it is a table: write [{name}] and its fields below")
    hints = hints_of(config_type)
    checked: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            right = nearest(str(key), [*hints]).replace("mean '", f"mean '{prefix}")
            raise ValueError(f"{where}: unknown key {prefix}{key} = {_show(value)}{right}")
        if dataclasses.is_dataclass(hints[key]):
            checked[key] = check(typing.cast(type[Any], hints[key]), value, where, f"{prefix}{key}.")
        else:
            try:
                checked[key] = _convert(hints[key], value)
            except TypeError:
                raise ValueError(
                    f"{where}: {prefix}{key} is {_show(value)} ({_kind(value)}), but it must be {_name(hints[key])}"
                ) from None
    return checked


def _convert(hint: Any, value: Any) -> Any:
    """`value` from TOML or JSON as a `hint`; TypeError where it is not one."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for option in sorted(arguments, key=lambda option: option is not type(value)):  # 1 is an int before a float
            with contextlib.suppress(TypeError):
                return _convert(option, value)
        raise TypeError
    if origin is Literal:
        found = [choice for choice in arguments if choice == value and type(choice) is type(value)]
        if not found:
            raise TypeError
        return found[0]
    if origin is tuple and isinstance(value, (list, tuple)):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item) for item in value)
        if len(arguments) != len(value):
            raise TypeError
        return tuple(_convert(argument, item) for argument, item in zip(arguments, value, strict=True))
    if hint is float and (type(value) is int or value in ("inf", "-inf", "nan")):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if (hint is None or hint is type(None)) and value is None:
        return None
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise TypeError


def merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _kind(value: Any) -> str:
    return _WORDS.get(type(value), type(value).__name__)


def _name(hint: Any) -> str:
    """A type in the words of `_kind`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(argument) for argument in arguments)
    if origin is Literal:
        return f"one of {', '.join(repr(choice) for choice in arguments)}"
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a list, each item {_name(arguments[0])}"
        return f"a list of {len(arguments)}: {', '.join(_name(argument) for argument in arguments)}"
    return _WORDS[hint]
