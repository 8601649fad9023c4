import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEGLossless, RLELossless, generate_uid

from sharding.decoders import encode_frame
from sharding.dicom import Header, read_dicom, read_size
from sharding.pixels import DEFAULT, Gray, Rendering, UnreadableImage
from tests.references.dicom_gray import Table, shown_gray, value_of
from tests.sharding.cohorts import BAD_SECTOR, dicom, draw, save


def packed(dataset: Any) -> bytes:
    """The bytes of its file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=False)
    return file.getvalue()


def gray_of(stored: Any, bits: int = 12, rendering: Rendering = DEFAULT, **tags: Any) -> Gray:
    return read_dicom(packed(dicom(stored, bits, **tags)), rendering)[0]


def table_of(table: Table, depth: int) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "SS" if table.first < 0 else "US", [len(table.entries), table.first, depth])
    item.add_new(0x00283006, "US", table.entries)
    item.ModalityLUTType = "US"
    return item


@st.composite
def radiographs(draw_one: st.DrawFn) -> tuple[Any, int, dict[str, Any], dict[str, Any]]:
    """Stored values, bits, tags, and the same as the reference's arguments."""
    bits = draw_one(st.sampled_from([8, 10, 12, 14, 16]))
    signed = draw_one(st.booleans())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    rng = np.random.default_rng(draw_one(st.integers(0, 10**6)))
    stored = rng.integers(low, high + 1, (7, 5)) // draw_one(st.sampled_from([1, 4, 10**6]))
    stored = stored.astype(("i" if signed else "u") + ("1" if bits == 8 else "2"))
    tags: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    modality = draw_one(st.sampled_from(["none", "rescale", "table"]))
    if modality == "rescale":
        tags |= {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}
        expected |= {"slope": 0.5, "intercept": -100.0}
    if modality == "table":
        lut = Table(int(rng.integers(low, high)), rng.integers(0, 4096, 300).tolist())
        tags |= {"ModalityLUTSequence": [table_of(lut, 16)]}
        expected |= {"modality_table": lut}
    if draw_one(st.booleans()):
        windows = [(float(rng.integers(low, high)), float(rng.integers(2, 2**bits))) for _ in range(3)]
        windows = windows[: draw_one(st.integers(1, 3))]
        function = draw_one(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
        tags |= {"WindowCenter": [center for center, _ in windows], "WindowWidth": [width for _, width in windows]}
        tags |= {"VOILUTFunction": function}
        expected |= {"windows": windows, "function": function}
    if draw_one(st.booleans()):
        lut = Table(int(rng.integers(max(low, -300), 300)), rng.integers(0, 2**10, 500).tolist())
        tags |= {"VOILUTSequence": [table_of(lut, draw_one(st.sampled_from([10, 12, 16])))]}
        expected |= {"voi_table": lut}
    if draw_one(st.booleans()):
        tags |= {"PhotometricInterpretation": "MONOCHROME1"}
        expected |= {"monochrome1": True}
    if draw_one(st.booleans()):
        first, last = int(stored[0, 0]), int(stored[draw_one(st.sampled_from([(0, 0), (0, 1)]))])
        tags |= {"PixelPaddingValue": first} | ({"PixelPaddingRangeLimit": last} if first != last else {})
        expected |= {"padding": (min(first, last), max(first, last))}
    return stored, bits, tags, expected


renderings = st.builds(
    Rendering,
    intensity=st.sampled_from(["voi", "window", "percentile", "range"]),
    window=st.integers(0, 3),
    percentiles=st.sampled_from([(0.5, 99.5), (0.0, 100.0), (10.0, 60.0)]),
    bits=st.sampled_from([8, 16]),
)


@settings(max_examples=300, deadline=None)
@given(radiographs(), renderings)
def test_equals_the_plain_reference(
    case: tuple[Any, int, dict[str, Any], dict[str, Any]], rendering: Rendering
) -> None:
    stored, bits, tags, expected = case
    found = gray_of(stored, bits, rendering, **tags)
    assert found.dtype == (np.uint8 if rendering.bits == 8 else np.uint16)
    shown = shown_gray(
        stored.astype(np.int64),
        **expected,
        intensity=rendering.intensity,
        window=rendering.window,
        percentiles=rendering.percentiles,
        bits=rendering.bits,
    )
    # One step where a value lies on the border of two grays and floating point decides.
    assert np.abs(found.astype(int) - shown).max() <= 1
    assert (found == shown).mean() > 0.9


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 16).flatmap(lambda bits: st.tuples(st.just(bits), st.integers(bits - 1, 15))),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_what_lies_beside_the_value_in_a_cell_is_not_seen(
    place: tuple[int, int], signed: bool, run_lengths: bool, seed: int
) -> None:
    """Old files keep overlays in the bits above HighBit, or below the value."""
    bits, high_bit = place
    cells = np.random.default_rng(seed).integers(0, 2**16, (6, 8), dtype=np.uint16)
    dataset = dicom(cells, 16)
    if run_lengths:
        dataset.compress(RLELossless)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, high_bit, int(signed)
    values = np.vectorize(lambda cell: value_of(int(cell), bits, high_bit, signed))(cells)
    found = read_dicom(packed(dataset), Rendering(intensity="range"))[0]
    assert np.abs(found.astype(int) - shown_gray(values)).max() <= 1


