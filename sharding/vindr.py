"""Reader of VinDr-CXR, in the form of its Kaggle competition or of its PhysioNet edition.

The readers' boxes become consensus boxes (sharding.fusion); a local finding of the image is one with a consensus box,
so an image in which nobody drew a box has none.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from cluster import storage
from sharding.dicom import read_size
from sharding.findings import VINDR_ALL_FINDINGS, VINDR_FINDINGS, VINDR_LOCAL_FINDINGS
from sharding.fusion import FusionConfig, fuse_readers
from sharding.options import OutputConfig
from sharding.pixels import UnreadableImage
from sharding.sample import Box, Cohort, Refusal, SourceImage
from sharding.splits import REFERENCE_SHARES, hash_split, reference_split
from sharding.tables import Table
from sharding.vindr_layout import Layout, find_layout
from sharding.vindr_rows import Reading, Readings, read_boxes, read_sizes, read_votes, several

NUM_HEADERS = 16
"""DICOM headers that are read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VindrConfig(OutputConfig):
    """VinDr-CXR as on Kaggle (train/<image_id>.dicom, train.csv, and if there is one train_meta.csv with the sizes) or
    as on PhysioNet (train/, test/, and in annotations/ or in root the four csv files); csv files plain or .gz."""

    name: str = "vindr"
    """Start of the tars' names, and the samples' `source`."""
    labels: Literal["14", "all"] = "14"
    """14: the findings of Kaggle's edition, 8 rare ones being "Other lesion"; all: the 22 local findings and the 5
    diseases of PhysioNet's."""
    label_votes: int = 2
    """A disease of the train part is one that at least so many of the readers name (`labels` all)."""
    split: Literal["auto", "reference", "official", "patient", "hash", "none"] = "auto"
    """auto: reference for Kaggle's edition, official for PhysioNet's. reference: the BarlowTwins-CXR split of images
    with boxes (.7 / .15 / .15), others by a hash of their id to the same shares; official: test/ is test, train/ is
    train and valid by a hash; hash: all by a hash; none: everything is train; patient: balanced, and since neither the
    csv files nor (in the published files) the DICOM headers name a patient, an image is its own. All are by image."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """How the readers' boxes become consensus boxes; the test part's are one already and stay as they are."""
    annotations_only: bool = False
    """Write the consensus boxes as COCO json, `out`/train.json and so on, and touch no image."""

    def __post_init__(self) -> None:
        OutputConfig.__post_init__(self)
        if self.label_votes < 1:
            raise ValueError(f"label_votes: {self.label_votes} is below 1; three readers have read each image")
        if not self.annotations_only:
            return
        if self.split == "patient":
            raise ValueError("split: patient looks into the images, --annotations_only does not; take --split hash")
        for name, value in (("folds", self.folds), ("subsets", self.subsets), ("only", self.only)):
            if value:
                raise ValueError(f"{name}: --annotations_only knows none; leave it out")
        if self.append:
            raise ValueError("append: --annotations_only writes whole files; leave it out")
        if storage.is_remote(self.out):
            raise ValueError(f"out: --annotations_only writes to a local folder, not to {self.out}; copy it from there")


@dataclass(frozen=True, slots=True)
class Edition:
    """All that the csv files say."""

    layout: Layout
    findings: tuple[str, ...]
    readings: Readings
    splits: Mapping[str, str]
    """Split of every image; those that the reference splits come first and in its order."""
    sizes: Mapping[str, tuple[int, int]]
    """(height, width) in pixels, where a csv file states it."""
    refusals: tuple[Refusal, ...]
    """Rows and parts that were left out, files without a row."""

    @property
    def tables(self) -> tuple[Table, ...]:
        """All csv files that were read."""
        return (*(table for part in self.layout.parts for table in part.tables), *self.layout.sizes)

    def csv_of(self, part: str) -> str:
        """Name of the csv file that holds the boxes of an official part."""
        return next(storage.name_of(found.boxes.path) for found in self.layout.parts if found.name == part)


def read_vindr(config: VindrConfig, secret: bytes) -> Cohort:
    """Every image of the csv files in order of first appearance, with consensus boxes; keys are the published ids.

    Raises ValueError where root is another data set or laid out in another way.
    """
    del secret  # the csv files name nobody
    edition = read_edition(config, files_needed=True)
    refusals = list(edition.refusals)
    images: list[SourceImage] = []
    headers = header_sizes(edition, [key for key, reading in edition.readings.items() if reading.drawn])
    for key, reading in edition.readings.items():
        file, size = edition.layout.files.get(key), edition.sizes.get(key)
        if reading.wrong or file is None:
            absent = f"{edition.csv_of(reading.part)} names it, but there is no such file below root"
            refusals.append(Refusal(key if file is None else file.name, several(reading.wrong) or absent))
            continue
        try:
            height, width = size or headers[key].result() if reading.drawn else (0, 0)
            findings, boxes = consensus(reading, height, width, config)
        except UnreadableImage as error:
            refusals.append(Refusal(file.name, str(error)))
            continue
        images.append(
            SourceImage(
                path=file.path,
                kind="dicom",
                name=file.name,
                key=key,
                source=config.name,
                split=edition.splits[key],
                findings=findings,
                boxes=boxes,
                size_hint=size,
                stat=file.stat,
            )
        )
    return Cohort(edition.findings, tuple(images), tuple(refusals), tuple(table.path for table in edition.tables))


def read_edition(config: VindrConfig, files_needed: bool) -> Edition:
    """The csv files of `config.root` and, by what they say alone, the split of every image.

    Raises ValueError for a layout, and for labels, a split or a reader that the edition does not have.
    """
    layout = find_layout(config.root, files_needed)
    if config.labels == "all" and layout.edition == "kaggle":
        raise ValueError(
            "labels: all needs the PhysioNet edition (image_labels_train.csv); Kaggle's has folded the 8 rare findings "
            "into Other lesion and names no disease; take --labels 14"
        )
    local = VINDR_FINDINGS if config.labels == "14" else VINDR_LOCAL_FINDINGS
    readings: Readings = {}
    refusals = list(layout.refusals)
    for part in layout.parts:
        refusals += read_boxes(part.boxes, readings, local, part.name)
        if part.votes is not None:
            refusals += read_votes(part.votes, readings, part.name, diseases=config.labels == "all")
    csvs = " and ".join(storage.name_of(part.boxes.path) for part in layout.parts)
    for key in sorted(layout.files.keys() - readings.keys()):
        refusals.append(Refusal(layout.files[key].name, f"there is no row for it in {csvs}"))
    if config.fusion.reader:
        _check_reader(config.fusion.reader, readings)
    sizes: dict[str, tuple[int, int]] = {}
    for table in layout.sizes:
        stated, wrong = read_sizes(table)
        sizes |= stated
        for key, reason in wrong.items():
            if key in readings:
                readings[key].wrong.append(reason)
    there = layout.files.keys() if files_needed else layout.files.keys() | sizes.keys()
    refusals += _leave_out_absent(layout, readings, there)
    splits = assign_splits(readings, config, layout.edition)
    findings = VINDR_FINDINGS if config.labels == "14" else VINDR_ALL_FINDINGS
    return Edition(layout, findings, readings, splits, sizes, tuple(refusals))


def assign_splits(readings: Readings, config: VindrConfig, edition: str = "kaggle") -> dict[str, str]:
    """Split of every image, by annotation alone, so that it does not change with the files that are there.

    Images that the reference splits come first and in its order, others in that of the csv file. Raises ValueError
    for a split that the edition does not have.
    """
    split = config.split
    if split == "auto":
        split = "reference" if edition == "kaggle" else "official"
    match split:
        case "official" if edition == "kaggle":
            raise ValueError(
                "split: official needs the PhysioNet edition; Kaggle's is its train part alone, without labels for "
                "test/; take --split reference or hash"
            )
        case "reference" if edition != "kaggle":
            raise ValueError(
                "split: the reference's follows the order of the rows in Kaggle's train.csv, which this edition has "
                "not; take --split official or hash, or put Kaggle's train.csv beside train/ instead"
            )
        case "reference":
            chosen = reference_split([key for key, reading in readings.items() if reading.drawn])
            others = readings.keys() - chosen.keys()
            return chosen | {key: hash_split(key, *REFERENCE_SHARES) for key in readings if key in others}
        case "official":
            return {
                key: "test" if reading.part == "test" else hash_split(key, config.valid_share, 0.0)
                for key, reading in readings.items()
            }
        case "hash":
            return {key: hash_split(key, config.valid_share, config.test_share) for key in readings}
        case _:
            return dict.fromkeys(readings, "train")


def consensus(
    reading: Reading, height: int, width: int, config: VindrConfig
) -> tuple[tuple[int, ...] | None, tuple[Box, ...] | None]:
    """Findings and boxes of an image of this size in pixels; None and None where the one reader asked for is no reader
    of it. Raises UnreadableImage where a box is not inside."""
    wrong = reading.misplaced(height, width)
    if wrong is not None:
        raise UnreadableImage(wrong)
    only = config.fusion.reader
    if reading.part == "test":
        boxes = tuple(sorted(reading.boxes, key=lambda box: box.finding))
        needed = 1
    elif only and only not in reading.readers:
        return None, None
    else:
        boxes = fuse_readers(reading.boxes, [drawn.reader for drawn in reading.drawn], height, width, config.fusion)
        needed = 1 if only else config.label_votes
    findings = {box.finding for box in boxes}
    for disease, readers in reading.diseases.items():
        if len(readers & {only} if only and reading.part != "test" else readers) >= needed:
            findings.add(len(VINDR_LOCAL_FINDINGS) + disease)
    return tuple(sorted(findings)), boxes


def header_sizes(edition: Edition, keys: Sequence[str]) -> dict[str, Future[tuple[int, int]]]:
    """(height, width) in pixels by the DICOM headers of those images whose size no csv file states and whose file is
    there; a result raises UnreadableImage where there is none. Several at once, for a header is mostly waiting."""
    wanted = [key for key in keys if key in edition.layout.files and key not in edition.sizes]
    # pydicom's warnings quote the header; read_size silences them, but not if another thread is done first.
    with warnings.catch_warnings(), ThreadPoolExecutor(NUM_HEADERS) as pool:
        warnings.simplefilter("ignore")
        return {key: pool.submit(read_size, edition.layout.files[key].path) for key in wanted}


def _leave_out_absent(layout: Layout, readings: Readings, there: Set[str]) -> list[Refusal]:
    """Takes out a whole part of which nothing is there (a copy of train/ alone), with one refusal for all of it."""
    refusals: list[Refusal] = []
    for part in layout.parts:
        keys = [key for key, reading in readings.items() if reading.part == part.name]
        if len(layout.parts) > 1 and keys and there.isdisjoint(keys):
            name = storage.name_of(part.boxes.path)
            refusals.append(Refusal(name, f"no file of its {len(keys):,} images is there: the part was left out"))
            for key in keys:
                del readings[key]
    return refusals


def _check_reader(reader: str, readings: Readings) -> None:
    known = {who for reading in readings.values() if reading.part == "train" for who in reading.readers}
    if reader not in known:
        raise ValueError(
            f"fusion.reader: nobody is called {reader!r}; readers are {', '.join(sorted(known)) or 'none'}"
        )
