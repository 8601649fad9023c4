import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from loaders.arguments import ViewsConfig, blur_weights, canvas_arguments, view_arguments
from loaders.draws import draw_classify_view, draw_placement, draw_views, whole_view
from loaders.options import PipelineOptions
from loaders.pipeline import PixelPipeline, canvas_pipeline, views_pipeline
from loaders.views import (
    ClassifyViewConfig,
    DetectViewConfig,
    Interpolation,
    TwoViewConfig,
    ViewParameters,
    WholeViewConfig,
)
from tests.references import views as plain

Gray = npt.NDArray[np.uint8]
DIGESTS = np.arange(1, 9, dtype=np.uint64)
VISITS = np.zeros(8, np.int64)
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]

# Gray levels by which single pixels may differ from the float64 reference, and the mean over a view may. The pipeline
# rounds after every operator and computes in float32, so a level may tip over, and cubic's contrast may double it. A
# GPU's JPEG decoder has its own inverse DCT. The CPU's blur rounds between rows and columns.
MOST_LEVELS = {"cpu": 2, "cuda:0": 6}
MEAN_LEVELS = {"cpu": 0.01, "cuda:0": 0.5}
BLUR_LEVELS = 0.25


def run(pipeline: PixelPipeline, num: int, size_px: int, outputs: int, device: str = "cpu") -> list[torch.Tensor]:
    out = [torch.empty((num, size_px, size_px, 1), dtype=torch.uint8, device=device) for _ in range(outputs)]
    pipeline.run(out)
    return out


def once(*batch: Any) -> Callable[[], Any]:
    waiting = [batch]

    def source() -> Any:
        if not waiting:
            raise StopIteration
        return waiting.pop()

    return source


def sizes_of(images: list[Gray]) -> npt.NDArray[np.int64]:
    return np.array([image.shape for image in images])


def check_views(
    config: ViewsConfig, views: Sequence[ViewParameters], radiographs: tuple[list[Gray], list[Gray]], device: str
) -> None:
    images, encoded = radiographs
    sizes = sizes_of(images)
    source = once(encoded, view_arguments(config, views, sizes, sizes, device))
    pipeline = views_pipeline(config, source, PipelineOptions(device, 2, 8))
    outputs = run(pipeline, 8, config.size_px, len(views), device)
    for view, output in zip(views, outputs, strict=True):
        for i, image in enumerate(images):
            expected = plain.view(image, view, i, config.size_px, config.interpolation)
            gap = np.abs(output[i, :, :, 0].cpu().numpy().astype(int) - expected)
            assert gap.max() <= MOST_LEVELS[device]
            assert gap.mean() <= MEAN_LEVELS[device] + (BLUR_LEVELS if view.blur_sigma_n[i] > 0 else 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("affine", [0.0, 0.5])
def test_two_views_equal_the_plain_ones(
    radiographs: tuple[list[Gray], list[Gray]], interpolation: Interpolation, affine: float, device: str
) -> None:
    config = TwoViewConfig(
        size_px=96, interpolation=interpolation, blur=(1.0, 0.5), solarize=(0.0, 0.5), affine=affine, rotate_degrees=30
    )
    views = draw_views(config, (0, 1), 1, VISITS, DIGESTS, sizes_of(radiographs[0]))
    assert any(view.flip_n.any() for view in views)
    assert views[1].solarize_n.any()
    assert any(view.rotate_n.any() for view in views) == (affine > 0)
    check_views(config, views, radiographs, device)


@pytest.mark.parametrize("device", DEVICES)
def test_classification_views_equal_the_plain_ones(radiographs: tuple[list[Gray], list[Gray]], device: str) -> None:
    sizes = sizes_of(radiographs[0])
    train = ClassifyViewConfig(size_px=96)
    drawn = draw_classify_view(train, 1, VISITS, DIGESTS, sizes)
    assert drawn.flip_n.any()
    assert not drawn.flip_n.all()
    check_views(train, [drawn], radiographs, device)
    check_views(WholeViewConfig(size_px=112, interpolation="linear"), [whole_view(sizes)], radiographs, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.6, 1.6)])
def test_a_canvas_equals_the_plain_one(
    radiographs: tuple[list[Gray], list[Gray]], scale: tuple[float, float], device: str
) -> None:
    images, encoded = radiographs
    originals = sizes_of(images) * 3  # the stored image is a third of the original
    placed = draw_placement(DetectViewConfig(size_px=128, scale=scale), 2, VISITS, DIGESTS, originals)
    source = once(encoded, canvas_arguments(placed, sizes_of(images)))
    (output,) = run(canvas_pipeline(128, "linear", source, PipelineOptions(device, 2, 8)), 8, 128, 1, device)
    for i, image in enumerate(images):
        expected = plain.canvas(
            image,
            tuple(placed.window_start_n2[i] / 3),
            tuple(placed.window_size_n2[i] / 3),
            bool(placed.flip_n[i]),
            tuple(placed.sizes_n2[i]),
            128,
            "linear",
        )
        gap = np.abs(output[i, :, :, 0].cpu().numpy().astype(int) - expected)
        assert gap.max() <= MOST_LEVELS[device]
        assert gap.mean() <= MEAN_LEVELS[device]
        height, width = placed.sizes_n2[i]
        assert not output[i, height:].any()
        assert not output[i, :, width:].any()


