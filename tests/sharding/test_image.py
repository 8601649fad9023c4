import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding.image import read_image, read_size
from sharding.pixels import UnreadableImage
from tests.sharding.cohorts import draw


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_equals_pillow(tmp_path: Path, mode: str) -> None:
    colour = np.stack([draw(1), draw(2), draw(3)], axis=-1)
    image = Image.fromarray(colour if mode in ("P", "RGB", "RGBA") else colour[..., 0]).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("RGB" if mode == "P" else mode).convert("L"))
    found = read_image(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert read_size(tmp_path / "a.png") == found.shape


def test_palette_with_transparency_shows_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(draw(1)).convert("P")
    image.save(tmp_path / "a.png", transparency=0)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.asarray(image.convert("RGB").convert("L")))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_16_bit_png_keeps_the_bits_that_matter(tmp_path: Path, bits: int) -> None:
    wide = draw(4).astype(np.uint16) << (bits - 8)
    wide[0, 0] = 2**bits - 1
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), wide >> (bits - 8))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_equals_pillow(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.stack([draw(1)] * 3, axis=-1)).convert(mode)
    image.save(tmp_path / "a.jpeg", quality=95, subsampling=0)
    expected = np.asarray(Image.open(tmp_path / "a.jpeg").convert("L")).astype(int)
    assert np.abs(read_image(tmp_path / "a.jpeg").astype(int) - expected).max() <= 1


def test_jpeg_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(draw(1))
    image.save(tmp_path / "a.jpg", quality=100, exif=exif)
    image.save(tmp_path / "b.jpg", quality=100)
    assert np.array_equal(read_image(tmp_path / "a.jpg"), np.rot90(read_image(tmp_path / "b.jpg"), -1))


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, ending: str, share: float) -> None:
    whole = tmp_path / f"whole.{ending}"
    Image.fromarray(draw(1, 200, 200)).save(whole)
    data = whole.read_bytes()
    path = tmp_path / f"a.{ending}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableImage, match="cannot be decoded") as refused:
        read_image(path)
    assert str(tmp_path) not in str(refused.value)


def test_empty_and_mislabelled_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UnreadableImage, match="0 bytes"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"hello, I am text" * 40)
    with pytest.raises(UnreadableImage, match="not a PNG or JPEG"):
        read_image(tmp_path / "b.jpg")
    Image.fromarray(draw(1)).save(tmp_path / "c.gif")
    (tmp_path / "c.gif").rename(tmp_path / "c.png")
    with pytest.raises(UnreadableImage, match="not a PNG or JPEG"):
        read_image(tmp_path / "c.png")


@pytest.mark.parametrize("side", [15_000, 60_000])
def test_a_huge_header_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(UnreadableImage, match=r"are not decoded|too large"):
        read_image(tmp_path / "a.png")


def test_real_radiographs_are_read(real_data: Path) -> None:
    paths = sorted((real_data / "radiographs").iterdir())[::6] + sorted((real_data / "nih").glob("*.png"))
    for path in paths:
        expected = np.asarray(Image.open(path).convert("L")).astype(int)
        assert np.abs(read_image(path).astype(int) - expected).max() <= 2
