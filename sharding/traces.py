"""What could tell whose radiograph a sample is, as far as a program can see it: names, dates, notes inside a JPEG.

Text burned into the pixels, and what a finding's or a cohort's name says, are not looked at.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

PSEUDONYM = re.compile(r"[0-9a-f]{16}")
FOLDER_KEY = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{8})?")
"""A key of `cxr shard folder` without --keep_names; the second part keeps two equal ones apart."""

AGE_BAND = re.compile(r"\d0-\d9|0-9|90\+")
VIEW_POSITION = re.compile(r"[A-Z]{1,12}")

_JFIF = 0xE0
_BARE = frozenset({_JFIF, 0xDB, 0xC4, 0xDD, *range(0xC0, 0xC4)})
"""Second bytes of the JPEG segments that hold no more than pixels need: JFIF, DQT, DHT, DRI, SOF0 to SOF3."""
_SCAN, _END = 0xDA, b"\xff\xd9"


def row_traces(row: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """What in a row of the index is no pseudonym and no word of the vocabulary. `config` is the manifest's.

    Keys are looked at where `config` says that they are pseudonyms; NIH's and VinDr's are published ids.
    """
    if config.get("keep_names") is False and not FOLDER_KEY.fullmatch(row["key"]):
        yield "its key is no pseudonym"
    for field, pattern in (("patient", PSEUDONYM), ("age_band", AGE_BAND), ("view_position", VIEW_POSITION)):
        if row[field] is not None and not pattern.fullmatch(row[field]):
            yield f"its {field} {row[field]!r} is not of the form that is written"
    if row["sex"] not in (None, "F", "M"):
        yield f"its sex {row['sex']!r} is neither F nor M"


def jpeg_traces(encoded: bytes) -> Iterator[str]:
    """What a JPEG holds besides its pixels: segments (EXIF, comments, ...), a thumbnail, bytes behind its end."""
    place = 2
    while place + 4 <= len(encoded) and encoded[place] == 0xFF:
        kind, length = encoded[place + 1], int.from_bytes(encoded[place + 2 : place + 4], "big")
        if kind == _SCAN:
            end = encoded.find(_END, place + 2 + length)  # inside the scan a byte of 255 is followed by another
            if end + 2 != len(encoded):
                yield "holds bytes behind the end of the picture"
            return
        if kind not in _BARE:
            yield f"holds a segment FF{kind:02X} besides the picture (EXIF, a comment or the like)"
        elif kind == _JFIF and (length != 16 or not encoded[place + 4 :].startswith(b"JFIF\0")):
            yield "holds more in its segment FFE0 than JFIF's resolution"
        place += 2 + length
    yield "has no scan where one should begin"


def json_traces(text: bytes, parsed: Any) -> Iterator[str]:
    """What the json member `text` holds besides its fields, which `parsed` are: a field twice, spaces."""
    if json.dumps(parsed, sort_keys=True, separators=(",", ":")).encode() != text:
        yield "member json holds more than its fields"


def header_traces(member: tarfile.TarInfo) -> Iterator[str]:
    """What the tar's header of a member tells of who wrote it, and when."""
    if member.uname or member.gname or member.mtime or member.pax_headers:
        yield f"the header of member {member.name!r} names a user, a group or a date"
