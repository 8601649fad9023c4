"""The only importer of DeepSpeed: a module and an optimizer become an engine that trains over all ranks.

Stage 0 with float32 parameters and autocast: the client's optimizer stays unwrapped and exact, gradients are averaged
over ranks after backward. Clipping is off unless asked (DeepSpeed's own default is 1.0).
"""

import logging
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cluster.world import World


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the step is computed."""

    precision: Literal["bf16", "fp32"] = "bf16"
    """Autocast of convolutions and linear layers; parameters, batch norm and the loss stay float32."""
    channels_last: bool = True
    """Memory layout of images and convolutions: NHWC."""
    gradient_clipping: float = 0.0
    """Largest norm of the whole gradient; 0: no clipping."""
    print_deepspeed: bool = False
    """Print the DeepSpeed dict that is made from this config."""

    def __post_init__(self) -> None:
        """Refuse a negative norm."""
        if self.gradient_clipping < 0:
            raise ValueError(f"engine.gradient_clipping is {self.gradient_clipping}; it must be 0 (off) or more")


def deepspeed_dict(config: EngineConfig, world: World, global_batch: int) -> dict[str, Any]:
    """DeepSpeed's own configuration, made from ours. Its batch fields only feed its timers: shares may be uneven."""
    return {
        "train_micro_batch_size_per_gpu": max(1, global_batch // world.size),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.gradient_clipping,
        "zero_optimization": {"stage": 0},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": config.precision == "bf16", "dtype": "bfloat16"},
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


class Engine:
    """A DeepSpeed engine behind four verbs: call it, `backward`, `step`, and read `module`."""

    def __init__(self, deepspeed_engine: Any, optimizer: torch.optim.Optimizer) -> None:
        self._engine = deepspeed_engine
        self.optimizer = optimizer

    @property
    def module(self) -> nn.Module:
        """The module itself, with its own parameter names."""
        module: nn.Module = self._engine.module
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward under the configured autocast."""
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss` (scalar), averaged over ranks."""
        self._engine.backward(loss)

    def step(self) -> None:
        """One update by the optimizer; gradients are cleared."""
        self._engine.step()

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode of the module."""
        self._engine.train(mode)


def open_engine(
    module: nn.Module, optimizer: torch.optim.Optimizer, config: EngineConfig, world: World, global_batch: int
) -> Engine:
    """DeepSpeed over the open process group; `module` is already on `world.device`, rank 0's weights go to all.

    Needs `cluster.world.open_process_group` before.
    """
    if world.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))  # DeepSpeed asks for it even where nobody launched us
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    import deepspeed

    # Else init_distributed compiles this op for up to a minute, and a process killed meanwhile leaves a lock that
    # hangs every later run in silence. The plain gloo path gives the same numbers.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for logger in ("DeepSpeed", "deepspeed"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    # DeepSpeed remembers the process group of an earlier engine in this process, which may be closed by now.
    deepspeed.utils.groups._WORLD_GROUP = None
    deepspeed.comm.comm.cdb = None
    deepspeed.init_distributed(
        dist_backend="gloo" if world.device == "cpu" else "nccl", auto_mpi_discovery=False, verbose=False
    )
    settings = deepspeed_dict(config, world, global_batch)
    if config.print_deepspeed and world.is_main:
        import json

        print(json.dumps(settings, indent=2), flush=True)
    engine, _, _, _ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    assert engine.optimizer is optimizer, "stage 0 must leave the optimizer unwrapped"
    if config.channels_last:  # only now: DeepSpeed broadcasts rank 0's weights as bytes and needs them contiguous
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Engine(engine, optimizer)
