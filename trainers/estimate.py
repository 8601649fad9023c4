"""What a step will cost, measured on a few images here: for `--dry_run`."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cluster.world import World


@dataclass(frozen=True, slots=True)
class StepCost:
    """Cost of training per image, and what does not grow with the batch."""

    flops_per_image: float
    """Forward and backward, multiply and add counted as two."""
    activation_bytes_per_image: int
    """What backward keeps."""
    state_bytes: int
    """Parameters, gradients and optimizer state."""
    seconds_per_image: float
    """On this machine, with the threads it has now."""
    num_parameters: int

    def describe(self, num_steps: int, global_batch: int, world: World, device_here: str) -> str:
        """Lines for a terminal: parameters, memory per rank, time."""
        share = -(-global_batch // world.size)
        memory = self.state_bytes + share * self.activation_bytes_per_image
        images = num_steps * global_batch
        hours = images * self.seconds_per_image / 3600 / world.size
        total = images * self.flops_per_image
        return "\n".join(
            [
                f"parameters         {self.num_parameters / 1e6:,.1f} M",
                f"memory per rank    {memory / 2**30:,.1f} GiB "
                f"({self.state_bytes / 2**30:,.1f} weights, gradients, optimizer; "
                f"{self.activation_bytes_per_image / 2**20:,.0f} MiB x {share} images)",
                f"work               {self.flops_per_image / 1e9:,.1f} GFLOP per image, "
                f"{total / 1e15:,.2f} PFLOP in all "
                f"({total / 2e14 / 3600:,.1f} h for one device that sustains 200 TFLOP/s)",
                f"time               {_duration(hours)} if every rank is as fast as this {device_here} "
                f"({1 / self.seconds_per_image:,.1f} images/s, measured on a few images now, data not counted)",
            ]
        )


def measure_step(module: nn.Module, loss: Callable[[], Tensor], num_images: int, state_copies: int = 3) -> StepCost:
    """Runs `loss` (a forward over `num_images` images) with backward twice and counts what it takes.

    `state_copies`: float32 copies of the parameters with gradient and optimizer state, 3 for momentum, 4 for Adam.
    """
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss().backward()  # type: ignore[no-untyped-call]
    start = time.perf_counter()
    loss().backward()  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - start
    module.zero_grad(set_to_none=True)
    num_parameters = sum(p.numel() for p in module.parameters())
    return StepCost(
        flops_per_image=counter.get_total_flops() / num_images,
        activation_bytes_per_image=sum(v for k, v in kept.items() if k not in own) // num_images,
        state_bytes=4 * state_copies * num_parameters,
        seconds_per_image=seconds / num_images,
        num_parameters=num_parameters,
    )


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min"
