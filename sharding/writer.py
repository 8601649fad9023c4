"""One shard: images to a tar that WebDataset and DALI read, its DALI index, and the rows for the shard set's index.

A shard is a task of its own: what it writes depends on nothing but the task, so it can run in any process, on any
machine that sees its source and its target, in any order, again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2
import xxhash

from cluster.target import LocalTarget, Target
from sharding.codecs import encode, member_name
from sharding.dicom import Header, read_dicom
from sharding.image import read_image
from sharding.manifest import partial_directory, shard_name
from sharding.pixels import Gray, UnreadableImage, bytes_digest, pixel_digest, shrink
from sharding.privacy import pseudonym
from sharding.quarantine import TooManyFailures
from sharding.sample import Refusal, Sample, SourceImage, check_boxes, to_json
from sharding.source import read_source
from sharding.tars import HashedFile, dali_index, read_members
from sharding.task import Encoding, ShardResult, ShardTask

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""malloc.h"""
KEPT_BYTES = 1 << 30


def write_shard(task: ShardTask) -> ShardResult:
    """Writes the tar and its index, each complete or not at all. One without images leaves no file.

    `<tar>.count` in a local set's `<out>.partial` has a byte for each image that is done; who gave the task removes it.
    """
    import webdataset  # brings torch, seconds that a finished or refused run should not take

    cv2.setNumThreads(1)
    _keep_freed_memory()
    tar_name = shard_name(task.name, task.shard)
    idx_name = Path(tar_name).with_suffix(".idx").name
    rows: list[dict[str, Any]] = []
    refusals: list[Refusal] = []
    num_left_out = 0
    sources = xxhash.xxh3_128()
    files: dict[str, dict[str, Any]] = {}
    with _scratch(task.target) as folder:
        # A name of its own: the task may be tried again while the machine that began it is only thought to be lost.
        scratch = folder / f"{tar_name}.{secrets.token_hex(4)}.tmp"
        with open(scratch, "wb") as file, open(folder / f"{tar_name}.count", "wb", buffering=0) as counter:
            hashed = HashedFile(file)
            with webdataset.TarWriter(cast(BinaryIO, hashed), user="", group="", mtime=0, encoder=False) as tar:
                for image in task.images:
                    counter.write(b".")
                    try:
                        data = read_source(image, task.records)
                        made = encode_image(image, data, task)
                    except UnreadableImage as error:
                        if task.strict:
                            raise TooManyFailures(f"{image.name}: {error} (--strict stops at the first)") from error
                        refusals.append(Refusal(image.name, str(error)))
                        continue
                    if made is None:
                        num_left_out += 1
                        continue
                    tar.write({"__key__": image.key, **made[0]})
                    rows.append(made[1])
                    sources.update(made[1]["source_digest"].encode())
        if rows:
            places = read_members(scratch)
            for row in rows:
                _place(row, task.shard, places[row["key"]])
            idx = dali_index(places).encode()
            task.target.put(tar_name, scratch)
            task.target.write(idx_name, idx)
            files = {
                tar_name: {"bytes": hashed.num_bytes, "sha256": hashed.sha256.hexdigest()},
                idx_name: {"bytes": len(idx), "sha256": hashlib.sha256(idx).hexdigest()},
            }
        else:
            scratch.unlink()
    digest = sources.hexdigest()
    return ShardResult(
        task.shard, task.digest, len(task.images), num_left_out, tuple(refusals), digest, files, tuple(rows)
    )


@cache
def _keep_freed_memory() -> None:
    """Lets the C library keep what an image leaves free, for the next one: given back to the system, every page of it
    would be faulted in anew, a tenth of an uncompressed DICOM's time. Other C libraries do not know the call."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            library.mallopt(parameter, KEPT_BYTES)


@contextmanager
def _scratch(target: Target) -> Iterator[Path]:
    """A folder from which a finished tar can be put: on the same disk, or, for an object store, anywhere."""
    if isinstance(target, LocalTarget):
        yield partial_directory(target.place)
        return
    with tempfile.TemporaryDirectory(prefix="cxr-shard-") as folder:
        yield Path(folder)


def encode_image(image: SourceImage, data: bytes, task: ShardTask) -> tuple[dict[str, bytes], dict[str, Any]] | None:
    """The members of one sample and its row of the index; the levels' shard, offset and length come later.

    `data` are the bytes of its file. None for a sample that the task's filter does not take. Raises UnreadableImage
    for pixels that cannot be had, and for boxes or a size that do not fit them.
    """
    encoding = task.encoding
    gray, header = _pixels(image, data, encoding)
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
    sample = _with_header(image.sample(height, width), header, task.secret)
    if not task.only.takes(sample, task.findings):
        return None
    members: dict[str, bytes] = {}
    levels: list[dict[str, Any]] = []
    full = shrink(gray, encoding.max_side_px)
    for number, side in enumerate((encoding.max_side_px, *encoding.levels)):
        pixels = full if number == 0 else shrink(gray, side)
        if number > 0 and pixels.shape == full.shape:
            # A smaller copy would be the image itself: its row points there.
            levels.append(levels[0])
            continue
        encoded = _encoded(pixels, encoding)
        name = member_name(encoding.codec, number)
        members[name] = encoded
        levels.append(
            {"member": name, "height": pixels.shape[0], "width": pixels.shape[1], "digest": bytes_digest(encoded)}
        )
    members["json"] = json.dumps(to_json(sample, task.findings), sort_keys=True, separators=(",", ":")).encode()
    return members, _row(sample, pixel_digest(full, sample.key), bytes_digest(data), levels)


def _pixels(image: SourceImage, data: bytes, encoding: Encoding) -> tuple[Gray, Header | None]:
    if image.kind == "dicom":
        return read_dicom(data, encoding.rendering, encoding.use_gpu)
    return read_image(data, encoding.rendering), None


def _encoded(pixels: Gray, encoding: Encoding) -> bytes:
    try:
        return encode(pixels, encoding.codec, encoding.quality)
    except MemoryError:
        raise
    except Exception as error:  # a codec's own limits: a JPEG has no side beyond 65,535
        height, width = pixels.shape
        raise UnreadableImage(
            f"{width} x {height} pixels cannot be stored as {encoding.codec} ({type(error).__name__}); "
            "take --max_side_px or another --codec"
        ) from error


def _with_header(sample: Sample, header: Header | None, secret: bytes) -> Sample:
    """Fields that the source's tables leave open, from the DICOM header."""
    if header is None:
        return sample
    patient = None if header.patient_id is None else pseudonym(secret, "patient", header.patient_id)
    return replace(
        sample,
        patient=sample.patient or patient,
        sex=sample.sex or header.sex,
        age_band=sample.age_band or header.age_band,
        view_position=sample.view_position or header.view_position,
    )


def _row(sample: Sample, digest: str, source_digest: str, levels: list[dict[str, Any]]) -> dict[str, Any]:
    boxes = sample.boxes
    return {
        "key": sample.key,
        "digest": digest,
        "source_digest": source_digest,
        "source": sample.source,
        "split": sample.split,
        "height": sample.height,
        "width": sample.width,
        "patient": sample.patient,
        "sex": sample.sex,
        "age_band": sample.age_band,
        "view_position": sample.view_position,
        "scanner": sample.scanner,
        "fold": sample.fold,
        "subset": sample.subset,
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
