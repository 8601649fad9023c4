"""Which images a cohort has: a pure function of version, seed and position, so that any process can draw any image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sharding.phantom.anatomy import Patient, Pose, ViewPosition, draw_patient, draw_pose
from sharding.phantom.scene import Planned, plan_findings

PHANTOM_VERSION = 1
"""Changes whenever the same seed would give other pixels or other words."""

CohortName = Literal["nih", "vindr"]
Purpose = Literal["patient", "image", "readers", "order"]

_COHORTS: tuple[CohortName, ...] = ("nih", "vindr")
_PURPOSES: tuple[Purpose, ...] = ("patient", "image", "readers", "order")
_NIH_PER_FOLDER = 5_000
_NIH_MEAN_FOLLOW_UPS = 3.1
_NIH_TEST_SHARE = 0.23


@dataclass(frozen=True, slots=True)
class Case:
    """One image of a cohort before it is drawn. `path` is relative to the cohort's folder, with the suffix."""

    cohort: CohortName
    seed: int
    index: int
    key: str
    path: str
    patient: int
    follow_up: int
    side_px: int


def generator(cohort: CohortName, seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    """The generator of one thing of one cohort; no two things share one."""
    entropy = [PHANTOM_VERSION, seed, _COHORTS.index(cohort), _PURPOSES.index(purpose), index]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def plan_cohort(cohort: CohortName, seed: int, num_images: int, side_px: int) -> tuple[Case, ...]:
    """The first `num_images` cases. A larger cohort of the same seed begins with the same images."""
    return _plan_nih(seed, num_images, side_px) if cohort == "nih" else _plan_vindr(seed, num_images, side_px)


def _plan_nih(seed: int, num_images: int, side_px: int) -> tuple[Case, ...]:
    cases: list[Case] = []
    patient = 0
    while len(cases) < num_images:
        patient += 1
        luck = 1.0 - generator("nih", seed, "order", patient).random()
        num_follow_ups = min(30, 1 + int(-_NIH_MEAN_FOLLOW_UPS * np.log(luck)))
        for follow_up in range(min(num_follow_ups, num_images - len(cases))):
            index = len(cases)
            key = f"{patient:08d}_{follow_up:03d}"
            path = f"images_{index // _NIH_PER_FOLDER + 1:03d}/images/{key}.png"
            cases.append(Case("nih", seed, index, key, path, patient, follow_up, side_px))
    return tuple(cases)


def _plan_vindr(seed: int, num_images: int, side_px: int) -> tuple[Case, ...]:
    cases = []
    for index in range(num_images):
        key = hashlib.blake2b(f"{PHANTOM_VERSION} {seed} {index}".encode(), digest_size=16).hexdigest()
        cases.append(Case("vindr", seed, index, key, f"train/{key}.dicom", index + 1, 0, side_px))
    return tuple(cases)


def is_test_patient(seed: int, patient: int) -> bool:
    """Whether an NIH patient is in test_list.txt: 23 in 100, spread evenly, so that small cohorts have some too."""
    return (patient * 0.6180339887498949 + (seed % 997) * 0.7548776662466927) % 1.0 < _NIH_TEST_SHARE


def patients_in_test(cases: tuple[Case, ...]) -> frozenset[int]:
    """The test patients of an NIH cohort. With two patients or more, there is one at least on either side."""
    patients = sorted({case.patient for case in cases})
    chosen = {patient for patient in patients if is_test_patient(cases[0].seed, patient)}
    if len(patients) > 1 and not chosen:
        chosen = {patients[-1]}
    if len(patients) > 1 and len(chosen) == len(patients):
        chosen.remove(patients[0])
    return frozenset(chosen)


def people(case: Case, rng: np.random.Generator) -> tuple[Patient, Pose, tuple[Planned, ...]]:
    """Patient, pose and findings of a case; `rng` is the image's own generator.

    In NIH a patient's later images mostly show the same findings, stronger or weaker.
    """
    own = generator(case.cohort, case.seed, "patient", case.patient)
    patient = draw_patient(own, case.patient)
    lasting = plan_findings(own)
    view: ViewPosition = "AP" if case.cohort == "nih" and rng.random() < 0.4 else "PA"
    pose = draw_pose(rng, view)
    fresh = plan_findings(rng)
    if case.cohort == "vindr" or rng.random() < 0.4:
        return patient, pose, fresh
    drift = float(rng.uniform(-0.15, 0.15))
    return patient, pose, tuple(Planned(p.finding, min(1.0, max(0.0, p.strength + drift))) for p in lasting)
