"""One shard: images to a tar that WebDataset and DALI read, its DALI index, and the rows for the shard set's index.

A shard is a task of its own: what it writes depends on nothing but the task, so it can run in any process, in any
order, again.
"""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from cluster.files import sha256_file, write_atomic
from sharding.dicom import Header, read_dicom
from sharding.image import read_image
from sharding.index import partial_directory, shard_name
from sharding.pixels import Gray, UnreadableImage, bytes_digest, encode_jpeg, pixel_digest, shrink
from sharding.privacy import pseudonym
from sharding.sample import Refusal, Sample, SourceImage, check_boxes, to_json

DALI_INDEX_VERSION = "v1.2"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pixels are stored."""

    max_side_px: int
    """Longer side of the full-size copy, 0 for no limit."""
    levels: tuple[int, ...]
    """Longer sides of the smaller copies, falling."""
    quality: int
    """JPEG quality."""
    keep_burned_in: bool
    """Do not refuse DICOM files whose header says that text is burned in."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Everything that one shard is made of."""

    shard: int
    """Number of the tar."""
    name: str
    """Start of its file name."""
    out: Path
    """Folder of the shard set, absolute."""
    findings: tuple[str, ...]
    """Names that the images' findings refer to."""
    images: tuple[SourceImage, ...]
    """What goes in, in order."""
    encoding: Encoding
    """How."""
    secret: bytes
    """Key of the pseudonyms."""
    digest: str
    """Of all that decides the bytes; a shard on disk with the same digest need not be made again."""


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What became of a shard."""

    shard: int
    """Its number."""
    num_images: int
    """Images that were tried."""
    refusals: tuple[Refusal, ...]
    """Those of them that could not be used."""


def record_path(out: Path, name: str, shard: int) -> Path:
    """Where a finished shard's record (digest, files, rows, refusals) lies until the shard set is complete."""
    return partial_directory(out) / f"{shard_name(name, shard)}.json"


def finished(task: ShardTask) -> ShardResult | None:
    """The result of a shard that an earlier run has finished, or None where it must be made."""
    path = record_path(task.out, task.name, task.shard)
    if not path.is_file():
        return None
    record = json.loads(path.read_bytes())
    if record["digest"] != task.digest:
        return None
    for name, entry in record["files"].items():
        file = task.out / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            return None
    return ShardResult(task.shard, len(task.images), tuple(Refusal(**refusal) for refusal in record["refusals"]))


def write_shard(task: ShardTask) -> ShardResult:
    """Writes the tar, its index and its record, each complete or not at all.

    A tar is written under `<out>.partial`, flushed and renamed into the set. A shard all of whose images were refused
    leaves a record only.
    """
    import webdataset  # brings torch, seconds that a finished or refused run should not take

    cv2.setNumThreads(1)
    partial = partial_directory(task.out)
    tar_name = shard_name(task.name, task.shard)
    rows: list[dict[str, Any]] = []
    refusals: list[Refusal] = []
    with open(partial / tar_name, "wb") as file:
        with webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False) as tar:
            for image in task.images:
                try:
                    members, row = encode_image(image, task.findings, task.encoding, task.secret)
                except UnreadableImage as error:
                    refusals.append(Refusal(image.name, str(error)))
                    continue
                tar.write({"__key__": image.key, **members})
                rows.append(row)
        file.flush()
        os.fsync(file.fileno())
    files: dict[str, dict[str, Any]] = {}
    if rows:
        places = read_members(partial / tar_name)
        for row in rows:
            _place(row, task.shard, places[row["key"]])
        os.replace(partial / tar_name, task.out / tar_name)
        index_name = Path(tar_name).with_suffix(".idx").name
        write_atomic(task.out / index_name, dali_index(places))
        for name in (tar_name, index_name):
            file_path = task.out / name
            files[name] = {"bytes": file_path.stat().st_size, "sha256": sha256_file(file_path)}
    else:
        (partial / tar_name).unlink()
    record = {
        "digest": task.digest,
        "files": files,
        "rows": rows,
        "refusals": [{"name": refusal.name, "reason": refusal.reason} for refusal in refusals],
    }
    write_atomic(record_path(task.out, task.name, task.shard), json.dumps(record))
    return ShardResult(task.shard, len(task.images), tuple(refusals))


