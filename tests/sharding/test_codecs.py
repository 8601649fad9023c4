from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.codecs import ENDINGS, Codec, decode, encode, member_name
from sharding.traces import codec_traces
from tests.sharding.cohorts import draw

LOSSLESS: tuple[Codec, ...] = ("jpeg2000", "htj2k", "png")


def picture(height: int, width: int, bits: int, seed: int, noise: bool) -> Any:
    """Noise, or steps and slopes, uint8 or uint16 [height, width]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = ((x * rng.integers(0, 300) + y * rng.integers(0, 300)) // (1 + seed % 7)) % 2**bits
    values = rng.integers(0, 2**bits, (height, width)) if noise else smooth
    return values.astype(np.uint8 if bits == 8 else np.uint16)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(LOSSLESS),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([8, 16]),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_lossless_codecs_give_the_pixels_back_and_hold_nothing_else(
    codec: Codec, height: int, width: int, bits: int, seed: int, noise: bool
) -> None:
    pixels = picture(height, width, bits, seed, noise)
    data = encode(pixels, codec, 95)
    found = decode(data, codec)
    assert found is not None
    assert found.dtype == pixels.dtype
    assert np.array_equal(found, pixels)
    assert encode(pixels.copy(), codec, 1) == data
    assert not list(codec_traces(data, codec))


def test_jpeg_is_near_and_the_same_bytes_again() -> None:
    for quality in (1, 50, 95, 100):
        pixels = draw(quality, 300, 200)
        data = encode(pixels, "jpeg", quality)
        found = decode(data, "jpeg")
        assert found is not None
        assert found.shape == pixels.shape
        assert encode(pixels.copy(), "jpeg", quality) == data
        assert not list(codec_traces(data, "jpeg"))
    assert np.abs(found.astype(int) - pixels).max() <= 3
    for shape in ((1, 1), (1, 9), (17, 1)):
        assert np.asarray(decode(encode(draw(1, *shape), "jpeg", 95), "jpeg")).shape == shape


@pytest.mark.parametrize("codec", ENDINGS)
def test_rows_that_are_not_next_to_each_other_are_encoded_as_they_look(codec: Codec) -> None:
    pixels = draw(1, 40, 60)
    assert encode(pixels[::2, ::3], codec, 95) == encode(np.ascontiguousarray(pixels[::2, ::3]), codec, 95)
    assert encode(pixels.T, codec, 95) == encode(np.ascontiguousarray(pixels.T), codec, 95)


@pytest.mark.parametrize("codec", ENDINGS)
def test_what_is_damaged_or_another_codec_gives_none(codec: Codec) -> None:
    pixels = draw(2, 90, 80)
    data = encode(pixels, codec, 95)
    for end in [0, 1, 2, 5, *range(9, len(data) - 20, 97)]:
        assert decode(data[:end], codec) is None
    for other in ENDINGS:
        if other != codec:
            assert decode(data, other) is None
    assert decode(b"hello" * 99, codec) is None


def test_a_huge_header_gives_none_before_anything_is_decoded() -> None:
    data = encode(draw(1), "png", 95)
    assert decode(data[:16] + (60_000).to_bytes(4, "big") * 2 + data[24:], "png") is None
    data = encode(draw(1), "htj2k", 95)
    assert decode(data[:8] + (60_000).to_bytes(4, "big") * 2 + data[16:], "htj2k") is None


def test_members_are_named_by_codec_and_level() -> None:
    assert [member_name("htj2k", 0), member_name("jpeg", 1), member_name("png", 2)] == ["j2c", "l1.jpg", "l2.png"]


@pytest.mark.parametrize(("codec", "bits"), [("jpeg", 8), *((codec, bits) for codec in LOSSLESS for bits in (8, 16))])
def test_dali_decodes_them_on_the_processor(codec: Codec, bits: int) -> None:
    """8 bits as they are; 16 bits to 8 within one, and exactly where they are asked for."""
    from nvidia.dali import fn, pipeline_def, types

    # Two sizes, and one of one pixel.
    pixels = [picture(*shape, bits, seed, noise=False) for seed, shape in enumerate(((64, 50), (33, 70), (1, 1)))]
    encoded = [np.frombuffer(encode(one, codec, 95), dtype=np.uint8) for one in pixels]

    @pipeline_def(batch_size=len(pixels), num_threads=1, device_id=None)
    def decoding() -> Any:
        data = fn.external_source(lambda: encoded, batch=True)
        gray = fn.decoders.image(data, output_type=types.GRAY)
        if bits == 8:
            return gray
        return gray, fn.decoders.image(data, output_type=types.ANY_DATA, dtype=types.UINT16)

    pipeline: Any = decoding()
    pipeline.build()
    outputs = pipeline.run()
    for number, one in enumerate(pixels):
        found = np.asarray(outputs[0].at(number))[..., 0].astype(int)
        if codec == "jpeg":
            assert np.array_equal(found, decode(encoded[number].tobytes(), codec))
        elif bits == 8:
            assert np.array_equal(found, one)
        else:
            assert np.abs(found - one / 257).max() <= 1
            assert np.array_equal(np.asarray(outputs[1].at(number))[..., 0], one)
