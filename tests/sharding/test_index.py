import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.files import sha256_file
from sharding.build import run
from sharding.findings import NIH_FINDINGS
from sharding.index import ShardSet
from sharding.manifest import INDEX, MANIFEST
from sharding.nih import NihConfig
from tests.sharding.cohorts import write_key, write_nih


@pytest.fixture(scope="module")
def nih(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nih")
    write_nih(folder / "root")
    key = write_key(folder / "key")
    run(
        NihConfig(
            root=folder / "root",
            out=folder / "set",
            key_file=key,
            processes=1,
            samples_per_shard=4,
            valid_share=0.4,
            levels=(32, 16),
            max_side_px=48,
        )
    )
    return folder / "set"


def test_rows_by_split_and_by_boxes(nih: Path) -> None:
    shards = ShardSet.open(nih)
    assert shards.findings == NIH_FINDINGS
    assert len(shards) == 18
    parts = [set(shards.rows(split).tolist()) for split in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [shards.manifest["counts"][s]["images"] for s in ("train", "valid", "test")]
    assert set.union(*parts) == set(shards.rows(None).tolist()) == set(range(18))
    assert shards.rows(["train", "valid"]).tolist() == sorted(parts[0] | parts[1])
    assert shards.rows("test", has_boxes=True).size == 1
    assert shards.rows(None, has_boxes=False).size == 17


def test_what_a_row_says(nih: Path) -> None:
    shards = ShardSet.open(nih)
    row = int(shards.rows(None, has_boxes=True)[0])
    boxes_K4, findings_K = shards.boxes_of(row)
    assert shards.key_of(row) == "00000006_002"
    assert shards.findings_of(row) == (NIH_FINDINGS.index("Infiltration"),) == tuple(findings_K)
    # The list is in pixels of 1024 x 1024; the images here are 50 wide and 60 high.
    expected = np.array([[102.4 * 50 / 1024, 204.8 * 60 / 1024, 614.4 * 50 / 1024, 460.8 * 60 / 1024]])
    assert boxes_K4.dtype == np.float32
    assert np.allclose(boxes_K4, expected)
    assert (shards.column("height")[row], shards.column("width")[row]) == (60, 50)
    other = int(shards.rows("train")[0])
    assert shards.boxes_of(other)[0].shape == (0, 4)
    assert set(shards.column("sex")) == {"M", "F"}


def test_levels_point_at_their_bytes(nih: Path) -> None:
    shards = ShardSet.open(nih)
    assert shards.num_levels == 3
    for number, side in enumerate((48, 32, 16)):
        level = shards.level(number)
        assert set(level.height) == {side}
        assert set(level.width) == {round(50 * side / 60)}
        data = shards.shard_path(int(level.shard[7])).read_bytes()
        jpeg = data[level.offset[7] : level.offset[7] + level.length[7]]
        assert jpeg[:2] == b"\xff\xd8"
        assert jpeg[-2:] == b"\xff\xd9"
    with pytest.raises(ValueError, match="levels 0 to 2, not 3"):
        shards.level(3)


def test_what_is_no_shard_set_is_refused_with_the_repair(nih: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        ShardSet.open(tmp_path / "absent")
    with pytest.raises(ValueError, match="not a shard set"):
        ShardSet.open(tmp_path)
    copy = tmp_path / "set"
    shutil.copytree(nih, copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(ValueError, match=r"schema version 99.*update"):
        ShardSet.open(copy)
    (copy / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="not the manifest"):
        ShardSet.open(copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"has tars but no manifest\.json"):
        ShardSet.open(copy)
    shutil.copy(nih / MANIFEST, copy)
    (copy / INDEX).write_bytes(b"short")
    with pytest.raises(ValueError, match="has 5 bytes instead of"):
        ShardSet.open(copy)
    (copy / INDEX).unlink()
    with pytest.raises(ValueError, match="is missing"):
        ShardSet.open(copy)


@pytest.mark.parametrize("digest", ["0" * 31, "g" * 32])
def test_a_digest_that_is_none_is_told_with_the_set(nih: Path, tmp_path: Path, digest: str) -> None:
    copy = tmp_path / "set"
    shutil.copytree(nih, copy)
    table = pq.read_table(copy / INDEX)
    place = table.schema.get_field_index("digest")
    digests = [digest, *table.column("digest").to_pylist()[1:]]
    broken = table.set_column(place, table.schema.field("digest"), pa.array(digests, pa.string()))
    pq.write_table(broken, copy / INDEX)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][INDEX] |= {"bytes": (copy / INDEX).stat().st_size, "sha256": sha256_file(copy / INDEX)}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    shards = ShardSet.open(copy)
    with pytest.raises(ValueError, match=rf"the index of {copy}: .*; run `cxr verify {copy}`"):
        shards.identities(np.arange(3))


@pytest.mark.parametrize("place", [2000, -60])
def test_a_damaged_index_is_told(nih: Path, tmp_path: Path, place: int) -> None:
    """In the columns, where only a digest tells, and in the footer."""
    copy = tmp_path / "set"
    shutil.copytree(nih, copy)
    ShardSet.open(copy)
    data = bytearray((copy / INDEX).read_bytes())
    data[place] ^= 255
    (copy / INDEX).write_bytes(data)
    with pytest.raises(ValueError, match=f"{INDEX} is damaged.*cxr verify"):
        ShardSet.open(copy)
