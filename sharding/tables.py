"""Csv files and lists as people have them: plain or .gz, with a byte-order mark, odd columns, no last newline."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from cluster import storage
from cluster.spelling import near
from cluster.storage import Place

MAX_TABLE_BYTES = 2 << 30
"""A table or list that is larger, packed or not, is refused before it fills the memory."""

SEPARATORS = (",", ";", "\t", "|")

_UTF16 = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True, slots=True)
class Table:
    """A csv file with a header."""

    path: str
    """Where it was read from."""
    columns: tuple[str, ...]
    """Names in the header, stripped."""
    rows: tuple[tuple[str, ...], ...]
    """Stripped values, one per column and row; short rows are filled with ""."""
    lines: tuple[int, ...]
    """Of each row the line of the file in which it ends, the header's being 1."""
    too_long: frozenset[int]
    """Positions of rows that hold more values than there are columns: most likely a separator inside a value."""

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return storage.name_of(self.path)

    def column(self, name: str) -> list[str]:
        """Values of a column in file order, or "" everywhere where the file has no such column."""
        if name not in self.columns:
            return [""] * len(self.rows)
        position = self.columns.index(name)
        return [row[position] for row in self.rows]


def find_table(folder: Place, names: Sequence[str]) -> str | None:
    """The first of these file names, plain or .gz, that lies in the folder."""
    for name in names:
        for candidate in (storage.join(folder, name), storage.join(folder, f"{name}.gz")):
            if storage.is_file(candidate):
                return candidate
    return None


def read_table(path: Place, required: Sequence[str]) -> Table:
    """A csv file, plain or .gz, of UTF-8 or marked UTF-16, separated by commas.

    Where the header has the required columns only with another separator (; tab |), that one is taken. Raises
    ValueError where the file is unreadable or lacks a required column, with the nearest that it has.
    """
    text = _text(path)
    separator, skip = ",", 0
    if mark := re.match(r"sep=(.)\r?\n", text):  # how Excel is told
        separator, skip = mark[1], mark.end()
    elif required:
        header = text[: text.find("\n")] if "\n" in text else text
        fits = [
            s for s in SEPARATORS if set(required) <= {n.strip() for n in next(csv.reader([header], delimiter=s), [])}
        ]
        separator = fits[0] if fits else ","
    lines = csv.reader(io.StringIO(text[skip:], newline=""), delimiter=separator, strict=True)
    found: list[tuple[str, ...]] = []
    numbers: list[int] = []
    try:
        columns = tuple(name.strip() for name in next(lines, []))
        for line in lines:
            values = tuple(value.strip() for value in line)
            if any(values):
                found.append(values)
                numbers.append(lines.line_num + (skip > 0))
    except csv.Error as error:
        raise ValueError(f"{path} is not a csv file: {error} (line {lines.line_num})") from None
    missing = [name for name in required if name not in columns]
    if missing:
        raise ValueError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}"
            f"{_nearest(missing, columns)}; it has {', '.join(map(repr, columns)) or 'none'}"
        )
    width = len(columns)
    rows = tuple(row if len(row) == width else (row + ("",) * width)[:width] for row in found)
    too_long = frozenset(position for position, row in enumerate(found) if any(row[width:]))
    return Table(storage.absolute(path), columns, rows, tuple(numbers), too_long)


def read_list(path: Place) -> list[str]:
    """The non-empty lines of a text file, plain or .gz, stripped."""
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _nearest(missing: Sequence[str], columns: Sequence[str]) -> str:
    pairs = [(near(name, columns, 0.7), name) for name in missing]
    hints = [f"{found!r} for {name!r}" for found, name in pairs if found]
    return f" (does it call {', '.join(hints)}?)" if hints else ""


def _text(path: Place) -> str:
    try:
        stat = storage.stat(path)
        if not stat.is_plain:
            raise ValueError(f"{path} is no file")
        _check_bytes(path, stat.num_bytes)
        data = storage.read(path)
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(MAX_TABLE_BYTES + 1)
            _check_bytes(path, len(data))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    encoding = _UTF16.get(data[:2], "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not {'UTF-16' if encoding == 'utf-16' else 'UTF-8'} text: byte 0x{data[error.start]:02X} in "
            f"line {line}; save it as UTF-8 (in Excel: CSV UTF-8)"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path} holds a zero byte in line {line}, so it is no text, or not UTF-8: save it as UTF-8")
    return text


def _check_bytes(path: Place, num_bytes: int) -> None:
    if num_bytes > MAX_TABLE_BYTES:
        raise ValueError(
            f"{path} holds more than {MAX_TABLE_BYTES:,} bytes: no csv file or list of images is that large"
        )
