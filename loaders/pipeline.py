"""Encoded images and view parameters in, uint8 gray tensors out: the only file that knows DALI.

One definition serves both devices: on "cuda:<i>" JPEG is decoded by that GPU and everything after stays on it, on "cpu"
the same graph runs on the processor. Nothing is random in here: every parameter comes with the batch. A sample's pixels
do not depend on the rest of its batch, nor on how a batch is cut into chunks.

What is only for a GPU follows DALI's documentation and has not run on one yet: `mixed` decoding, `hw_decoder_load`,
`stored_px`, the mean as arithmetic, copies on a stream of their own (`loaders.lane`).

Shapes: m samples of a chunk, S the side of an output. Images are height, width, channel (one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import feed_ndarray

from loaders.arguments import Arguments, ViewsConfig, Work, blurs_by_weights, decodes_regions, works_of
from loaders.lane import complete
from loaders.options import PipelineOptions
from loaders.views import SOLARIZE_THRESHOLD, Interpolation

Source = Callable[[], tuple[list[npt.NDArray[np.uint8]], Arguments]]
"""Gives the next chunk, 1 to `chunk` samples: the encoded image of each and what view_arguments or canvas_arguments
made, the same part of every array. Raises StopIteration at the end."""

_FILTERS = {"linear": types.INTERP_LINEAR, "cubic": types.INTERP_CUBIC}


class PixelPipeline:
    """A built DALI pipeline that works ahead of `run` and writes into torch tensors on `device`."""

    def __init__(self, graph: Any, device: str) -> None:
        self._graph = graph
        self._device = torch.device(device)
        self._graph.build()

    def run(self, out: Sequence[torch.Tensor]) -> None:
        """Writes the next chunk into `out`: one contiguous uint8 [m, S, S, 1] per output, on the device, m as many
        samples as the source gave. What is written is complete.

        On a GPU it writes on torch's current stream and waits for it: to be called on the stream under which `out` was
        allocated, on which nothing else should wait (`loaders.lane`).

        Raises StopIteration after the source's last chunk, RuntimeError where a sample does not decode: the pipeline is
        dead then. What the source raises is raised as it is, perhaps by a run before its chunk's turn.
        """
        outputs = self._graph.run()
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        for output, tensor in zip(outputs, out, strict=True):
            feed_ndarray(output.as_tensor(), tensor, stream)
        complete(self._device)


def views_pipeline(config: ViewsConfig, source: Source, options: PipelineOptions) -> PixelPipeline:
    """The views of each sample: a tensor [m, size_px, size_px, 1] for each."""
    means = _means(options)
    graph = _views(config.size_px, config.interpolation, works_of(config), _flat(source), options, **means)
    return PixelPipeline(graph, options.device)


def canvas_pipeline(
    size_px: int, interpolation: Interpolation, source: Source, options: PipelineOptions
) -> PixelPipeline:
    """Each sample in the upper left of a canvas of zeros: one tensor [m, size_px, size_px, 1]."""
    graph = _canvas(size_px, interpolation, _flat(source), options, **_means(options))
    return PixelPipeline(graph, options.device)


def header_shapes(encoded: Sequence[npt.NDArray[np.uint8]]) -> list[tuple[int, ...]]:
    """Height, width and channels that the headers of images tell, one at least. Raises RuntimeError, DALI's own, where
    one of them cannot be read."""
    return _shapes(_header, encoded, PipelineOptions("cpu", 1, len(encoded), 1))


def decoded_shapes(encoded: Sequence[npt.NDArray[np.uint8]], device: str, num_threads: int) -> list[tuple[int, ...]]:
    """Height, width and channels of images, one at least, decoded whole as gray ones. Raises RuntimeError, DALI's own,
    where one of them is not decoded, whether it is its fault or not."""
    return _shapes(_decode, encoded, PipelineOptions(device, num_threads, len(encoded), 1))


def _means(options: PipelineOptions) -> dict[str, Any]:
    index = torch.device(options.device).index
    return {
        "batch_size": options.chunk,
        "num_threads": options.num_threads,
        "device_id": None if options.device == "cpu" else index or 0,
        "prefetch_queue_depth": options.prefetch,
    }


def _flat(source: Source) -> Callable[[], tuple[Any, ...]]:
    def give() -> tuple[Any, ...]:
        encoded, arguments = source()
        return (encoded, *arguments)

    return give


def _shapes(graph_of: Any, encoded: Sequence[npt.NDArray[np.uint8]], options: PipelineOptions) -> list[tuple[int, ...]]:
    graph = graph_of(lambda: list(encoded), options, **_means(options))
    graph.build()
    (output,) = graph.run()
    shapes = output.as_cpu()
    return [tuple(int(side) for side in shapes.at(i)) for i in range(len(encoded))]


def _decoded(encoded: Any, options: PipelineOptions) -> Any:
    kind = {"output_type": types.GRAY, "adjust_orientation": False}
    if options.device == "cpu":
        return fn.decoders.image(encoded, device="cpu", **kind)
    if options.stored_px:
        kind |= {"preallocate_height_hint": options.stored_px, "preallocate_width_hint": options.stored_px}
    return fn.decoders.image(encoded, device="mixed", hw_decoder_load=options.hw_decoder_load, **kind)


@pipeline_def  # type: ignore[untyped-decorator]
def _header(source: Callable[[], list[npt.NDArray[np.uint8]]], options: PipelineOptions) -> Any:
    return fn.peek_image_shape(fn.external_source(source=source, dtype=types.UINT8, ndim=1), adjust_orientation=False)


@pipeline_def  # type: ignore[untyped-decorator]
def _decode(source: Callable[[], list[npt.NDArray[np.uint8]]], options: PipelineOptions) -> Any:
    encoded = fn.external_source(source=source, dtype=types.UINT8, ndim=1)
    return _decoded(encoded, options).shape()


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _views(
    size_px: int,
    interpolation: Interpolation,
    works: tuple[Work, ...],
    source: Callable[[], tuple[Any, ...]],
    options: PipelineOptions,
) -> Any:
    regions = decodes_regions(options.device)
    inputs: list[tuple[Any, int]] = [(types.UINT8, 1), *([(types.INT32, 1)] * 2 if regions else [])]
    for work in works:
        inputs += _work_inputs(work, options.device)
    encoded, *arguments = fn.external_source(
        source=source,
        num_outputs=len(inputs),
        dtype=[dtype for dtype, _ in inputs],
        ndim=[ndim for _, ndim in inputs],
    )
    if regions:
        start, shape, *arguments = arguments
        kind = {"output_type": types.GRAY, "adjust_orientation": False}
        image = fn.decoders.image_slice(encoded, start=start, shape=shape, axes=(0, 1), device="cpu", **kind)
    else:
        image = _decoded(encoded, options)
    views = []
    for work in works:
        count = len(_work_inputs(work, options.device))
        mine, arguments = arguments[:count], arguments[count:]
        views.append(_one_view(size_px, interpolation, work, image, mine, options.device))
    return tuple(views)


def _work_inputs(work: Work, device: str) -> list[tuple[Any, int]]:
    """Type and number of dimensions of each of a view's arguments."""
    inputs = [(types.FLOAT, 1), (types.FLOAT, 1)]
    inputs += [(types.BOOL, 0), (types.FLOAT, 2)] if work.affine else []
    inputs += [(types.FLOAT, 0), (types.FLOAT, 0)] if work.color else []
    if work.blur and blurs_by_weights(device):
        inputs += [(types.BOOL, 0), (types.FLOAT, 2), (types.FLOAT, 2)]
    elif work.blur:
        inputs += [(types.FLOAT, 0)]
    inputs += [(types.BOOL, 0)] if work.solarize else []
    return inputs


