from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from loaders.pipeline import (
    canvas_arguments,
    canvas_pipeline,
    decode_failure,
    probe,
    two_view_arguments,
    two_view_pipeline,
)
from loaders.views import DetectViewConfig, Interpolation, TwoViewConfig, draw_placement, draw_view
from tests.references import views as plain

Gray = npt.NDArray[np.uint8]
DIGESTS = np.arange(1, 9, dtype=np.uint64)
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]

# Gray levels by which single pixels may differ from the float64 reference, and the mean over a view may. The pipeline
# rounds after every operator and computes in float32, so a level may tip over, and cubic's contrast may double it. A
# GPU's JPEG decoder has its own inverse DCT.
MOST_LEVELS = {"cpu": 2, "cuda:0": 6}
MEAN_LEVELS = {"cpu": 0.01, "cuda:0": 0.5}


def once(*batch: Any) -> Callable[[], Any]:
    waiting = [batch]

    def source() -> Any:
        if not waiting:
            raise StopIteration
        return waiting.pop()

    return source


def sizes_of(images: list[Gray]) -> npt.NDArray[np.int64]:
    return np.array([image.shape for image in images])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_two_views_equal_the_plain_ones(
    radiographs: tuple[list[Gray], list[Gray]], interpolation: Interpolation, device: str
) -> None:
    images, encoded = radiographs
    config = TwoViewConfig(size_px=96, interpolation=interpolation, blur=(1.0, 0.5), solarize=(0.0, 0.5))
    views = [draw_view(config, number, 1, 0, DIGESTS, sizes_of(images)) for number in (0, 1)]
    arguments = two_view_arguments(config, views, np.ones((8, 2)))
    outputs = two_view_pipeline(config, once(encoded, arguments), 8, device, 2, 1).run()
    assert any(view.flip_n.any() for view in views)
    assert views[1].solarize_n.any()
    for view, output in zip(views, outputs, strict=True):
        assert output.shape == (8, 96, 96, 1)
        assert output.dtype == torch.uint8
        assert output.device == torch.device(device)
        for i, image in enumerate(images):
            expected = plain.view(
                image,
                tuple(view.window_start_n2[i]),
                tuple(view.window_size_n2[i]),
                bool(view.flip_n[i]),
                float(view.brightness_n[i]),
                float(view.contrast_n[i]),
                float(view.blur_sigma_n[i]),
                bool(view.solarize_n[i]),
                96,
                interpolation,
            )
            gap = np.abs(output[i, :, :, 0].cpu().numpy().astype(int) - expected)
            assert gap.max() <= MOST_LEVELS[device]
            assert gap.mean() <= MEAN_LEVELS[device]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.6, 1.6)])
def test_a_canvas_equals_the_plain_one(
    radiographs: tuple[list[Gray], list[Gray]], scale: tuple[float, float], device: str
) -> None:
    images, encoded = radiographs
    originals = sizes_of(images) * 3  # the stored image is a third of the original
    placed = draw_placement(DetectViewConfig(size_px=128, scale=scale), 2, 0, DIGESTS, originals)
    source = once(encoded, canvas_arguments(placed, sizes_of(images)))
    (output,) = canvas_pipeline(128, "linear", source, 8, device, 2, 1).run()
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

    def run(order: list[int], threads: int) -> list[torch.Tensor]:
        sizes = sizes_of(images)[order]
        views = [draw_view(config, number, 1, 0, DIGESTS[order], sizes) for number in (0, 1)]
        arguments = two_view_arguments(config, views, np.ones((len(order), 2)))
        source = once([encoded[i] for i in order], arguments)
        return list(two_view_pipeline(config, source, 8, "cpu", threads, 1).run())

    whole = run(list(range(8)), 2)
    for order, threads in [(list(range(7, -1, -1)), 3), ([5], 1), ([2, 6, 3], 2)]:
        for view, all_view in zip(run(order, threads), whole, strict=True):
            assert torch.equal(view, all_view[order])


def test_work_that_is_never_done_is_left_out(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    images, encoded = radiographs
    config = TwoViewConfig(size_px=64, blur=(0.0, 0.0), solarize=(0.0, 0.0), jitter=0.0, flip=0.0, area=(1.0, 1.0))
    views = [draw_view(config, number, 1, 0, DIGESTS, sizes_of(images)) for number in (0, 1)]
    arguments = two_view_arguments(config, views, np.ones((8, 2)))
    first, second = two_view_pipeline(config, once(encoded, arguments), 8, "cpu", 2, 2).run()
    assert first.shape == second.shape == (8, 64, 64, 1)


def test_the_end_of_the_source_is_the_end(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    images, encoded = radiographs
    placed = draw_placement(DetectViewConfig(size_px=64), 2, 0, DIGESTS, sizes_of(images))
    source = once(encoded, canvas_arguments(placed, sizes_of(images)))
    pipeline = canvas_pipeline(64, "linear", source, 8, "cpu", 2, 2)
    pipeline.run()
    with pytest.raises(StopIteration):
        pipeline.run()


def test_a_sample_that_does_not_decode_is_told(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    _, encoded = radiographs
    assert decode_failure(encoded[0], "cpu") is None
    for damaged in (np.frombuffer(b"this is no picture at all", np.uint8), np.empty(0, np.uint8), encoded[0][:40]):
        reason = decode_failure(damaged, "cpu")
        assert reason
        assert "\n" not in reason


def test_probe_answers_for_every_device() -> None:
    answers = probe()
    assert answers[0] == ("cpu", None)
    assert len(answers) == 1 + torch.cuda.device_count()
