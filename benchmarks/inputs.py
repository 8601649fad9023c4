"""Radiographs to measure with: a few drawn ones, varied by shifts and flips, in the forms that users have.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cluster.files import write_atomic
from cluster.progress import Progress
from sharding.phantom.nih_files import draw_nih
from sharding.phantom.plan import PHANTOM_VERSION, Case, plan_cohort
from sharding.phantom.vindr_files import Form, dicom_bytes, draw_vindr

NUM_DRAWN = 8
"""Phantoms that are drawn of each cohort; the other files are these, shifted and flipped."""
PLAIN = Form(bits=12, compressed=False, inverted=False, signed=False, rescaled=False, windows=1)
"""How the DICOM files are stored: 12 bits, one window."""

_VERSION = 1
"""Changes whenever the same config would give other files."""


@dataclass(frozen=True, slots=True)
class InputPlan:
    """Which files to make."""

    num_images: int
    """PNG files, and JPEG files."""
    num_dicoms: int
    """DICOM files of each kind."""
    side_px: int
    """Side of a PNG; JPEG and DICOM have about two and a half times that."""
    seed: int
    """Of the phantoms."""


def make_inputs(work: Path, plan: InputPlan) -> Path:
    """A folder below `work` with png/, jpeg/, dicom/ and dicom_jpeg2000/, made unless it is there.

    png: 8 bits, as NIH's; jpeg: 8 bits, quality 95, as large as it came from the detector; dicom: 12 bits uncompressed
    and, of the same pixels, JPEG 2000 without loss, as VinDr's. A file is complete or absent, so an interrupted run
    goes on.
    """
    words = repr((_VERSION, PHANTOM_VERSION, plan)).encode()
    folder = work / f"inputs-{hashlib.blake2b(words, digest_size=6).hexdigest()}"
    total = 2 * plan.num_images + 2 * plan.num_dicoms
    paths = [*_paths(folder, "png", "png", plan.num_images), *_paths(folder, "jpeg", "jpg", plan.num_images)]
    paths += [
        *_paths(folder, "dicom", "dcm", plan.num_dicoms),
        *_paths(folder, "dicom_jpeg2000", "dcm", plan.num_dicoms),
    ]
    if all(path.is_file() for path in paths):
        return folder
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    with Progress(total, "bench: drawing", "files") as progress:
        for path, data in _png_files(folder, plan):
            write_atomic(path, data)
            progress.update()
        for path, data in _detector_files(folder, plan):
            write_atomic(path, data)
            progress.update()
    return folder


def _paths(folder: Path, kind: str, ending: str, number: int) -> list[Path]:
    return [folder / kind / f"{i:05d}.{ending}" for i in range(number)]


def draw_detector_image(seed: int, index: int, side_px: int) -> tuple[NDArray[np.uint16], Case, dict[str, Any]]:
    """A 12-bit image (0 to 4095, bright is dense) of about `side_px`, its case and its record."""
    case = plan_cohort("vindr", seed, index + 1, side_px)[index]
    image, form, record = draw_vindr(case)
    return (image >> (form.bits - PLAIN.bits)).astype(np.uint16), case, record


def vary(image: NDArray[Any], number: int) -> NDArray[Any]:
    """Another image of the same statistics: flipped for odd rounds over the drawn ones, shifted with wrap-around."""
    turn = number // NUM_DRAWN
    if turn == 0:
        return image
    flipped = image[:, ::-1] if turn % 2 else image
    return np.ascontiguousarray(np.roll(flipped, (37 * turn % image.shape[0], 53 * turn % image.shape[1]), (0, 1)))


def _png_files(folder: Path, plan: InputPlan) -> Iterator[tuple[Path, bytes]]:
    cases = plan_cohort("nih", plan.seed, min(NUM_DRAWN, plan.num_images), plan.side_px)
    drawn = [draw_nih(case)[0] for case in cases]
    for number, path in enumerate(_paths(folder, "png", "png", plan.num_images)):
        done, data = cv2.imencode(".png", vary(drawn[number % NUM_DRAWN], number), [cv2.IMWRITE_PNG_COMPRESSION, 6])
        assert done, path
        yield path, data.tobytes()


def _detector_files(folder: Path, plan: InputPlan) -> Iterator[tuple[Path, bytes]]:
    number_all = max(plan.num_images, plan.num_dicoms)
    side_px = plan.side_px * 5 // 2
    drawn = [draw_detector_image(plan.seed, i, side_px) for i in range(min(NUM_DRAWN, number_all))]
    jpegs = _paths(folder, "jpeg", "jpg", plan.num_images)
    plain = _paths(folder, "dicom", "dcm", plan.num_dicoms)
    compressed = _paths(folder, "dicom_jpeg2000", "dcm", plan.num_dicoms)
    for number in range(number_all):
        first, case, record = drawn[number % NUM_DRAWN]
        image = vary(first, number)
        if number < plan.num_images:
            done, data = cv2.imencode(".jpg", (image >> 4).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
            assert done, number
            yield jpegs[number], data.tobytes()
        if number < plan.num_dicoms:
            yield plain[number], dicom_bytes(case, image, PLAIN, record)
            yield (
                compressed[number],
                dicom_bytes(case, image, dataclasses.replace(PLAIN, compressed=True), record),
            )
