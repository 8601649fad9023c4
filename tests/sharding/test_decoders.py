"""Every transfer syntax that a radiograph comes in, and what is refused before it is decoded."""

import io
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom.data
import pytest
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array

from sharding import decoders
from sharding.dicom import read_dicom, read_size
from sharding.pixels import Rendering, UnreadableImage
from tests.sharding.cohorts import draw
from tests.sharding.syntaxes import NATIVE, codestream, dataset_of, file_of, wrapped, written


def values_of(bits: int, signed: bool = False) -> Any:
    """[60, 50] of the whole range."""
    unsigned = np.round(draw(7).astype(float) / 255 * (2**bits - 1)).astype(np.int64)
    unsigned[0, :2] = 0, 2**bits - 1
    return (unsigned - 2 ** (bits - 1)).astype(np.int16) if signed else unsigned.astype("u1" if bits == 8 else "u2")


ERRORS = {uid.JPEGBaseline8Bit: 3, uid.JPEGExtended12Bit: 3, uid.JPEGLSNearLossless: 1, uid.JPEG2000: 60, uid.HTJ2K: 30}
"""By how much lossy ones may be off, of 255 or 4095 or 65535."""


DEPTHS = {uid.JPEGBaseline8Bit: (8,), uid.JPEGExtended12Bit: (12,), uid.JPEGLSNearLossless: (8, 12, 16)}
"""Bits, negative where signed; near-lossless two's complement would wrap."""


@pytest.mark.parametrize(
    ("syntax", "depth"),
    [(syntax, depth) for syntax in (*NATIVE, *decoders.ORDER) for depth in DEPTHS.get(syntax, (8, 12, 16, -12, -16))],
)
def test_every_transfer_syntax_gives_the_values(syntax: uid.UID, depth: int) -> None:
    bits, signed = abs(depth), depth < 0
    pixels = values_of(bits, signed)
    gray, _ = read_dicom(file_of(syntax, pixels, bits), Rendering(bits=16, intensity="range"))
    low, high = int(pixels.min()), int(pixels.max())
    expected = (pixels.astype(float) - low) / (high - low) * 65535
    off = ERRORS.get(syntax, 0) / (high - low) * 65535
    assert np.abs(gray - expected).max() <= 0.51 + 2 * off


@pytest.mark.parametrize("syntax", list(decoders.ORDER), ids=lambda syntax: syntax.name)
def test_all_decoders_of_a_syntax_agree(syntax: uid.UID) -> None:
    """So that a file looks the same where the first one cannot."""
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    data = file_of(syntax, values_of(bits), bits)
    order = decoders.decoders_of(syntax)
    assert set(order) <= set(get_decoder(syntax).available_plugins)
    results = [pixel_array(pydicom.dcmread(io.BytesIO(data)), decoding_plugin=plugin) for plugin in order]
    for result in results:
        assert np.array_equal(result, results[0])


def test_no_gpu_is_asked_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not decoders.has_gpu()
    for syntax, order in decoders.ORDER.items():
        assert decoders.decoders_of(syntax, use_gpu=False) == order
        if syntax not in decoders.LOSSLESS:
            assert decoders.decoders_of(syntax) == order


def test_a_gpu_decoder_has_to_pass_a_probe() -> None:
    """pydicom's own RLE decoder is no JPEG decoder; imagecodecs, which is right, passes the probe that a GPU must."""
    for syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEG2000Lossless, uid.HTJ2KLossless):
        decoders.decoders_of(syntax)
        assert decoders.decodes_a_probe(syntax, "imagecodecs")
        assert not decoders.decodes_a_probe(syntax, "pydicom")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.103"])
def test_what_nothing_here_decodes_is_refused_by_its_name(syntax: str) -> None:
    name = {"110": "JPEG XL Lossless", "103": "MPEG-4 AVC/H.264 BD-compatible High Profile"}[syntax[-3:]]
    with pytest.raises(UnreadableImage, match=f"no decoder here for its transfer syntax, {name}"):
        read_dicom(wrapped(b"\0" * 99, syntax, draw(1), 8))


