"""The headers of JPEG, JPEG 2000 and PNG, walked without decoding: what a picture claims to be, and what else is there.

Formats: JPEG and JPEG-LS by ITU-T T.81 annex B and T.87 annex C, JPEG 2000 and HTJ2K by ITU-T T.800 annexes A and I,
PNG by its third edition, section 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
J2K_START = b"\xff\x4f\xff\x51"
JP2_START = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
PNG_START = b"\x89PNG\r\n\x1a\n"

SCAN, APP1, APP14 = 0xDA, 0xE1, 0xEE
"""Second bytes of JPEG segments: start of scan, EXIF, Adobe's colour transform."""
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_BETWEEN = re.compile(rb"(?:\xff++[\x01\xd0-\xd8])*+\xff++(?!\Z)", re.DOTALL)
"""Markers without a segment, and what may fill up before the next, with that marker's first byte: any number."""
_SIZ, _TILE = 0x51, 0x90

MAX_SEGMENTS = 1 << 16
"""Of a JPEG that are looked at; real ones have up to a few hundred, of colour profiles."""

NAMES: tuple[tuple[bytes, str], ...] = (
    (PNG_START, "a PNG"),
    (b"\xff\xd8\xff", "a JPEG"),
    (JP2_START, "a JPEG 2000 file"),
    (J2K_START, "a JPEG 2000 codestream"),
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"BM", "a BMP"),
    (b"RIFF", "a RIFF file (WebP or video)"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"<", "a text (HTML or XML)"),
    (b"{", "a text (JSON)"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
)
"""What the first bytes of a file say that it is."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the header of a picture claims."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    components: int
    """1 for gray, 3 for colour, and so on."""
    bits: int
    """Bits of a value of the first component."""


def true_kind(data: bytes) -> str | None:
    """ "a PNG", "a DICOM file" and so on, by the first bytes; None where they are not known."""
    if data[128:132] == b"DICM":
        return "a DICOM file"
    if not data[:4096].strip(b"\0"):
        return "nothing but zero bytes"
    return next((name for start, name in NAMES if data.startswith(start)), None)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(second byte of the marker, offset of what it holds, bytes of it) of each segment up to the first scan's header.

    Stops where no marker follows, and after MAX_SEGMENTS.
    """
    place = 2
    for _ in range(MAX_SEGMENTS):
        between = _BETWEEN.match(data, place)
        if between is None or between.end() + 3 > len(data):
            return
        kind, place = data[between.end()], between.end() + 1
        length = int.from_bytes(data[place : place + 2], "big")
        yield kind, place + 2, length - 2
        if kind == SCAN or length < 2:
            return
        place += length


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, offset of what it holds, bytes of it) of each chunk; one that is cut off comes last."""
    place = len(PNG_START)
    while place + 8 <= len(data):
        kind, length = data[place + 4 : place + 8], int.from_bytes(data[place : place + 4], "big")
        yield kind, place + 8, length
        if kind == b"IEND":
            return
        place += 12 + length


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, offset of what it holds, bytes of it) of each box of a JP2 file; a length of 0 reaches to the end."""
    place = 0
    while place + 8 <= len(data):
        length, head = int.from_bytes(data[place : place + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        length = length or len(data) - place
        yield data[place + 4 : place + 8], place + head, length - head
        if length < head:
            return
        place += length


def j2k_offset(data: bytes) -> int | None:
    """Where the codestream of a JP2 file or a bare codestream begins, or None."""
    if data.startswith(J2K_START):
        return 0
    if data.startswith(JP2_START):
        return next((start for kind, start, _ in boxes(data) if kind == b"jp2c"), None)
    return None


def j2k_markers(data: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """(second byte of the marker, offset of what it holds, bytes of it) up to the first tile part of a codestream."""
    place = start + 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _TILE:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        yield data[place + 1], place + 4, length - 2
        if length < 2:
            return
        place += 2 + length


def frame(data: bytes) -> Frame | None:
    """What a JPEG, JPEG-LS, JPEG 2000, HTJ2K or PNG claims to hold, or None where its header is cut off or none."""
    if data.startswith(PNG_START):
        return _png_frame(data)
    if data.startswith(JPEG_START):
        return _jpeg_frame(data)
    start = j2k_offset(data)
    return None if start is None else _j2k_frame(data, start)


def _png_frame(data: bytes) -> Frame | None:
    if data[12:16] != b"IHDR" or len(data) < 33:
        return None
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(data[25])
    if channels is None:
        return None
    return Frame(_number(data, 20, 4), _number(data, 16, 4), channels, data[24])


def _jpeg_frame(data: bytes) -> Frame | None:
    for kind, start, length in jpeg_segments(data):
        if kind in _FRAMES and length >= 6 and start + 6 <= len(data):
            return Frame(_number(data, start + 1, 2), _number(data, start + 3, 2), data[start + 5], data[start])
    return None


def _j2k_frame(data: bytes, start: int) -> Frame | None:
    for kind, place, length in j2k_markers(data, start):
        if kind == _SIZ and length >= 37 and place + 37 <= len(data):
            width, height, left, top = (_number(data, place + 2 + 4 * i, 4) for i in range(4))
            return Frame(height - top, width - left, _number(data, place + 34, 2), (data[place + 36] & 0x7F) + 1)
    return None


def is_whole(data: bytes) -> bool:
    """Whether a JPEG or JPEG 2000 codestream has its end mark; zeros and FF, which fill up a fragment, may follow.

    Decoders fill up what a truncated one lacks with gray, and say nothing.
    """
    return data[-64:].rstrip(b"\0\xff").endswith(JPEG_END)


def _number(data: bytes, start: int, num_bytes: int) -> int:
    return int.from_bytes(data[start : start + num_bytes], "big")
