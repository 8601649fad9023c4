"""Files inside tar and tar.gz archives, listed once and read at any place without unpacking.

A tar.gz is read through seek points (indexed_gzip), made when it is listed and kept beside the list.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from cluster import storage
from cluster.files import write_atomic
from cluster.progress import Progress
from cluster.storage import Place, Stat
from cluster.tasks import map_tasks
from sharding.codestreams import PNG_START, png_chunks
from sharding.sample import NOT_UTF8, Refusal

ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".tar")

MAX_FILE_BYTES = 2 << 30
"""A larger file is no radiograph and is not read."""

HEAD_BYTES = 33
"""First bytes of each member that the list keeps: a PNG up to the end of its header."""

SPACING_BYTES = 4 << 20
"""Decompressed bytes between two seek points, each of which takes 32 KB: an index is .8 % of its archive."""

_VERSION = 2
_MAX_EXTENSION_BYTES = 1 << 20
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in an archive."""

    name: str
    """Its path in the archive, such as `images/00000001_000.png`."""
    span: tuple[int, int]
    """(offset, bytes) in the archive, after decompression."""
    head: bytes
    """Its first HEAD_BYTES bytes, or all."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What an archive holds."""

    place: str
    """Where the archive is, absolute."""
    stat: Stat
    """Its size and time when it was listed."""
    members: tuple[Member, ...]
    """In the order of the archive, names unique."""
    refusals: tuple[Refusal, ...]
    """Members that may not or cannot be used, and the archive itself where it is damaged."""


class _DamagedTar(Exception):
    """The tar ends or breaks where it should not."""