def encode_image(
    image: SourceImage, findings: tuple[str, ...], encoding: Encoding, secret: bytes
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The members of one sample and its row of the index; the levels' shard, offset and length come later.

    Raises UnreadableImage for pixels that cannot be had, and for boxes or a size that do not fit them.
    """
    gray, header = _load(image)
    if header is not None and header.burned_in and not encoding.keep_burned_in:
        raise UnreadableImage("the file says that text is burned into its pixels (--keep_burned_in takes it)")
    height, width = gray.shape
    if image.size_hint is not None and image.size_hint != (height, width):
        raise UnreadableImage(
            f"is {width} wide and {height} high, but the table says {image.size_hint[1]} and {image.size_hint[0]}"
        )
    wrong = check_boxes(image.boxes, height, width)
    if wrong is not None:
        raise UnreadableImage(wrong)
    sample = _with_header(image.sample(height, width), header, secret)
    members: dict[str, bytes] = {}
    levels: list[dict[str, Any]] = []
    full = shrink(gray, encoding.max_side_px)
    for number, side in enumerate((encoding.max_side_px, *encoding.levels)):
        pixels = full if number == 0 else shrink(gray, side)
        if number > 0 and pixels.shape == full.shape:
            # A smaller copy would be the image itself: its row points there.
            levels.append(levels[0])
            continue
        data = encode_jpeg(pixels, encoding.quality)
        members[member_name(number)] = data
        levels.append(
            {
                "member": member_name(number),
                "height": pixels.shape[0],
                "width": pixels.shape[1],
                "digest": bytes_digest(data),
            }
        )
    members["json"] = json.dumps(to_json(sample, findings), sort_keys=True, separators=(",", ":")).encode()
    return members, _row(sample, pixel_digest(full, sample.key), levels)


def member_name(level: int) -> str:
    """What follows the key and a dot in the tar: `jpg` for full size, `l1.jpg`, `l2.jpg` for smaller copies."""
    return "jpg" if level == 0 else f"l{level}.jpg"


def read_members(tar: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Of each key in a tar, in order: member name -> (offset of its first byte, bytes)."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            places.setdefault(key, {})[ending] = (member.offset_data, member.size)
    return places


def dali_index(places: dict[str, dict[str, tuple[int, int]]]) -> str:
    """The text that DALI's `wds2idx` would write for these members."""
    lines = [f"{DALI_INDEX_VERSION} {len(places)}"]
    for key, members in places.items():
        lines.append(" ".join(f"{ending} {offset} {size} {key}.{ending}" for ending, (offset, size) in members.items()))
    return "\n".join(lines) + "\n"


def _load(image: SourceImage) -> tuple[Gray, Header | None]:
    path = Path(image.path)
    try:
        return read_dicom(path) if image.kind == "dicom" else (read_image(path), None)
    except FileNotFoundError as error:
        raise UnreadableImage("the file has gone") from error
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror}") from error


def _with_header(sample: Sample, header: Header | None, secret: bytes) -> Sample:
    """Fields that the source's tables leave open, from the DICOM header."""
    if header is None:
        return sample
    patient = None if header.patient_id is None else pseudonym(secret, "patient", header.patient_id)
    return Sample(
        key=sample.key,
        source=sample.source,
        split=sample.split,
        height=sample.height,
        width=sample.width,
        findings=sample.findings,
        boxes=sample.boxes,
        patient=sample.patient or patient,
        sex=sample.sex or header.sex,
        age_band=sample.age_band or header.age_band,
        view_position=sample.view_position or header.view_position,
        scanner=sample.scanner,
    )


def _row(sample: Sample, digest: str, levels: list[dict[str, Any]]) -> dict[str, Any]:
    boxes = sample.boxes
    return {
        "key": sample.key,
        "digest": digest,
        "source": sample.source,
        "split": sample.split,
        "height": sample.height,
        "width": sample.width,
        "patient": sample.patient,
        "sex": sample.sex,
        "age_band": sample.age_band,
        "view_position": sample.view_position,
        "scanner": sample.scanner,
        "findings": None if sample.findings is None else list(sample.findings),
        "boxes": None
        if boxes is None
        else [
            {"finding": b.finding, "x_min": b.x_min, "y_min": b.y_min, "x_max": b.x_max, "y_max": b.y_max}
            for b in boxes
        ],
        "levels": levels,
    }


def _place(row: dict[str, Any], shard: int, members: dict[str, tuple[int, int]]) -> None:
    """Fills in where the levels of a row lie."""
    row["levels"] = [
        {
            "shard": shard,
            "offset": members[level["member"]][0],
            "length": members[level["member"]][1],
            "height": level["height"],
            "width": level["width"],
            "digest": level["digest"],
        }
        for level in row["levels"]
    ]
