import math

import numpy as np
import pytest

from loaders.strata import Findings, check_weights, repeat_factors, stratify


def findings(*of_each: tuple[int, ...] | None) -> Findings:
    lists = [() if one is None else one for one in of_each]
    return Findings(
        names=("Mass", "Nodule", "Hernia", "Edema"),
        known_N=np.array([one is not None for one in of_each]),
        ends_N=np.cumsum([len(one) for one in lists], dtype=np.int64),
        number_V=np.array([number for one in lists for number in one], np.int16),
    )


SOME = findings((0,), (0, 1), None, (), (1, 2, 0), (0,), (0,), (), (0,), None)
# 8 known: Mass in 6 of them, Nodule in 2, Hernia in 1, Edema in none


def test_factors_are_those_of_lvis() -> None:
    assert repeat_factors(SOME, 0.5).tolist() == pytest.approx(
        [1.0, math.sqrt(0.5 / 0.25), math.sqrt(0.5 / 0.125), 1.0]
    )
    assert repeat_factors(SOME, 0.1).tolist() == [1.0] * 4


def test_an_image_takes_its_rarest_finding_s_factor_and_the_unknown_one() -> None:
    strata = stratify([10], (), SOME, 0.5)
    assert strata is not None
    weights = np.array(strata.weights)[strata.number_N].tolist()
    assert weights == pytest.approx([1, math.sqrt(2), 1, 1, 2, 1, 1, 1, 1, 1])


def test_weights_of_sets_and_findings_multiply() -> None:
    strata = stratify([3, 7], (3.0, 0.5), SOME, 0.5)
    assert strata is not None
    weights = np.array(strata.weights)[strata.number_N].tolist()
    assert weights == pytest.approx([3, 3 * math.sqrt(2), 3, 0.5, 1, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert len(strata.weights) == 4  # no stratum without samples


def test_a_set_of_which_nothing_was_chosen_has_no_stratum() -> None:
    strata = stratify([3, 0, 2], (1.0, 5.0, 2.0), None, 0)
    assert strata is not None
    assert strata.weights == (1.0, 2.0)
    assert strata.number_N.tolist() == [0, 0, 0, 1, 1]


def test_what_weighs_nothing_differently_has_no_strata() -> None:
    assert stratify([3, 7], (), None, 0) is None
    assert stratify([3, 7], (1.0, 1.0), SOME, 0.1) is None
    assert stratify([3, 7], (1.0, 2.0), None, 0) is not None
    assert stratify([10], (2.0,), None, 0) is not None


@pytest.mark.parametrize(
    ("weights", "threshold", "message"),
    [
        ((1.0,), 0.0, "1 for 2 shard sets"),
        ((1.0, 2.0, 3.0), 0.0, "3 for 2 shard sets"),
        ((1.0, 0.0), 0.0, "0.0 must be a number above 0"),
        ((1.0, -2.0), 0.0, "-2.0 must be"),
        ((1.0, math.nan), 0.0, "nan must be"),
        ((math.inf, 1.0), 0.0, "inf must be"),
        ((1.0, 1e6), 0.0, "1000000.0 must be at most 1,000.*lower all weights alike"),
        ((1000.1, 1.0), 0.0, "1000.1 must be at most 1,000"),
        ((), 1.5, "repeat_threshold = 1.5"),
        ((), -0.1, "repeat_threshold = -0.1"),
        ((), math.nan, "repeat_threshold = nan"),
    ],
)
def test_nonsense_is_refused(weights: tuple[float, ...], threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_weights(2, weights, threshold)
    with pytest.raises(ValueError, match=message):
        stratify([4, 6], weights, SOME, threshold)


def test_the_largest_weight_is_taken() -> None:
    strata = stratify([4, 6], (1000.0, 1.0), None, 0)
    assert strata is not None
    assert strata.weights == (1000.0, 1.0)


def every_finding_rarer(num_findings: int) -> Findings:
    """Finding number i in 1 + i of the images, one an image: each has a factor of its own."""
    number = np.repeat(np.arange(num_findings, dtype=np.int16), np.arange(1, num_findings + 1))
    ends = np.arange(1, len(number) + 1)
    return Findings(tuple(map(str, range(num_findings))), np.ones(len(number), np.bool_), ends, number)


@pytest.mark.parametrize(("num_sets", "refused"), [(256, False), (257, True)])
def test_more_strata_than_can_be_numbered_are_refused(num_sets: int, refused: bool) -> None:
    found = every_finding_rarer(255)  # and the factor 1 of no finding, 256
    num_samples = [127] * num_sets
    num_samples[-1] += len(found.ends_N) - sum(num_samples)
    weights = tuple(2.0 + number for number in range(num_sets))
    if refused:
        with pytest.raises(ValueError, match=r"257 shard sets with 256 repeat factors .* more than 65,536"):
            stratify(num_samples, weights, found, 1.0)
        return
    strata = stratify(num_samples, weights, found, 1.0)
    assert strata is not None
    factors = repeat_factors(found, 1.0)[found.number_V]
    wanted = np.repeat(weights, num_samples) * factors
    assert np.array(strata.weights)[strata.number_N].tolist() == pytest.approx(wanted.tolist())