def test_an_overlay_inside_the_pixels_leaves_no_trace() -> None:
    values = draw(3).astype(np.uint16) << 4
    planted = values | (draw(4) > 100).astype(np.uint16) << 12 | (draw(5) > 100).astype(np.uint16) << 15
    tags = {"OverlayBitPosition": 12, "OverlayRows": 60, "OverlayColumns": 50}
    clean = read_dicom(packed(dicom(values, 12)))[0]
    for compressed in (None, JPEGLossless, RLELossless):
        dataset = dicom(planted, 12)
        for number, (element, vr) in enumerate(((0x60000010, "US"), (0x60000011, "US"), (0x60000102, "US"))):
            dataset.add_new(element, vr, list(tags.values())[number - 2])
        if compressed == RLELossless:
            dataset.compress(RLELossless)
        elif compressed is not None:
            compress(dataset, compressed, encode_frame(compressed, planted, 16))
        assert np.array_equal(read_dicom(packed(dataset))[0], clean)
    compress(dataset, JPEG2000, encode_frame(pydicom.uid.JPEG2000Lossless, planted, 16))
    with pytest.raises(UnreadableImage, match="an overlay is mixed into lossy pixels"):
        read_dicom(packed(dataset))


def compress(dataset: Any, syntax: str, codestream: bytes) -> None:
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax


def test_a_lookup_table_goes_before_the_window_and_says_what_is_white() -> None:
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    falling = Table(0, [4095 - 8 * value for value in range(256)])
    for depth in (10, 12, 16):  # what the descriptor says of the bits is wrong in some files
        found = gray_of(stored, VOILUTSequence=[table_of(falling, depth)], WindowCenter=10, WindowWidth=5)
        assert np.abs(found - (4095 - 8 * stored.astype(float)) / 4095 * 255).max() <= 0.5 + 1e-9
    assert (
        gray_of(
            stored, 12, Rendering("window"), VOILUTSequence=[table_of(falling, 12)], WindowCenter=10, WindowWidth=5
        )[1, 0]
        == 255
    )


