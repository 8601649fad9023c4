"""Sentinels in every element that DICOM's dictionary knows, in private ones, overlays, file meta and preamble: none of
them reaches a shard set, what is printed, or the lists beside it (but for the names of files in those)."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, RepeatersDictionary, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset
from pydicom.tag import Tag

from sharding.build import main
from sharding.index import ShardSet
from tests.sharding.cohorts import dicom, draw, save, write_key

SENTINEL, NUMBER, DATE = "ZYXWSENTINEL", "271828182", "19661224"
TEXTS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
PIXEL_GROUPS = (0x0002, 0x0028, 0x7FE0)
"""Groups whose elements say how pixels are coded: without the right ones there is no image."""


def value_for(vr: str) -> object:
    if vr in TEXTS:
        return SENTINEL
    if vr in ("OB", "OW", "UN", "OB or OW", "OL", "OV", "OF", "OD"):
        return (SENTINEL + "....").encode()
    match vr:
        case "DA":
            return DATE
        case "DT":
            return f"{DATE}101112"
        case "TM":
            return "101112"
        case "AS":
            return "099Y"
        case "UI":
            return f"1.2.{NUMBER}"
        case "IS" | "DS":
            return NUMBER
        case "UL" | "SL" | "FL" | "FD" | "SV" | "UV":
            return 271828182
        case "US" | "SS":
            return 27182
        case "AT":
            return Tag(0x0010, 0x0010)
    return None


def filled(number: int) -> tuple[FileDataset, int]:
    """A radiograph with every element that has no part in decoding it, and how many were put in."""
    dataset = dicom(draw(number).astype(np.uint16) * 16)
    count = 0
    for tag, (vr, *_) in DicomDictionary.items():
        if Tag(tag).group in PIXEL_GROUPS or Tag(tag).group < 8 or tag in dataset:
            continue
        if vr == "SQ":
            item = pydicom.Dataset()
            item.PatientName, item.CodeMeaning, item.InstanceCreationDate = SENTINEL, SENTINEL, DATE
            dataset.add(DataElement(tag, vr, [item]))
        elif (value := value_for(vr)) is not None:
            dataset.add(DataElement(tag, "OB" if vr == "OB or OW" else vr, value))
        else:
            continue
        count += 1
    for mask, (vr, *_) in RepeatersDictionary.items():  # overlays, curves
        if mask.startswith(("60", "50")) and (value := value_for(vr)) is not None:
            tag = int(mask.replace("x", "0"), 16)
            dataset.add(DataElement(tag, "OB" if " or " in vr else vr, value))
            count += 1
    block = dataset.private_block(0x0009, f"{SENTINEL} MAKER", create=True)
    for offset, vr in enumerate(("LO", "PN", "UN", "DA", "UI"), 1):
        block.add_new(offset, vr, value_for(vr))
    dataset.ImageComments = f"{SENTINEL} comments"  # group 0028 of old
    dataset.file_meta.SourceApplicationEntityTitle = SENTINEL
    dataset.file_meta.PrivateInformationCreatorUID = f"1.2.{NUMBER}"
    dataset.file_meta.PrivateInformation = SENTINEL.encode()
    dataset.preamble = (SENTINEL * 11)[:128].encode()
    dataset.BurnedInAnnotation = "NO"
    return dataset, count


@pytest.mark.parametrize("codec", ["jpeg", "htj2k", "jpeg2000", "png"])
def test_no_element_of_the_header_gets_out(tmp_path: Path, codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(2):
            dataset, count = filled(number)
            assert count > 4000
            save(dataset, tmp_path / "root" / f"{number}.dcm")
    raw = (tmp_path / "root" / "0.dcm").read_bytes()
    assert raw.count(SENTINEL.encode()) > 2000
    assert keyword_for_tag(0x00100010) == "PatientName"
    words = ["folder", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "set"), "--processes", "1"]
    words += ["--key_file", str(write_key(tmp_path / "key")), "--codec", codec, "--levels", "32"]
    assert main(words) == 0
    told = capsys.readouterr()
    written = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    written |= {"stdout": told.out.encode(), "stderr": told.err.encode()}
    written |= {path.name: path.read_bytes() for path in tmp_path.glob("set.*")}
    for name, data in written.items():
        for word in (SENTINEL, NUMBER, DATE, "101112"):
            assert word.encode() not in data, (name, word)
    shards = ShardSet.open(tmp_path / "set")
    assert shards.column("age_band").tolist() == ["90+"] * 2
    assert len(set(shards.column("patient"))) == 1
    assert shards.column("sex").tolist() == shards.column("view_position").tolist() == [None] * 2
    assert shards.column("scanner").tolist() == [None] * 2
