"""Three readers per image who disagree, as VinDr-CXR's do: jittered boxes, misses, mix-ups and ghosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharding.findings import VINDR_FINDINGS

NUM_READERS = 17

_MIXED_UP: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("Consolidation", "Lung Opacity"),
    "Calcification": ("Nodule/Mass", "Other lesion"),
    "Consolidation": ("Infiltration", "Lung Opacity"),
    "ILD": ("Pulmonary fibrosis", "Infiltration"),
    "Infiltration": ("Consolidation", "Lung Opacity"),
    "Lung Opacity": ("Infiltration", "Consolidation"),
    "Nodule/Mass": ("Other lesion", "Lung Opacity"),
    "Other lesion": ("Nodule/Mass",),
    "Pleural effusion": ("Pleural thickening",),
    "Pleural thickening": ("Pulmonary fibrosis",),
    "Pulmonary fibrosis": ("ILD", "Infiltration"),
}
_GHOSTS = ("Nodule/Mass", "Pleural thickening", "Aortic enlargement", "Pulmonary fibrosis", "Lung Opacity")


@dataclass(frozen=True, slots=True)
class Reading:
    """One row of train.csv: a finding (None: this reader saw nothing) and its box in whole px."""

    reader: str
    finding: int | None
    box: tuple[int, int, int, int] | None


def read_image(
    findings: Sequence[dict[str, Any]], height: int, width: int, rng: np.random.Generator
) -> tuple[Reading, ...]:
    """What three of the 17 readers wrote of an image whose drawn `findings` are given (as in the truth file)."""
    chosen: list[int] = []
    while len(chosen) < 3:  # as in the original, three of them read most of the images
        reader = int(rng.integers(8, 11)) if rng.random() < 0.6 else int(rng.integers(1, NUM_READERS + 1))
        if reader not in chosen:
            chosen.append(reader)
    rows: list[Reading] = []
    for reader in chosen:
        seen = _one_reader(findings, height, width, rng)
        rows.extend(Reading(f"R{reader}", finding, box) for finding, box in seen)
        if not seen:
            rows.append(Reading(f"R{reader}", None, None))
    return tuple(rows)


def _one_reader(
    findings: Sequence[dict[str, Any]], height: int, width: int, rng: np.random.Generator
) -> list[tuple[int, tuple[int, int, int, int]]]:
    seen = []
    for finding in findings:
        name, strength = str(finding["finding"]), float(finding["strength"])
        if rng.random() > min(0.97, 0.50 + 0.65 * strength):
            continue
        others = _MIXED_UP.get(name, ())
        if others and rng.random() < 0.10:
            name = others[int(rng.integers(0, len(others)))]
        box = _jittered(finding["box"], height, width, rng)
        seen.append((VINDR_FINDINGS.index(name), box))
        if others and rng.random() < 0.06:  # one rectangle under two names
            seen.append((VINDR_FINDINGS.index(others[0] if others[0] != name else str(finding["finding"])), box))
    if rng.random() < 0.03:
        name = _GHOSTS[int(rng.integers(0, len(_GHOSTS)))]
        x, y = float(rng.uniform(0.15, 0.75)) * width, float(rng.uniform(0.15, 0.6)) * height
        w, h = float(rng.uniform(0.04, 0.12)) * width, float(rng.uniform(0.04, 0.12)) * height
        seen.append((VINDR_FINDINGS.index(name), _jittered((x, y, x + w, y + h), height, width, rng)))
    return seen


def _jittered(box: Sequence[float], height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """The box as one hand draws it: each side moved by up to 9 % of the box and a few px; whole, inside the image."""
    x_min, y_min, x_max, y_max = (float(v) for v in box)
    slack_x, slack_y = 0.09 * (x_max - x_min) + 0.003 * width, 0.09 * (y_max - y_min) + 0.003 * height
    moves = rng.uniform(-1.0, 1.0, size=4)
    left = min(max(round(x_min + moves[0] * slack_x), 0), width - 2)
    top = min(max(round(y_min + moves[1] * slack_y), 0), height - 2)
    right = max(left + 1, min(round(x_max + moves[2] * slack_x), width - 1))
    bottom = max(top + 1, min(round(y_max + moves[3] * slack_y), height - 1))
    return int(left), int(top), int(right), int(bottom)
