"""What a run has to do: the images that a reader found, without those that the set has, that are not wanted or that are
not there, dealt into splits, folds and subsets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharding import shards
from sharding.arrange import Arrangement, arrange
from sharding.delivery import known_keys, placements
from sharding.folder import FolderConfig, read_folder
from sharding.known import other_images
from sharding.nih import NihConfig, read_nih
from sharding.options import OutputConfig
from sharding.sample import Cohort, Refusal, SourceImage
from sharding.splits import PatientSides
from sharding.vindr import VindrConfig, read_vindr

READERS: dict[str, type[OutputConfig]] = {"nih": NihConfig, "vindr": VindrConfig, "folder": FolderConfig}

KNOWN_FROM_TABLES = ("sex", "age_band", "source", "patient", "finding", "view_position", "scanner")


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to do."""

    images: tuple[SourceImage, ...]
    """To be encoded, with split, fold and subset."""
    refusals: tuple[Refusal, ...]
    """What the reader and a look at the files refused."""
    num_known: int
    """Images that the set has already."""
    num_dropped: int
    """Images that the config does not want."""
    first_shard: int
    """Number of the first tar."""


def read(config: OutputConfig, secret: bytes) -> Cohort:
    """The cohort by the reader of the config's kind."""
    match config:
        case NihConfig():
            return read_nih(config, secret)
        case VindrConfig():
            return read_vindr(config, secret)
        case FolderConfig():
            return read_folder(config, secret)
    raise AssertionError(config)


def with_vocabulary(config: OutputConfig, before: Mapping[str, Any] | None) -> OutputConfig:
    """A folder that is added to a set has the set's findings, whichever of them its own csv file names."""
    if isinstance(config, FolderConfig) and config.append and before is not None and not config.findings:
        return dataclasses.replace(config, findings=tuple(before["findings"]))
    return config


def prepare(job: shards.Job, cohort: Cohort, before: Mapping[str, Any] | None) -> Work:
    """The images that are there, new and wanted, dealt into splits, folds and subsets.

    Raises ValueError where none is usable, and where a patient would be on two sides.
    """
    config = job.config
    known: set[str] = set()
    first = 0
    if before is not None:
        known = known_keys(job.target, before, [image.key for image in cohort.images])
        first = 1 + max((int(entry["shard"]) for entry in before["shards"]), default=-1)
    new = [image for image in cohort.images if image.key not in known]
    kept = tuple(image for image in new if _may_stay(job, image))
    num_unwanted = len(new) - len(kept)
    found = shards.look_up(dataclasses.replace(cohort, images=kept))
    if before is not None and isinstance(config, FolderConfig):  # published ids always stand for the same image
        again = shards.look_up(Cohort((), tuple(i for i in cohort.images if i.key in known), (), ()))
        others = other_images(again.images, config.private(".names.csv"), job.target, before, config.processes)
        found = dataclasses.replace(found, refusals=(*found.refusals, *others))
        changed = {other.name for other in others}
        known -= {image.key for image in again.images if image.name in changed}
    if not found.images and not known:
        some = "".join(f"; {refusal.name}: {refusal.reason}" for refusal in found.refusals[:3])
        raise ValueError(
            f"root: {config.root} gives no usable image ({len(found.refusals):,} refused, "
            f"{num_unwanted:,} left out by --only{some})"
        )
    patients = {image.patient for image in found.images if image.patient is not None}
    earlier = {} if before is None else placements(job.target, before, patients)
    by_patient = getattr(config, "split", "") == "patient"
    how = Arrangement(
        by_patient=by_patient,
        valid_share=config.valid_share,
        test_share=config.test_share,
        folds=config.folds,
        subsets=config.subsets,
        keep_normals=config.keep_normals,
    )
    images = arrange(found.images, how, earlier)
    dealt = {image.fold for image in images} - {None}
    if before is None and len(dealt) < config.folds:
        raise ValueError(f"folds: there are too few patients for {config.folds} folds; ask for {len(dealt)} or fewer")
    sides = PatientSides()
    sides.see(earlier.keys(), (place.split for place in earlier.values()))
    sides.see((image.patient for image in images), (image.split for image in images))
    sides.check()
    num_dropped = num_unwanted + len(found.images) - len(images)
    return Work(images, found.refusals, len(known), num_dropped, first)


def _may_stay(job: shards.Job, image: SourceImage) -> bool:
    """False where the filter leaves an image out already by what the tables say, so that it is dealt nowhere.

    A DICOM's header may yet tell what they do not: those are looked at when they are open.
    """
    if not job.only.terms or image.kind == "dicom":
        return True
    return job.only.about(*KNOWN_FROM_TABLES).takes(image.sample(0, 0), job.findings)
