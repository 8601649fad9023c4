"""Batch norm and sums over the global batch, for any number of ranks with any shares.

Every reduction here is differentiable, so that loss and gradients on W ranks equal those of one rank that holds the
joined batch, once gradients are averaged over ranks (each rank holds the same loss L; the sum over ranks of the
gradients of W copies of L, divided by W, is the gradient of L). `torch.nn.SyncBatchNorm` refuses CPU tensors.

Shapes: N this rank's images, C channels, W ranks.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks of a tensor whose consumers compute the same value on every rank."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # What follows is replicated, so the gradient is the same on all ranks and their sum is a product.
        return grads[0] * dist.get_world_size()


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over ranks, for a use that is identical on every rank (such as the loss from C)."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return _SumOverRanks.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class _GlobalNorm(torch.autograd.Function):
    """Standardise by the mean and variance of the global batch; gradients as in Ioffe & Szegedy, arXiv 1502.03167."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [0, *range(2, x.ndim)]
        x = x if x.dtype == torch.float64 else x.float()
        count = x.numel() // x.shape[1]
        mean_C = x.mean(axes) if count else x.new_zeros(x.shape[1])
        m2_C = (x - _wide(mean_C, x)).square().sum(axes)
        mine = torch.cat([mean_C, m2_C, mean_C.new_tensor([float(count)])])
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine)
        all_WK = torch.stack(parts)
        num_channels = x.shape[1]
        means_WC, m2s_WC, counts_W1 = all_WK[:, :num_channels], all_WK[:, num_channels:-1], all_WK[:, -1:]
        total = counts_W1.sum()
        mean_C = (means_WC * counts_W1).sum(0) / total
        m2_C = (m2s_WC + counts_W1 * (means_WC - mean_C).square()).sum(0)
        inverse_std_C = (m2_C / total + eps).rsqrt()
        y = (x - _wide(mean_C, x)) * _wide(inverse_std_C, x)
        ctx.save_for_backward(y, inverse_std_C, total)
        ctx.mark_non_differentiable(mean_C, m2_C, total)
        return y, mean_C, m2_C, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        y, inverse_std_C, total = ctx.saved_tensors
        grad = grads[0]
        axes = [0, *range(2, y.ndim)]
        sums_2C = torch.stack([grad.sum(axes), (grad * y).sum(axes)])
        dist.all_reduce(sums_2C)
        means_2C = sums_2C / total
        return (grad - _wide(means_2C[0], y) - y * _wide(means_2C[1], y)) * _wide(inverse_std_C, y), None


def _wide(x_C: Tensor, like: Tensor) -> Tensor:
    return x_C.view(1, -1, *([1] * (like.ndim - 2)))


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all ranks' images, [N,C] or [N,C,H,W]; the parameters and buffers of `nn.BatchNorm2d`.

    Statistics in float32 (float64 for float64 input) whatever the autocast; the output has the input's dtype. Raises
    ValueError where the global batch gives one value a channel.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm takes [N,C,...], got {input.ndim} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        """Standardised over the global batch in training mode, by the running statistics otherwise."""
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if alone or not (self.training or self.running_mean is None):
            return super().forward(input)
        y, mean_C, m2_C, total = _GlobalNorm.apply(input, self.eps)  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_((m2_C / (total - 1)).to(self.running_var.dtype), momentum)
        if self.weight is not None:
            y = y * _wide(self.weight, y) + _wide(self.bias, y)
        result: Tensor = y.to(input.dtype)
        return result


def standardise(x_NC: Tensor, eps: float = 1e-5) -> Tensor:
    """Each column of [N,C] with mean 0 and (biased) variance 1 over the global batch, in float32 or float64."""
    x_NC = x_NC if x_NC.dtype == torch.float64 else x_NC.float()
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return F.batch_norm(x_NC, None, None, training=True, eps=eps)
    return _GlobalNorm.apply(x_NC, eps)[0]  # type: ignore[no-any-return, no-untyped-call]


def use_global_norm(module: nn.Module) -> nn.Module:
    """Replaces every trainable-mode BatchNorm below `module` by one over all ranks: ours on the CPU, torch's on a GPU.

    Parameters, buffers and their names stay. Alone, the module is returned as it is.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return module
    if any(p.is_cuda for p in module.parameters()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-any-return, no-untyped-call]
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            new = GlobalBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            new._parameters, new._buffers = child._parameters, child._buffers  # themselves: frozen ones stay frozen
            new.train(child.training)
            setattr(module, name, new)
        else:
            use_global_norm(child)
    return module
