"""Which files below a folder are radiographs: by ending, and without one by DICOM's mark."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from cluster import storage
from cluster.storage import Found, Place, Stat
from sharding.sample import NOT_UTF8, PixelKind, Refusal, unlisted

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
PACKED_ENDINGS = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")

File = tuple[str, PixelKind, Stat | None]
"""Path below root, how to read it, and size and time where the listing tells them."""


def find_files(root: Place, refusals: list[Refusal]) -> list[File]:
    """Every radiograph below root, by name. What is passed over is counted on stderr.

    A folder that cannot be listed, and a file that cannot be opened to see what it is, go to `refusals`.
    Raises OSError for what may pass (a network or disk that fails).
    """
    passed: Counter[str] = Counter()
    walked = storage.walk(root, lambda error: refusals.append(unlisted(Path(root), error)), passed)
    files: list[File] = []
    for file in _classified(walked, passed, refusals):
        if (name := storage.spelled(file[0])) == file[0]:
            files.append(file)
        else:
            refusals.append(Refusal(name, NOT_UTF8))
    if passed:
        packed = sum(number for ending, number in passed.items() if ending in PACKED_ENDINGS)
        hint = "; archives are not opened: unpack them" if packed else ""
        told = ", ".join(f"{number:,} x {ending}" for ending, number in passed.most_common(12))
        print(f"passed over as no radiographs: {told}{hint}", file=sys.stderr)
    return sorted(files)


def kind_by_name(name: str) -> PixelKind | None:
    """By ending; None for another ending. A name without ending is a DICOM file's."""
    ending = ending_of(name)
    if ending in IMAGE_ENDINGS:
        return "image"
    return "dicom" if ending in ("", *DICOM_ENDINGS) else None


def ending_of(name: str) -> str:
    """Lower-case ending with its dot; "" where there is none, as in `IM0001` and `1.2.840.113`."""
    ending = PurePosixPath(name).suffix.lower()
    return ending if re.fullmatch(r"\.[a-z]\w*", ending) else ""


def _classified(walked: Iterable[Found], passed: Counter[str], refusals: list[Refusal]) -> Iterator[File]:
    unknown: list[Found] = []
    for found in walked:
        ending = ending_of(found.name)
        kind = kind_by_name(found.name)
        if ending and kind is not None:
            yield found.name, kind, found.stat
        elif ending:
            passed[ending] += 1
        elif storage.name_of(found.path) == "DICOMDIR":
            passed["DICOMDIR"] += 1
        else:
            unknown.append(found)
    with ThreadPoolExecutor(storage.NUM_AT_ONCE) as pool:
        for begin in range(0, len(unknown), 4096):
            part = unknown[begin : begin + 4096]
            for found, what in zip(part, pool.map(_look, part), strict=True):
                if isinstance(what, OSError):
                    reason = f"cannot be opened to see what it is: {what.strerror}"
                    refusals.append(Refusal(storage.spelled(found.name), reason))
                elif what:
                    passed[what] += 1
                else:
                    yield found.name, "dicom", found.stat


def _look(found: Found) -> str | OSError:
    """ "" for a DICOM file by its mark (PS3.10 7.1), else what it is, or why that cannot be told.

    Raises an OSError that may pass.
    """
    try:
        stat = found.stat or storage.stat(found.path)
        if not stat.is_plain:
            return "pipe or device"
        if stat.num_bytes >= 132 and storage.read(found.path, (128, 4)) == b"DICM":
            return ""
    except OSError as error:
        if not storage.lasting(error):
            raise
        return error
    return "no ending and no DICOM"
