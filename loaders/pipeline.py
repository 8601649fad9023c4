"""Encoded images and view parameters in, uint8 gray tensors out: the only file that knows DALI.

One definition serves both devices: on "cuda:<i>" JPEG is decoded by that GPU and everything after stays on it, on "cpu"
the same graph runs on the processor. Nothing is random in here: every parameter comes with the batch. A sample's pixels
do not depend on the rest of its batch, nor on how a batch is cut into chunks.

What is only for a GPU follows DALI's documentation and has not run on one yet: `mixed` decoding, `hw_decoder_load`,
`stored_px`, the mean as arithmetic, tensors through a stream of their own.

Shapes: m samples of a chunk, S the side of an output. Images are height, width, channel (one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import feed_ndarray

from loaders.arguments import Arguments, ViewsConfig, Work, blurs_by_weights, decodes_regions, works_of
from loaders.views import SOLARIZE_THRESHOLD, Interpolation

Source = Callable[[], tuple[list[npt.NDArray[np.uint8]], Arguments]]
"""Gives the next chunk, 1 to `chunk` samples: the encoded image of each and what view_arguments or canvas_arguments
made, the same part of every array. Raises StopIteration at the end."""

CHUNK = {"cpu": 32, "cuda": 128}
"""Samples worked on at a time on each kind of device, at most.

On two cores 8 to 64 cost the same CPU time to 4 %, so the CPU's is small for the memory's sake. A GPU's decoders take a
batch at once, so theirs is larger: 128 images of 1024 x 1024 are 128 MiB. Not measured on a GPU."""

_FILTERS = {"linear": types.INTERP_LINEAR, "cubic": types.INTERP_CUBIC}


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """How a pipeline works; pixels do not depend on it, save for `hw_decoder_load`."""

    device: str
    """Where images are decoded and where tensors lie: "cpu" or "cuda:<i>"."""
    num_threads: int
    """Threads of the processor that DALI works with."""
    chunk: int
    """Samples worked on at a time, at most. They bound the memory, whatever the batch: on a CPU about 3.3 MiB each, as
    measured with two views of whole images of 1024 x 1024 and a prefetch of 2."""
    prefetch: int = 2
    """Chunks that DALI works ahead."""
    hw_decoder_load: float = 0.65
    """Share of a chunk's JPEG that a GPU's hardware decoder gets; CUDA cores and the CPU's threads decode the rest. Not
    looked at on a CPU, nor on a GPU without such a decoder. The best one depends on the number of decoders and of CPU
    threads, and DALI says to find it by trial: 0.5, 0.65, 0.8, 0.9, 1. At 1 one decoder does all, so that pixels are
    equal from run to run."""
    stored_px: int = 0
    """Side of the largest stored image, for which a GPU's JPEG decoder takes memory at once instead of while it grows;
    0 lets it grow."""

    def __post_init__(self) -> None:
        if not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(f"hw_decoder_load = {self.hw_decoder_load}: must be from 0 to 1")
        assert min(self.num_threads, self.chunk, self.prefetch) >= 1


def chunk_on(device: str, most: int) -> int:
    """Samples of a chunk on `device`, where a batch has at most `most`."""
    return max(1, min(most, CHUNK[torch.device(device).type]))


class PixelPipeline:
    """A built DALI pipeline that works ahead of `run` and writes into torch tensors on `device`."""

    def __init__(self, graph: Any, device: str) -> None:
        self._graph = graph
        self._stream: torch.cuda.Stream | None = None
        if torch.device(device).type == "cuda":
            self._stream = torch.cuda.Stream(torch.device(device))  # type: ignore[no-untyped-call]
        self._graph.build()

    def run(self, out: Sequence[torch.Tensor]) -> None:
        """Writes the next chunk into `out`: one contiguous uint8 [m, S, S, 1] per output, on the device, m as many
        samples as the source gave. What is written is complete.

        Raises StopIteration after the source's last chunk, RuntimeError where a sample does not decode: the pipeline is
        dead then. What the source raises is raised as it is, perhaps by a run before its chunk's turn.
        """
        outputs = self._graph.run()
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))  # which gave out's memory free
        for output, tensor in zip(outputs, out, strict=True):
            feed_ndarray(output.as_tensor(), tensor, self._stream)
        if self._stream is not None:
            self._stream.synchronize()


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


def decode_failure(
    encoded: npt.NDArray[np.uint8], device: str, size: tuple[int, int] | None = None, max_px: int = 1 << 14
) -> str | None:
    """Why this sample, alone in a pipeline, does not decode on `device` to `size` (height, width); None where it does.

    Its header is read first, and where that tells another size, or a side above `max_px`, nothing is decoded.
    """
    if len(encoded) == 0:
        return "it is empty"
    try:
        on_cpu = _means(PipelineOptions("cpu", 1, 1, 1))
        height, width = (int(side) for side in _first(_shape(lambda: [encoded], **on_cpu))[:2])
    except RuntimeError as error:
        return f"its header cannot be read ({reason_of(error)})"
    told = f"its header says {height} x {width} pixels (height x width)"
    if size is not None and (height, width) != size:
        return f"{told}, the index {size[0]} x {size[1]}"
    if max(height, width) > max_px:
        return f"{told}, more than {max_px} a side"
    options = PipelineOptions(device, 1, 1, 1)
    try:
        shape = tuple(int(side) for side in _first(_decode(lambda: [encoded], options, **_means(options))))
    except RuntimeError as error:
        return f"{told}, but they cannot be decoded ({reason_of(error)})"
    return None if shape == (height, width, 1) else f"{told}, it decodes to {shape}"


def reason_of(error: RuntimeError) -> str:
    """The line of a DALI error that says what was wrong, without traces of ours or DALI's."""
    lines = [line.strip(" :") for line in str(error).splitlines()]
    after = lines[lines.index("encountered") + 1 :] if "encountered" in lines else lines
    return next((line for line in after if line), type(error).__name__)[:300]


def probe() -> list[tuple[str, str | None]]:
    """Of the CPU and of each GPU: why DALI does not decode a JPEG there, None where it does."""
    ramp_HW = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    encoded = np.asarray(cv2.imencode(".jpg", ramp_HW)[1]).reshape(-1)
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [(device, decode_failure(encoded, device)) for device in devices]


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


def _first(graph: Any) -> npt.NDArray[Any]:
    graph.build()
    (output,) = graph.run()
    return np.asarray(output.as_cpu().at(0))


def _decoded(encoded: Any, options: PipelineOptions) -> Any:
    kind = {"output_type": types.GRAY, "adjust_orientation": False}
    if options.device == "cpu":
        return fn.decoders.image(encoded, device="cpu", **kind)
    if options.stored_px:
        kind |= {"preallocate_height_hint": options.stored_px, "preallocate_width_hint": options.stored_px}
    return fn.decoders.image(encoded, device="mixed", hw_decoder_load=options.hw_decoder_load, **kind)


@pipeline_def  # type: ignore[untyped-decorator]
def _shape(source: Callable[[], list[npt.NDArray[np.uint8]]]) -> Any:
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
