import io
import itertools
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharding import codestreams
from sharding.image import read_image
from sharding.pixels import Rendering, UnreadableImage
from tests.sharding.cohorts import draw

WIDE = Rendering(bits=16)
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column, first row, steps between columns and rows."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def scanlines(samples: Any, depth: int) -> bytes:
    """Unfiltered rows of samples [H, W, channels]."""
    lines = b""
    for row in samples:
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        else:
            bits = (row.reshape(-1, 1) >> np.arange(depth)[::-1]) & 1
            packed = np.packbits(bits.astype(np.uint8)).tobytes()
        lines += b"\0" + packed
    return lines


def png(samples: Any, depth: int, colour_type: int, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of samples [H, W, channels], written by the letter of its specification; `extra` chunks before IDAT."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [samples]
    lines = b"".join(scanlines(part, depth) for part in parts if part.size)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def samples_of(depth: int, channels: int, seed: int = 0, height: int = 19, width: int = 13) -> Any:
    return np.random.default_rng(seed).integers(0, 2**depth, (height, width, channels))


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
MODES = [
    (0, 1),
    (0, 2),
    (0, 4),
    (0, 8),
    (0, 16),
    (2, 8),
    (2, 16),
    (3, 1),
    (3, 2),
    (3, 4),
    (3, 8),
    (4, 8),
    (4, 16),
    (6, 8),
    (6, 16),
]
"""(colour type, bits) of every PNG there is."""


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour_type", "depth"), MODES)
def test_every_png_mode(colour_type: int, depth: int, interlaced: bool) -> None:
    """8 bits and fewer equal Pillow's convert("L"); 16 bits keep all of them, where Pillow drops half of colour's."""
    samples = samples_of(depth, CHANNELS[colour_type])
    palette = np.random.default_rng(1).integers(0, 256, (2**depth, 3)) if colour_type == 3 else None
    extra = chunk(b"gAMA", struct.pack(">I", 100_000))
    if palette is not None:
        extra += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    data = png(samples, depth, colour_type, interlaced, extra)
    found = read_image(data)
    assert (found.dtype, found.shape) == (np.uint8, samples.shape[:2])
    if depth == 16:
        colour = samples[..., :3] if colour_type in (2, 6) else samples[..., :1].repeat(3, axis=2)
        exact = colour @ np.array([0.299, 0.587, 0.114])
        assert np.abs(read_image(data, WIDE) - exact).max() <= 1.5
        assert np.abs(found - exact / 257).max() <= 1.01
        return
    with Image.open(io.BytesIO(data)) as image:
        flat = image.convert("RGB") if colour_type == 3 else image
        assert np.array_equal(found, np.asarray(flat.convert("L")))
    assert np.array_equal(read_image(data, WIDE), found.astype(np.uint16) * 257)


@pytest.mark.parametrize(("colour_type", "depth"), [mode for mode in MODES if mode[0] in (0, 2, 3)])
def test_transparency_changes_nothing(colour_type: int, depth: int) -> None:
    samples = samples_of(depth, CHANNELS[colour_type])
    palette = chunk(b"PLTE", np.arange(3 * 2**depth, dtype=np.uint8).tobytes()) if colour_type == 3 else b""
    see_through = {0: b"\0\1", 2: b"\0\1\0\1\0\1", 3: b"\x00\x80"}[colour_type]
    plain = read_image(png(samples, depth, colour_type, extra=palette))
    with_alpha = read_image(png(samples, depth, colour_type, extra=palette + chunk(b"tRNS", see_through)))
    assert np.array_equal(plain, with_alpha)


@pytest.mark.parametrize(
    "chunks", [(b"gAMA", struct.pack(">I", 45_455)), (b"sBIT", b"\5"), (b"pHYs", b"\0\0\1\0\0\0\1\0\1")]
)
def test_what_else_a_png_says_changes_nothing(chunks: tuple[bytes, bytes]) -> None:
    for depth in (8, 16):
        samples = samples_of(depth, 1)
        extra = chunk(chunks[0], chunks[1])
        assert np.array_equal(
            read_image(png(samples, depth, 0, extra=extra), WIDE), read_image(png(samples, depth, 0), WIDE)
        )


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 16), st.integers(0, 10**6))
def test_16_bit_files_keep_the_bits_that_matter(bits: int, seed: int) -> None:
    samples = samples_of(bits, 1, seed)
    samples[0, 0] = 2**bits - 1
    data = png(samples, 16, 0)
    narrow, wide = read_image(data), read_image(data, WIDE)
    assert np.array_equal(narrow, samples[..., 0] >> max(0, bits - 8))
    assert np.array_equal(wide >> 8, narrow)
    if bits >= 8:
        assert wide[0, 0] == 65535
        assert np.array_equal(wide >> (16 - bits), samples[..., 0])


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([8, 16]),
    st.sampled_from([(0.0, 100.0), (0.5, 99.5), (20.0, 70.0)]),
    st.sampled_from(["range", "percentile"]),
    st.sampled_from([8, 16]),
    st.integers(0, 10**6),
)
def test_percentile_and_range_stretch(depth: int, shares: Any, intensity: Any, bits: Any, seed: int) -> None:
    samples = samples_of(depth, 1, seed)[..., 0] // 3 + 11
    found = read_image(png(samples[..., None], depth, 0), Rendering(intensity, percentiles=shares, bits=bits))
    low, high = np.percentile(samples, shares if intensity == "percentile" else (0, 100))
    expected = np.clip((samples - low) / (high - low), 0, 1) * (2**bits - 1)
    assert np.abs(found - expected).max() <= 0.5 + 1e-6


