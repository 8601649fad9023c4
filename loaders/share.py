"""What one rank takes of one global batch, from plan to pixels.

Shapes: n samples of this rank's share, B samples of a global batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loaders.arguments import Arguments
from loaders.placement import Placement


@dataclass(frozen=True, slots=True)
class Picked:
    """The samples of a step."""

    epoch: int
    step: int
    positions_n: npt.NDArray[np.int64]
    """Places in the selection of the samples that are this rank's; n may be 0."""
    visits_n: npt.NDArray[np.int64]
    """The how-manieth time the run sees each of them."""
    batch_positions_B: npt.NDArray[np.int64]
    """Places of all ranks' samples."""

    def take(self, numbers: Sequence[int]) -> Picked:
        """The same step with these samples of the share alone."""
        return dataclasses.replace(
            self, positions_n=self.positions_n[list(numbers)], visits_n=self.visits_n[list(numbers)]
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is done to the samples of a share."""

    level_n: npt.NDArray[np.int64]
    """Stored size to decode."""
    arguments: Arguments
    """What the pipeline is told, an array [n, ...] each."""
    placement: Placement | None
    """Where the images lie on the canvas; None where there is no canvas."""

    def arguments_of(self, numbers: Sequence[int]) -> Arguments:
        """What the pipeline is told of these samples."""
        return tuple(argument[list(numbers)] for argument in self.arguments)

    def take(self, numbers: Sequence[int]) -> Prepared:
        """The same for these samples alone."""
        placement = self.placement and _take(self.placement, list(numbers))
        return Prepared(self.level_n[list(numbers)], self.arguments_of(numbers), placement)


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's samples of a step and what is done to them."""

    picked: Picked
    rows_n: npt.NDArray[np.int64]
    """Their row numbers."""
    prepared: Prepared
    global_size: int
    """Samples in the global batch, those that were given up not counted."""

    def __len__(self) -> int:
        return len(self.rows_n)

    def take(self, numbers: Sequence[int], global_size: int) -> Share:
        """The same step with these samples of the share alone."""
        return Share(self.picked.take(numbers), self.rows_n[list(numbers)], self.prepared.take(numbers), global_size)


def _take(placement: Placement, numbers: list[int]) -> Placement:
    values: dict[str, Any] = {one.name: getattr(placement, one.name)[numbers] for one in dataclasses.fields(placement)}
    return Placement(**values)
