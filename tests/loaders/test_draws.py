import math
import random

import numpy as np
import pytest

from loaders.draws import (
    draw_classify_view,
    draw_placement,
    draw_view,
    draw_views,
    plain_placement,
    whole_view,
)
from loaders.views import ClassifyViewConfig, DetectViewConfig, PlainViewConfig, TwoViewConfig

DIGESTS = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
VISITS = np.zeros(len(DIGESTS), np.int64)


def plain_crop(height: int, width: int, source: random.Random) -> tuple[int, int, int, int]:
    """The law of torchvision's RandomResizedCrop, one image at a time: y, x, height, width."""
    for _ in range(10):
        area = height * width * source.uniform(0.08, 1.0)
        ratio = math.exp(source.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return source.randint(0, height - h), source.randint(0, width - w), h, w
    w, h = min(width, round(height * 4 / 3)), min(height, round(width / (3 / 4)))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(300, 400), (500, 200), (100, 1000), (1, 1)])
def test_crops_follow_the_law(size: tuple[int, int]) -> None:
    sizes = np.tile(np.array(size), (len(DIGESTS), 1))
    drawn = draw_classify_view(ClassifyViewConfig(), 0, VISITS, DIGESTS, sizes)
    start, crop = drawn.window_start_n2, drawn.window_size_n2
    assert (start >= 0).all()
    assert (crop >= 1).all()
    assert (start + crop <= sizes).all()
    source = random.Random(1)
    plain = np.array([plain_crop(*size, source) for _ in range(len(DIGESTS))])
    ours = np.concatenate([start, crop], axis=1)
    for column in range(4):  # two-sample Kolmogorov-Smirnov: p < 1e-4 for each
        places = np.arange(max(size) + 1)
        gaps = [np.searchsorted(np.sort(drawn[:, column]), places, "right") / len(DIGESTS) for drawn in (ours, plain)]
        assert np.abs(gaps[0] - gaps[1]).max() < 2.2 * math.sqrt(2 / len(DIGESTS))


def test_a_sample_s_view_depends_on_nothing_else() -> None:
    """Not on the rest of the batch, nor on whether the other view is drawn with it."""
    source = np.random.default_rng(1)
    sizes = source.integers(100, 1100, (len(DIGESTS), 2), dtype=np.int32)
    visits = source.integers(0, 9, len(DIGESTS))
    some = np.array([5, 17, 4000, 19_999])
    both = draw_views(TwoViewConfig(), (0, 1), 11, visits, DIGESTS, sizes)
    for view in (0, 1):
        alone = draw_view(TwoViewConfig(), view, 11, visits[some], DIGESTS[some], sizes[some])
        for name in alone.__slots__:
            assert (getattr(both[view], name)[some] == getattr(alone, name)).all()
            assert getattr(both[view], name).shape[1:] in ((), (2,))
    config = DetectViewConfig(scale=(0.5, 1.5))
    placed = draw_placement(config, 11, visits, DIGESTS, sizes)
    placed_alone = draw_placement(config, 11, visits[some], DIGESTS[some], sizes[some])
    for name in ("window_start_n2", "window_size_n2", "sizes_n2", "flip_n"):
        assert (getattr(placed, name)[some] == getattr(placed_alone, name)).all()


