"""What the ranks give up together: a sample that one of them cannot use is left out by all, in the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from cluster.failure import Failure
from cluster.world import World


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A sample that is left out from now on."""

    digest: str
    """First 64 bits of the sample's digest, 16 hex digits: the name by which a run remembers it, and any copy of it in
    another shard set."""
    epoch: int
    """Where it was found."""
    step: int
    reason: str
    """Its key, its shard, what is wrong and the repair."""


class TooManyGivenUp(Failure):
    """More samples than `max_skipped` cannot be used: something else is wrong than single files."""


def agree(mine: Sequence[GivenUp], world: World) -> list[GivenUp]:
    """What all ranks have to give up in this step, the same list on every rank; each calls it once a step.

    One number is reduced on the CPU; only where it is not 0 are the samples gathered. Raises ValueError where there is
    no process group of the world's size to ask.
    """
    if world.size == 1:
        return list(mine)
    if not dist.is_initialized() or dist.get_world_size() != world.size:
        raise ValueError(
            f'on_bad = "skip" with {world.size} ranks needs a process group of them all, so that they can agree: '
            "call cluster.world.open_process_group first"
        )
    num = torch.tensor([len(mine)])
    dist.all_reduce(num)
    if not int(num):
        return []
    parts: list[list[GivenUp]] = [[] for _ in range(world.size)]
    dist.all_gather_object(parts, list(mine))
    return [one for part in parts for one in part]