class _Header(tarfile.TarInfo):
    """A header that is an error where tarfile would take it for the end, or would read any number of bytes for it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise _DamagedTar("it ends without an end mark") from None
        except tarfile.HeaderError as error:
            raise _DamagedTar(f"a header of it is wrong ({error})") from None
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > _MAX_EXTENSION_BYTES):
            raise _DamagedTar(f"a header of it claims {header.size:,} bytes")
        return header


def list_archives(
    archives: Sequence[tuple[str, Place]], index_folder: Path | None, processes: int = 1
) -> list[Listing]:
    """What each archive, given as (name for people, place), holds; several at a time.

    Lists and seek points are kept in `index_folder`, which must exist, and found there again as long as an archive
    keeps size and time. An archive that cannot be read has one refusal and no members, and is tried again the next
    time. Of a damaged one those members are kept that lie before the damage and, PNG files, whose own check sums hold.
    Raises OSError for what may pass (a network or disk that fails).
    """
    stats = storage.stats([place for _, place in archives])
    listings: dict[int, Listing] = {}
    for number, ((name, place), stat) in enumerate(zip(archives, stats, strict=True)):
        if isinstance(stat, OSError):
            if not storage.lasting(stat):
                raise stat
            reason = f"the archive cannot be read: {stat.strerror}"
            listings[number] = Listing(storage.absolute(place), Stat(0, 0), (), (Refusal(name, reason),))
        elif (kept := _kept(name, place, stat, index_folder)) is not None:
            listings[number] = kept
    left = [number for number in range(len(archives)) if number not in listings]
    if left:
        megabytes = [-(-cast(Stat, stats[number]).num_bytes // 1_000_000) for number in left]
        with Progress(sum(megabytes), "list archives", "MB") as progress:
            found = map_tasks(_list, [archives[number] for number in left], processes)
            for number, size, (members, refusals, index) in zip(left, megabytes, found, strict=True):
                name, place = archives[number]
                stat = cast(Stat, stats[number])
                listings[number] = Listing(
                    storage.absolute(place), stat, members, tuple(Refusal(_below(name, m), why) for m, why in refusals)
                )
                if index_folder is not None and index is not None:
                    _keep(place, stat, index_folder, members, refusals, index)
                progress.update(size)
    return [listings[number] for number in range(len(archives))]


def index_path(place: Place, stat: Stat, index_folder: Path) -> Path:
    """Where the seek points of an archive of this size and time are kept; the list beside it ends in .json."""
    about = f"{_VERSION}\0{storage.absolute(place)}\0{stat.num_bytes}\0{stat.mtime_ns}"
    return index_folder / f"{hashlib.blake2b(about.encode(), digest_size=16).hexdigest()}.gzidx"


def open_gzip(place: Place, index: Path | None, verify: bool = False) -> Any:
    """An indexed_gzip file; without an index its seek points are made as far as it is read."""
    from indexed_gzip import IndexedGzipFile

    settings: dict[str, Any] = {"spacing": SPACING_BYTES, "buffer_size": 1 << 16, "skip_crc_check": not verify}
    if index is not None:
        settings["index_file"] = str(index)
    if storage.is_remote(place):
        return IndexedGzipFile(fileobj=storage.open_input(place), **settings)
    return IndexedGzipFile(str(place), **settings)


def is_gzip(place: Place) -> bool:
    """By its first two bytes. Raises OSError."""
    with storage.open_input(place) as file:
        return file.read(2) == b"\x1f\x8b"


_Refused = list[tuple[str, str]]
"""Member, or "" for the archive, and why."""


def _list(archive: tuple[str, Place]) -> tuple[tuple[Member, ...], _Refused, bytes | None]:
    """Members, refusals and seek points: b"" for a plain tar and where none can be made, None if it cannot be read."""
    place = archive[1]
    try:
        packed = is_gzip(place)
        members, refused, damage = _pass(place, packed, verify=False)
        if not damage:
            return tuple(members), refused, _seek_points(place) if packed else b""
        members, refused, _ = _pass(place, packed, verify=True)
        kept = f"{len(members):,} members of it are sound and kept" if members else "nothing of it is kept"
        return tuple(members), [*refused, ("", f"the archive is damaged: {damage}; {kept}")], b""
    except OSError as error:
        if not storage.lasting(error):
            raise
        return (), [("", f"the archive cannot be read: {error.strerror or error}")], None


def _pass(place: Place, packed: bool, verify: bool) -> tuple[list[Member], _Refused, str]:
    """Reads an archive once, from its first byte to its last: members, refusals, and what is wrong with it or "".

    With `verify` a member is refused unless it is whole and, by its own check sums, a sound PNG.
    """
    members: dict[str, Member] = {}
    refused: _Refused = []
    with storage.open_input(place) as file:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
        try:
            # "r|" reads on and on; a plain tar on a disk is skipped through.
            mode = "r|" if packed or storage.is_remote(place) else "r:"
            # Of a block that ends in damage nothing is given, so the second look takes small ones.
            block_bytes = tarfile.BLOCKSIZE if verify else _BLOCK_BYTES
            with tarfile.open(fileobj=stream, mode=mode, bufsize=block_bytes, tarinfo=_Header) as tar:  # type: ignore[call-overload]
                while (member := tar.next()) is not None:
                    tar.members.clear()  # it would keep them all
                    why = "" if member.isdir() else _forbidden(member, members)
                    if why:
                        refused.append((member.name, why))
                    elif member.isreg():
                        head = _head(tar, member, verify)
                        if head is None:
                            refused.append((member.name, "is damaged, as its archive is"))
                        else:
                            members[member.name] = Member(member.name, (member.offset_data, member.size), head)
                while block := tar.fileobj.read(_BLOCK_BYTES):
                    if block.strip(b"\0"):
                        raise _DamagedTar("something follows its end mark, which was not read")
        except (_DamagedTar, tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            return list(members.values()), refused, str(error)
        except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
            # What tarfile raises of extension headers that lie: their numbers are text, and they nest.
            return list(members.values()), refused, f"a header of it is wrong ({type(error).__name__})"
    return list(members.values()), refused, ""


def _forbidden(member: tarfile.TarInfo, members: dict[str, Member]) -> str:
    if storage.spelled(member.name) != member.name:
        return NOT_UTF8
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "leads out of the archive"
    if not member.isreg() or member.issparse():
        return "is a link, a device or sparse, and no plain file"
    if member.name in members:
        return "is in the archive a second time"
    if member.size > MAX_FILE_BYTES:
        return f"holds {member.size:,} bytes; more than {MAX_FILE_BYTES:,} are not read"
    return ""


def _head(tar: tarfile.TarFile, member: tarfile.TarInfo, verify: bool) -> bytes | None:
    file = tar.extractfile(member)
    assert file is not None, member.name
    if not verify:
        return file.read(HEAD_BYTES)
    data = file.read()
    return data[:HEAD_BYTES] if len(data) == member.size and _is_sound_png(data) else None


def _is_sound_png(data: bytes) -> bool:
    """Whether every chunk's CRC holds, up to IEND (PNG specification, 5.3)."""
    chunks = list(png_chunks(data)) if data.startswith(PNG_START) else []
    ends = [(start - 4, start + num_bytes) for _, start, num_bytes in chunks]
    return (
        bool(chunks)
        and chunks[-1][0] == b"IEND"
        and all(zlib.crc32(data[begin:end]).to_bytes(4, "big") == data[end : end + 4] for begin, end in ends)
    )


def _seek_points(place: Place) -> bytes:
    """All seek points of a tar.gz, as indexed_gzip writes them."""
    with open_gzip(place, None, verify=True) as file:
        file.build_full_index()
        index = io.BytesIO()
        file.export_index(fileobj=index)
    return index.getvalue()


def _below(name: str, member: str) -> str:
    member = storage.spelled(member)
    return f"{name}/{member}" if member else name


def _keep(place: Place, stat: Stat, folder: Path, members: tuple[Member, ...], refused: _Refused, index: bytes) -> None:
    path = index_path(place, stat, folder)
    if index:
        write_atomic(path, index, mode=0o600)
    listed = [[member.name, *member.span, member.head.hex()] for member in members]
    write_atomic(path.with_suffix(".json"), json.dumps({"members": listed, "refused": refused}), mode=0o600)


def _kept(name: str, place: Place, stat: Stat, folder: Path | None) -> Listing | None:
    """The list that an earlier run has kept of this very archive."""
    if folder is None or not (path := index_path(place, stat, folder).with_suffix(".json")).is_file():
        return None
    kept = json.loads(path.read_bytes())
    return Listing(
        storage.absolute(place),
        stat,
        tuple(Member(m, (offset, size), bytes.fromhex(head)) for m, offset, size, head in kept["members"]),
        tuple(Refusal(_below(name, member), why) for member, why in kept["refused"]),
    )
