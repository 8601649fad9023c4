"""`cxr verify DIR`: is this shard set whole, decodable, what its index says it is, and under pseudonyms?"""

from __future__ import annotations

import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import door
from cluster.files import sha256_file
from cluster.progress import Progress
from cluster.tasks import map_tasks
from sharding.index import INDEX, INDEX_SCHEMA, MANIFEST, read_manifest, shard_name
from sharding.pixels import bytes_digest, decode_jpeg
from sharding.sample import KEY_PATTERN, SPLITS, Box, Sample, check_boxes, to_json
from sharding.splits import torn_patients
from sharding.traces import header_traces, jpeg_traces, json_traces, row_traces
from sharding.writer import dali_index, member_name, read_members

NUM_SHOWN = 50
"""Problems that are printed; the others are counted."""


class DamagedShardSet(Exception):
    """A shard set that is not what its manifest and index say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """Checks every file, sample and row of a shard set: that it is there as it was written, that it decodes, that index
    and members agree; that patients, and keys unless published or kept by --keep_names, are pseudonyms; that sex, age
    band and view position are words of the vocabulary; that JPEGs hold no EXIF, comment or other segment, json members
    no other field, tar headers no user and no date. It cannot see text that is burned into the pixels."""

    directory: Path
    """The shard set. `--directory` may be left out before it."""
    processes: int = 0
    """Processes that decode; 0 is one for each core."""


@dataclass(frozen=True, slots=True)
class _ShardCheck:
    """One shard to check."""

    directory: Path
    name: str
    shard: int
    findings: tuple[str, ...]
    files: dict[str, dict[str, Any]]
    rows: list[dict[str, Any]]
    config: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """The verb. Gives the exit status: 0 whole, 1 damaged, 2 not a shard set."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "--directory")
    return door.enter("cxr verify", VerifyConfig, run, words)


def run(config: VerifyConfig) -> None:
    """Prints what is wrong, one line each. Raises DamagedShardSet where anything is, ValueError where it is no set."""
    directory = config.directory.absolute()
    problems = find_problems(directory, config.processes)
    for problem in problems[:NUM_SHOWN]:
        print(problem)
    if len(problems) > NUM_SHOWN:
        print(f"... and {len(problems) - NUM_SHOWN:,} more")
    if problems:
        raise DamagedShardSet(f"{directory}: {len(problems):,} things are wrong; the first: {problems[0]}")
    manifest, digest = read_manifest(directory)
    print(f"{directory}: {manifest['num_samples']:,} samples are whole (manifest sha256 {digest})")
    whose = "patients and keys are" if manifest["config"].get("keep_names") is False else "patients (not keys) are"
    print(f"  {whose} pseudonyms, JPEGs hold pictures alone; text burned into the pixels was not looked for")


def find_problems(directory: Path, processes: int = 1) -> list[str]:
    """What is wrong with a shard set, empty if nothing. Raises ValueError where there is no manifest to go by."""
    manifest, _ = read_manifest(directory)
    files: dict[str, dict[str, Any]] = manifest["files"]
    problems = list(_unexpected_files(directory, files))
    table = _read_index(directory, files, problems)
    if table is None:
        return problems
    problems += _check_table(table, manifest)
    shards = np.array([levels[0]["shard"] for levels in table.column("levels").to_pylist()], dtype=np.int64)
    numbers = sorted({int(entry["shard"]) for entry in manifest["shards"]} | set(shards.tolist()))
    checks = [
        _ShardCheck(
            directory,
            str(manifest["name"]),
            number,
            tuple(manifest["findings"]),
            files,
            table.take(np.flatnonzero(shards == number)).to_pylist(),
            manifest["config"],
        )
        for number in numbers
    ]
    with Progress(table.num_rows, "verify", "samples") as progress:
        for check, found in zip(checks, map_tasks(_check_shard, checks, processes), strict=True):
            problems += found
            progress.update(len(check.rows))
    return problems


def _unexpected_files(directory: Path, files: dict[str, dict[str, Any]]) -> Iterator[str]:
    for path in sorted(directory.iterdir()):
        if path.name not in files and path.name != MANIFEST:
            yield f"{path.name}: not a file of this shard set"


def _check_file(directory: Path, name: str, files: dict[str, dict[str, Any]]) -> str | None:
    path = directory / name
    if name not in files:
        return f"{name}: the manifest does not name it"
    if not path.is_file():
        return f"{name}: is missing"
    if path.stat().st_size != files[name]["bytes"]:
        return f"{name}: has {path.stat().st_size} bytes instead of {files[name]['bytes']}"
    if sha256_file(path) != files[name]["sha256"]:
        return f"{name}: its content has changed (sha256)"
    return None


def _read_index(directory: Path, files: dict[str, dict[str, Any]], problems: list[str]) -> pa.Table | None:
    wrong = _check_file(directory, INDEX, files)
    if wrong is not None:
        problems.append(wrong)
    try:
        table = pq.read_table(directory / INDEX)
    except (OSError, pa.ArrowException):
        problems.append(f"{INDEX}: cannot be read, so the samples were not checked")
        return None
    if not table.schema.equals(INDEX_SCHEMA):
        problems.append(f"{INDEX}: has other columns than this version writes, so the samples were not checked")
        return None
    return table


