import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from sharding import source
from sharding.archives import SPACING_BYTES, Listing, list_archives
from sharding.sample import SourceImage
from sharding.source import read_source
from tests.sharding.cohorts import BAD_SECTOR, noisy_png, powerless

NAMES = [f"images/{number:08d}_000.png" for number in range(12)]


def pack(path: Path, members: dict[str, bytes], end: bool = True) -> Path:
    """A tar, compressed where its name says so."""
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    data = text.getvalue()
    if not end:
        data = data.rstrip(b"\0")
        data += bytes(-len(data) % 512)
    path.write_bytes(gzip.compress(data, 1) if path.suffix in (".gz", ".tgz") else data)
    return path


@pytest.fixture(scope="module")
def pngs() -> dict[str, bytes]:
    """Twelve PNG files of some 120 KB."""
    return {name: noisy_png(number, 350) for number, name in enumerate(NAMES)}


def listing(path: Path, index_folder: Path | None = None) -> Listing:
    (found,) = list_archives([(path.name, path)], index_folder)
    return found


def images(found: Listing) -> list[SourceImage]:
    about = {"kind": "image", "source": "s", "split": "", "findings": None, "boxes": None, "stat": found.stat}
    return [SourceImage(found.place, name=m.name, key=m.name, span=m.span, **about) for m in found.members]  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("kept", [False, True])
def test_members_are_listed_and_read_in_any_order(
    ending: str, kept: bool, tmp_path: Path, pngs: dict[str, bytes]
) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    path = pack(tmp_path / f"images_001{ending}", pngs)
    found = listing(path, folder if kept else None)
    assert [member.name for member in found.members] == NAMES
    assert not found.refusals
    assert all(member.head == pngs[member.name][:33] for member in found.members)
    for order in (images(found), images(found)[::-1], images(found)[::5]):
        for image in order:
            assert read_source(image, folder if kept else None) == pngs[image.name]
    assert {file.suffix for file in folder.iterdir()} == (
        set() if not kept else {".json"} if ending == ".tar" else {".json", ".gzidx"}
    )


def test_a_large_archive_is_read_through_its_seek_points(tmp_path: Path) -> None:
    members = {f"{number}.bin": os.urandom(3 << 20) for number in range(8)}
    found = listing(pack(tmp_path / "a.tar.gz", members), tmp_path)
    (index,) = tmp_path.glob("*.gzidx")
    assert index.stat().st_size > 4 * 32_768
    assert index.stat().st_size < 8 * 3 * (1 << 20) / SPACING_BYTES * 40_000
    for image in (*images(found)[::-1], *images(found), *images(found)[2::3]):
        assert read_source(image, tmp_path) == members[image.name]


def test_a_kept_list_is_taken_while_the_archive_is_the_same(
    tmp_path: Path, pngs: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack(tmp_path / "a.tar.gz", pngs)
    first = listing(path, tmp_path)
    assert "list archives" in capsys.readouterr().err
    assert listing(path, tmp_path) == first
    assert not capsys.readouterr().err
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.glob("*.json"))
    pack(path, dict(list(pngs.items())[:3]))
    assert len(listing(path, tmp_path).members) == 3
    with pytest.raises(source.UnreadableImage, match="its archive has changed"):
        read_source(images(first)[0], tmp_path)


def test_several_processes_list_the_same(tmp_path: Path, pngs: dict[str, bytes]) -> None:
    paths = [pack(tmp_path / f"images_00{n}.tar.gz", {f"{n}/{k}": v for k, v in pngs.items()}) for n in range(3)]
    archives = [(path.name, path) for path in paths]
    assert list_archives(archives, tmp_path, processes=2) == list_archives(archives, None)


