import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.files import sha256_file
from sharding.build import run
from sharding.index import ShardSet
from sharding.manifest import INDEX, MANIFEST
from sharding.nih import NihConfig
from sharding.schema import INDEX_SCHEMA
from sharding.verify import find_problems, main
from tests.sharding.cohorts import write_key, write_nih


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    write_nih(folder / "root")
    key = write_key(folder / "key")
    run(NihConfig(root=folder / "root", out=folder / "set", key_file=key, processes=1, levels=(32,)))
    return folder / "set"


def test_a_whole_shard_set_is_whole(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(whole), "--processes", "1"]) == 0
    assert "18 samples are whole" in capsys.readouterr().out
    assert main([str(whole.parent)]) == 2


def first_tar(directory: Path) -> Path:
    return ShardSet.open(directory).shard_path(0)


def sign(directory: Path, path: Path) -> None:
    """Makes the manifest agree with a changed file, so that only a look inside can tell."""
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    (directory / MANIFEST).write_text(json.dumps(manifest))


def flip_a_byte(directory: Path) -> None:
    tar = first_tar(directory)
    data = bytearray(tar.read_bytes())
    data[ShardSet.open(directory).level(0).offset[1] + 300] ^= 255
    tar.write_bytes(data)


def cut_a_tar(directory: Path) -> None:
    tar = first_tar(directory)
    tar.write_bytes(tar.read_bytes()[:3000])


def lose_a_tar(directory: Path) -> None:
    first_tar(directory).unlink()


def add_a_file(directory: Path) -> None:
    (directory / "patients.csv").write_text("Ann")


def add_a_member(directory: Path) -> None:
    tar = first_tar(directory)
    with tarfile.open(tar, "a") as archive:
        member = tarfile.TarInfo("../evil.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    sign(directory, tar)


def change_the_index(directory: Path) -> None:
    table = pq.read_table(directory / INDEX).to_pylist()
    row = next(row for row in table if row["boxes"])
    row["boxes"][0]["x_max"] = 5000.0
    table[1]["key"] = table[0]["key"]
    table[2]["split"] = "test"
    pq.write_table(pq.ParquetFile(directory / INDEX).read().from_pylist(table, schema=INDEX_SCHEMA), directory / INDEX)
    sign(directory, directory / INDEX)


def spoil_the_index(directory: Path) -> None:
    (directory / INDEX).write_bytes(b"PAR1 no more")


def change_an_idx(directory: Path) -> None:
    path = first_tar(directory).with_suffix(".idx")
    path.write_text(path.read_text().replace("jpg 512 ", "jpg 1024 ", 1))
    sign(directory, path)


def name_a_patient(directory: Path) -> None:
    rows = pq.read_table(directory / INDEX).to_pylist()
    rows[0]["patient"], rows[1]["age_band"], rows[2]["view_position"] = "Ann Doe", "47", "PA of Ann"
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), directory / INDEX)
    sign(directory, directory / INDEX)


def name_the_writer(directory: Path) -> None:
    """The tar again, as `tar` would write it: the members the same, their headers not."""
    tar = first_tar(directory)
    with tarfile.open(tar, "r:") as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, data in members:
            member.uname, member.mtime = "ann", 946_684_800
            archive.addfile(member, io.BytesIO(data))
    sign(directory, tar)


def call_keys_pseudonyms(directory: Path) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["keep_names"] = False
    (directory / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_byte, ["sha256", "00000001_001: level 0 has other bytes"]),
        (cut_a_tar, ["has 3000 bytes instead of"]),
        (lose_a_tar, ["nih-000000.tar: is missing"]),
        (add_a_file, ["patients.csv: not a file of this shard set"]),
        (add_a_member, ["unexpected member '../evil.jpg'", "idx: does not say"]),
        (
            change_the_index,
            ["y_max) is not a rectangle", "has 2 rows", "two sides", "json does not agree", "unexpected"],
        ),
        (spoil_the_index, ["index.parquet: has 12 bytes", "cannot be read"]),
        (change_an_idx, ["nih-000000.idx: does not say where"]),
        (name_a_patient, ["patient 'Ann Doe' is not of the form", "age_band '47'", "view_position 'PA of Ann'"]),
        (name_the_writer, ["the header of member '00000001_000.jpg' names a user, a group or a date"]),
        (call_keys_pseudonyms, ["00000001_000: its key is no pseudonym"]),
    ],
)
def test_damage_is_told(whole: Path, tmp_path: Path, damage: Callable[[Path], None], words: list[str]) -> None:
    copy = tmp_path / "set"
    shutil.copytree(whole, copy)
    damage(copy)
    problems = find_problems(copy)
    for word in words:
        assert any(word in problem for problem in problems), (word, problems)
    assert main([str(copy), "--processes", "1"]) == 1
