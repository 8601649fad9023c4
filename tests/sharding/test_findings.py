import pytest

from sharding.findings import NIH_FINDINGS, NIH_SPELLINGS, VINDR_FINDINGS, VINDR_SPELLINGS, finding_number


def test_the_orders_are_law() -> None:
    assert len(NIH_FINDINGS) == len(VINDR_FINDINGS) == 14
    assert list(NIH_FINDINGS) == sorted(NIH_FINDINGS)
    assert [VINDR_FINDINGS.index(name) for name in ("Aortic enlargement", "Nodule/Mass", "Pulmonary fibrosis")] == [
        0,
        8,
        13,
    ]


def test_other_spellings_fold() -> None:
    assert finding_number("Infiltrate", NIH_FINDINGS, NIH_SPELLINGS) == NIH_FINDINGS.index("Infiltration")
    assert finding_number("Rib fracture", VINDR_FINDINGS, VINDR_SPELLINGS) == 9
    assert finding_number(" lung opacity ", VINDR_FINDINGS) == 7
    with pytest.raises(ValueError, match="did you mean 'Nodule/Mass'"):
        finding_number("Nodule_Mass", VINDR_FINDINGS)
