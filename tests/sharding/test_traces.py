import io
import json
import struct
import zlib

import pytest
from PIL import Image

from sharding.codecs import ENDINGS, Codec, encode
from sharding.traces import codec_traces, json_traces
from tests.sharding.cohorts import draw


def saved(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw(1)).save(file, format="JPEG", **options)
    return file.getvalue()


def exif() -> bytes:
    tags = Image.Exif()
    tags[0x010E] = "Ann Doe"
    return tags.tobytes()


def test_our_own_jpegs_hold_nothing_but_the_picture() -> None:
    for quality in (1, 50, 95, 100):
        assert not list(codec_traces(encode(draw(quality, 300, 200), "jpeg", quality), "jpeg"))
    assert not list(codec_traces(saved(), "jpeg"))
    assert not list(codec_traces(saved(progressive=True), "jpeg"))


@pytest.mark.parametrize(
    ("encoded", "told"),
    [
        (saved(exif=exif()), "segment FFE1"),
        (saved(comment=b"Ann Doe"), "segment FFFE"),
        (saved(icc_profile=b"Ann Doe"), "segment FFE2"),
        (saved() + b"Ann Doe", "behind the end"),
        (saved()[:-2], "behind the end"),
        (saved()[:100], "no scan"),
        (saved().replace(b"\x00\x10JFIF\x00", b"\x00\x10Ann D", 1), "segment FFE0"),
        (b"", "no scan"),
    ],
)
def test_what_else_a_jpeg_holds_is_told(encoded: bytes, told: str) -> None:
    assert any(told in trace for trace in codec_traces(encoded, "jpeg"))


def test_a_comment_between_the_scans_of_a_jpeg_is_told() -> None:
    data = saved(progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    comment = b"\xff\xfe" + struct.pack(">H", 9) + b"Ann Doe"
    assert list(codec_traces(data[:second] + comment + data[second:], "jpeg"))


PNG, JP2, HT = (encode(draw(1), codec, 95) for codec in ("png", "jpeg2000", "htj2k"))  # type: ignore[arg-type]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


def comment(text: bytes) -> bytes:
    return b"\xff\x64" + struct.pack(">H", len(text) + 4) + b"\0\1" + text


def before(data: bytes, mark: bytes, more: bytes) -> bytes:
    place = data.index(mark)
    return data[:place] + more + data[place:]


def longer_tile(data: bytes, more: bytes) -> bytes:
    """A codestream whose first tile part holds a segment before its data."""
    tile = data.index(b"\xff\x90\x00\x0a")
    length = int.from_bytes(data[tile + 6 : tile + 10], "big") + len(more)
    return data[: tile + 6] + struct.pack(">I", length) + data[tile + 10 : tile + 12] + more + data[tile + 12 :]


@pytest.mark.parametrize(
    ("codec", "encoded", "told"),
    [
        ("png", before(PNG, PNG[33:41], chunk(b"tEXt", b"Author\0Ann Doe")), "a chunk tEXt"),
        ("png", before(PNG, PNG[33:41], chunk(b"eXIf", b"Ann Doe")), "a chunk eXIf"),
        ("png", PNG[:-12] + chunk(b"anNn", b"Doe") + PNG[-12:], "a chunk anNn"),
        ("png", PNG + b"Ann Doe", "behind the end"),
        ("png", PNG[:-1], "cut off"),
        ("png", PNG[:50], "cut off"),
        ("png", b"", "cut off"),
        ("jpeg2000", JP2 + box(b"uuid", b"0123456789abcdefAnn Doe"), "a box uuid"),
        ("jpeg2000", before(JP2, JP2[32:40], box(b"xml ", b"<n>Ann Doe</n>")), "a box 786d6c20"),
        ("jpeg2000", JP2 + b"Ann", "behind the end"),
        ("jpeg2000", JP2[:-9], "cut off"),
        ("jpeg2000", b"", "cut off"),
        ("jpeg2000", JP2.replace(b"ftypjp2 ", b"ftypAnn "), "a box ftyp"),
        ("jpeg2000", JP2.replace(b"Created by OpenJPEG", b"Patient was Ann Doe"), "a comment"),
        ("htj2k", before(HT, b"\xff\x90", comment(b"Ann Doe")), "a comment"),
        ("htj2k", before(HT, b"\xff\x90", comment(b"OpenJPH Ver 0.26.3. of Ann")), "a comment"),
        ("htj2k", before(HT, b"\xff\x90", b"\xff\x63\0\x05Ann"), "a segment FF63"),
        ("htj2k", longer_tile(HT, comment(b"Ann Doe")), "a segment in a tile part"),
        ("htj2k", HT + b"Ann Doe", "behind the end"),
        ("htj2k", HT[:-2] + b"Ann Doe" + HT[-2:], "behind the end"),
        ("htj2k", HT[:-2], "cut off"),
        ("htj2k", b"", "cut off"),
    ],
)
def test_what_else_a_lossless_picture_holds_is_told(codec: Codec, encoded: bytes, told: str) -> None:
    assert any(told in trace for trace in codec_traces(encoded, codec))


def test_no_picture_passes_for_one_of_another_codec() -> None:
    for codec in ENDINGS:
        for other in ENDINGS:
            if other != codec:
                assert list(codec_traces(encode(draw(1), other, 95), codec))


def test_a_json_member_holds_its_fields_once() -> None:
    text = json.dumps({"key": "a", "sex": "F"}, sort_keys=True, separators=(",", ":")).encode()
    assert not list(json_traces(text, json.loads(text)))
    for hidden in (b'{"key":"Ann Doe",' + text[1:], text + b" " * 9):
        assert list(json_traces(hidden, json.loads(hidden)))
