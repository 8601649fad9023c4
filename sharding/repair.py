"""Damaged shards made again from the source; nothing is put in place that is not, to the byte, what was there."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import config as configs
from cluster.failure import Failure
from cluster.files import sha256_file
from cluster.progress import Progress
from cluster.target import LocalTarget, Target
from cluster.tasks import map_tasks
from sharding import filters
from sharding.commit import Held, clear, hold, write_index
from sharding.inspection import Inspection, load_manifest, shard_rows
from sharding.manifest import index_name, partial_directory, shard_name
from sharding.options import OutputConfig
from sharding.prepare import READERS, prepare, read
from sharding.privacy import find_key
from sharding.sample import SourceImage
from sharding.shards import Job, key_print, make_tasks
from sharding.tars import read_members
from sharding.task import ShardResult, ShardTask
from sharding.writer import write_shard


@dataclass(frozen=True, slots=True)
class Source:
    """Where the images and tables of a shard set are."""

    root: str | Path
    csv: str | Path
    key_file: Path | None


class CannotRepair(Failure):
    """The source does not give what the shard set held; no file of that delivery was replaced."""


@dataclass(frozen=True, slots=True)
class _Patient:
    """The damaged set."""

    place: str | Path
    target: Target
    manifest: dict[str, Any]
    damage: Inspection
    rows: Mapping[int, list[dict[str, Any]]]
    """Rows of the index of the damaged shards, where the indexes are whole."""


def repair(place: str | Path, damage: Inspection, source: Source, processes: int) -> None:
    """Rebuilds the damaged shards, and the damaged indexes with every shard of their deliveries.

    Raises ValueError where the source or the key is another one, CannotRepair where it no longer gives the same bytes.
    """
    target, manifest = load_manifest(place)
    if not damage.shards and not damage.indexes:
        raise CannotRepair(f"{place}: what is wrong lies in no shard: {damage.problems[0]}")
    known = {} if damage.indexes else {n: rows for n, rows in shard_rows(target, manifest) if n in damage.shards}
    patient = _Patient(place, target, manifest, damage, known)
    for number, shards in enumerate(_shards_by_delivery(manifest)):
        wanted = shards if number in damage.indexes else [shard for shard in shards if shard in damage.shards]
        if wanted or number in damage.indexes:
            _repair_delivery(patient, number, wanted, source, processes)


def _shards_by_delivery(manifest: Mapping[str, Any]) -> list[list[int]]:
    """Numbers of each delivery's tars, in the order of its index."""
    entries = list(manifest["shards"])
    found: list[list[int]] = []
    for delivery in manifest["deliveries"]:
        mine: list[int] = []
        num_left = delivery["num_samples"]
        while num_left > 0:
            entry = entries.pop(0)
            mine.append(int(entry["shard"]))
            num_left -= entry["samples"]
        found.append(mine)
    return found


def _repair_delivery(patient: _Patient, number: int, shards: list[int], source: Source, processes: int) -> None:
    manifest = patient.manifest
    delivery = manifest["deliveries"][number]
    config = _config(patient.place, manifest, number, source)
    if not config.key_path().exists():
        raise ValueError(
            f"key_file: {config.key_path()} is not there; --repair needs the key that the set was made with"
        )
    secret = find_key(config.key_path(), Path(config.out))
    if key_print(secret) != delivery["key_print"]:
        raise ValueError(f"key_file: {config.key_path()} is not the key that {patient.place} was made with")
    with hold(config, patient.target) as held:
        begun = any(held.folder.glob("*.json"))  # an unfinished delivery waits there
        fresh = LocalTarget(str(held.folder / "rebuilt"))
        fresh.make()
        partial_directory(fresh.place).mkdir(exist_ok=True)
        try:
            cohort = read(config, secret)
            job = Job(config, tuple(manifest["findings"]), secret, patient.target, filters.parse(config.only))
            work = prepare(job, cohort, _manifest_before(manifest, number))
            arranged = {image.key: image for image in work.images}
            planned = make_tasks(job, work.images, delivery["samples_per_shard"], work.first_shard)[0]
            as_planned = {task.shard: task.images for task in planned}
            tasks = [job.task(n, _images(n, patient, arranged, as_planned)) for n in shards]
            _rebuild(patient, number, tasks, fresh, held, processes)
        finally:
            shutil.rmtree(fresh.place)
            shutil.rmtree(partial_directory(fresh.place))
            (held.folder / index_name(number)).unlink(missing_ok=True)
            if not begun:
                clear(held.folder)
    print(f"{patient.place}: {len(tasks)} shards of delivery {number} were made again")


