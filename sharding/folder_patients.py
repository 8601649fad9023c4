"""Patients by DICOM headers, for splits that must know them before any pixel is read."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Sequence
from functools import partial

import pydicom

from cluster import storage
from cluster.progress import Progress
from cluster.tasks import map_tasks
from sharding.privacy import pseudonym
from sharding.sample import SourceImage

NUM_PER_TASK = 256


def header_patients(images: Sequence[SourceImage], secret: bytes, processes: int) -> list[SourceImage]:
    """The images, with the pseudonym of PatientID filled in where a DICOM file has one and no table named a patient.

    It is the pseudonym that `sharding.writer` gives. Only headers are read, on all processes. A file whose header
    cannot be read keeps None: whoever reads its pixels says why. Raises OSError for what may pass.
    """
    asked = [number for number, image in enumerate(images) if image.kind == "dicom" and image.patient is None]
    done = list(images)
    parts = [asked[begin : begin + NUM_PER_TASK] for begin in range(0, len(asked), NUM_PER_TASK)]
    places = [tuple(images[number].path for number in part) for part in parts]
    if not parts:
        return done
    with Progress(len(asked), "read headers", "files") as progress:
        for part, patients in zip(parts, map_tasks(partial(_patients, secret), places, processes), strict=True):
            for number, patient in zip(part, patients, strict=True):
                done[number] = dataclasses.replace(images[number], patient=patient)
            progress.update(len(part))
    return done


def _patients(secret: bytes, places: tuple[str, ...]) -> list[str | None]:
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote the header
    return [_patient(secret, place) for place in places]


def _patient(secret: bytes, place: str) -> str | None:
    try:
        if not storage.stat(place).is_plain:
            return None
        with warnings.catch_warnings(), storage.open_input(place) as file:
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"])
            name = str(header.get("PatientID") or "").strip()
    except OSError as error:
        if error.errno is not None and not storage.lasting(error):
            raise  # a store or disk that fails now and then must not change a split
        return None
    except Exception:  # pydicom raises nearly anything on a damaged file, which the pixel reader names
        return None
    return pseudonym(secret, "patient", name) if name else None