def _check_table(table: pa.Table, manifest: dict[str, Any]) -> Iterator[str]:
    keys = table.column("key").to_pylist()
    for key, number in Counter(keys).items():
        if number > 1:
            yield f"{INDEX}: {key} has {number} rows"
        if not KEY_PATTERN.fullmatch(key):
            yield f"{INDEX}: {key!r} is not a key"
    if len(keys) != manifest["num_samples"]:
        yield f"{INDEX}: {len(keys)} rows, the manifest says {manifest['num_samples']}"
    splits = table.column("split").to_pylist()
    for split in sorted(set(splits) - set(SPLITS)):
        yield f"{INDEX}: {split!r} is not a split"
    counts = {split: entry["images"] for split, entry in manifest["counts"].items()}
    if dict(Counter(splits)) != counts:
        yield f"{INDEX}: images per split are {dict(Counter(splits))}, the manifest says {counts}"
    if any(len(levels) != manifest["num_levels"] for levels in table.column("levels").to_pylist()):
        yield f"{INDEX}: not every row has {manifest['num_levels']} levels"
    torn = torn_patients(table.column("patient").to_pylist(), splits)
    if len(torn) != manifest["num_patients_on_two_sides"]:
        yield (
            f"{INDEX}: {len(torn)} patients are on two sides of a split ({', '.join(sorted(torn)[:5])}), "
            f"the manifest says {manifest['num_patients_on_two_sides']}"
        )


def _check_shard(check: _ShardCheck) -> list[str]:
    tar_name = shard_name(check.name, check.shard)
    index_name = Path(tar_name).with_suffix(".idx").name
    found = [_check_file(check.directory, name, check.files) for name in (tar_name, index_name)]
    problems = [problem for problem in found if problem is not None]
    tar = check.directory / tar_name
    if not tar.is_file():
        return problems
    try:
        with tarfile.open(tar, "r:") as archive:
            found_members = list(archive)
        places = read_members(tar)
    except (tarfile.TarError, OSError) as error:
        return [*problems, f"{tar_name}: is not a whole tar: {error}"]
    names = [member.name if member.isreg() else f"{member.name} (no plain file)" for member in found_members]
    problems += [f"{tar_name}: {text}" for member in found_members for text in header_traces(member)]
    expected = {f"{row['key']}.{ending}" for row in check.rows for ending in _members(row)}
    for name, number in Counter(names).items():
        if name not in expected:
            problems.append(f"{tar_name}: unexpected member {name!r}")
        if number > 1:
            problems.append(f"{tar_name}: {number} members are named {name!r}")
    index = check.directory / index_name
    if index.is_file() and index.read_bytes() != dali_index(places).encode():
        problems.append(f"{index_name}: does not say where the members of {tar_name} lie")
    data = np.memmap(tar, dtype=np.uint8, mode="r") if tar.stat().st_size else np.zeros(0, np.uint8)
    for row in check.rows:
        problems += [
            f"{tar_name}: {row['key']}: {text}" for text in _check_sample(row, places.get(row["key"], {}), data, check)
        ]
    return problems


def _members(row: dict[str, Any]) -> list[str]:
    """Endings of the members that a row must have: a level that lies where level 0 does has none of its own."""
    first = row["levels"][0]["offset"]
    own = [n for n, level in enumerate(row["levels"]) if n == 0 or level["offset"] != first]
    return ["json", *(member_name(number) for number in own)]


def _check_sample(
    row: dict[str, Any], members: dict[str, tuple[int, int]], data: Any, check: _ShardCheck
) -> Iterator[str]:
    for ending in _members(row):
        if ending not in members:
            yield f"member {ending} is missing"
    for number, level in enumerate(row["levels"]):
        offset, length = level["offset"], level["length"]
        if level["shard"] != check.shard or offset < 0 or offset + length > len(data):
            yield f"level {number} lies outside the tar"
            continue
        own = member_name(number) if member_name(number) in members else member_name(0)
        if members.get(own) != (offset, length):
            yield f"level {number} is not where the index says"
        encoded = data[offset : offset + length].tobytes()
        if bytes_digest(encoded) != level["digest"]:
            yield f"level {number} has other bytes than when it was written"
        pixels = decode_jpeg(encoded)
        if pixels is None:
            yield f"level {number} does not decode"
        elif pixels.shape != (level["height"], level["width"]):
            yield f"level {number} is {pixels.shape}, the index says {(level['height'], level['width'])}"
        else:
            yield from (f"level {number} {text}" for text in jpeg_traces(encoded))
    yield from row_traces(row, check.config)
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
    names = ("key", "source", "split", "height", "width", "patient", "sex", "age_band", "view_position", "scanner")
    boxes, findings = row["boxes"], row["findings"]
    return Sample(
        **{name: row[name] for name in names},
        findings=None if findings is None else tuple(findings),
        boxes=None if boxes is None else tuple(Box(**box) for box in boxes),
    )


if __name__ == "__main__":
    from sharding.verify import main as imported_main

    sys.exit(imported_main())
