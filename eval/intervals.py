"""How sure a number is: intervals and paired differences by bootstrap over patients (or images).

A resample draws as many groups as there are, with replacement; every image of a group goes with it. Two predictors
are compared on the same resamples, so that what is hard for both cancels.

Shapes: N images, G groups, B resamples.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.95
MIN_POSITIVE_GROUPS = 5
_BLOCK_CELLS = 20_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval. Without one (`low` and `high` None) `reason` says why and the number is not shown."""

    value: float | None
    """On all images; None where it is not defined (no true box of the finding, say)."""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    p: float | None = None
    """Two-sided p-value, for differences only."""
    reason: str | None = None
    """Why there is no interval."""

    def to_dict(self) -> dict[str, Any]:
        """value, low and high always; p and reason where there is one."""
        return {k: v for k, v in asdict(self).items() if v is not None or k in ("value", "low", "high")}


def resample_weights(
    group_N: NDArray[np.int64], num_resamples: int, seed: int, block: int | None = None
) -> Iterator[NDArray[np.int32]]:
    """How often each image stands in each of `num_resamples` resamples, as int32 [b, N] blocks in order.

    The same seed gives the same resamples whatever the block length.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    num_groups = int(group_N.max()) + 1
    block = block or max(1, _BLOCK_CELLS // max(len(group_N), num_groups))
    for start in range(0, num_resamples, block):
        count = min(block, num_resamples - start)
        drawn = generator.integers(0, num_groups, (count, num_groups))
        cell = drawn + np.arange(count)[:, None] * num_groups
        weights_BG = np.bincount(cell.ravel(), minlength=count * num_groups).reshape(count, num_groups)
        yield weights_BG[:, group_N].astype(np.int32)


def interval(value: float, values_B: NDArray[np.float64], num_positive_groups: int, what: str = "image") -> Estimate:
    """`value` with the percentile interval of its resampled values (NaN: not defined in that resample, left out).

    Fewer than 5 groups with the finding give no interval: a bootstrap over so few says nothing.
    """
    refused = _refused(value, num_positive_groups, what)
    if refused:
        return refused
    low, high = _ends(values_B)
    return Estimate(float(value), low, high)


def difference(
    value: float,
    values_a_B: NDArray[np.float64],
    values_b_B: NDArray[np.float64],
    num_positive_groups: int,
    what: str = "image",
) -> Estimate:
    """`value` = a - b on all images, with the percentile interval and two-sided p of the paired resamples.

    p = 2 (1 + m) / (B + 1), at most 1, m being the smaller count of resamples on one side of zero (zero on both):
    Davison and Hinkley, Bootstrap Methods and their Application, section 4.
    """
    refused = _refused(value, num_positive_groups, what)
    if refused:
        return refused
    change_B = (values_a_B - values_b_B)[np.isfinite(values_a_B) & np.isfinite(values_b_B)]
    low, high = _ends(change_B)
    tail = min(int((change_B <= 0).sum()), int((change_B >= 0).sum()))
    return Estimate(float(value), low, high, p=min(1.0, 2 * (1 + tail) / (len(change_B) + 1)))


def _refused(value: float, num_positive_groups: int, what: str) -> Estimate | None:
    if np.isnan(value):
        return Estimate(None, reason="not defined on these images")
    if num_positive_groups < MIN_POSITIVE_GROUPS:
        plural = "" if num_positive_groups == 1 else "s"
        reason = f"{num_positive_groups} {what}{plural} with it; an interval needs {MIN_POSITIVE_GROUPS}"
        return Estimate(float(value), reason=reason)
    return None


def _ends(values_B: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanpercentile(values_B, [100 * (1 - COVERAGE) / 2, 100 * (1 + COVERAGE) / 2])
    return float(low), float(high)
