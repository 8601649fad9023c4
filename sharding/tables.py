"""Csv files and lists as people have them: plain or .gz, with a byte-order mark, odd columns, no last newline."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Table:
    """A csv file with a header."""

    path: Path
    """Where it was read from."""
    columns: tuple[str, ...]
    """Names in the header, stripped."""
    rows: tuple[tuple[str, ...], ...]
    """Stripped values, one per column and row; short rows are filled with ""."""

    def column(self, name: str) -> list[str]:
        """Values of a column in file order, or "" everywhere where the file has no such column."""
        if name not in self.columns:
            return [""] * len(self.rows)
        position = self.columns.index(name)
        return [row[position] for row in self.rows]


def find_table(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these file names, plain or .gz, that lies in the folder."""
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def read_table(path: Path, required: Sequence[str]) -> Table:
    """A csv file, plain or .gz. Raises ValueError where it is unreadable or lacks a required column."""
    lines = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        columns = tuple(name.strip() for name in next(lines, []))
        found = [tuple(value.strip() for value in line) for line in lines if any(value.strip() for value in line)]
    except csv.Error as error:
        raise ValueError(f"{path} is not a csv file: {error}") from None
    missing = [name for name in required if name not in columns]
    if missing:
        raise ValueError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, columns)) or 'none'}"
        )
    width = len(columns)
    return Table(path, columns, tuple((row + ("",) * width)[:width] for row in found))


def read_list(path: Path) -> list[str]:
    """The non-empty lines of a text file, plain or .gz, stripped."""
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or not text: {error}") from None
