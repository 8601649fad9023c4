"""One radiograph before the film: which findings a patient gets, and the thorax with all of them drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sharding.findings import VINDR_FINDINGS
from sharding.phantom.anatomy import Patient, Pose, frame_of
from sharding.phantom.deposits import Drawn
from sharding.phantom.lesions import DRAWERS
from sharding.phantom.lookalikes import LOOKALIKES
from sharding.phantom.raster import Ints, Points, Shape
from sharding.phantom.thorax import Thorax, draw_thorax, heart_box_points

CANVAS_SIDE_PX = 640
"""The longer side on which the body is drawn; noise and letters are drawn at full size."""

HEALTHY_SHARE = 0.35
NUM_FINDINGS_WEIGHTS = (0.32, 0.31, 0.23, 0.14)

# images with each finding in VinDr-CXR's training part; used to the power .55, so that the rare ones become learnable
_VINDR_IMAGES = (3067, 186, 452, 2300, 353, 386, 613, 1322, 826, 1134, 1032, 1981, 96, 1617)
_AORTA, _HEART = VINDR_FINDINGS.index("Aortic enlargement"), VINDR_FINDINGS.index("Cardiomegaly")

_TOGETHER: dict[tuple[str, str], float] = {
    ("Aortic enlargement", "Cardiomegaly"): 2.5,
    ("Cardiomegaly", "Pleural effusion"): 1.6,
    ("Consolidation", "Pleural effusion"): 1.6,
    ("Infiltration", "Lung Opacity"): 1.6,
    ("Pleural thickening", "Pulmonary fibrosis"): 2.2,
    ("Calcification", "Pulmonary fibrosis"): 1.8,
    ("ILD", "Pulmonary fibrosis"): 1.8,
    ("Atelectasis", "Pleural effusion"): 1.8,
}
_OFTEN_TWICE = frozenset({"Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pulmonary fibrosis", "ILD"})


@dataclass(frozen=True, slots=True)
class Planned:
    """A finding that shall be drawn: its position in VINDR_FINDINGS and its strength, 0 faint to 1 plain."""

    finding: int
    strength: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding as it was drawn; the box is x_min, y_min, x_max, y_max in px of the full-size image."""

    finding: int
    kind: str
    strength: float
    box: tuple[float, float, float, float]

    def as_json(self) -> dict[str, Any]:
        """For the truth file."""
        name = VINDR_FINDINGS[self.finding]
        return {"finding": name, "kind": self.kind, "strength": round(self.strength, 4), "box": list(self.box)}


@dataclass(frozen=True, slots=True)
class Scene:
    """Attenuation [h, w] (1/UNIT, on the canvas), what was drawn into it, and the look-alikes' names."""

    attenuation_HW: Ints
    findings: tuple[Finding, ...]
    lookalikes: tuple[str, ...]


def plan_findings(rng: np.random.Generator) -> tuple[Planned, ...]:
    """None for about a third of the images, else one to four kinds, some of them twice; 6 in 10 are plain."""
    if rng.random() < HEALTHY_SHARE:
        return ()
    weights = np.array(_VINDR_IMAGES, dtype=np.float64) ** 0.55
    num_kinds = 1 + int(np.searchsorted(np.cumsum(NUM_FINDINGS_WEIGHTS)[:-1], rng.random(), side="right"))
    planned: list[Planned] = []
    for _ in range(num_kinds):
        shares = np.cumsum(weights) / weights.sum()
        finding = int(np.searchsorted(shares, rng.random(), side="right"))
        name = VINDR_FINDINGS[finding]
        for _ in range(2 if name in _OFTEN_TWICE and rng.random() < 0.25 else 1):
            plain = rng.random() < 0.65
            planned.append(Planned(finding, float(rng.uniform(0.6, 1.0) if plain else rng.uniform(0.0, 0.45))))
        weights[finding] = 0.0
        for pair, factor in _TOGETHER.items():
            if name in pair:
                weights[VINDR_FINDINGS.index(pair[1] if pair[0] == name else pair[0])] *= factor
    return tuple(planned)