def _one_view(
    size_px: int, interpolation: Interpolation, work: Work, image: Any, arguments: list[Any], device: str
) -> Any:
    start, end, *rest = arguments
    size = [size_px, size_px]
    view: Any = fn.resize(image, size=size, roi_start=start, roi_end=end, interp_type=_FILTERS[interpolation])
    if work.affine:
        turned, matrix, *rest = rest
        if turned:
            view = fn.warp_affine(view, matrix=matrix, interp_type=types.INTERP_LINEAR, fill_value=0)
    if work.color:
        brightness, contrast, *rest = rest
        view = _brightness_contrast(view, brightness, contrast, device)
    if work.blur and blurs_by_weights(device):
        blurred, along_x, along_y, *rest = rest
        if blurred:
            plain = fn.reshape(view, shape=size, layout="HW")  # the filter takes no channel
            view = fn.reshape(fn.filter(fn.filter(plain, along_x), along_y), shape=[*size, 1], layout="HWC")
    elif work.blur:
        sigma, *rest = rest
        if sigma > 0:
            view = fn.gaussian_blur(view, sigma=sigma)
    if work.solarize:
        (solarized,) = rest
        if solarized:
            view = view ^ fn.cast((view >= SOLARIZE_THRESHOLD) * 255, dtype=types.UINT8)
    return view


def _brightness_contrast(view: Any, brightness: Any, contrast: Any, device: str) -> Any:
    mean = fn.reductions.mean(view)
    if device == "cpu":
        return fn.brightness_contrast(view, brightness=brightness, contrast=contrast, contrast_center=mean)
    # The mean is on the GPU, where operators take no arguments from; on a CPU the arithmetic is 40 % slower.
    return fn.cast(brightness.gpu() * (mean + contrast.gpu() * (view - mean)), dtype=types.UINT8)


@pipeline_def  # type: ignore[untyped-decorator]
def _canvas(
    size_px: int, interpolation: Interpolation, source: Callable[[], tuple[Any, ...]], options: PipelineOptions
) -> Any:
    encoded, start, end, size = fn.external_source(
        source=source,
        num_outputs=4,
        dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT],
        ndim=1,
    )
    image = _decoded(encoded, options)
    content = fn.resize(image, size=size, roi_start=start, roi_end=end, interp_type=_FILTERS[interpolation])
    return fn.pad(content, axes=(0, 1), shape=[size_px, size_px], fill_value=0)
