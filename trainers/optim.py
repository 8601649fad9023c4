"""Optimizers, their parameter groups, and the learning rate at every step.

LARS follows the Barlow Twins paper's code (You et al., arXiv 1708.03888, with weight decay inside the norm):
`q = eta * |p| / |g + wd * p|`, momentum buffer starting at zero without dampening, the rate applied after momentum;
parameters with one dimension (biases, batch norm) get neither weight decay nor adaptation, and a rate of their own.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Which optimizer, its rates and their schedule."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    """The optimizer."""
    lr: float = 0.2
    """Peak learning rate of parameters with two or more dimensions, before scaling by the batch."""
    lr_1d: float = 0.0048
    """Peak learning rate of one-dimensional parameters (biases, batch norm), before scaling; 0: the same as `lr`."""
    lr_batch: int = 256
    """Rates hold for this global batch and are scaled linearly to the run's; 0: rates are taken as they are."""
    weight_decay: float = 1e-6
    """Weight decay (decoupled for adamw)."""
    decay_1d: bool = False
    """Whether one-dimensional parameters are decayed too."""
    momentum: float = 0.9
    """Momentum of lars and sgd; beta1 of adamw."""
    eta: float = 0.001
    """Trust coefficient of lars."""
    warmup_epochs: float = 10.0
    """Linear warm-up, in epochs."""
    warmup_steps: int = 0
    """Linear warm-up, in steps; where above 0 it replaces `warmup_epochs`."""
    warmup_start_ratio: float = 0.0
    """Rate at step 0 over the peak rate."""
    final_ratio: float = 0.001
    """Rate at the end of the cosine over the peak rate."""

    def __post_init__(self) -> None:
        """Refuse what no run can use."""
        for name in ("lr", "eta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; it must be a number above 0")
        for name in ("lr_1d", "lr_batch", "weight_decay", "warmup_epochs", "warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; it must be a number, 0 or more")
        for name in ("warmup_start_ratio", "final_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; it must be from 0 to 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum is {self.momentum}; it must be from 0 to below 1")


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling; see the module's head for the formula and its source.

    A group's `adapt` says whether its parameters are scaled by their trust ratio; parameters are float, any shape.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates = [p.grad.float() if p.grad.dtype == torch.bfloat16 else p.grad for p in params]
            if group["weight_decay"] > 0:
                updates = list(torch._foreach_add(updates, params, alpha=group["weight_decay"]))
            if group["adapt"]:
                p_norms = torch._foreach_norm(params)
                u_norms = torch._foreach_norm(updates)
                ratios = [
                    torch.where((p > 0) & (u > 0), group["eta"] * p / u, 1.0)
                    for p, u in zip(p_norms, u_norms, strict=True)
                ]
                updates = list(torch._foreach_mul(updates, ratios))
            buffers = []
            for p in params:
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffers.append(state["momentum_buffer"])
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])


def parameter_groups(module: nn.Module, config: OptimConfig, global_batch: int) -> list[dict[str, Any]]:
    """Two groups, parameters with at least two dimensions and those with one, each with its `peak_lr`.

    Parameters that need no gradient are left out.
    """
    scale = global_batch / config.lr_batch if config.lr_batch else 1.0
    wide = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    flat = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    lr, lr_1d = config.lr * scale, (config.lr_1d or config.lr) * scale
    decay_1d = config.weight_decay if config.decay_1d else 0.0
    groups = [
        {"params": wide, "lr": lr, "peak_lr": lr, "weight_decay": config.weight_decay, "adapt": True},
        {"params": flat, "lr": lr_1d, "peak_lr": lr_1d, "weight_decay": decay_1d, "adapt": False},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, config: OptimConfig, global_batch: int) -> torch.optim.Optimizer:
    """The configured optimizer over the module's trainable parameters, its rates scaled to the global batch."""
    groups = parameter_groups(module, config, global_batch)
    if config.name != "lars":
        for group in groups:
            del group["adapt"]
    match config.name:
        case "lars":
            return LARS(groups, lr=config.lr, momentum=config.momentum, eta=config.eta)
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))


def rate_factor(config: OptimConfig, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """The rate at `step` (0-based) over the peak rate: linear warm-up, then half a cosine down to `final_ratio`.

    As in the Barlow Twins code the cosine runs over what follows the warm-up.
    """
    warmup = config.warmup_steps or round(config.warmup_epochs * steps_per_epoch)
    warmup = min(warmup, num_steps)
    if step < warmup:
        return config.warmup_start_ratio + (1.0 - config.warmup_start_ratio) * step / warmup
    share = (step - warmup) / max(num_steps - warmup, 1)
    half_cosine = 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
    return half_cosine + config.final_ratio * (1.0 - half_cosine)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Sets every group's rate to `factor` times its peak; gives the first and last rate for the log."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return {"lr": optimizer.param_groups[0]["lr"], "lr_1d": optimizer.param_groups[-1]["lr"]}
