"""What is drawn: whole-number filters, findings inside their boxes, and places that cannot be guessed."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.findings import VINDR_FINDINGS
from sharding.phantom.anatomy import draw_patient, draw_pose, frame_of
from sharding.phantom.domain import Exposure, expose, keep_range, window_hard
from sharding.phantom.lesions import DRAWERS
from sharding.phantom.lookalikes import LOOKALIKES
from sharding.phantom.marker import write_text
from sharding.phantom.raster import UNIT, bell, bezier, cloud, enlarge, extent, look_up, shrink, smooth, spline
from sharding.phantom.scene import Planned, canvas_of, draw_scene, plan_findings
from sharding.phantom.thorax import Thorax, draw_thorax

CANVAS = (256, 256)


def rng_of(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def body(seed: int) -> Thorax:
    rng = rng_of(7, seed)
    patient, pose = draw_patient(rng, seed), draw_pose(rng, "PA")
    frame = frame_of(patient, pose, CANVAS, 0.43)
    return draw_thorax(frame, patient, pose, rng, patient.heart_ratio, patient.knob)


def test_curves_go_through_their_ends() -> None:
    knots = [(0.0, 0.0), (3.0, 1.0), (4.0, 5.0), (0.0, 6.0)]
    for knot in knots:
        assert np.abs(spline(knots) - knot).sum(axis=1).min() < 1e-12
        assert np.abs(spline(knots, closed=True) - knot).sum(axis=1).min() < 1e-12
    np.testing.assert_allclose(bezier((0, 0), (1, 2), (2, 0))[[0, -1]], [(0, 0), (2, 0)])


@settings(max_examples=25, deadline=None)
@given(st.integers(-9000, 9000), st.floats(0.0, 40.0), st.integers(64, 130), st.integers(64, 130))
def test_smoothing_keeps_a_constant(value: int, radius: float, height: int, width: int) -> None:
    field = np.full((height, width), value, dtype=np.int32)
    assert (smooth(field, radius) == value).all()
    assert (enlarge(shrink(field, 4), (height, width)) == value).all()


def test_smoothing_is_the_plain_mean() -> None:
    field = rng_of(1).integers(0, 5000, (40, 50)).astype(np.int32)
    padded = np.pad(field, 3, mode="edge")
    plain = np.array([[padded[y : y + 7, x : x + 7].mean() for x in range(50)] for y in range(40)])
    assert np.abs(smooth(field, 3, passes=1) - plain).max() <= 2  # two integer divisions


def test_noise_is_centred_and_has_its_sigma() -> None:
    noise = bell(rng_of(2), (400, 400))
    assert abs(noise.mean()) < 2
    assert noise.std() == pytest.approx(147.8, rel=0.01)
    for grain in (1, 3, 9.5):
        field = cloud(rng_of(3), (120, 130), grain)
        assert field.shape == (120, 130)
        assert 120 < field.std() < 400


def test_extent_and_look_up() -> None:
    inside = np.zeros((9, 8), dtype=bool)
    assert extent(inside) is None
    inside[2:5, 3:4] = True
    assert extent(inside) == (3, 2, 4, 5)
    table = np.arange(5, dtype=np.int32) * 10
    assert look_up(table, np.array([[-3, 2, 99]], dtype=np.int32)).tolist() == [[0, 20, 40]]


def test_lungs_are_dark_and_the_middle_is_bright() -> None:
    for seed in range(3):
        thorax = body(seed)
        lung = thorax.clear_HW > 128
        heart = extent(np.asarray(thorax.lungs[0] > 128))
        assert heart is not None
        spine = thorax.attenuation_HW[heart[1] : heart[3], heart[2] + 4 : heart[2] + 12]
        assert np.median(thorax.attenuation_HW[lung]) + 0.5 * UNIT < np.median(spine)
        assert thorax.attenuation_HW.min() > -0.2 * UNIT


@pytest.mark.parametrize("finding", sorted(DRAWERS))
def test_a_finding_lies_in_its_box(finding: int) -> None:
    for seed in range(3):
        thorax = body(seed)
        before = thorax.attenuation_HW + thorax.vessels_HW
        drawn = DRAWERS[finding](thorax, rng_of(8, finding, seed), 0.9)
        assert drawn is not None
        change = np.abs(thorax.attenuation_HW + thorax.vessels_HW - before)
        x_min, y_min, x_max, y_max = (int(v) for v in drawn.box)
        assert 0 <= x_min < x_max <= CANVAS[1]
        assert 0 <= y_min < y_max <= CANVAS[0]
        inside = change[y_min:y_max, x_min:x_max]
        assert inside.max() > 0.15 * UNIT
        if VINDR_FINDINGS[finding] != "Pneumothorax":  # its lung is squeezed outside the box
            assert inside.max() == change.max()
            assert inside.sum() > 0.75 * change.sum()


@pytest.mark.parametrize("name", sorted(LOOKALIKES))
def test_lookalikes_change_the_image(name: str) -> None:
    thorax = body(1)
    before = thorax.attenuation_HW.copy()
    LOOKALIKES[name][0](thorax, rng_of(9))
    assert np.abs(thorax.attenuation_HW - before).max() > 0.05 * UNIT


def test_how_often_findings_are_planned() -> None:
    plans = [plan_findings(rng_of(10, i)) for i in range(3000)]
    assert np.mean([not plan for plan in plans]) == pytest.approx(0.35, abs=0.03)
    kinds = [len({item.finding for item in plan}) for plan in plans if plan]
    assert (min(kinds), max(kinds)) == (1, 4)
    counts = np.zeros(14)
    for plan in plans:
        counts[list({item.finding for item in plan})] += 1
    share = counts / len(plans)
    assert share.max() < 0.25
    assert share.min() == share[VINDR_FINDINGS.index("Pneumothorax")] > 0.01
    assert np.mean([item.strength > 0.5 for plan in plans for item in plan]) == pytest.approx(0.65, abs=0.04)


def test_a_mean_box_does_not_find_them() -> None:
    boxes: dict[int, list[np.ndarray]] = defaultdict(list)
    for i in range(90):
        rng = rng_of(11, i)
        patient, pose = draw_patient(rng, i), draw_pose(rng, "PA")
        planned = tuple(Planned((i + k * 5) % 14, 0.8) for k in range(3))
        scene = draw_scene(patient, pose, planned, (128, 128), 0.43, rng)
        for finding in scene.findings:
            assert 0 <= finding.box[0] < finding.box[2] <= 128
            boxes[finding.finding].append(np.array(finding.box))
    assert set(boxes) == set(range(14))
    for finding, found in boxes.items():
        mean = np.mean(found, axis=0)
        low, high = np.maximum(found, mean)[:, :2], np.minimum(found, mean)[:, 2:]
        both = np.clip(high - low, 0, None).prod(axis=1)
        sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in [*found, mean]]
        hits = float(np.mean(both / (np.array(sizes[:-1]) + sizes[-1] - both) > 0.5))
        assert hits < (0.97 if VINDR_FINDINGS[finding] in ("Cardiomegaly", "Aortic enlargement") else 0.35)


def test_exposure_keeps_the_order_of_densities() -> None:
    ramp = np.repeat(np.arange(0, 4 * UNIT, 8, dtype=np.int32)[None], 256, axis=0)
    film, lung, bone = expose(ramp, (512, 640), Exposure(0.2, 50_000, 0.0, 0), rng_of(12))
    assert lung < bone
    means = film[:, 40:-40:40].mean(axis=0)
    assert (np.diff(means) > 0).all()
    hard, raw = window_hard(film, lung, bone, 0.45, 5.0), keep_range(film, lung, bone, 12)
    assert (hard.dtype, raw.dtype) == (np.uint8, np.uint16)
    assert raw.max() <= 4095
    assert hard[:, -20:].mean() > 200 > 60 > hard[:, :20].mean()


def test_letters_and_canvas() -> None:
    mask = write_text((200, 300), ("PORTABLE", "AP"), 0.1, 0.1, 12)
    box = extent(np.asarray(mask > 128))
    assert box is not None
    assert 28 <= box[0] <= 32
    assert 18 <= box[1] <= 22
    assert canvas_of((1024, 1024)) == (640, 640)
    assert canvas_of((1200, 1000)) == (640, 528)
    assert canvas_of((160, 128)) == (160, 128)
