"""Files by path or by URL (`s3://bucket/key`, `gs://bucket/key`): found, asked after, read whole or in part."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat as modes
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pyarrow import fs

from cluster.object_store import URL, LocalFile, RemoteFile, told
from cluster.object_store import file_system as file_system
from cluster.object_store import lasting as lasting

BLOCK_BYTES = 1 << 20
"""What an open object is read in."""

NUM_AT_ONCE = 32
"""Objects that are asked after at the same time: each is a request, and mostly waiting."""

Place = str | Path
"""A local path, or a URL of an object store."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of a file without reading it."""

    num_bytes: int
    mtime_ns: int
    is_plain: bool = True
    """False for folders, pipes, devices."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file below a folder."""

    name: str
    """Relative to the folder, with slashes."""
    path: str
    """Where it is, absolute."""
    stat: Stat | None
    """Where the listing tells it (an object store's does)."""


def is_remote(place: Place) -> bool:
    """Whether it is a URL and not a local path."""
    return isinstance(place, str) and URL.fullmatch(place) is not None


def absolute(place: Place) -> str:
    """The place without what depends on the current folder, and without a slash at its end."""
    return str(place).rstrip("/") if is_remote(place) else str(Path(place).absolute())


def join(place: Place, *names: str) -> str:
    """A place below another."""
    return "/".join([absolute(place).rstrip("/"), *names])


def name_of(place: Place) -> str:
    """The last part of it."""
    return absolute(place).rsplit("/", 1)[-1]


def parent_of(place: Place) -> str:
    """The folder it is in; of a bucket or of `/` itself again."""
    whole = absolute(place)
    if not is_remote(whole):
        return os.path.dirname(whole)
    above = whole.rsplit("/", 1)[0]
    return whole if above.endswith("/") else above


def _told(place: Place) -> contextlib.AbstractContextManager[None]:
    return told(place, is_remote(place))


def stat(place: Place) -> Stat:
    """Size and time of a file. Raises FileNotFoundError and other OSErrors."""
    if not is_remote(place):
        found = os.stat(place)
        return Stat(found.st_size, found.st_mtime_ns, modes.S_ISREG(found.st_mode))
    system, path = file_system(str(place))
    with _told(place):
        info = system.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, "no such object", str(place))
    return _stat_of(info)


def stats(places: Sequence[Place]) -> list[Stat | OSError]:
    """`stat` of each, or the error of each; objects of a store several at a time."""

    def of(place: Place) -> Stat | OSError:
        try:
            return stat(place)
        except OSError as error:
            return error

    if not any(map(is_remote, places)):
        return [of(place) for place in places]
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        return list(pool.map(of, places))