def test_what_a_tar_must_not_hold_is_named(tmp_path: Path, pngs: dict[str, bytes]) -> None:
    good = pngs[NAMES[0]]
    path = tmp_path / "images_001.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("images/a.png", "../evil.png", "images/../../b.png", "/etc/c.png", "images/a.png", "e.png"):
            header = tarfile.TarInfo(name)
            header.size = len(good)
            tar.addfile(header, io.BytesIO(good))
        for name, kind in (("sym.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("dev.png", tarfile.CHRTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "images/a.png"
            tar.addfile(header)
        header = tarfile.TarInfo("folder")
        header.type = tarfile.DIRTYPE
        tar.addfile(header)
    found = listing(path)
    assert [member.name for member in found.members] == ["images/a.png", "e.png"]
    reasons = [(refusal.name.removeprefix("images_001.tar.gz/"), refusal.reason) for refusal in found.refusals]
    expected = [
        ("../evil.png", "leads out"),
        ("images/../../b.png", "leads out"),
        ("/etc/c.png", "leads out"),
        ("images/a.png", "a second time"),
        *((name, "is a link, a device") for name in ("sym.png", "hard.png", "dev.png")),
    ]
    assert [name for name, _ in reasons] == [name for name, _ in expected]
    assert all(part in reason for (_, reason), (_, part) in zip(reasons, expected, strict=True))


def test_a_header_that_promises_too_much_is_not_read(tmp_path: Path) -> None:
    for name, kind, size in (("huge.png", tarfile.REGTYPE, (2 << 30) + 1), ("x", tarfile.XHDTYPE, 1 << 33)):
        header = tarfile.TarInfo(name)
        header.type, header.size = kind, size
        path = tmp_path / "a.tar"
        path.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
        with open(path, "ab") as file:
            file.truncate((2 << 30) + 4096)  # sparse: takes no room
        found = listing(path)
        assert not found.members
        assert f"{size:,} bytes" in found.refusals[0].reason
        path.unlink()


@pytest.mark.parametrize(
    ("what", "reason", "lost"),
    [
        ("cut", "end-of-stream marker", 6),
        ("flipped", "CRC check failed", 1),
        ("no block", "invalid", 6),
        ("check sum", "CRC check failed", 0),
        ("junk behind", "Not a gzipped file", 0),
        ("no end mark", "without an end mark", 0),
        ("two tars", "something follows its end mark", 0),
    ],
)
def test_of_a_damaged_archive_the_sound_part_is_kept_and_the_damage_named(
    what: str, reason: str, lost: int, tmp_path: Path, pngs: dict[str, bytes]
) -> None:
    path = pack(tmp_path / "a.tar.gz", pngs, end=what != "no end mark")
    data = bytearray(path.read_bytes())
    middle = len(data) * 13 // 24  # in the midst of the seventh
    match what:
        case "cut":
            del data[middle:]
        case "flipped":
            data[middle] ^= 0x10
        case "no block":
            data[middle : middle + 70_000] = b"\xff" * 70_000
        case "check sum":
            data[-8] ^= 1
        case "junk behind":
            data += b"junk" * 99
        case "two tars":
            data = data * 2
    path.write_bytes(data)
    found = listing(path, tmp_path)
    *members, archive = found.refusals
    assert archive.name == "a.tar.gz"
    assert archive.reason.startswith("the archive is damaged: ")
    assert reason in archive.reason
    assert len(found.members) == 12 - lost
    assert len(members) <= 1
    for order in (images(found), images(found)[::-1]):
        assert all(read_source(image, tmp_path) == pngs[image.name] for image in order)
    assert listing(path, tmp_path) == found


@pytest.mark.parametrize("cut", [0, 300, 50_000])
def test_a_plain_tar_that_ends_early(cut: int, tmp_path: Path, pngs: dict[str, bytes]) -> None:
    path = pack(tmp_path / "a.tar", pngs)
    os.truncate(path, path.stat().st_size * 13 // 24 + cut)
    found = listing(path)
    assert found.refusals[-1].reason.startswith("the archive is damaged: unexpected end of data")
    assert len(found.members) == 6
    assert all(read_source(image) == pngs[image.name] for image in images(found))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "without an end mark"),
        (b"no tar at all" * 99, "a header of it is wrong"),
        (b"\x1f\x8b\x08\0", "end-of-stream"),
        (b"\x1f\x8b" + b"no gzip" * 99, "nown compression"),
        (gzip.compress(b"no tar at all" * 99), "a header of it is wrong"),
    ],
)
def test_what_is_no_archive_is_named(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(data)
    found = listing(path)
    assert not found.members
    (refusal,) = found.refusals
    assert reason in refusal.reason
    assert "nothing of it is kept" in refusal.reason


def lying(kind: bytes, text: bytes, name: str = "x") -> bytes:
    """An extension header as it lies in a tar."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, len(text)
    return header.tobuf(tarfile.GNU_FORMAT) + text + bytes(-len(text) % 512)


@pytest.mark.parametrize(
    "headers",
    [
        lying(tarfile.XHDTYPE, b"25 GNU.sparse.size=many\n22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"),
        lying(tarfile.XHDTYPE, b"22 GNU.sparse.map=a,b\n"),
        lying(tarfile.GNUTYPE_LONGNAME, b"n\0") * 3000,
    ],
)
@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_extension_headers_that_lie(headers: bytes, ending: str, tmp_path: Path, pngs: dict[str, bytes]) -> None:
    good = pack(tmp_path / "a.tar", pngs).read_bytes().rstrip(b"\0")
    data = good + bytes(-len(good) % 512) + headers + tarfile.TarInfo("last.png").tobuf() + bytes(1024)
    path = tmp_path / f"b{ending}"
    path.write_bytes(gzip.compress(data, 1) if ending == ".tar.gz" else data)
    found = listing(path, tmp_path)
    assert "a header of it is wrong" in found.refusals[-1].reason
    assert [member.name for member in found.members] == NAMES
    assert listing(path, tmp_path) == found


def test_a_name_that_is_no_text(tmp_path: Path, pngs: dict[str, bytes]) -> None:
    path = pack(tmp_path / "a.tar", {**pngs, os.fsdecode(b"images/\xe4.png"): pngs[NAMES[0]]})
    (refusal,) = listing(path).refusals
    assert refusal.name == r"a.tar/images/\xe4.png"
    assert "no Unicode text" in refusal.reason
    assert len(listing(path).members) == len(pngs)


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    (refusal,) = listing(tmp_path / "a.tar.gz").refusals
    assert "No such file" in refusal.reason


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_archives_in_an_object_store(ending: str, s3: str, tmp_path: Path, pngs: dict[str, bytes]) -> None:
    import boto3

    path = pack(tmp_path / f"a{ending}", pngs)
    boto3.client("s3").upload_file(str(path), "radiographs", f"archives/a{ending}")
    (found,) = list_archives([("a", f"{s3}/archives/a{ending}")], tmp_path)
    assert found.members == listing(path).members
    for image in (*images(found), *images(found)[::-4]):
        assert read_source(image, tmp_path) == pngs[image.name]


def test_an_archive_that_could_not_be_read_is_tried_again(pngs: dict[str, bytes]) -> None:
    with powerless() as folder:
        path = pack(folder / "a.tar.gz", pngs)
        path.chmod(0)
        (refusal,) = listing(path, folder).refusals
        assert "Permission denied" in refusal.reason
        path.chmod(0o600)  # which leaves its time
        found = listing(path, folder)
        assert len(found.members) == len(pngs)
        assert not found.refusals


def test_a_disk_that_fails_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").symlink_to(BAD_SECTOR)
    with pytest.raises(OSError, match="Input/output error"):
        listing(tmp_path / "a.tar", tmp_path)
    assert not list(tmp_path.glob("*.json"))
