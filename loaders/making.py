"""A batch in the making: its chunks on their way through the pipeline.

Shapes: n samples of a share, m of a chunk, S the side of an output.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from loaders.arguments import Arguments
from loaders.failures import BadSampleError
from loaders.lane import complete
from loaders.share import Share


@dataclass(slots=True)
class Making:
    """A share on its way through the pipeline."""

    share: Share
    lost: dict[int, BadSampleError]
    """What cannot be used, by number in the share."""
    tensors: tuple[torch.Tensor, ...]
    """Where the pixels go, uint8 [n, S, S, 1], on the device, allocated on the loader's lane."""
    num_left: int = 0
    """Chunks that are not done."""
    done: list[tuple[int, list[int]]] = field(default_factory=list)
    """Where chunks lie in the tensors: first place, and which numbers of the share lie from there on."""

    def outputs(self) -> tuple[torch.Tensor, ...]:
        """The tensors once all chunks are done, without the places of what was lost on the way.

        What it gives is complete. To be called on the lane on which the tensors were made.
        """
        places = [first + i for first, numbers in sorted(self.done) for i in range(len(numbers))]
        if len(places) == len(self.tensors[0]):
            return self.tensors
        index = torch.tensor(places, dtype=torch.int64, device=self.tensors[0].device)
        kept = tuple(tensor[index] for tensor in self.tensors)
        complete(index.device)
        return kept


@dataclass(frozen=True, slots=True)
class Chunk:
    """Samples that the pipeline is given together."""

    making: Making
    first: int
    """Place of the first of them in the batch's tensors."""
    numbers_m: list[int]
    """Their numbers in the share."""
    encoded: list[npt.NDArray[np.uint8]]
    """The image of each, uint8 [bytes]."""

    @property
    def arguments(self) -> Arguments:
        """What is done to them."""
        return self.making.share.prepared.arguments_of(self.numbers_m)

    def out(self) -> list[torch.Tensor]:
        """The part of the batch's tensors that is theirs."""
        return [tensor[self.first : self.first + len(self.numbers_m)] for tensor in self.making.tensors]

    def is_done(self) -> None:
        """Their pixels are in the tensors."""
        self.making.done.append((self.first, self.numbers_m))
        self.making.num_left -= 1

    def without_lost(self) -> Chunk | None:
        """What of it is not lost; None, and the chunk counts as done, where nothing is."""
        kept = [i for i, number in enumerate(self.numbers_m) if number not in self.making.lost]
        if not kept:
            self.making.num_left -= 1
            return None
        return Chunk(self.making, self.first, [self.numbers_m[i] for i in kept], [self.encoded[i] for i in kept])