def _rebuild(
    patient: _Patient, number: int, tasks: Sequence[ShardTask], fresh: LocalTarget, held: Held, processes: int
) -> None:
    """Makes the shards in a folder of their own, compares them, and only then puts them in place."""
    with_rows = number in patient.damage.indexes
    results: list[ShardResult] = []
    with Progress(sum(len(task.images) for task in tasks), "repair") as progress:
        for result in map_tasks(write_shard, [dataclasses.replace(task, target=fresh) for task in tasks], processes):
            _compare(result, patient.manifest)
            results.append(result if with_rows else dataclasses.replace(result, rows=()))
            progress.update(result.num_images)
    index = held.folder / index_name(number)
    if with_rows:
        write_index(index, (result.rows for result in results))
        if sha256_file(index) != patient.manifest["files"][index.name]["sha256"]:
            raise CannotRepair(f"{index.name}: made again, it has other bytes: other versions of the libraries?")
    held.check()
    for result in results:
        for name in result.files:
            patient.target.put(name, Path(fresh.place) / name)
    if with_rows:
        patient.target.put(index.name, index)


def _config(place: str | Path, manifest: Mapping[str, Any], number: int, source: Source) -> OutputConfig:
    delivery = manifest["deliveries"][number]
    table = dict(delivery["config"]) | {"root": str(source.root), "out": str(place)}
    if delivery["reader"] == "folder":
        table["findings"] = list(manifest["findings"])
    if str(source.csv):
        table["csv"] = str(source.csv)
    if source.key_file is not None:
        table["key_file"] = str(source.key_file)
    return configs.from_dict(READERS[delivery["reader"]], table, f"the manifest of {place}")


def _manifest_before(manifest: dict[str, Any], number: int) -> dict[str, Any] | None:
    """The manifest as it was before a delivery."""
    if number == 0:
        return None
    earlier = {shard for shards in _shards_by_delivery(manifest)[:number] for shard in shards}
    kept = [entry for entry in manifest["shards"] if int(entry["shard"]) in earlier]
    return {**manifest, "version": number, "shards": kept}


def _images(
    shard: int,
    patient: _Patient,
    arranged: Mapping[str, SourceImage],
    as_planned: Mapping[int, tuple[SourceImage, ...]],
) -> tuple[SourceImage, ...]:
    """The images of a shard in their order, placed as they were: by the index, else by the tar, else as they would be
    dealt anew, which is right if the source has not grown."""
    tar = shard_name(patient.manifest["name"], shard)
    rows = patient.rows.get(shard)
    if rows is None:
        try:
            rows = _rows_in_tar(patient, tar)
        except (OSError, tarfile.TarError, ValueError):
            return as_planned.get(shard, ())
    images = []
    for row in rows:
        image = arranged.get(row["key"])
        if image is None:
            raise CannotRepair(f"root: {row['key']} of {tar} is no longer in the source")
        images.append(dataclasses.replace(image, split=row["split"], fold=row["fold"], subset=row["subset"]))
    return tuple(images)


def _rows_in_tar(patient: _Patient, tar: str) -> list[dict[str, Any]]:
    with patient.target.local(tar) as path:
        if sha256_file(path) != patient.manifest["files"][tar]["sha256"]:
            raise ValueError("its content has changed")
        data = path.read_bytes()
        places = [members["json"] for members in read_members(path).values()]
    return [json.loads(data[offset : offset + length]) for offset, length in places]


def _compare(result: ShardResult, manifest: Mapping[str, Any]) -> None:
    """Raises CannotRepair unless the shard has its old bytes. Images that were set aside then are set aside again."""
    tar = shard_name(manifest["name"], result.shard)
    if any(entry != manifest["files"][name] for name, entry in result.files.items()) or not result.files:
        why = "".join(f"; {refusal.name}: {refusal.reason}" for refusal in result.refusals[:2])
        raise CannotRepair(
            f"{tar}: the source no longer gives the same bytes: images, tables or code have changed since{why} "
            "(nothing was replaced); copy the shard set from where it is whole, or make it again"
        )
