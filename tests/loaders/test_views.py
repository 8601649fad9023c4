import math
import random

import numpy as np
import pytest

from loaders.rng import Stream
from loaders.views import (
    DetectViewConfig,
    PlainViewConfig,
    TwoViewConfig,
    draw_crop,
    draw_placement,
    draw_view,
    plain_placement,
)

DIGESTS = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)


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
    start, crop = draw_crop((0.08, 1.0), (3 / 4, 4 / 3), 0, 0, DIGESTS, sizes, Stream.VIEW)
    assert (start >= 0).all()
    assert (crop >= 1).all()
    assert (start + crop <= sizes).all()
    source = random.Random(1)
    plain = np.array([plain_crop(*size, source) for _ in range(len(DIGESTS))])
    ours = np.concatenate([start, crop], axis=1)
    for column in range(4):
        quantiles = np.linspace(0.02, 0.98, 25)
        gap = np.abs(np.quantile(ours[:, column], quantiles) - np.quantile(plain[:, column], quantiles)).max()
        assert gap <= max(0.025 * max(size), 1)


def test_a_sample_s_view_depends_on_nothing_else() -> None:
    sizes = np.random.default_rng(1).integers(100, 1100, (len(DIGESTS), 2))
    some = np.array([5, 17, 4000, 19_999])
    for view in (0, 1):
        whole = draw_view(TwoViewConfig(), view, 11, 4, DIGESTS, sizes)
        alone = draw_view(TwoViewConfig(), view, 11, 4, DIGESTS[some], sizes[some])
        for name in whole.__slots__:
            assert (getattr(whole, name)[some] == getattr(alone, name)).all()
    placed = draw_placement(DetectViewConfig(scale=(0.5, 1.5)), 11, 4, DIGESTS, sizes)
    placed_alone = draw_placement(DetectViewConfig(scale=(0.5, 1.5)), 11, 4, DIGESTS[some], sizes[some])
    assert (placed.window_start_n2[some] == placed_alone.window_start_n2).all()
    assert (placed.flip_n[some] == placed_alone.flip_n).all()


def test_the_defaults_are_the_reference_s() -> None:
    sizes = np.full((len(DIGESTS), 2), 1024)
    first, second = (draw_view(TwoViewConfig(), view, 0, 0, DIGESTS, sizes) for view in (0, 1))
    for drawn in (first, second):
        assert drawn.flip_n.mean() == pytest.approx(0.5, abs=0.02)
        for factor in (drawn.brightness_n, drawn.contrast_n):
            changed = factor[factor != 1]
            assert len(changed) / len(factor) == pytest.approx(0.8, abs=0.02)
            assert (changed.min(), changed.max()) == pytest.approx((0.6, 1.4), abs=0.001)
            assert changed.mean() == pytest.approx(1, abs=0.01)
        assert ((drawn.brightness_n == 1) == (drawn.contrast_n == 1)).all()
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
    placed = draw_placement(DetectViewConfig(size_px=320, scale=(0.5, 2.0)), 0, 0, DIGESTS[:2000], sizes)
    assert placed.sizes_n2.max() == 320
    assert placed.sizes_n2.min() < 130
    assert (placed.window_start_n2 >= 0).all()
    assert (placed.window_start_n2 + placed.window_size_n2 <= sizes + 1e-9).all()
    whole = (placed.window_size_n2 == sizes).all(axis=1)
    assert 0.2 < whole.mean() < 0.6
    assert (placed.window_start_n2[whole] == 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size_px": 0}, "size_px = 0"),
        ({"area": (0.0, 1.0)}, "area"),
        ({"aspect": (2.0, 1.0)}, "aspect"),
        ({"flip": 1.5}, "flip = 1.5"),
        ({"blur": (1.0, -0.1)}, "blur = -0.1"),
        ({"brightness": 2.0}, "brightness = 2.0"),
    ],
)
def test_nonsense_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoViewConfig(**values)  # type: ignore[arg-type]