def test_a_constant_image_does_not_divide_by_zero() -> None:
    data = png(np.full((4, 4, 1), 9), 8, 0)
    assert (read_image(data) == 9).all()
    for intensity in ("range", "percentile"):
        assert not read_image(data, Rendering(intensity)).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_equals_pillow(mode: str, progressive: bool, subsampling: int) -> None:
    image = Image.fromarray(np.stack([draw(1), draw(2), draw(3)], axis=-1)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=subsampling, progressive=progressive)
    drafted = Image.open(io.BytesIO(file.getvalue()))
    drafted.draft("L", drafted.size)
    assert np.array_equal(read_image(file.getvalue()), np.asarray(drafted.convert("L")))
    assert np.array_equal(read_image(file.getvalue(), WIDE) >> 8, read_image(file.getvalue()))


def test_jpeg_of_12_bits_and_without_loss() -> None:
    import imagecodecs

    values = draw(1).astype(np.uint16) * 16
    values[0, 0] = 4095
    exact = bytes(imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12))
    assert np.array_equal(read_image(exact), values >> 4)
    lossy = bytes(imagecodecs.jpeg8_encode(values, 100, bitspersample=12))
    assert np.abs(read_image(lossy, WIDE).astype(int) - values * 16.0).max() < 16 * 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(draw(1))
    turned, plain = io.BytesIO(), io.BytesIO()
    image.save(turned, "JPEG", quality=100, exif=exif)
    image.save(plain, "JPEG", quality=100)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(turned.getvalue()))))
    found = read_image(turned.getvalue())
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous
    assert orientation != 1 or np.array_equal(found, read_image(plain.getvalue()))


def saved(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw(1, 200, 200)).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_truncated_files_are_refused_wherever_they_end(form: str) -> None:
    data = saved(form, **({"exif": b"Exif\0\0" + saved("JPEG")[:900]} if form == "JPEG" else {}))
    for end in [*range(1, 1000, 53), *range(1000, len(data) - 20, 997), len(data) - 20]:
        with pytest.raises(UnreadableImage):
            read_image(data[:end])


@pytest.mark.parametrize("depth", [4, 8, 16])
def test_a_png_with_one_wrong_byte_in_its_pixels_is_refused(depth: int) -> None:
    data = png(samples_of(depth, 1), depth, 0)
    for place in range(data.index(b"IDAT") + 6, len(data) - 20, 11):
        with pytest.raises(UnreadableImage, match="cannot be decoded"):
            read_image(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (bytes(999), "but nothing but zero bytes"),
        (b"hello, I am text" * 40, "not a PNG or JPEG"),
        (saved("GIF"), "not a PNG or JPEG but a GIF"),
        (saved("TIFF"), "not a PNG or JPEG but a TIFF"),
        (bytes(128) + b"DICM" + bytes(99), "not a PNG or JPEG but a DICOM file"),
        (b"\x89PNG\r\n\x1a\n", "header is damaged or cut off"),
        (b"\xff\xd8\xff", "header is damaged or cut off"),
        (saved("JPEG")[:-2], "cut off"),
    ],
)
def test_empty_and_mislabelled_files_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        read_image(data)


@pytest.mark.parametrize("side", [15_000, 60_000])
def test_a_huge_header_is_refused_before_decoding(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    huge = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )
    jpeg = saved("JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    for data in (huge, jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :]):
        start = time.perf_counter()
        with pytest.raises(UnreadableImage, match="are not decoded"):
            read_image(data)
        assert time.perf_counter() - start < 0.1


def test_a_turned_jpeg_of_nearly_the_most_pixels_is_read() -> None:
    """Beyond the 179 megapixels where Pillow stops."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (14_000, 14_000 - 8), 200).save(file, "JPEG", exif=exif)
    gray = read_image(file.getvalue())
    assert gray.shape == (14_000, 13_992)
    assert gray[0, 0] == 200


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xd0", b"\xff\xff\x01", b"\xff\xe0\0\x02"])
def test_what_fills_up_a_jpeg_is_passed_in_no_time(filling: bytes) -> None:
    jpeg = saved("JPEG")
    start = time.perf_counter()
    some = jpeg[:2] + filling * 9 + jpeg[2:]
    many = jpeg[:2] + filling * ((64 << 20) // len(filling)) + jpeg[2:]
    assert codestreams.frame(some) == codestreams.frame(jpeg)
    if filling == b"\xff\xe0\0\x02":
        with pytest.raises(UnreadableImage, match="header is damaged"):
            read_image(many)
    else:
        assert codestreams.frame(many) == codestreams.frame(jpeg)
    assert time.perf_counter() - start < 2


def test_no_message_quotes_the_file() -> None:
    """Text chunks and comments, in files damaged at every place."""
    options = {"comment": b"SENTINEL"}
    for data in (saved("JPEG", **options), png(samples_of(8, 1), 8, 0, extra=chunk(b"tEXt", b"Author\0SENTINEL"))):
        for place in itertools.chain(range(3, 400, 7), range(400, len(data), 501)):
            damaged = data[:place] + b"SENTINEL" + data[place + 8 :]
            assert "SENTINEL" not in reason_of(damaged)
            assert "SENTINEL" not in reason_of(data[:place])


def reason_of(data: bytes) -> str:
    try:
        read_image(data)
    except UnreadableImage as error:
        return str(error)
    return ""


def test_real_radiographs_are_read(real_data: Path) -> None:
    paths = sorted((real_data / "radiographs").iterdir())[::6] + sorted((real_data / "nih").glob("*.png"))
    for path in paths:
        expected = np.asarray(Image.open(path).convert("L")).astype(int)
        assert np.abs(read_image(path.read_bytes()).astype(int) - expected).max() <= 2
