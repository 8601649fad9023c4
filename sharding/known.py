"""Files of one's own folder that a shard set has already: the way back from keys to them, and whether they are the
same.

A key stands for a path below the root, so another image may come to lie where one was that the set has. The list
beside the key tells size and time of every file that was taken; where they differ, the file's content decides.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from cluster.files import write_atomic
from cluster.target import Target
from cluster.tasks import map_tasks
from sharding.manifest import index_names
from sharding.pixels import UnreadableImage
from sharding.sample import Refusal, SourceImage
from sharding.source import read_source

COLUMNS = ("key", "name", "bytes", "mtime_ns")
OTHER = "the set has another image under this name (the file has changed since): give it a name of its own"


def read_way_back(path: Path) -> dict[str, list[str]]:
    """The list at `path`, by key: name, bytes and time of each file; empty where there is none."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {row["key"]: [row[name] or "" for name in COLUMNS[1:]] for row in csv.DictReader(file)}


def write_way_back(path: Path, images: Sequence[SourceImage]) -> None:
    """Adds these images to the list at `path`, which is its owner's alone (0600)."""
    rows = read_way_back(path) | {image.key: [image.name, *_stamp(image)] for image in images}
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows([key, *row] for key, row in rows.items())
    write_atomic(path, text.getvalue(), mode=0o600)


def _stamp(image: SourceImage) -> list[str]:
    return ["", ""] if image.stat is None else [str(image.stat.num_bytes), str(image.stat.mtime_ns)]


def other_images(
    images: Sequence[SourceImage], way_back: Path, target: Target, manifest: Mapping[str, Any], processes: int
) -> list[Refusal]:
    """Of these images, whose keys the set has, those whose files hold something else than what it was made from."""
    rows = read_way_back(way_back)
    suspects = [image for image in images if rows.get(image.key, ["", "", ""])[1:] != _stamp(image)]
    if not suspects:
        return []
    digests = _source_digests(target, manifest, [image.key for image in suspects])
    work = [(image, digests[image.key]) for image in suspects]
    found = map_tasks(_is_other, work, processes)
    return [Refusal(image.name, OTHER) for image, other in zip(suspects, found, strict=True) if other]


def _is_other(work: tuple[SourceImage, str]) -> bool:
    image, digest = work
    try:
        return bool(xxhash.xxh3_128_hexdigest(read_source(image)) != digest)
    except UnreadableImage:
        return True


def _source_digests(target: Target, manifest: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    wanted = pa.array(sorted(keys), pa.string())
    found: dict[str, str] = {}
    for name in index_names(manifest):
        with target.local(name) as path:
            for batch in pq.ParquetFile(path).iter_batches(columns=["key", "source_digest"]):
                mine = batch.filter(pc.is_in(batch.column("key"), value_set=wanted))
                found.update(zip(*(mine.column(name).to_pylist() for name in ("key", "source_digest")), strict=True))
    return found
