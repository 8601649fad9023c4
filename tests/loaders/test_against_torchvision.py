"""What the reference's torchvision transforms do to a gray image, beside what ours do.

Ours are here the plain ones of `tests.references.views`, which test_pipeline holds the pipeline to; the pipeline itself
meets torchvision in the last test alone.
"""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from loaders.arguments import view_arguments
from loaders.draws import draw_classify_view
from loaders.options import PipelineOptions
from loaders.pipeline import views_pipeline
from loaders.views import ClassifyViewConfig, Interpolation
from tests.references import views as plain

Gray = npt.NDArray[np.uint8]


def smooth(seed: int, side: int = 128) -> Gray:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def as_rgb(gray: Gray) -> Image.Image:
    return Image.fromarray(np.stack([gray] * 3, axis=2))


ALL_LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
HUES = np.linspace(-0.1, 0.1, 41)
SATURATIONS = np.linspace(0.8, 1.2, 41)
"""As the reference draws them."""


def test_saturation_hue_and_grayscale_do_nothing_to_a_gray_image() -> None:
    """On Pillow images, as the reference has them, not one level changes."""
    image = as_rgb(ALL_LEVELS)
    wanted = np.asarray(image)
    for hue in HUES:
        assert (np.asarray(tv.adjust_hue(image, float(hue))) == wanted).all()
    for saturation in SATURATIONS:
        assert (np.asarray(tv.adjust_saturation(image, float(saturation))) == wanted).all()
    assert (np.asarray(tv.rgb_to_grayscale(image, 3)) == wanted).all()


def test_on_tensors_torchvision_s_own_rounding_is_all_that_changes() -> None:
    """Its weights of red, green and blue add up to .9999 and it cuts the rest off: a level less."""
    image = torch.from_numpy(ALL_LEVELS)[None].expand(3, 16, 16)
    for hue in HUES:
        assert torch.equal(tv.adjust_hue(image, float(hue)), image)
    for saturation in SATURATIONS:
        assert (tv.adjust_saturation(image, float(saturation)).int() - image.int()).abs().max() <= 1
    assert (tv.rgb_to_grayscale(image, 3).int() - image.int()).unique().tolist() == [-1, 0]


@pytest.mark.parametrize(("order", "mean_levels"), [("brightness first", 2.0), ("contrast first", 1.5)])
def test_one_clip_is_near_two(order: str, mean_levels: float) -> None:
    """Ours rounds and clips brightness and contrast once; the reference cuts off and clips after each, in random order.

    Brightness above 1 first saturates what contrast would have brought back.
    """
    random = np.random.default_rng(0)
    gaps = []
    for seed in range(60):
        gray = smooth(seed) // 2 + 40
        brightness, contrast = random.uniform(0.6, 1.4, 2).tolist()
        image = as_rgb(gray)
        if order == "brightness first":
            image = tv.adjust_contrast(tv.adjust_brightness(image, brightness), contrast)
        else:
            image = tv.adjust_brightness(tv.adjust_contrast(image, contrast), brightness)
        ours = plain.brightness_contrast(gray, brightness, contrast)
        gaps.append(np.abs(np.asarray(image)[..., 0].astype(int) - ours).mean())
    assert np.mean(gaps) < mean_levels


@pytest.mark.parametrize(("rotate", "shear"), [(10.0, 0.0), (0.0, 10.0), (-25.0, 7.0)])
def test_rotation_and_shear_are_torchvision_s(rotate: float, shear: float) -> None:
    """Up to the border of the content, where Pillow repeats the last pixel once and ours mixes it with the zeros."""
    gray = smooth(3)
    theirs = tv.affine(Image.fromarray(gray), rotate, [0, 0], 1.0, [shear, 0.0], InterpolationMode.BILINEAR, [0])
    gap = np.abs(np.asarray(theirs).astype(int) - plain.affine(gray, rotate, shear))
    inside = plain.affine(np.full_like(gray, 255), rotate, shear) == 255
    assert inside.mean() > 0.75
    assert gap[inside].max() <= 1


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_the_pipeline_s_crops_are_torchvision_s(interpolation: Interpolation) -> None:
    """Inside: at the border of a crop our filter reaches on into the image, theirs ends there."""
    images = [smooth(seed, 256) for seed in range(8)]
    sizes_n2 = np.full((8, 2), 256)
    config = ClassifyViewConfig(size_px=64, interpolation=interpolation)
    view = draw_classify_view(config, 1, np.zeros(8, np.int64), np.arange(1, 9, dtype=np.uint64), sizes_n2)
    arguments = view_arguments(config, [view], sizes_n2, sizes_n2, "cpu")
    encoded = [np.asarray(cv2.imencode(".png", image)[1]).reshape(-1) for image in images]
    found = torch.empty((8, 64, 64, 1), dtype=torch.uint8)
    chunks = iter([(encoded, arguments)])
    views_pipeline(config, lambda: next(chunks), PipelineOptions("cpu", 1, 8)).run([found])
    way = InterpolationMode.BILINEAR if interpolation == "linear" else InterpolationMode.BICUBIC
    for i, image in enumerate(images):
        (top, left), (height, width) = view.window_start_n2[i].tolist(), view.window_size_n2[i].tolist()
        wanted = tv.resized_crop(Image.fromarray(image), top, left, height, width, [64, 64], way)
        wanted = tv.hflip(wanted) if view.flip_n[i] else wanted
        gap = np.abs(found[i, :, :, 0].numpy().astype(int) - np.asarray(wanted))[4:-4, 4:-4]
        assert gap.max() <= 1
