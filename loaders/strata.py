"""Weights of samples: by the shard set they are in, and by what is found in them.

Weighting by finding is repeat-factor sampling (Gupta, Dollar, Girshick, "LVIS", CVPR 2019): with f the share of images
that show a finding and t a threshold, the finding's factor is max(1, sqrt(t / f)), and an image's is the largest of its
findings' factors.

Shapes: N samples, F findings, V findings of all samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MOST_WEIGHT = 1000.0
_MOST_STRATA = 1 << 16


@dataclass(frozen=True, slots=True)
class Findings:
    """What is found in each sample: those of sample i are `number_V[ends_N[i - 1] : ends_N[i]]`."""

    names: tuple[str, ...]
    """[F]"""
    known_N: npt.NDArray[np.bool_]
    """Whether anybody looked; where not, the sample has none."""
    ends_N: npt.NDArray[np.int64]
    number_V: npt.NDArray[np.int16]
    """Places in `names`."""


@dataclass(frozen=True, slots=True)
class Strata:
    """Groups of samples that an epoch takes equally often."""

    number_N: npt.NDArray[np.uint16]
    """The stratum of each sample."""
    weights: tuple[float, ...]
    """How often an epoch takes a sample of each stratum, on average; at least one item of it, however small the
    weight."""


def check_weights(num_sets: int, weights: Sequence[float], repeat_threshold: float) -> None:
    """Raises ValueError where there is not one weight a set (or none at all), where one is not a number above 0
    and up to 1,000, or where the threshold is not 0 to 1."""
    if weights and len(weights) != num_sets:
        raise ValueError(
            f"weights = {tuple(weights)}: {len(weights)} for {num_sets} shard sets; give one for each, in their order"
        )
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"weights = {tuple(weights)}: {weight} must be a number above 0; leave out a set not wanted"
            )
        if weight > _MOST_WEIGHT:
            raise ValueError(
                f"weights = {tuple(weights)}: {weight} must be at most {_MOST_WEIGHT:,.0f}, which is how often an "
                "epoch has each image of that set; lower all weights alike, only how they compare decides the mixture"
            )
    if not 0 <= repeat_threshold <= 1:
        raise ValueError(
            f"repeat_threshold = {repeat_threshold}: a share of images, from 0 (off) to 1; LVIS takes 0.001"
        )


def stratify(
    num_samples: Sequence[int], weights: Sequence[float], findings: Findings | None, repeat_threshold: float
) -> Strata | None:
    """Strata of samples that lie set after set; None where each epoch takes each sample once.

    `num_samples`: of each set. `weights`: of each set, none for 1 each. `findings` is needed with a `repeat_threshold`
    above 0. One stratum per set and factor. Raises ValueError as check_weights does, and where there are more strata
    than 65,536.
    """
    check_weights(len(num_samples), weights, repeat_threshold)
    factors, factor_N = np.ones(1), None
    if repeat_threshold > 0:
        assert findings is not None
        factors, factor_N = _factors(findings, repeat_threshold)
    if len(num_samples) * len(factors) > _MOST_STRATA:
        raise ValueError(
            f"repeat_threshold = {repeat_threshold}: {len(num_samples)} shard sets with {len(factors)} repeat factors "
            f"each are more than {_MOST_STRATA:,} groups; take a lower threshold, or fewer shard sets"
        )
    set_weights = np.array(weights or [1.0] * len(num_samples), np.float64)
    number_N = np.repeat(np.arange(len(num_samples), dtype=np.uint16) * np.uint16(len(factors)), num_samples)
    if factor_N is not None:
        number_N += factor_N
    all_weights = np.outer(set_weights, factors).reshape(-1)
    there = np.flatnonzero(np.bincount(number_N, minlength=len(all_weights)))
    if (all_weights[there] == 1).all():
        return None
    renumbered = np.zeros(len(all_weights), np.uint16)
    renumbered[there] = np.arange(len(there))
    return Strata(renumbered[number_N], tuple(all_weights[there].tolist()))


def repeat_factors(findings: Findings, repeat_threshold: float) -> npt.NDArray[np.float64]:
    """How often an image with each finding is repeated, float64 [F]: 1 where the finding is frequent or never seen.

    A finding's share is among the images whose findings are known.
    """
    num_known = max(int(np.count_nonzero(findings.known_N)), 1)
    share_F = np.bincount(findings.number_V, minlength=len(findings.names)) / num_known
    with np.errstate(divide="ignore"):
        return np.where(share_F > 0, np.maximum(1.0, np.sqrt(repeat_threshold / share_F)), 1.0)


def _factors(findings: Findings, threshold: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint16]]:
    """The different factors, ascending, and the place of each sample's among them, uint16 [N]."""
    factors, place_F = np.unique(np.append(1.0, repeat_factors(findings, threshold)), return_inverse=True)
    place_V = place_F[1:].astype(np.uint16)[findings.number_V]
    sample_V = np.repeat(np.arange(len(findings.ends_N)), np.diff(findings.ends_N, prepend=0))
    place_N = np.zeros(len(findings.ends_N), np.uint16)
    for place in range(1, len(factors)):  # ascending, so that the largest stays
        place_N[sample_V[place_V == place]] = place
    return factors, place_N
