"""Which samples of a chunk broke the pipeline, and why; and whether decoding works at all on a device.

DALI tells the end of memory, or a device that is gone, by the same error as a damaged image. So where a sample seems
bad, an image known to be good, of the same size and format, goes the same way: where that fails too, nobody is blamed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from cluster.tasks import available_cores
from loaders.pipeline import decoded_shapes, header_shapes

T = TypeVar("T")
Encoded = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""Height and width."""

MOST_PX = 1 << 14
"""Sides above this are taken for a damaged header; nothing is decoded then."""
GROUP_PIXELS = 1 << 23
"""Pixels that are decoded together, at most; a larger image alone. It bounds the memory, and what is decoded again in
halves where one image is bad: of 64 of 1024 x 1024, eight."""


def decode_failures(encoded: Sequence[Encoded], device: str, sizes: Sequence[Size | None]) -> list[str | None]:
    """Why each of these samples does not decode on `device` to its size, where one is given; None where it does.

    Headers are read first, and where one tells another size than `sizes`, or a side above MOST_PX, that sample is not
    decoded. The answers do not depend on which samples are asked for together.

    Raises DALI's own error where an image that is known to be good cannot be read or decoded either, or MemoryError.
    """
    reasons: list[str | None] = [None if len(one) else "it is empty" for one in encoded]
    found: dict[int, tuple[int, ...]] = {}
    numbers = [i for i, reason in enumerate(reasons) if reason is None]
    headers = _each(header_shapes, [encoded[i] for i in numbers])
    unread = [header for header in headers if isinstance(header, RuntimeError)]
    if unread:
        _or_raise(unread[0], header_shapes, (64, 64), ".jpg")
    for i, header in zip(numbers, headers, strict=True):
        if isinstance(header, RuntimeError):
            reasons[i] = f"its header cannot be read ({reason_of(header)})"
            continue
        found[i] = header
        told, size = _told(header), sizes[i]
        if size is not None and header[:2] != size:
            reasons[i] = f"{told}, the index {size[0]} x {size[1]}"
        elif max(header[:2]) > MOST_PX:
            reasons[i] = f"{told}, more than {MOST_PX} a side"

    def decode(some: Sequence[Encoded]) -> list[tuple[int, ...]]:
        return decoded_shapes(some, device, min(len(some), available_cores()))

    for group in _groups({i: header[0] * header[1] for i, header in found.items() if reasons[i] is None}):
        shapes = _each(decode, [encoded[i] for i in group])
        for i, shape in zip(group, shapes, strict=True):
            height, width = found[i][:2]
            told = _told(found[i])
            if isinstance(shape, RuntimeError):
                _or_raise(shape, decode, (height, width), _format(encoded[i]))
                reasons[i] = f"{told}, but they cannot be decoded ({reason_of(shape)})"
            elif shape != (height, width, 1):
                reasons[i] = f"{told}, it decodes to {shape}"
    return reasons


def probe() -> list[tuple[str, str | None]]:
    """Of the CPU and of each GPU: why DALI does not decode a JPEG there, None where it does."""
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [(device, _probe(device)) for device in devices]


def _probe(device: str) -> str | None:
    try:
        (shape,) = decoded_shapes([_good((64, 64), ".jpg")], device, 1)
    except RuntimeError as error:
        return reason_of(error)
    return None if shape == (64, 64, 1) else f"64 x 64 pixels decode to {shape}"


def reason_of(error: RuntimeError) -> str:
    """The line of a DALI error that says what was wrong, without traces of ours or DALI's."""
    lines = [line.strip(" :") for line in str(error).splitlines()]
    after = lines[lines.index("encountered") + 1 :] if "encountered" in lines else lines
    return next((line for line in after if line), type(error).__name__)[:300]


def _told(header: Sequence[int]) -> str:
    return f"its header says {header[0]} x {header[1]} pixels (height x width)"


def _each(work: Callable[[Sequence[Encoded]], list[T]], samples: Sequence[Encoded]) -> list[T | RuntimeError]:
    """What the work gives for each sample: of all at once, of halves where that fails, down to single ones."""
    if not samples:
        return []
    try:
        return list(work(samples))
    except MemoryError:
        if len(samples) == 1:
            raise
    except RuntimeError as error:
        if len(samples) == 1:
            return [error]
    half = len(samples) // 2
    return _each(work, samples[:half]) + _each(work, samples[half:])


def _groups(pixels: dict[int, int]) -> list[list[int]]:
    """The numbers, in order, in groups of GROUP_PIXELS at most."""
    groups: list[list[int]] = []
    total = 0
    for number, num in pixels.items():
        if not groups or total + num > GROUP_PIXELS:
            groups.append([])
            total = 0
        groups[-1].append(number)
        total += num
    return groups


def _or_raise(error: RuntimeError, work: Callable[[Sequence[Encoded]], object], size: Size, file_format: str) -> None:
    """Raises the error of a sample where a good image of that size and format ends in an error too."""
    try:
        work([_good(size, file_format)])
    except Exception as also:
        raise error from also


def _format(sample: Encoded) -> str:
    return ".png" if sample[:4].tobytes() == b"\x89PNG" else ".jpg"


def _good(size: Size, file_format: str) -> Encoded:
    """A ramp of gray levels, encoded."""
    ramp_HW = np.empty(size, np.uint8)
    ramp_HW[:] = np.arange(size[1]) % 256
    return np.asarray(cv2.imencode(file_format, ramp_HW)[1]).reshape(-1)
