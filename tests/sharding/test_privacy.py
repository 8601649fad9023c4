import csv
import json
import os
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from cluster.target import open_target
from sharding.build import main
from sharding.commit import hold
from sharding.folder import FolderConfig
from sharding.index import ShardSet
from sharding.privacy import find_key, keep_key, pseudonym
from tests.sharding.cohorts import SECRET, dicom, draw, save, write_csv, write_key


def test_a_pseudonym_needs_the_key() -> None:
    assert pseudonym(SECRET, "patient", "7") == pseudonym(SECRET, "patient", "7")
    others = {pseudonym(SECRET, "key", "7"), pseudonym(b"x" * 32, "patient", "7"), pseudonym(SECRET, "patient", "8")}
    assert len(others | {pseudonym(SECRET, "patient", "7")}) == 4
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in others)


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "set.key"
    secret = find_key(path, tmp_path / "set")
    assert not path.exists()
    keep_key(path, secret)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find_key(path, tmp_path / "set") == secret
    keep_key(path, secret)
    with pytest.raises(ValueError, match="start again"):
        keep_key(path, SECRET)
    path.write_text("not a key")
    with pytest.raises(ValueError, match="64 hex digits"):
        find_key(path, tmp_path / "set")
    with pytest.raises(ValueError, match="inside the shard set"):
        find_key(tmp_path / "set" / "key", tmp_path / "set")


def test_no_header_and_no_name_reaches_the_shard_set(tmp_path: Path) -> None:
    """SENTINEL in every text element of the header, private ones too, in file names and in the patient column."""
    texts = ("PatientName", "PatientID", "InstitutionName", "StudyDescription", "Manufacturer", "StationName")
    texts += ("ManufacturerModelName", "ReferringPhysicianName", "AccessionNumber", "PatientComments", "ViewPosition")
    for number in range(2):
        dataset = dicom(draw(number).astype(np.uint16) * 16, StudyDate="19991231", PatientBirthDate="19991231")
        dataset.StudyInstanceUID = "1.2.3.19991231"
        for name in texts:
            setattr(dataset, name, "SENTINEL")
        block = dataset.private_block(0x0009, "SENTINEL MAKER", create=True)
        block.add_new(1, "LO", "SENTINEL")
        item = pydicom.Dataset()
        item.CodeMeaning = "SENTINEL"
        dataset.RequestAttributesSequence = [item]
        save(dataset, tmp_path / "root" / "SENTINEL" / f"SENTINEL^{number}.dcm")
    (tmp_path / "root" / "SENTINEL" / "SENTINEL broken.dcm").write_bytes(b"SENTINEL" * 99)
    Image.fromarray(draw(2)).save(tmp_path / "root" / "SENTINEL" / "SENTINEL,19991231.png")
    names = ["SENTINEL^0.dcm", "SENTINEL^1.dcm", "SENTINEL broken.dcm", "SENTINEL,19991231.png"]
    rows = [["path", "patient"], *([f"SENTINEL/{name}", "SENTINEL"] for name in names)]
    words = ["folder", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "set"), "--processes", "1"]
    words += ["--csv", str(write_csv(tmp_path / "SENTINEL.csv", rows)), "--max_bad_share", "1"]
    assert main([*words, "--key_file", str(write_key(tmp_path / "key"))]) == 0
    for path in (tmp_path / "set").rglob("*"):
        data = path.read_bytes()
        assert "SENTINEL" not in path.name
        for word in (b"SENTINEL", b"19991231", b"1.2.3", str(tmp_path).encode(), SECRET.hex().encode()):
            assert word not in data, path
    shards = ShardSet.open(tmp_path / "set")
    assert set(shards.column("patient")) == {pseudonym(SECRET, "patient", "SENTINEL")}
    assert shards.manifest["num_quarantined"] == 1
    listed = tmp_path / "set.quarantine.jsonl"
    assert json.loads(listed.read_text())["name"] == "SENTINEL/SENTINEL broken.dcm"
    assert stat.S_IMODE(listed.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("SENTINEL.csv", "key", "root", "set", "set.names.csv", "set.quarantine.jsonl")
    ]
    way_back = tmp_path / "set.names.csv"
    assert stat.S_IMODE(way_back.stat().st_mode) == 0o600
    with open(way_back, newline="") as file:
        found = {row["key"]: row["name"] for row in csv.DictReader(file)}
    assert {found[key] for key in shards.column("key")} == {f"SENTINEL/{name}" for name in [*names[:2], names[3]]}


def test_what_holds_names_is_never_open_to_others(tmp_path: Path) -> None:
    """The umask lets everybody read, and a folder of records that is there already was open."""
    save(dicom(draw(1), 8), tmp_path / "root" / "Ann.dcm")
    records = tmp_path / "set.partial"
    records.mkdir(mode=0o755)
    with hold(FolderConfig(root=tmp_path, out=tmp_path / "set"), open_target(tmp_path / "set")):
        assert stat.S_IMODE(records.stat().st_mode) == 0o700
    before = os.umask(0)
    try:
        with hold(FolderConfig(root=tmp_path, out=tmp_path / "other"), open_target(tmp_path / "other")):
            assert stat.S_IMODE((tmp_path / "other.partial").stat().st_mode) == 0o700
    finally:
        os.umask(before)
