import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from sharding.dicom import Header, read_dicom, read_size
from sharding.pixels import Gray, UnreadableImage
from tests.references.dicom_gray import shown_gray
from tests.sharding.cohorts import dicom, draw, save


def gray_of(tmp_path: Path, stored: Any, bits: int = 12, **tags: Any) -> Gray:
    return read_dicom(save(dicom(stored, bits, **tags), tmp_path / "a.dcm"))[0]


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
    if draw_one(st.booleans()):
        tags |= {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}
        expected |= {"slope": 0.5, "intercept": -100.0}
    if draw_one(st.booleans()):
        center, width = float(rng.integers(low, high)), float(rng.integers(2, 2**bits))
        function = draw_one(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
        tags |= {"WindowCenter": [center, 3], "WindowWidth": [width, 4], "VOILUTFunction": function}
        expected |= {"window": (center, width), "function": function}
    if draw_one(st.booleans()):
        tags |= {"PhotometricInterpretation": "MONOCHROME1"}
        expected |= {"monochrome1": True}
    if draw_one(st.booleans()):
        tags |= {"PixelPaddingValue": int(stored[0, 0])}
        expected |= {"padding": int(stored[0, 0])}
    return stored, bits, tags, expected


@settings(max_examples=60, deadline=None)
@given(radiographs())
def test_equals_the_plain_reference(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[Any, int, dict[str, Any], dict[str, Any]]
) -> None:
    stored, bits, tags, expected = case
    found = gray_of(tmp_path_factory.mktemp("dicom"), stored, bits, **tags)
    shown = shown_gray(stored.astype(np.int64), **expected)
    visible = stored[stored != expected["padding"]] if "padding" in expected else stored
    values = shown_gray(visible.astype(np.int64).reshape(1, -1), **(expected | {"padding": None}))
    if "window" in expected and visible.size and np.unique(visible).size > 1 and np.unique(values).size == 1:
        # The window leaves one gray: the whole range is shown instead.
        shown = shown_gray(stored.astype(np.int64), **{k: v for k, v in expected.items() if k != "window"})
        if np.unique(found[stored != expected.get("padding")]).size == 1:
            return
    assert np.abs(found.astype(int) - shown.astype(int)).max() <= 1
    assert (found == shown).mean() > 0.9


def test_a_lookup_table_goes_before_the_window(tmp_path: Path) -> None:
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table["LUTDescriptor"].VR = "US"
    table.LUTData = [65535 - 257 * value for value in range(256)]
    table["LUTData"].VR = "US"
    found = gray_of(tmp_path, stored, VOILUTSequence=[table], WindowCenter=10, WindowWidth=5)
    assert np.array_equal(found, 255 - stored)


def test_a_constant_image_is_black_and_does_not_divide_by_zero(tmp_path: Path) -> None:
    assert not gray_of(tmp_path, np.full((4, 4), 700, np.uint16)).any()
    assert not gray_of(tmp_path, np.full((4, 4), 700, np.uint16), PixelPaddingValue=700).any()


def test_jpeg2000_equals_uncompressed(tmp_path: Path) -> None:
    stored = draw(1, 64, 48).astype(np.uint16) * 16
    plain = gray_of(tmp_path, stored, WindowCenter=2000, WindowWidth=3000)
    packed = dicom(stored, WindowCenter=2000, WindowWidth=3000)
    codestream = io.BytesIO()
    Image.fromarray(stored).save(codestream, "JPEG2000", no_jp2=True, irreversible=False)
    packed.PixelData = encapsulate([codestream.getvalue()])
    packed["PixelData"].is_undefined_length = True
    packed.file_meta.TransferSyntaxUID = JPEG2000Lossless
    path = save(packed, tmp_path / "b.dcm")
    assert np.array_equal(read_dicom(path)[0], plain)
    assert read_size(path) == (64, 48)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])
    with pytest.raises(UnreadableImage):
        read_dicom(path)


def test_only_four_fields_of_the_header_pass_and_free_text_does_not(tmp_path: Path) -> None:
    tags = {"PatientID": "P7", "PatientSex": "F", "PatientAge": "047Y", "ViewPosition": "PA"}
    path = save(dicom(draw(1), 8, **tags, BurnedInAnnotation="YES"), tmp_path / "a.dcm")
    assert read_dicom(path)[1] == Header("P7", "F", "40-49", "PA", True)
    with warnings.catch_warnings(action="ignore"):
        path = save(dicom(draw(1), 8, PatientSex="Eve", PatientAge="old", ViewPosition="EVE"), tmp_path / "a.dcm")
    assert read_dicom(path)[1] == Header(None, None, None, None, False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda dataset: delattr(dataset, "PixelData"), "PixelData is missing"),
        (lambda dataset: delattr(dataset, "Rows"), "Rows or Columns is missing"),
        (lambda dataset: setattr(dataset, "NumberOfFrames", 2), "holds 2 frames"),
        (lambda dataset: [setattr(dataset, side, 60_000) for side in ("Rows", "Columns")], "are not decoded"),
        (lambda dataset: setattr(dataset, "Rows", 61), "cannot be decoded"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, change: Any, reason: str) -> None:
    dataset = dicom(draw(1), 8)
    change(dataset)
    with pytest.raises(UnreadableImage, match=reason):
        read_dicom(save(dataset, tmp_path / "a.dcm"))


def test_files_that_are_no_dicom_are_named(tmp_path: Path) -> None:
    for data, reason in ((b"", "0 bytes"), (b"\x89PNG" * 99, "no DICM mark")):
        (tmp_path / "a.dcm").write_bytes(data)
        with pytest.raises(UnreadableImage, match=reason):
            read_dicom(tmp_path / "a.dcm")


def test_every_file_of_pydicom_is_read_or_named() -> None:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    outcomes = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".dcm", "") and path.is_file()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                gray, _ = read_dicom(path)
                outcomes[path.name] = "read"
                assert gray.dtype == np.uint8
                assert gray.ndim == 2
            except UnreadableImage as error:
                outcomes[path.name] = str(error)
    assert list(outcomes.values()).count("read") >= 60
    assert "TransferSyntaxUID" in outcomes["meta_missing_tsyntax.dcm"]
    assert "cannot be decoded" in outcomes["MR_truncated.dcm"]
    assert outcomes["CT_small.dcm"] == outcomes["MR_small_jp2klossless.dcm"] == "read"


def test_the_two_real_radiographs_are_read(real_data: Path) -> None:
    """The second is the first whose header, not its pixels, was made MONOCHROME1."""
    upright, turned = (read_dicom(path) for path in sorted((real_data / "dicom").glob("*.dcm")))
    assert upright[0].shape == (1024, 1024)
    assert upright[1].view_position == "PA"
    # Spine and heart are brighter than the lung beside them.
    assert upright[0][300:700, 540:600].mean() > upright[0][300:700, 250:350].mean() + 50
    assert np.abs(turned[0].astype(int) + upright[0] - 255).max() <= 1
