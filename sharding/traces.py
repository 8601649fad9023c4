"""What could tell whose radiograph a sample is, as far as a program can see it: names, dates, notes inside a picture.

Text burned into the pixels, and what a finding's or a cohort's name says, are not looked at.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

from sharding import codestreams
from sharding.codecs import Codec
from sharding.sample import VIEW_POSITIONS

PSEUDONYM = re.compile(r"[0-9a-f]{16}")
FOLDER_KEY = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{8})?")
"""A key of `cxr shard folder` without --keep_names; the second part keeps two equal ones apart."""

AGE_BAND = re.compile(r"\d0-\d9|0-9|90\+")
VIEW_POSITION = re.compile("|".join(VIEW_POSITIONS))

_JFIF = 0xE0
_BARE = frozenset({_JFIF, 0xDB, 0xC4, 0xDD, *range(0xC0, 0xC4)})
"""Second bytes of the JPEG segments that hold no more than pixels need: JFIF, DQT, DHT, DRI, SOF0 to SOF3."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Inside a scan a byte of 255 is followed by zero or the number of a restart."""

_COMMENT = 0x64
_J2K_BARE = frozenset({0x50, 0x51, 0x52, 0x5C})
"""Segments of a JPEG 2000 codestream that pixels need: CAP, SIZ, COD, QCD."""
_MADE_BY = re.compile(rb"\x00\x01(Created by OpenJPEG version|OpenJPH Ver) [0-9.]{1,12}")

_BEHIND = "is cut off or holds bytes behind the end of the picture"


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


def codec_traces(encoded: bytes, codec: Codec) -> Iterator[str]:
    """What an encoded picture holds besides its pixels: comments, EXIF, profiles, text, bytes behind its end."""
    match codec:
        case "jpeg":
            return jpeg_traces(encoded)
        case "png":
            return _png_traces(encoded)
        case "jpeg2000":
            return _jp2_traces(encoded)
        case "htj2k":
            return _codestream_traces(encoded, 0, len(encoded))


def jpeg_traces(encoded: bytes) -> Iterator[str]:
    """What a JPEG holds besides its pixels: segments (EXIF, comments, ...), a thumbnail, bytes behind its end."""
    place, scans = 2, 0
    while place + 4 <= len(encoded) and encoded[place] == 0xFF:
        kind, length = encoded[place + 1], int.from_bytes(encoded[place + 2 : place + 4], "big")
        place += 2 + length
        if kind == codestreams.SCAN:
            scans += 1
            marker = _MARKER.search(encoded, place)
            place = len(encoded) if marker is None else marker.start()
            if encoded[place : place + 2] == codestreams.JPEG_END:
                place += 2
                break
        elif kind not in _BARE:
            yield f"holds a segment FF{kind:02X} besides the picture (EXIF, a comment or the like)"
        elif kind == _JFIF and (length != 16 or not encoded.startswith(b"JFIF\0", place - length + 2)):
            yield "holds more in its segment FFE0 than JFIF's resolution"
    if scans == 0:
        yield "has no scan where one should begin"
    elif place != len(encoded) or not encoded.endswith(codestreams.JPEG_END):
        yield _BEHIND


def _png_traces(encoded: bytes) -> Iterator[str]:
    end, last = 0, b""
    for last, start, length in codestreams.png_chunks(encoded):
        end = start + length + 4
        if last not in (b"IHDR", b"IDAT", b"IEND"):
            yield f"holds a chunk {_printable(last)} besides the picture (text, EXIF, a profile or the like)"
    if last != b"IEND" or end != len(encoded) or end < 57:
        yield _BEHIND


def _jp2_traces(encoded: bytes) -> Iterator[str]:
    end = 0
    for kind, start, length in codestreams.boxes(encoded):
        end = start + length
        held = encoded[start:end]
        if kind == b"jp2c":
            yield from _codestream_traces(encoded, start, min(end, len(encoded)))
        elif kind == b"jp2h":
            for inner, at, size in codestreams.boxes(held):
                # 7 bytes of colour are its number in a list; more would be a profile.
                if (inner, size) not in ((b"ihdr", 14), (b"colr", 7)):
                    yield f"holds a box {_printable(inner)} besides the picture"
                if at + size > len(held):
                    yield _BEHIND
        elif (kind, held) not in ((b"jP  ", b"\r\n\x87\n"), (b"ftyp", b"jp2 \0\0\0\0jp2 ")):
            yield f"holds a box {_printable(kind)} besides the picture (an id, XML or the like)"
    if end == 0 or end != len(encoded):
        yield _BEHIND


def _codestream_traces(encoded: bytes, start: int, end: int) -> Iterator[str]:
    """What a JPEG 2000 codestream in encoded[start:end] holds besides what its pixels need."""
    place = start + 2
    for kind, at, length in codestreams.j2k_markers(encoded, start):
        place = at + length
        if kind == _COMMENT:
            if not _MADE_BY.fullmatch(encoded[at:place]):
                yield "holds a comment that is not its encoder's name"
        elif kind not in _J2K_BARE:
            yield f"holds a segment FF{kind:02X} besides the picture"
    # Tile parts: FF90, 10 bytes with the length of the whole at the sixth, then at once FF93 and the data.
    while encoded[place : place + 2] == b"\xff\x90" and place < end:
        if encoded[place + 12 : place + 14] != b"\xff\x93":
            yield "holds a segment in a tile part besides the picture"
        length = int.from_bytes(encoded[place + 6 : place + 10], "big")
        place = place + length if length else end - 2
    if encoded[place:end] != codestreams.JPEG_END:
        yield _BEHIND


def _printable(kind: bytes) -> str:
    return kind.decode("ascii") if kind.isalnum() else kind.hex()


def json_traces(text: bytes, parsed: Any) -> Iterator[str]:
    """What the json member `text` holds besides its fields, which `parsed` are: a field twice, spaces."""
    if json.dumps(parsed, sort_keys=True, separators=(",", ":")).encode() != text:
        yield "member json holds more than its fields"


def header_traces(member: tarfile.TarInfo) -> Iterator[str]:
    """What the tar's header of a member tells of who wrote it, and when."""
    if member.uname or member.gname or member.mtime or member.pax_headers:
        yield f"the header of member {member.name!r} names a user, a group or a date"
