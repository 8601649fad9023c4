"""What loaders hand out: one rank's share of a global batch. Shares may differ by one sample between ranks, and by
what was given up.

Shapes: n samples of this rank's share, K boxes of an image, S the side of a canvas, H = W the side of a view, F
findings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from loaders.placement import Placement


@dataclass(frozen=True, slots=True)
class PretrainBatch:
    """Two views of each image."""

    views: tuple[torch.Tensor, torch.Tensor]
    """uint8 [n, H, W, 1] each, 0 to 255, on the rank's device."""
    rows: torch.Tensor
    """Row numbers through all shard sets, int64 [n], on the CPU."""
    epoch: int
    step: int
    global_size: int
    """Samples in the global batch, over all ranks."""


@dataclass(frozen=True, slots=True)
class ClassifyBatch:
    """One view of each image, and its findings."""

    images: torch.Tensor
    """uint8 [n, H, W, 1], 0 to 255, on the rank's device."""
    labels: torch.Tensor
    """1 where the image has the finding, else 0, float32 [n, F] in the order of the loader's `findings`, on the CPU."""
    known: torch.Tensor
    """Whether that is known, bool [n, F], on the CPU: somebody looked at the image, and its shard set names that
    finding."""
    rows: torch.Tensor
    """Row numbers through all shard sets, int64 [n], on the CPU."""
    epoch: int
    step: int
    global_size: int
    """Samples in the global batch, over all ranks."""


@dataclass(frozen=True, slots=True)
class DetectBatch:
    """Each image in the upper left of a canvas, and its boxes."""

    images: torch.Tensor
    """uint8 [n, S, S, 1], 0 outside the content, on the rank's device."""
    sizes: torch.Tensor
    """Height and width of the content, int64 [n, 2], canvas pixels, on the CPU."""
    scales: torch.Tensor
    """Canvas pixels per original pixel along x and y, float64 [n, 2], on the CPU."""
    boxes: list[torch.Tensor]
    """x_min, y_min, x_max, y_max, float32 [K, 4], canvas pixels, within the content, on the CPU. None is narrower or
    lower than a pixel: what a crop leaves of such a box is dropped."""
    findings: list[torch.Tensor]
    """Position of each box's finding in the loader's `findings`, int64 [K], on the CPU."""
    rows: torch.Tensor
    """Row numbers through all shard sets, int64 [n], on the CPU."""
    placement: Placement
    """Where each image lies; `placement.boxes_to_original` takes boxes back."""
    epoch: int
    step: int
    global_size: int
    """Samples in the global batch, over all ranks."""