def test_one_of_several_tables_is_chosen_and_a_short_one_is_passed_over() -> None:
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    rising, falling = Table(0, list(range(256))), Table(0, list(range(255, -1, -1)))
    both = {"VOILUTSequence": [table_of(rising, 8), table_of(falling, 8)]}
    for window, expected in ((0, stored), (1, 255 - stored), (7, 255 - stored)):
        assert np.array_equal(gray_of(stored, 12, Rendering(window=window), **both), expected)
    whole = Table(0, [255 - value // 16 for value in range(4096)])  # more entries than their 8 bits count
    assert np.array_equal(gray_of(stored * 16, 12, VOILUTSequence=[table_of(whole, 8)]), 255 - stored)
    short = table_of(falling, 8)
    short.LUTDescriptor = [4096, 0, 8]
    assert np.array_equal(gray_of(stored, 8, VOILUTSequence=[short], WindowCenter=128, WindowWidth=256), stored)


def test_a_constant_image_is_black_and_does_not_divide_by_zero() -> None:
    for intensity in ("voi", "window", "percentile", "range"):
        for bits in (8, 16):
            rendering = Rendering(intensity, bits=bits)  # type: ignore[arg-type]
            assert not gray_of(np.full((4, 4), 700, np.uint16), 12, rendering).any()
            assert not gray_of(np.full((4, 4), 700, np.uint16), 12, rendering, PixelPaddingValue=700).any()


def test_padding_decides_nothing() -> None:
    stored = np.array([[0, 1000, 2000, 3000, 65535]], dtype=np.uint16)
    for intensity in ("range", "percentile"):
        rendering = Rendering(intensity, percentiles=(0, 100))  # type: ignore[arg-type]
        found = gray_of(stored, 16, rendering, PixelPaddingValue=0, PixelPaddingRangeLimit=500)
        assert found[0].tolist() == [0, 0, 4, 8, 255]
        found = gray_of(stored, 16, rendering, PixelPaddingValue=65535)
        assert found[0].tolist() == [0, 85, 170, 255, 0]
        found = gray_of(stored, 16, rendering, PixelPaddingValue=65535, PhotometricInterpretation="MONOCHROME1")
        assert found[0].tolist() == [255, 170, 85, 0, 0]


def test_colour_becomes_luma() -> None:
    colour = np.stack([draw(1), draw(2), draw(3)], axis=-1)
    dataset = dicom(draw(1), 8, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB")
    dataset.PixelData = colour.tobytes()
    exact = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_dicom(packed(dataset))[0] - exact).max() <= 0.501
    wide = read_dicom(packed(dataset), Rendering(bits=16))[0]
    assert wide.dtype == np.uint16
    assert np.abs(wide / 257 - exact).max() <= 0.501
    stretched = read_dicom(packed(dataset), Rendering("range"))[0]
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_a_palette_of_16_bits_shows_its_colours() -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    dataset = dicom(stored, 8, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", (np.arange(256, dtype="<u2") * 257).tobytes())
    with warnings.catch_warnings(action="ignore"):
        found = read_dicom(packed(dataset))[0]
    assert np.abs(found.astype(int) - stored).max() <= 1


def test_floating_point_and_32_bits_are_read() -> None:
    values = np.linspace(-3, 5, 64).reshape(8, 8)
    dataset = dicom(np.zeros((8, 8), np.uint16), 16)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.BitsAllocated = 32
    values[0, 3] = np.nan
    dataset.FloatPixelData = values.astype("<f4").tobytes()
    found = read_dicom(packed(dataset))[0]
    values[0, 3] = -3
    assert np.abs(found - (values + 3) / 8 * 255).max() <= 0.51
    whole = np.arange(64).reshape(8, 8) * 60_000_000 - 2**31 + 5
    dataset = dicom(np.zeros((8, 8), np.int16), 16, BitsAllocated=32, BitsStored=32, HighBit=31)
    dataset.PixelData = whole.astype("<i4").tobytes()
    assert np.array_equal(read_dicom(packed(dataset))[0], np.floor(np.arange(64).reshape(8, 8) / 63 * 255 + 0.5))


def test_only_four_fields_of_the_header_pass_and_free_text_does_not() -> None:
    tags = {"PatientID": "P7", "PatientSex": "F", "PatientAge": "047Y", "ViewPosition": "PA"}
    data = packed(dicom(draw(1), 8, **tags, BurnedInAnnotation="YES"))
    assert read_dicom(data)[1] == Header("P7", "F", "40-49", "PA", True)
    with warnings.catch_warnings(action="ignore"):
        data = packed(dicom(draw(1), 8, PatientSex="Eve", PatientAge="old", ViewPosition="EVE"))
    assert read_dicom(data)[1] == Header(None, None, None, None, False)


def test_the_size_is_told_without_the_pixels(tmp_path: Path) -> None:
    path = save(dicom(draw(1), 8), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[: -60 * 50])  # its pixels are gone
    assert read_size(path) == (60, 50)
    with pytest.raises(UnreadableImage, match="the file has gone"):
        read_size(tmp_path / "none.dcm")
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableImage, match="header cannot be read"):
        read_size(tmp_path / "cut.dcm")


@pytest.mark.parametrize("rendering", [DEFAULT, Rendering("window"), Rendering("percentile", bits=16)])
@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "nan", "WindowWidth": "100"},
        {"WindowCenter": "100", "WindowWidth": "inf"},
        {"WindowCenter": "-inf", "WindowWidth": "nan"},
        {"RescaleSlope": "nan", "RescaleIntercept": "0"},
        {"RescaleSlope": "inf", "RescaleIntercept": "-inf"},
        {"RescaleSlope": "1e308", "RescaleIntercept": "0"},
    ],
)
def test_numbers_that_are_not_finite_are_as_if_they_were_absent(tags: dict[str, str], rendering: Rendering) -> None:
    stored = draw(1).astype(np.uint16) * 16
    dataset = dicom(stored)
    for name, value in tags.items():
        dataset.add_new(name, "LO", value)
        dataset[name].VR = "DS"
    with warnings.catch_warnings(action="error"):
        found = read_dicom(packed(dataset), rendering)[0]
    assert np.array_equal(found, gray_of(stored, rendering=rendering))