@pytest.mark.parametrize("syntax", [syntax for syntax in decoders.ORDER if syntax != uid.RLELossless])
def test_a_picture_larger_than_its_header_says_is_refused_before_it_is_decoded(syntax: uid.UID) -> None:
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    small, large = values_of(bits), np.zeros((4000, 4000), values_of(bits).dtype)
    start = time.perf_counter()
    data = wrapped(codestream(syntax, large, bits), syntax, small, bits)
    encoded = time.perf_counter()
    with pytest.raises(UnreadableImage, match="the compressed picture is 4000 x 4000 x 1, the header says 60 x 50 x 1"):
        read_dicom(data)
    assert time.perf_counter() - encoded < max(0.1, encoded - start)


@pytest.mark.parametrize("syntax", list(decoders.ORDER), ids=lambda syntax: syntax.name)
def test_a_cut_off_picture_is_refused(syntax: uid.UID) -> None:
    """Inside a DICOM file that is whole itself: most decoders would fill up with gray."""
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    pixels = values_of(bits)
    if syntax == uid.RLELossless:
        whole = pydicom.encaps.get_frame(
            pydicom.dcmread(io.BytesIO(file_of(syntax, pixels, bits))).PixelData, 0, number_of_frames=1
        )
    else:
        whole = codestream(syntax, pixels, bits)
    for share in (0.0, 0.1, 0.5, 0.9):
        with pytest.raises(UnreadableImage):
            read_dicom(wrapped(whole[: int(len(whole) * share)] + b"\0\0", syntax, pixels, bits))


def test_more_bits_than_the_header_allocates_are_not_wrapped() -> None:
    wide = codestream(uid.JPEG2000Lossless, values_of(12), 12)
    with pytest.raises(UnreadableImage, match="has 12 bits, the header allocates 8"):
        read_dicom(wrapped(wide, uid.JPEG2000Lossless, values_of(8), 8))


def test_a_wrong_sign_in_a_codestream_is_put_right() -> None:
    """JPEG 2000 says itself whether it is signed; what PixelRepresentation says is meant."""
    signed = values_of(12, signed=True)
    unsigned = (signed.astype(np.int64) & 4095).astype(np.uint16)
    data = wrapped(codestream(uid.JPEG2000Lossless, unsigned, 12), uid.JPEG2000Lossless, signed, 12)
    right = file_of(uid.JPEG2000Lossless, signed, 12)
    assert np.array_equal(read_dicom(data)[0], read_dicom(right)[0])


def test_other_pictures_under_the_name_of_a_syntax_are_named() -> None:
    png = bytes(imagecodecs.png_encode(values_of(8)))
    with pytest.raises(UnreadableImage, match="cut off"):
        read_dicom(wrapped(png, uid.JPEG2000Lossless, values_of(8), 8))
    with pytest.raises(UnreadableImage, match=r"its pixels are not JPEG Baseline \(Process 1\) but a PDF"):
        read_dicom(wrapped(b"%PDF-1.4" + b"a" * 99, uid.JPEGBaseline8Bit, values_of(8), 8))