def test_visits_and_views_differ() -> None:
    sizes = np.full((2000, 2), 1024)
    drawn = [
        draw_view(TwoViewConfig(), view, 1, np.full(2000, visit), DIGESTS[:2000], sizes)
        for view, visit in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    corners = [view.window_start_n2[:, 0].astype(float) for view in drawn]
    assert all(abs(np.corrcoef(a, b)[0, 1]) < 0.1 for i, a in enumerate(corners) for b in corners[:i])


def test_the_defaults_are_the_reference_s() -> None:
    sizes = np.full((len(DIGESTS), 2), 1024)
    first, second = (draw_view(TwoViewConfig(), view, 0, VISITS, DIGESTS, sizes) for view in (0, 1))
    for drawn in (first, second):
        assert drawn.flip_n.mean() == pytest.approx(0.5, abs=0.02)
        for factor in (drawn.brightness_n, drawn.contrast_n):
            changed = factor[factor != 1]
            assert len(changed) / len(factor) == pytest.approx(0.8, abs=0.02)
            assert (changed.min(), changed.max()) == pytest.approx((0.6, 1.4), abs=0.001)
            assert changed.mean() == pytest.approx(1, abs=0.01)
        assert ((drawn.brightness_n != 1) != (drawn.contrast_n != 1)).sum() <= 2  # one may be 1 by chance
    assert (first.blur_sigma_n > 0).all()
    assert (first.blur_sigma_n.min(), first.blur_sigma_n.max()) == pytest.approx((0.1, 2.0), abs=0.001)
    assert (second.blur_sigma_n > 0).mean() == pytest.approx(0.1, abs=0.01)
    assert not first.solarize_n.any()
    assert second.solarize_n.mean() == pytest.approx(0.2, abs=0.015)
    assert np.abs(np.corrcoef(first.brightness_n, second.brightness_n)[0, 1]) < 0.03


def test_detection_fits_the_long_side() -> None:
    sizes = np.array([[900, 1000], [1000, 900], [3408, 3320], [1, 4000], [100, 50]])
    placed = plain_placement(PlainViewConfig(size_px=224), sizes)
    assert placed.sizes_n2.tolist() == [
        [max(1, int(h * (224 / max(h, w)) + 0.5)), max(1, int(w * (224 / max(h, w)) + 0.5))] for h, w in sizes.tolist()
    ]
    assert (placed.window_size_n2 == sizes).all()
    assert not placed.flip_n.any()


def test_scale_jitter_shrinks_or_takes_a_window() -> None:
    sizes = np.tile([[600, 800]], (2000, 1))
    placed = draw_placement(DetectViewConfig(size_px=320, scale=(0.5, 2.0)), 0, VISITS[:2000], DIGESTS[:2000], sizes)
    assert placed.sizes_n2.max() == 320
    assert placed.sizes_n2.min() < 130
    assert (placed.window_start_n2 >= 0).all()
    assert (placed.window_start_n2 + placed.window_size_n2 <= sizes + 1e-9).all()
    whole = (placed.window_size_n2 == sizes).all(axis=1)
    assert 0.2 < whole.mean() < 0.6
    assert (placed.window_start_n2[whole] == 0).all()


def test_rotation_and_shear_are_off_until_asked_for_and_move_no_other_draw() -> None:
    sizes = np.full((len(DIGESTS), 2), 1024)
    without, with_them = (
        draw_view(TwoViewConfig(affine=chance, rotate_degrees=15, shear_degrees=5), 0, 3, VISITS, DIGESTS, sizes)
        for chance in (0.0, 0.4)
    )
    assert not without.rotate_n.any()
    assert not without.shear_n.any()
    turned = with_them.rotate_n != 0
    assert (turned == (with_them.shear_n != 0)).all()
    assert turned.mean() == pytest.approx(0.4, abs=0.015)
    assert (with_them.rotate_n.min(), with_them.rotate_n.max()) == pytest.approx((-15, 15), abs=0.05)
    assert (with_them.shear_n.min(), with_them.shear_n.max()) == pytest.approx((-5, 5), abs=0.02)
    assert np.abs(np.corrcoef(with_them.rotate_n[turned], with_them.shear_n[turned])[0, 1]) < 0.05
    for name in with_them.__slots__:
        if name not in ("rotate_n", "shear_n"):
            assert (getattr(with_them, name) == getattr(without, name)).all()


def test_classification_takes_a_crop_or_the_whole_image() -> None:
    sizes = np.random.default_rng(2).integers(100, 1100, (len(DIGESTS), 2))
    config = ClassifyViewConfig(flip=0.25)
    drawn = draw_classify_view(config, 5, VISITS, DIGESTS, sizes)
    some = np.array([3, 70, 19_000])
    alone = draw_classify_view(config, 5, VISITS[some], DIGESTS[some], sizes[some])
    for name in drawn.__slots__:
        assert (getattr(drawn, name)[some] == getattr(alone, name)).all()
    assert drawn.flip_n.mean() == pytest.approx(0.25, abs=0.015)
    assert ((drawn.window_start_n2 >= 0) & (drawn.window_start_n2 + drawn.window_size_n2 <= sizes)).all()
    whole = whole_view(sizes)
    assert not whole.window_start_n2.any()
    assert (whole.window_size_n2 == sizes).all()
    for view in (drawn, whole):
        assert (view.brightness_n == 1).all()
        assert (view.contrast_n == 1).all()
        assert not view.blur_sigma_n.any()
        assert not view.solarize_n.any()
        assert not view.rotate_n.any()
