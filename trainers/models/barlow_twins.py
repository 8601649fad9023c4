"""Barlow Twins (Zbontar et al., arXiv 2103.03230): two views, one encoder, one projector, the loss on C.

Shapes: N this rank's images, B the global batch, D the embedding's size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainers.models.encoder import EncoderConfig, build_encoder
from trainers.models.global_norm import standardise, sum_over_ranks


@dataclass(frozen=True, slots=True)
class BarlowTwinsConfig:
    """The projector and the loss."""

    projector: tuple[int, ...] = (8192, 8192, 8192)
    """Widths of the projector's linear layers; the last is the embedding's size D."""
    off_diagonal_weight: float = 0.0051
    """Weight of the squared off-diagonal entries of C (lambda in the paper)."""

    def __post_init__(self) -> None:
        """Refuse an empty projector."""
        if not self.projector or min(self.projector) < 2:
            raise ValueError(f"model.projector is {self.projector}; give at least one width, each 2 or more")


class BarlowTwinsLoss(NamedTuple):
    """Scalars, equal on every rank; `loss` carries the gradient."""

    loss: Tensor
    on_diagonal: Tensor
    """sum_i (C_ii - 1)^2."""
    off_diagonal: Tensor
    """sum_{i != j} C_ij^2, before its weight."""


def barlow_twins_loss(z1_ND: Tensor, z2_ND: Tensor, global_batch: int, off_diagonal_weight: float) -> BarlowTwinsLoss:
    """The loss over the global batch: statistics and C cover all ranks' rows, with true gradients.

    Float32 under any autocast (float64 for float64 input). `global_batch` is B, the rows of all ranks together.
    """
    with torch.autocast(z1_ND.device.type, enabled=False):
        z1_ND, z2_ND = standardise(z1_ND), standardise(z2_ND)
        c_DD = sum_over_ranks(z1_ND.T @ z2_ND / global_batch)
        diagonal_D = c_DD.diagonal()
        on_diagonal = (diagonal_D - 1).square().sum()
        off_diagonal = c_DD.square().sum() - diagonal_D.square().sum()
        return BarlowTwinsLoss(on_diagonal + off_diagonal_weight * off_diagonal, on_diagonal, off_diagonal)


class BarlowTwins(nn.Module):
    """Encoder and projector with the loss; the weights worth keeping are `encoder.*`, in torchvision's names."""

    def __init__(self, encoder: EncoderConfig, config: BarlowTwinsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(encoder)
        layers: list[nn.Module] = []
        width_in = self.encoder.num_features
        for width in config.projector[:-1]:
            layers += [nn.Linear(width_in, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
            width_in = width
        self.projector = nn.Sequential(*layers, nn.Linear(width_in, config.projector[-1], bias=False))

    def embed(self, view: Tensor) -> Tensor:
        """One uint8 view [N,H,W,1] to its embedding [N,D]."""
        z_ND: Tensor = self.projector(self.encoder(self.encoder.prepare(view)))
        return z_ND

    def forward(self, view1: Tensor, view2: Tensor, global_batch: int) -> BarlowTwinsLoss:
        """Two uint8 views [N,H,W,1] of the same images to the loss over the global batch."""
        z1_ND, z2_ND = self.embed(view1), self.embed(view2)
        return barlow_twins_loss(z1_ND, z2_ND, global_batch, self.config.off_diagonal_weight)
