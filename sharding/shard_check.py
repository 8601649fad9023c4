"""One shard looked at: its files, its members, its samples, what they might tell of a person."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.files import sha256_file
from cluster.target import Target, open_target
from sharding.codecs import Codec, decode, member_name
from sharding.manifest import shard_name
from sharding.near_duplicates import perceptual_hash
from sharding.pixels import Gray, bytes_digest
from sharding.sample import Box, Sample, check_boxes, to_json
from sharding.tars import dali_index, read_members
from sharding.traces import codec_traces, header_traces, json_traces, row_traces

Hash = tuple[str, str, npt.NDArray[np.uint64]]
"""Key, split, perceptual hash [4] of an image."""


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """One shard to check."""

    target: Target
    name: str
    shard: int
    findings: tuple[str, ...]
    files: dict[str, dict[str, Any]]
    """What the manifest says of its tar and its DALI index."""
    rows: list[dict[str, Any]]
    """Its rows of the index."""
    keep_names: bool
    codec: Codec
    bits: int
    hashed: bool
    """Take perceptual hashes."""


@dataclass(frozen=True, slots=True)
class ShardFound:
    """What was found."""

    problems: list[str]
    hashes: list[Hash]
    """Of every image that decodes, where asked for."""


def check_file(target: Target, name: str, files: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What is wrong with a file that the manifest's `files` tell of."""
    if name not in files:
        yield f"{name}: the manifest does not name it"
        return
    try:
        with target.local(name) as path:
            if path.stat().st_size != files[name]["bytes"]:
                yield f"{name}: has {path.stat().st_size} bytes instead of {files[name]['bytes']}"
            elif sha256_file(path) != files[name]["sha256"]:
                yield f"{name}: its content has changed (sha256)"
    except FileNotFoundError:
        yield f"{name}: is missing"
    except OSError as error:
        yield f"{name}: cannot be read: {error.strerror}"


def check_shard(check: ShardCheck) -> ShardFound:
    """Looks at a shard."""
    tar_name = shard_name(check.name, check.shard)
    index_name = Path(tar_name).with_suffix(".idx").name
    problems = list(check_file(check.target, index_name, check.files))
    hashes: list[Hash] = []
    try:
        with check.target.local(tar_name) as tar:
            problems += check_file(open_target(tar.parent), tar_name, check.files)
            if tar.is_file():
                problems += _check_tar(check, tar, index_name, hashes)
    except FileNotFoundError:
        problems.append(f"{tar_name}: is missing")
    except OSError as error:
        problems.append(f"{tar_name}: cannot be read: {error.strerror}")
    return ShardFound(problems, hashes)


def _check_tar(check: ShardCheck, tar: Path, index_name: str, hashes: list[Hash]) -> Iterator[str]:
    try:
        with tarfile.open(tar, "r:") as archive:
            members = list(archive)
        places = read_members(tar)
    except (tarfile.TarError, OSError) as error:
        yield f"{tar.name}: is not a whole tar: {error}"
        return
    names = [member.name if member.isreg() else f"{member.name} (no plain file)" for member in members]
    yield from (f"{tar.name}: {text}" for member in members for text in header_traces(member))
    expected = {f"{row['key']}.{ending}" for row in check.rows for ending in _members(row, check.codec)}
    for name, number in Counter(names).items():
        if name not in expected:
            yield f"{tar.name}: unexpected member {name!r}"
        if number > 1:
            yield f"{tar.name}: {number} members are named {name!r}"
    try:
        if check.target.read(index_name) != dali_index(places).encode():
            yield f"{index_name}: does not say where the members of {tar.name} lie"
    except OSError:
        pass  # told already
    data = np.memmap(tar, dtype=np.uint8, mode="r") if tar.stat().st_size else np.zeros(0, np.uint8)
    for row in check.rows:
        mine = places.get(row["key"], {})
        yield from (f"{tar.name}: {row['key']}: {text}" for text in _check_sample(row, mine, data, check, hashes))


def _members(row: dict[str, Any], codec: Codec) -> list[str]:
    """Endings of the members that a row must have: a level that lies where level 0 does has none of its own."""
    first = row["levels"][0]["offset"]
    own = [n for n, level in enumerate(row["levels"]) if n == 0 or level["offset"] != first]
    return ["json", *(member_name(codec, number) for number in own)]


def _check_sample(
    row: dict[str, Any], members: dict[str, tuple[int, int]], data: Any, check: ShardCheck, hashes: list[Hash]
) -> Iterator[str]:
    for ending in _members(row, check.codec):
        if ending not in members:
            yield f"member {ending} is missing"
    for number, level in enumerate(row["levels"]):
        offset, length = level["offset"], level["length"]
        if level["shard"] != check.shard or offset < 0 or offset + length > len(data):
            yield f"level {number} lies outside the tar"
            continue
        own = member_name(check.codec, number)
        if members.get(own, members.get(member_name(check.codec, 0))) != (offset, length):
            yield f"level {number} is not where the index says"
        encoded = data[offset : offset + length].tobytes()
        if bytes_digest(encoded) != level["digest"]:
            yield f"level {number} has other bytes than when it was written"
        pixels = decode(encoded, check.codec)
        if pixels is None:
            yield f"level {number} does not decode"
        elif pixels.shape != (level["height"], level["width"]):
            yield f"level {number} is {pixels.shape}, the index says {(level['height'], level['width'])}"
        elif pixels.dtype.itemsize * 8 != check.bits:
            yield f"level {number} has {pixels.dtype.itemsize * 8} bits a pixel, the manifest says {check.bits}"
        else:
            yield from (f"level {number} {text}" for text in codec_traces(encoded, check.codec))
            if number == 0 and check.hashed:
                hashes.append((row["key"], row["split"], perceptual_hash(_eight_bits(pixels))))
    yield from row_traces(row, {"keep_names": check.keep_names})
    sample = _sample(row)
    wrong = check_boxes(sample.boxes, sample.height, sample.width)
    if wrong is not None:
        yield wrong
    used = {*(sample.findings or ()), *(box.finding for box in sample.boxes or ())}
    if not all(0 <= finding < len(check.findings) for finding in used):
        yield f"findings {sorted(used)} are not all in 0 to {len(check.findings) - 1}"
        return
    if "json" in members:
        offset, length = members["json"]
        try:
            text = data[offset : offset + length].tobytes()
            stored = json.loads(text)
        except ValueError:
            yield "member json is not JSON"
            return
        if stored != to_json(sample, check.findings):
            yield "member json does not agree with the index"
        yield from json_traces(text, stored)


def _sample(row: dict[str, Any]) -> Sample:
    boxes, findings = row["boxes"], row["findings"]
    names = {name.name for name in dataclasses.fields(Sample)} - {"boxes", "findings"}
    return Sample(
        **{name: row[name] for name in names},
        findings=None if findings is None else tuple(findings),
        boxes=None if boxes is None else tuple(Box(**box) for box in boxes),
    )


def _eight_bits(gray: Gray) -> npt.NDArray[np.uint8]:
    return np.asarray(gray >> 8 if gray.dtype == np.uint16 else gray, dtype=np.uint8)
