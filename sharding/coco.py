"""The consensus boxes of VinDr-CXR as COCO json, for those who use them elsewhere. No pixel is touched."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from cluster import config as configs
from cluster import storage
from cluster.files import write_atomic
from cluster.progress import format_seconds
from cluster.version import code_version
from sharding.pixels import UnreadableImage
from sharding.quarantine import judge, quarantine_path, write_quarantine
from sharding.sample import SPLITS, Box, Refusal
from sharding.vindr import Edition, VindrConfig, consensus, header_sizes, read_edition
from sharding.vindr_rows import Reading, several

DECIDING = ("name", "labels", "label_votes", "split", "keep_normals", "valid_share", "test_share", "fusion")
"""Fields of the config that decide what is written; they are repeated in `info`."""


def write_annotations(config: VindrConfig) -> None:
    """Writes `out`/train.json, valid.json and test.json (those that have images; with `dry_run` none) and prints a
    summary.

    COCO's form: `images` id, file_name, height, width in pixels; `annotations` id, image_id, category_id, bbox [x, y,
    width, height] and area in pixels of the original, rounded to .1, iscrowd 0; `categories` id, which is the finding's
    position, and name; `info` with the config, the code's version, the sources' digests and counts. With labels "all"
    an image has `findings` too, ids of categories, for diseases have no box. Images are in the reference's order where
    it splits them, else in that of the csv file. Images and rows that are set aside are listed in
    `<out>.quarantine.jsonl` beside the key file's place.

    Raises ValueError for what the user can repair: what `read_edition` refuses, and files of other content in `out`,
    which it never overwrites; where all is there already, it says so. Raises TooManyFailures.
    """
    started = time.monotonic()
    out = Path(config.out).absolute()
    edition = read_edition(config, files_needed=False)
    if not edition.layout.sizes and not edition.layout.files:
        raise ValueError(
            f"root: {config.root} tells no image's size, which fusion needs: put train_meta.csv (image_id, dim0 = "
            "height, dim1 = width) there, or the DICOM files"
        )
    contents, refusals, left_out = describe_splits(edition, config)
    missing = _missing(out, contents)
    listed = quarantine_path(config)
    judge(config, refusals, len(edition.readings))
    where = ""
    if not config.dry_run:
        write_quarantine(config, refusals)
        where = f", listed in {listed}"
    if not contents:
        raise ValueError(f"root: {config.root} gives no usable image")
    if not config.dry_run:
        out.mkdir(parents=True, exist_ok=True)
        for split in missing:
            write_atomic(out / f"{split}.json", json.dumps(contents[split]) + "\n")
    for split, content in contents.items():
        state = " (would be written)" * config.dry_run if split in missing else " (is there already: nothing to do)"
        counts = content["info"]["counts"]
        print(f"{out / split}.json: {counts['images']:,} images, {counts['boxes']:,} boxes{state}")
    for why, number in left_out.items():
        print(f"  left out: {number:,} {why}")
    print(f"  {format_seconds(time.monotonic() - started)}; set aside: {len(refusals):,}{where}")


def describe_splits(
    edition: Edition, config: VindrConfig
) -> tuple[dict[str, dict[str, Any]], list[Refusal], Counter[str]]:
    """What each file shall hold, by split; what is unusable; and how many images the config leaves out, and why."""
    left_out: Counter[str] = Counter()
    images: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    annotations: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    refusals = list(edition.refusals)
    headers = header_sizes(edition, list(edition.readings))
    for key, split in edition.splits.items():
        reading = edition.readings[key]
        file = edition.layout.files.get(key)
        try:
            height, width = _size(key, reading, edition, headers.get(key))
            findings, boxes = consensus(reading, height, width, config)
        except UnreadableImage as error:
            refusals.append(Refusal(key if file is None else file.name, str(error)))
            continue
        if boxes is None:
            left_out[f"that {config.fusion.reader} has not read"] += 1
            continue
        if findings == () and not config.keep_normals:
            left_out["without a finding (keep_normals)"] += 1
            continue
        number = len(images[split])
        image = {
            "id": number,
            "file_name": f"{key}.dicom" if file is None else storage.name_of(file.path),
            "height": height,
            "width": width,
        }
        images[split].append(image if config.labels == "14" else {**image, "findings": list(findings or ())})
        for box in boxes:
            annotations[split].append(annotation(box, len(annotations[split]), number))
    categories = [{"id": number, "name": name} for number, name in enumerate(edition.findings)]
    about = {"description": "consensus boxes of VinDr-CXR", "version": code_version()} | _sources(edition, config)
    contents = {
        split: {
            "info": about | {"split": split, "counts": _counts(images[split], annotations[split], edition.findings)},
            "images": images[split],
            "annotations": annotations[split],
            "categories": categories,
        }
        for split in SPLITS
        if images[split]
    }
    return contents, refusals, left_out


def annotation(box: Box, number: int, image: int) -> dict[str, Any]:
    """A box in COCO's form, in pixels rounded to .1; the area is that of its rounded corners, as in the reference."""
    x, y, x_max, y_max = (round(float(value), 1) for value in (box.x_min, box.y_min, box.x_max, box.y_max))
    return {
        "id": number,
        "image_id": image,
        "category_id": box.finding,
        "bbox": [x, y, round(x_max - x, 1), round(y_max - y, 1)],
        "area": round((x_max - x) * (y_max - y), 1),
        "iscrowd": 0,
    }


def _size(key: str, reading: Reading, edition: Edition, header: Future[tuple[int, int]] | None) -> tuple[int, int]:
    """(height, width) in pixels by the csv file, else by the DICOM header."""
    if reading.wrong:
        raise UnreadableImage(several(reading.wrong))
    if key in edition.sizes:
        return edition.sizes[key]
    if header is not None:
        return header.result()
    raise UnreadableImage("its size is unknown: train_meta.csv has no row for it, and the file is not there")


def _sources(edition: Edition, config: VindrConfig) -> dict[str, Any]:
    told = configs.to_dict(config)
    sources = [
        {"name": storage.name_of(table.path), "sha256": hashlib.sha256(storage.read(table.path)).hexdigest()}
        for table in edition.tables
    ]
    return {"edition": edition.layout.edition, "config": {name: told[name] for name in DECIDING}, "sources": sources}


def _counts(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], findings: tuple[str, ...]
) -> dict[str, Any]:
    per_finding = Counter(entry["category_id"] for entry in annotations)
    return {
        "images": len(images),
        "images_with_boxes": len({entry["image_id"] for entry in annotations}),
        "boxes": len(annotations),
        "boxes_per_finding": {name: per_finding[number] for number, name in enumerate(findings)},
    }


def _missing(out: Path, contents: dict[str, dict[str, Any]]) -> list[str]:
    """Splits whose file is not there yet. Raises ValueError where one of other content is."""
    missing: list[str] = []
    for split in filter(None, SPLITS):
        path = out / f"{split}.json"
        if not path.exists():
            missing += [split] * (split in contents)
        elif split not in contents or not _same(path, contents[split]):
            raise ValueError(f"out: {path} is there with other content; give another --out, or remove it")
    return missing


def _same(path: Path, content: dict[str, Any]) -> bool:
    """Whether the file says the same, be it by another version of the code."""
    try:
        there = json.loads(path.read_bytes())
        del there["info"]["version"]
    except (ValueError, TypeError, KeyError):
        return False
    about = {name: value for name, value in content["info"].items() if name != "version"}
    return bool(there == content | {"info": about})
