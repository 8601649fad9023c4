"""The bootstrap: whole groups, one stream whatever the block length, and intervals that cover."""

import numpy as np
import pytest

from eval import intervals


def draw(group_N: np.ndarray, num: int, seed: int, block: int | None = None) -> np.ndarray:
    return np.concatenate(list(intervals.resample_weights(group_N, num, seed, block)))


def test_a_group_goes_whole_and_as_many_are_drawn_as_there_are() -> None:
    group_N = np.array([0, 0, 1, 2, 2, 2])
    weights_BN = draw(group_N, 50, 1)
    assert weights_BN.shape == (50, 6)
    assert (weights_BN[:, 0] == weights_BN[:, 1]).all()
    assert (weights_BN[:, 3] == weights_BN[:, 5]).all()
    assert (weights_BN[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_the_block_length_changes_nothing_and_the_seed_does() -> None:
    group_N = np.arange(37)
    np.testing.assert_array_equal(draw(group_N, 100, 4), draw(group_N, 100, 4, block=7))
    assert (draw(group_N, 100, 4) != draw(group_N, 100, 5)).any()


def test_the_interval_of_a_mean_covers_it() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        sample = rng.normal(size=80)
        means = draw(np.arange(80), 400, trial) @ sample / 80
        estimate = intervals.interval(sample.mean(), means, 80)
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 0 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.98


def test_p_is_two_sided_and_never_zero() -> None:
    values = np.linspace(-0.1, 0.9, 1000)
    estimate = intervals.difference(0.4, values, np.zeros(1000), 80)
    assert estimate.p == pytest.approx(2 * (1 + (values <= 0).sum()) / 1001)
    assert intervals.difference(1.0, np.ones(999), np.zeros(999), 80).p == pytest.approx(0.002)
    assert intervals.difference(0.0, np.zeros(999), np.zeros(999), 80).p == 1.0


def test_no_interval_where_it_would_say_nothing() -> None:
    few = intervals.interval(0.5, np.full(10, 0.5), 1, "patient")
    assert (few.value, few.low, few.reason) == (0.5, None, "1 patient with it; an interval needs 5")
    assert intervals.interval(float("nan"), np.full(10, np.nan), 9).value is None
    assert "reason" in intervals.difference(0.5, np.ones(9), np.ones(9), 4).to_dict()
    assert intervals.interval(0.5, np.array([0.4, np.nan, 0.6]), 9).to_dict().keys() == {"value", "low", "high"}