def test_a_deflated_bomb_is_refused_and_so_is_its_size(tmp_path: Path) -> None:
    data = file_of(uid.DeflatedExplicitVRLittleEndian, values_of(8), 8)
    assert read_dicom(data)[0].shape == (60, 50)
    (tmp_path / "a.dcm").write_bytes(data)
    assert read_size(tmp_path / "a.dcm") == (60, 50)
    start = data.index(b"1.2.840.10008.1.2.1.99") + len(b"1.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(9, wbits=-15)
    megabyte = packer.compress(b"\0" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    (tmp_path / "a.dcm").write_bytes(data[:start] + 500 * megabyte + packer.flush())
    with pytest.raises(UnreadableImage, match="inflates to more than"):
        read_dicom((tmp_path / "a.dcm").read_bytes())
    with pytest.raises(UnreadableImage, match="inflates to more than"):
        read_size(tmp_path / "a.dcm")
    with pytest.raises(UnreadableImage, match="cut off"):
        read_dicom(data[:-40])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda dataset: delattr(dataset, "PixelData"), "PixelData is missing"),
        (lambda dataset: delattr(dataset, "Rows"), "Rows or Columns is missing"),
        (lambda dataset: delattr(dataset.file_meta, "TransferSyntaxUID"), "TransferSyntaxUID is missing"),
        (lambda dataset: setattr(dataset, "NumberOfFrames", 2), "holds 2 frames"),
        (lambda dataset: [setattr(dataset, side, 60_000) for side in ("Rows", "Columns")], "are not decoded"),
        (lambda dataset: setattr(dataset, "Rows", 0), "0 rows"),
        (lambda dataset: setattr(dataset, "Rows", 61), "cannot be decoded"),
        (lambda dataset: setattr(dataset, "SamplesPerPixel", 3), "with 3 samples a pixel"),
        (lambda dataset: setattr(dataset, "PhotometricInterpretation", "CMYK"), "is none of MONOCHROME1"),
        (lambda dataset: setattr(dataset, "HighBit", 4), "cannot all be right"),
        (lambda dataset: setattr(dataset, "PixelData", b""), "cannot be decoded"),
    ],
)
def test_what_is_missing_is_named(change: Any, reason: str) -> None:
    dataset = dataset_of(draw(1), 8)
    change(dataset)
    with pytest.raises(UnreadableImage, match=reason):
        read_dicom(written(dataset))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (bytes(5000), "nothing but zero bytes"),
        (b"\x89PNG\r\n\x1a\n" * 99, "it is a PNG, whatever its name says"),
        (b"\xff\xd8\xff\xe0" * 99, "it is a JPEG, whatever its name says"),
        (b"<html>" * 99, "a text"),
        (b"hello" * 99, "no DICM mark"),
        (bytes(128) + b"DICM", "TransferSyntaxUID is missing"),
        (bytes(128) + b"DICM" + b"\xff" * 400, "cannot be decoded|TransferSyntaxUID is missing"),
    ],
)
def test_files_that_are_no_dicom_are_named(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        read_dicom(data)
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(UnreadableImage, match=reason if data[128:132] != b"DICM" else "header cannot be read"):
        read_size(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless, uid.DeflatedExplicitVRLittleEndian]
)
def test_a_truncated_file_is_refused_wherever_it_ends(syntax: uid.UID) -> None:
    data = file_of(syntax, values_of(12), 12)
    for end in [*range(1, 700, 37), *range(700, len(data) - 8, 211), len(data) - 9]:
        with pytest.raises(UnreadableImage):
            read_dicom(data[:end])


REFUSED = {
    "ExplVR_BigEndNoMeta.dcm": "no DICM mark",
    "ExplVR_LitEndNoMeta.dcm": "no DICM mark",
    "JPEG2000-embedded-sequence-delimiter.dcm": "the compressed picture is 1024 x 3722445056 x 1",
    "MR_truncated.dcm": "cannot be decoded",
    "README": "no DICM mark",
    "SC_rgb_rle_16bit_2frame.dcm": "2 frames",
    "SC_rgb_rle_2frame.dcm": "2 frames",
    "SC_rgb_rle_32bit_2frame.dcm": "2 frames",
    "UN_sequence.dcm": "not an image",
    "badVR.dcm": "cannot be decoded",
    "examples_ybr_color.dcm": "30 frames",
    "empty_charset_LEI.dcm": "not an image",
    "meta_missing_tsyntax.dcm": "TransferSyntaxUID",
    "nested_priv_SQ.dcm": "not an image",
    "no_meta.dcm": "no DICM mark",
    "no_meta_group_length.dcm": "not an image",
    "priv_SQ.dcm": "not an image",
    "reportsi.dcm": "not an image",
    "reportsi_with_empty_number_tags.dcm": "not an image",
    "rtdose.dcm": "15 frames",
    "rtdose_expb.dcm": "15 frames",
    "rtdose_rle.dcm": "15 frames",
    "rtplan.dcm": "not an image",
    "rtplan_truncated.dcm": "not an image",
    "rtstruct.dcm": "no DICM mark",
    "test-SR.dcm": "not an image",
    "waveform_ecg.dcm": "not an image",
}
"""pydicom's own test files that are no radiograph, and why; beside DICOMDIR and TINY_ALPHA's, which hold no pixels."""


def test_every_file_of_pydicom_is_read_or_named() -> None:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    paths = [path for path in folder.rglob("*") if path.suffix in (".dcm", "") and path.is_file()]
    reasons = {}
    for path in paths:
        with warnings.catch_warnings(action="error"):
            try:
                gray, _ = read_dicom(path.read_bytes())
                assert (gray.dtype, gray.ndim) == (np.uint8, 2)
            except UnreadableImage as error:
                reasons[path] = str(error)
    assert len(paths) - len(reasons) >= 83
    for path, reason in reasons.items():
        without = "not an image" if "DICOMDIR" in path.name or path.name.startswith("IM0") else ""
        assert (without or REFUSED[path.name]) in reason
    assert set(REFUSED) <= {path.name for path in reasons}
