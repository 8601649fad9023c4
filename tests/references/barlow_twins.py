"""Barlow Twins' loss and LARS in plain NumPy float64."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def barlow_twins_loss(z1_ND: Array, z2_ND: Array, weight: float, eps: float = 1e-5) -> float:
    """The loss on two batches of embeddings, by loops."""

    def standardise(z_ND: Array) -> Array:
        return (z_ND - z_ND.mean(0)) / np.sqrt(z_ND.var(0) + eps)

    a_ND, b_ND = standardise(z1_ND), standardise(z2_ND)
    num, dim = a_ND.shape
    loss = 0.0
    for i in range(dim):
        for j in range(dim):
            c = sum(a_ND[n, i] * b_ND[n, j] for n in range(num)) / num
            loss += (c - 1) ** 2 if i == j else weight * c**2
    return loss


def numerical_gradient(z1_ND: Array, z2_ND: Array, weight: float, step: float = 1e-6) -> Array:
    """d loss / d z1 by central differences."""
    gradient = np.zeros_like(z1_ND)
    for index in np.ndindex(*z1_ND.shape):
        up, down = z1_ND.copy(), z1_ND.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (barlow_twins_loss(up, z2_ND, weight) - barlow_twins_loss(down, z2_ND, weight)) / (2 * step)
    return gradient


def lars(p: Array, gradients: list[Array], lr: float, weight_decay: float, momentum: float, eta: float) -> Array:
    """The parameter after one update per gradient."""
    buffer = np.zeros_like(p)
    for g in gradients:
        if p.ndim > 1:
            u = g + weight_decay * p
            p_norm, u_norm = np.sqrt((p**2).sum()), np.sqrt((u**2).sum())
            u = u * (eta * p_norm / u_norm if p_norm > 0 and u_norm > 0 else 1.0)
        else:
            u = g
        buffer = momentum * buffer + u
        p = p - lr * buffer
    return p
