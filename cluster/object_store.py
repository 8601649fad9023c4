"""Object stores by URL: pyarrow's file systems, their errors as those of a disk, and which errors would last.

Credentials and region come from where the stores' own tools take them (AWS_* variables, ~/.aws,
GOOGLE_APPLICATION_CREDENTIALS); AWS_ENDPOINT_URL names another S3 server.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
"""Of an object store: scheme and path."""

NUM_CONNECTIONS = 64
"""To an object store at a time; pyarrow's own limit is 25, or its number of threads for input where that is more."""
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 3.0
"""A request in which nothing comes for so long has failed; S3's is made three times."""
GIVE_UP_SECONDS = 60
"""How long a request to Google's store is made again."""

_LASTING = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.EFBIG,
        errno.ENODATA,  # shorter than it should be
    }
)

_KINDS = (
    (
        re.compile(r"EXPIRED_TOKEN|ExpiredToken|TokenRefreshRequired|REQUEST_EXPIRED|REQUEST_TIME_TOO_SKEWED"),
        errno.EKEYEXPIRED,
        "the credentials have run out: get new ones",
    ),
    (
        re.compile(
            "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|INVALID_CLIENT_TOKEN|MISSING_AUTH|HTTP status 40[13]"
            "|PERMISSION_DENIED|UNAUTHENTICATED"
        ),
        errno.EACCES,
        "access denied: check the credentials (AWS_* or GOOGLE_APPLICATION_CREDENTIALS) and this machine's clock",
    ),
    (
        re.compile("NETWORK_CONNECTION|HTTP status (?:429|5..)|UNAVAILABLE|DEADLINE_EXCEEDED|SLOW_DOWN|THROTTLING"),
        errno.EHOSTUNREACH,
        "the object store does not answer: check the network and AWS_ENDPOINT_URL",
    ),
    (  # asked for an object's size, a store gives no reason
        re.compile("HTTP status 400"),
        errno.EKEYEXPIRED,
        "refused: the credentials have run out, or region or AWS_ENDPOINT_URL are wrong",
    ),
    (re.compile("NO_SUCH_BUCKET"), errno.ENOENT, "no such bucket"),
    (re.compile("NO_SUCH_KEY|RESOURCE_NOT_FOUND"), errno.ENOENT, "no such object"),
)
"""What the codes of object stores' errors mean: errno and what to say before them."""

_CODES = re.compile(
    r"AWS Error (\w+(?: \(HTTP status \d+\))?)"
    r"|ExceptionName: (\w+)"
    r"|\b([A-Z]{4,}(?:_[A-Z]+)+|UNAVAILABLE|UNAUTHENTICATED)\b"
)


def file_system(url: str) -> tuple[Any, str]:
    """The file system of an object store's URL and the path in it.

    Raises ValueError for a scheme that is unknown, and where no bucket is named.
    """
    found = URL.fullmatch(url)
    assert found is not None, url
    scheme, path = found[1].lower(), found[2].rstrip("/")
    if not path or path.startswith("/"):
        raise ValueError(f"{url} names no bucket: give {scheme}://bucket/folder")
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return _s3(endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")), path
    if scheme in ("gs", "gcs"):
        return _gcs(), path
    raise ValueError(f"{scheme}:// is not known: give a local path, s3://bucket/key or gs://bucket/key")


@cache
def _s3(endpoint: str | None, region: str | None) -> Any:
    # Servers beside Amazon's do not look at the region, and asking the machine for it can take seconds.
    pa.set_io_thread_count(max(pa.io_thread_count(), NUM_CONNECTIONS))
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or (endpoint and "us-east-1"),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENCE_SECONDS,
    )


@cache
def _gcs() -> Any:
    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=GIVE_UP_SECONDS))


def lasting(error: OSError) -> bool:
    """Whether it would be the same at another time (there is no such file, it may not be read) and is the file's own.

    Anything else may be the network's or the disk's, so nothing about the file may be concluded from it.
    """
    return error.errno in _LASTING


@contextlib.contextmanager
def told(place: str | Path, remote: bool) -> Iterator[None]:
    """Errors of an object store as those of a disk: with errno, a text of one line, and the place."""
    try:
        yield
    except OSError as error:
        if remote and error.filename is not None:  # told already
            raise
        if not remote:
            if error.filename is None and error.errno is not None:
                error.filename = str(place)
            raise
        text = " ".join(str(error).split())
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, "no such object", str(place)) from None
        number, meaning = kind_of(text, str(place))
        raise OSError(
            number or error.errno or errno.EIO, f"{meaning}: {text}" if meaning else text, str(place)
        ) from None
    except pa.ArrowException as error:
        raise OSError(errno.EINVAL, " ".join(str(error).split()), str(place)) from None


def kind_of(text: str, place: str) -> tuple[int | None, str]:
    """errno and meaning of pyarrow's message about an object, by the code in it: (None, "") for another.

    The object's name is in the message too, and may hold any word.
    """
    _, _, path = place.partition("://")
    for name in sorted({path, path.partition("/")[2]} - {""}, key=len, reverse=True):
        text = text.replace(" ".join(name.split()), "")
    codes = " ".join("".join(found) for found in _CODES.findall(text))
    return next(((number, meaning) for pattern, number, meaning in _KINDS if pattern.search(codes)), (None, ""))


class LocalFile(io.FileIO):
    """A file whose errors tell its name, which a read does not know."""

    def readinto(self, buffer: Any) -> Any:
        with told(str(self.name), remote=False):
            return super().readinto(buffer)

    def readall(self) -> Any:
        with told(str(self.name), remote=False):
            return super().readall()


class RemoteFile(io.RawIOBase):
    """An object whose errors tell where they are from."""

    def __init__(self, file: Any, place: str | Path) -> None:
        self._file = file
        self._place = place
        self.name = str(place)  # libraries ask a buffered file for it

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with told(self._place, remote=True):
            return int(self._file.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