def _overlap(a: Drawn, b: Drawn) -> float:
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    smaller = min((c.box[2] - c.box[0]) * (c.box[3] - c.box[1]) for c in (a, b))
    return max(0.0, width) * max(0.0, height) / smaller


def _outline(points_N2: Points, kind: str) -> Drawn:
    low, high = points_N2.min(axis=0), points_N2.max(axis=0)
    return Drawn(kind, (float(low[0]), float(low[1]), float(high[0]), float(high[1])))


def canvas_of(shape: Shape) -> Shape:
    """The canvas for an image of this size: the same proportions, CANVAS_SIDE_PX at most, in steps of 8 px."""
    longest = max(shape)
    side = min(CANVAS_SIDE_PX, longest)
    return max(64, shape[0] * side // longest // 8 * 8), max(64, shape[1] * side // longest // 8 * 8)


def draw_scene(
    patient: Patient, pose: Pose, planned: tuple[Planned, ...], shape: Shape, reach: float, rng: np.random.Generator
) -> Scene:
    """Draws patient, findings and look-alikes for an image of `shape` (full size).

    A finding for which there is no free room after six tries is left out.
    """
    canvas = canvas_of(shape)
    frame = frame_of(patient, pose, canvas, reach)
    strengths = {item.finding: item.strength for item in planned}
    ratio, knob = patient.heart_ratio + (0.02 if pose.view_position == "AP" else 0.0), patient.knob
    if _HEART in strengths:
        ratio = 0.53 + 0.13 * strengths[_HEART] + float(rng.uniform(0.0, 0.03))
    if _AORTA in strengths:
        knob = 0.14 + 0.055 * strengths[_AORTA] + float(rng.uniform(0.0, 0.02))
    thorax = draw_thorax(frame, patient, pose, rng, ratio, knob)

    done: list[tuple[Planned, Drawn]] = []
    for item in planned:
        if item.finding == _HEART:
            done.append((item, _outline(heart_box_points(thorax), "heart")))
        elif item.finding == _AORTA:
            done.append((item, _outline(thorax.knob, "knob")))
        else:
            done.extend(_draw_apart(thorax, item, [d for p, d in done if p.finding not in (_HEART, _AORTA)], rng))

    names = []
    for name, (drawer, share) in LOOKALIKES.items():
        if rng.random() < share * (2.0 if pose.view_position == "AP" and name in ("electrodes", "tube") else 1.0):
            drawer(thorax, rng)
            names.append(name)
    across, down = shape[1] / canvas[1], shape[0] / canvas[0]
    findings = []
    for item, drawn in done:
        x_min, x_max = (min(max(x * across, 0.0), float(shape[1])) for x in (drawn.box[0], drawn.box[2]))
        y_min, y_max = (min(max(y * down, 0.0), float(shape[0])) for y in (drawn.box[1], drawn.box[3]))
        if x_max - x_min >= 4 and y_max - y_min >= 4:
            box = (round(x_min, 2), round(y_min, 2), round(x_max, 2), round(y_max, 2))
            findings.append(Finding(item.finding, drawn.kind, item.strength, box))
    return Scene(thorax.attenuation_HW + thorax.vessels_HW, tuple(findings), tuple(names))


def _draw_apart(
    thorax: Thorax, item: Planned, others: list[Drawn], rng: np.random.Generator
) -> list[tuple[Planned, Drawn]]:
    """Draws one finding where it covers no other; tries six times, undoing what it drew."""
    for _ in range(6):
        before = thorax.attenuation_HW.copy(), thorax.vessels_HW.copy()
        drawn = DRAWERS[item.finding](thorax, rng, item.strength)
        if drawn is not None and all(_overlap(drawn, other) < 0.35 for other in others):
            return [(item, drawn)]
        thorax.attenuation_HW, thorax.vessels_HW = before
    return []
