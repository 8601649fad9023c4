import io
import json

import pytest
from PIL import Image

from sharding.pixels import encode_jpeg
from sharding.traces import jpeg_traces, json_traces
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
        assert not list(jpeg_traces(encode_jpeg(draw(quality, 300, 200), quality)))
    assert not list(jpeg_traces(saved()))


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
    assert any(told in trace for trace in jpeg_traces(encoded))


def test_a_json_member_holds_its_fields_once() -> None:
    text = json.dumps({"key": "a", "sex": "F"}, sort_keys=True, separators=(",", ":")).encode()
    assert not list(json_traces(text, json.loads(text)))
    for hidden in (b'{"key":"Ann Doe",' + text[1:], text + b" " * 9):
        assert list(json_traces(hidden, json.loads(hidden)))