def test_floating_point_pixels_beyond_each_other_are_no_chance() -> None:
    dataset = dicom(draw(1).astype(np.uint16))
    del dataset.PixelData
    values = np.linspace(-1.0, 1.0, 60 * 50) * 1.7e308
    dataset.BitsAllocated, dataset.DoubleFloatPixelData = 64, values.tobytes()
    for attribute in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, attribute)
    assert not read_dicom(packed(dataset))[0].any()


def test_a_disk_that_fails_is_no_fault_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").symlink_to(BAD_SECTOR)
    with pytest.raises(OSError, match="Input/output error"):
        read_size(tmp_path / "a.dcm")


def test_the_two_real_radiographs_are_read(real_data: Path) -> None:
    """The second is the first whose header, not its pixels, was made MONOCHROME1."""
    paths = sorted((real_data / "dicom").glob("*.dcm"))
    upright, turned = (read_dicom(path.read_bytes()) for path in paths)
    assert upright[0].shape == read_size(paths[0]) == (1024, 1024)
    assert upright[1].view_position == "PA"
    # Spine and heart are brighter than the lung beside them.
    assert upright[0][300:700, 540:600].mean() > upright[0][300:700, 250:350].mean() + 50
    assert np.abs(turned[0].astype(int) + upright[0] - 255).max() <= 1


def test_no_message_holds_words_of_the_header() -> None:
    """Sentinels wherever a file may hold text, in files that are refused for every reason."""
    words = {
        "PatientName": "SENTINEL^A",
        "PatientID": "SENTINEL",
        "StudyDescription": "SENTINEL",
        "Manufacturer": "SENTINEL",
    }
    changes: list[Any] = [
        lambda d: delattr(d, "PixelData"),
        lambda d: setattr(d, "PhotometricInterpretation", "SENTINEL"),
        lambda d: setattr(d.file_meta, "TransferSyntaxUID", generate_uid(prefix="1.2.3.77777.")),
        lambda d: setattr(d, "VOILUTFunction", "SENTINEL"),
        lambda d: d.add_new(0x00281050, "LO", "SENTINEL"),
        lambda d: d.add_new(0x00280010, "LO", "SENTINEL"),
        lambda d: d.add_new(0x00280008, "LO", "SENTINEL"),
        lambda d: d.add_new(0x00280100, "LO", "SENTINEL"),
        lambda d: d.add_new(0x00281053, "LO", "SENTINEL"),
    ]
    told = []
    for change in changes:
        dataset = dicom(draw(1), 8, **words)
        with warnings.catch_warnings(action="ignore"):
            change(dataset)
            data = packed(dataset)
        told.append(reason_of(data))
    assert len([reason for reason in told if reason]) >= 6
    assert not [reason for reason in told if "SENTINEL" in reason or "77777" in reason]


def reason_of(data: bytes) -> str:
    """Why the file is refused, "" where it is read."""
    try:
        read_dicom(data)
    except UnreadableImage as error:
        return str(error)
    return ""
