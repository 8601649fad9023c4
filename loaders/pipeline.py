"""Encoded images and view parameters in, uint8 gray tensors out: the only file that knows DALI.

One definition serves both devices: on "cuda:<i>" JPEG is decoded by that GPU and everything after stays on it, on "cpu"
the same graph runs on the processor. Nothing is random in here: every parameter comes with the batch. A sample's pixels
do not depend on the rest of its batch.

Shapes: n samples of a batch, S the side of a canvas. Images are height, width, channel (one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import feed_ndarray

from loaders.placement import Placement
from loaders.views import SOLARIZE_THRESHOLD, Interpolation, TwoViewConfig, ViewParameters

Arguments = tuple[npt.NDArray[Any], ...]
Source = Callable[[], tuple[list[npt.NDArray[np.uint8]], Arguments]]
"""Gives the next batch: the encoded image of each sample and what two_view_arguments or canvas_arguments made. Raises
StopIteration at the end."""

_FILTERS = {"linear": types.INTERP_LINEAR, "cubic": types.INTERP_CUBIC}


class PixelPipeline:
    """A built DALI pipeline that works ahead of `run` and hands out torch tensors on `device`."""

    def __init__(self, graph: Any, device: str) -> None:
        self._graph = graph
        self._device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._graph.build()

    def run(self) -> tuple[torch.Tensor, ...]:
        """The next batch's tensors, uint8 [n, height, width, 1], complete and owned by the caller.

        Raises StopIteration after the source's last batch, RuntimeError where a sample does not decode: the pipeline is
        dead then.
        """
        outputs = self._graph.run()
        if self._stream is None:
            return tuple(self._copy(output) for output in outputs)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            tensors = tuple(self._copy(output) for output in outputs)
            self._stream.synchronize()
        return tensors

    def _copy(self, output: Any) -> torch.Tensor:
        dense = output.as_tensor()
        tensor = torch.empty(dense.shape(), dtype=torch.uint8, device=self._device)
        feed_ndarray(dense, tensor, self._stream)
        return tensor


def two_view_pipeline(
    config: TwoViewConfig, source: Source, max_batch: int, device: str, num_threads: int, prefetch: int
) -> PixelPipeline:
    """Two views of each sample: tensors [n, size_px, size_px, 1] twice. `prefetch`: batches DALI works ahead."""
    graph = _two_views(config, _flat(source), device, **_options(max_batch, device, num_threads, prefetch))
    return PixelPipeline(graph, device)


def canvas_pipeline(
    size_px: int,
    interpolation: Interpolation,
    source: Source,
    max_batch: int,
    device: str,
    num_threads: int,
    prefetch: int,
) -> PixelPipeline:
    """Each sample in the upper left of a canvas of zeros: one tensor [n, size_px, size_px, 1]."""
    options = _options(max_batch, device, num_threads, prefetch)
    return PixelPipeline(_canvas(size_px, interpolation, _flat(source), device, **options), device)


def two_view_arguments(
    config: TwoViewConfig, views: Sequence[ViewParameters], stored_ratio_n2: npt.NDArray[np.float64]
) -> Arguments:
    """Batch arrays for two_view_pipeline. `stored_ratio_n2`: decoded pixels per pixel of the windows (y, x)."""
    arguments: list[npt.NDArray[Any]] = []
    for number, view in enumerate(views):
        start_n2 = view.window_start_n2 * stored_ratio_n2
        end_n2 = (view.window_start_n2 + view.window_size_n2) * stored_ratio_n2
        arguments += _roi(start_n2, end_n2, view.flip_n)
        arguments += [view.brightness_n, view.contrast_n]
        arguments += [view.blur_sigma_n] if config.blur[number] > 0 else []
        arguments += [view.solarize_n] if config.solarize[number] > 0 else []
    return tuple(arguments)


def canvas_arguments(placement: Placement, stored_n2: npt.NDArray[np.int64]) -> Arguments:
    """Batch arrays for canvas_pipeline. `stored_n2`: height and width of the images that will be decoded."""
    ratio_n2 = stored_n2 / placement.originals_n2
    start_n2 = placement.window_start_n2 * ratio_n2
    end_n2 = (placement.window_start_n2 + placement.window_size_n2) * ratio_n2
    return (*_roi(start_n2, end_n2, placement.flip_n), placement.sizes_n2.astype(np.float32))


def decode_failure(encoded: npt.NDArray[np.uint8], device: str) -> str | None:
    """Why this sample, alone in a pipeline, does not decode on `device`, as DALI says it; None where it does."""
    graph = _decode(lambda: [encoded], device, **_options(1, device, 1, 1))
    try:
        graph.build()
        graph.run()
    except RuntimeError as error:
        return reason_of(error)
    return None


def reason_of(error: RuntimeError) -> str:
    """The line of a DALI error that says what was wrong, without its stack trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Stacktrace")]
    telling = [line for line in lines if "]" in line and ("Error" in line or "ailed" in line)]
    return (telling or lines or [type(error).__name__])[0][:300]