def spelled(name: str) -> str:
    r"""A name as it can be written: the bytes of it that are no UTF-8 as \xe4; any other name is given back."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _stat_of(info: Any) -> Stat:
    return Stat(info.size or 0, info.mtime_ns or 0, info.type == fs.FileType.File)


def is_file(place: Place) -> bool:
    """Whether a plain file is there. Raises OSError where an object store does not tell."""
    if not is_remote(place):
        return Path(place).is_file()
    try:
        return stat(place).is_plain
    except FileNotFoundError:
        return False


def is_folder(place: Place) -> bool:
    """Whether a folder, or in an object store anything below that name, is there.

    Raises OSError where an object store does not tell.
    """
    if not is_remote(place):
        return Path(place).is_dir()
    system, path = file_system(str(place))
    with _told(place):
        return bool(system.get_file_info(path).type == fs.FileType.Directory)


def files_in(folder: Place) -> list[Found]:
    """Files directly in a folder, by name; none where there is no such folder."""
    if not is_remote(folder):
        if not Path(folder).is_dir():
            return []
        return [Found(n, join(folder, n), None) for n in sorted(os.listdir(folder)) if not (Path(folder) / n).is_dir()]
    return list(_objects(folder, recursive=False))


def walk(
    root: Place,
    on_error: Callable[[OSError], None],
    passed: Counter[str] | None = None,
    follow: re.Pattern[str] | None = None,
) -> Iterator[Found]:
    """Every file below a folder, folder after folder, hidden files and folders (`.name`) left out.

    A local folder that cannot be listed goes to `on_error`, and the walk goes on; an error that may pass is raised.
    Links to folders are not followed, but for those directly below `root` whose names `follow` matches in full, and
    which do not lead above. What is left out is counted in `passed`. An object store is listed in one go, a thousand
    objects a request; what stands for a folder there is left out.
    """
    counts: Counter[str] = Counter() if passed is None else passed
    if is_remote(root):
        for found in _objects(root, recursive=True):
            if found.name.startswith(".") or "/." in found.name:
                counts["hidden"] += 1
            else:
                yield found
        return

    def failed(error: OSError) -> None:
        if not lasting(error):
            raise error
        on_error(error)

    whole = absolute(root)

    def below(top: str) -> Iterator[Found]:
        for folder, folders, names in os.walk(top, onerror=failed):
            real: list[str] = []
            for name in sorted(folders):
                path = os.path.join(folder, name)
                if name.startswith("."):
                    counts["hidden"] += 1
                elif not os.path.islink(path):
                    real.append(name)
                elif follow and folder == whole and follow.fullmatch(name) and not _leads_above(path, whole):
                    yield from below(path)
                else:
                    counts["link to a folder"] += 1
            folders[:] = real
            for name in sorted(names):
                path = os.path.join(folder, name)
                if name.startswith("."):
                    counts["hidden"] += 1
                else:
                    yield Found(os.path.relpath(path, whole), path, None)

    yield from below(whole)


def _leads_above(link: str, folder: str) -> bool:
    target = os.path.realpath(link)
    return os.path.commonpath([target, os.path.realpath(folder)]) == target


def _objects(folder: Place, recursive: bool) -> Iterator[Found]:
    """Objects in the order of their names' parts. Raises OSError."""
    system, path = file_system(str(folder))
    with _told(folder):
        infos = system.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
    files = [info for info in infos if info.type == fs.FileType.File]
    files.sort(key=lambda info: info.path.replace("/", "\0"))
    whole = absolute(folder)
    for number, info in enumerate(files):
        # Consoles keep an empty object "name/" for a folder; pyarrow gives it as a file.
        below = files[number + 1].path if number + 1 < len(files) else ""
        if not (info.size == 0 and below.startswith(info.path + "/")):
            name = info.path[len(path) + 1 :]
            yield Found(name, f"{whole}/{name}", _stat_of(info))


def read(place: Place, span: tuple[int, int] | None = None) -> bytes:
    """The bytes of a file, or `span` = (offset, number) of them. Raises OSError, also where the file is shorter."""
    with _told(place), _open_raw(place) as file:
        if span is None:
            return bytes(file.read())
        file.seek(span[0])
        data = bytes(file.read(span[1]))
    if len(data) < span[1]:
        raise OSError(errno.ENODATA, f"ends {span[1] - len(data)} bytes too early", str(place))
    return data


class Remote:
    """An object, open for reads at any offset from any number of threads, one request each."""

    def __init__(self, place: str) -> None:
        """Raises OSError where it cannot be opened."""
        self._place = place
        self._file = _open_raw(place)
        with _told(place):
            self.num_bytes = int(self._file.size())

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer where the object ends. Raises OSError."""
        length = min(length, max(0, self.num_bytes - offset))
        if not length:
            return b""
        with _told(self._place):
            return bytes(self._file.read_at(length, offset))


def open_input(place: Place) -> BinaryIO:
    """The file, open for reading at any offset. Raises OSError."""
    if not is_remote(place):
        return cast(BinaryIO, io.BufferedReader(LocalFile(place)))
    return cast(BinaryIO, io.BufferedReader(RemoteFile(_open_raw(place), place), BLOCK_BYTES))


def _open_raw(place: Place) -> Any:
    """Without a buffer where it is remote: one request for each read."""
    if not is_remote(place):
        return open(place, "rb")
    system, path = file_system(str(place))
    with _told(place):
        return system.open_input_file(path)