def test_pixels_do_not_depend_on_the_batch(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    """Alone, in another place, among others, with another number of threads: bit for bit the same on the CPU."""
    images, encoded = radiographs
    config = TwoViewConfig(size_px=96)

    def views_of(order: list[int], threads: int, chunk: int) -> list[torch.Tensor]:
        sizes = sizes_of(images)[order]
        views = draw_views(config, (0, 1), 1, VISITS[order], DIGESTS[order], sizes)
        arguments = view_arguments(config, views, sizes, sizes, "cpu")
        pieces = [slice(begin, begin + chunk) for begin in range(0, len(order), chunk)]
        chunks = iter([([encoded[i] for i in order[at]], tuple(a[at] for a in arguments)) for at in pieces])
        pipeline = views_pipeline(config, partial(next, chunks), PipelineOptions("cpu", threads, chunk))
        out = [torch.empty((len(order), 96, 96, 1), dtype=torch.uint8) for _ in range(2)]
        for at in pieces:
            pipeline.run([tensor[at] for tensor in out])
        return out

    whole = views_of(list(range(8)), 2, 8)
    for order, threads, chunk in [
        (list(range(7, -1, -1)), 3, 8),
        ([5], 1, 8),
        ([2, 6, 3], 2, 2),
        (list(range(8)), 2, 3),
    ]:
        for view, all_view in zip(views_of(order, threads, chunk), whole, strict=True):
            assert torch.equal(view, all_view[order])


def test_work_that_is_never_done_is_left_out(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    images, encoded = radiographs
    config = TwoViewConfig(size_px=64, blur=(0.0, 0.0), solarize=(0.0, 0.0), jitter=0.0, flip=0.0, area=(1.0, 1.0))
    sizes = sizes_of(images)
    views = draw_views(config, (0, 1), 1, VISITS, DIGESTS, sizes)
    arguments = view_arguments(config, views, sizes, sizes, "cpu")
    pipeline = views_pipeline(config, once(encoded, arguments), PipelineOptions("cpu", 2, 8))
    first, second = run(pipeline, 8, 64, 2)
    assert torch.equal(first, second)


def test_only_what_views_reach_is_decoded(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    """Views of a small window are those of the whole image, and a region is no larger than it must be."""
    images, _ = radiographs
    sizes = sizes_of(images)
    config = TwoViewConfig(size_px=64, area=(0.05, 0.1))
    views = draw_views(config, (0, 1), 1, VISITS, DIGESTS, sizes)
    start, shape = view_arguments(config, views, sizes, sizes, "cpu")[:2]
    assert (start >= 0).all()
    assert (shape >= 1).all()
    assert (start + shape <= sizes).all()
    assert (shape < sizes).any(axis=1).all()
    for view in views:
        assert (start <= view.window_start_n2).all()
        assert (start + shape >= view.window_start_n2 + view.window_size_n2).all()
    assert len(view_arguments(config, views, sizes, sizes, "cuda:0")) < len(
        view_arguments(config, views, sizes, sizes, "cpu")
    )
    check_views(config, views, radiographs, "cpu")


def test_a_smaller_copy_is_told_by_its_size(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    images, encoded = radiographs
    sizes = sizes_of(images) * 2  # the stored image is half of what the windows are of
    config = TwoViewConfig(size_px=64, area=(0.4, 1.0), blur=(0.0, 0.0), solarize=(0.0, 0.0), jitter=0.0)
    views = draw_views(config, (0, 1), 1, VISITS, DIGESTS, sizes)
    source = once(encoded, view_arguments(config, views, sizes, sizes_of(images), "cpu"))
    outputs = run(views_pipeline(config, source, PipelineOptions("cpu", 2, 8)), 8, 64, 2)
    for view, output in zip(views, outputs, strict=True):
        halved = dataclasses.replace(
            view, window_start_n2=view.window_start_n2 / 2, window_size_n2=view.window_size_n2 / 2
        )
        for i, image in enumerate(images):
            expected = plain.view(image, halved, i, 64, config.interpolation)
            assert np.abs(output[i, :, :, 0].numpy().astype(int) - expected).max() <= MOST_LEVELS["cpu"]


def test_blur_weights_are_a_gaussian_s() -> None:
    weights = blur_weights(np.array([0.0, 0.1, 1.0, 2.0], np.float32), 2.0)
    assert weights.shape == (4, 13)
    assert weights.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert weights[0].tolist() == [0] * 6 + [1] + [0] * 6
    assert (weights == weights[:, ::-1]).all()
    assert not weights[2, :3].any()  # cut off beyond 3 sigma
    assert weights[3, 6] / weights[3, 8] == pytest.approx(np.exp(0.5))


def test_a_share_for_the_hardware_decoder_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"hw_decoder_load = 1\.5"):
        PipelineOptions("cuda:0", 2, 8, hw_decoder_load=1.5)


def test_the_end_of_the_source_is_the_end(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    images, encoded = radiographs
    placed = draw_placement(DetectViewConfig(size_px=64), 2, VISITS, DIGESTS, sizes_of(images))
    source = once(encoded, canvas_arguments(placed, sizes_of(images)))
    pipeline = canvas_pipeline(64, "linear", source, PipelineOptions("cpu", 2, 8))
    run(pipeline, 8, 64, 1)
    with pytest.raises(StopIteration):
        run(pipeline, 8, 64, 1)