def probe() -> list[tuple[str, str | None]]:
    """Of the CPU and of each GPU: why DALI does not decode a JPEG there, None where it does."""
    ramp_HW = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    encoded = np.asarray(cv2.imencode(".jpg", ramp_HW)[1]).reshape(-1)
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [(device, decode_failure(encoded, device)) for device in devices]


def _options(max_batch: int, device: str, num_threads: int, prefetch: int) -> dict[str, Any]:
    index = torch.device(device).index
    return {
        "batch_size": max_batch,
        "num_threads": num_threads,
        "device_id": None if device == "cpu" else index or 0,
        "prefetch_queue_depth": prefetch,
    }


def _roi(
    start_n2: npt.NDArray[np.float64], end_n2: npt.NDArray[np.float64], flip_n: npt.NDArray[np.bool_]
) -> list[npt.NDArray[Any]]:
    """Corners (y, x) of the region to resize; a region that ends where it should start is mirrored."""
    first_n2, last_n2 = start_n2.copy(), end_n2.copy()
    first_n2[flip_n, 1], last_n2[flip_n, 1] = end_n2[flip_n, 1], start_n2[flip_n, 1]
    return [first_n2.astype(np.float32), last_n2.astype(np.float32)]


def _flat(source: Source) -> Callable[[], tuple[Any, ...]]:
    def give() -> tuple[Any, ...]:
        encoded, arguments = source()
        return (encoded, *arguments)

    return give


def _decoded(encoded: Any, device: str) -> Any:
    placed: Literal["cpu", "mixed"] = "cpu" if device == "cpu" else "mixed"
    return fn.decoders.image(encoded, device=placed, output_type=types.GRAY, adjust_orientation=False)


@pipeline_def  # type: ignore[untyped-decorator]
def _decode(source: Callable[[], list[npt.NDArray[np.uint8]]], device: str) -> Any:
    return _decoded(fn.external_source(source=source, dtype=types.UINT8, ndim=1), device)


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _two_views(config: TwoViewConfig, source: Callable[[], tuple[Any, ...]], device: str) -> Any:
    first, second = _view_inputs(config, 0), _view_inputs(config, 1)
    inputs = [(types.UINT8, 1), *first, *second]
    encoded, *arguments = fn.external_source(
        source=source,
        num_outputs=len(inputs),
        dtype=[dtype for dtype, _ in inputs],
        ndim=[ndim for _, ndim in inputs],
    )
    image = _decoded(encoded, device)
    half = len(first)
    return _one_view(config, 0, image, arguments[:half], device), _one_view(config, 1, image, arguments[half:], device)


def _view_inputs(config: TwoViewConfig, number: int) -> list[tuple[Any, int]]:
    """Type and number of dimensions of each of a view's arguments; there are none for work that is never done."""
    inputs = [(types.FLOAT, 1), (types.FLOAT, 1), (types.FLOAT, 0), (types.FLOAT, 0)]
    inputs += [(types.FLOAT, 0)] if config.blur[number] > 0 else []
    inputs += [(types.BOOL, 0)] if config.solarize[number] > 0 else []
    return inputs


def _one_view(config: TwoViewConfig, number: int, image: Any, arguments: list[Any], device: str) -> Any:
    start, end, brightness, contrast, *rest = arguments
    size = [config.size_px, config.size_px]
    view = fn.resize(image, size=size, roi_start=start, roi_end=end, interp_type=_FILTERS[config.interpolation])
    mean = fn.reductions.mean(view)
    if device == "cpu":
        view = fn.brightness_contrast(view, brightness=brightness, contrast=contrast, contrast_center=mean)
    else:  # the mean is on the GPU, where operators take no arguments from; on a CPU the arithmetic is 40 % slower
        view = fn.cast(brightness.gpu() * (mean + contrast.gpu() * (view - mean)), dtype=types.UINT8)
    if config.blur[number] > 0 and rest[0] > 0:
        view = fn.gaussian_blur(view, sigma=rest[0])
    if config.solarize[number] > 0 and rest[-1]:
        view = view ^ fn.cast((view >= SOLARIZE_THRESHOLD) * 255, dtype=types.UINT8)
    return view


@pipeline_def  # type: ignore[untyped-decorator]
def _canvas(size_px: int, interpolation: Interpolation, source: Callable[[], tuple[Any, ...]], device: str) -> Any:
    encoded, start, end, size = fn.external_source(
        source=source,
        num_outputs=4,
        dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT],
        ndim=1,
    )
    image = _decoded(encoded, device)
    content = fn.resize(image, size=size, roi_start=start, roi_end=end, interp_type=_FILTERS[interpolation])
    return fn.pad(content, axes=(0, 1), shape=[size_px, size_px], fill_value=0)
