import pytest

from sharding.findings import (
    NIH_FINDINGS,
    NIH_SPELLINGS,
    VINDR_ALL_FINDINGS,
    VINDR_DISEASES,
    VINDR_FINDINGS,
    VINDR_LOCAL_FINDINGS,
    VINDR_SPELLINGS,
    finding_number,
    is_no_finding,
)


def test_the_orders_are_law() -> None:
    assert len(NIH_FINDINGS) == len(VINDR_FINDINGS) == 14
    assert list(NIH_FINDINGS) == sorted(NIH_FINDINGS)
    assert [VINDR_FINDINGS.index(name) for name in ("Aortic enlargement", "Nodule/Mass", "Pulmonary fibrosis")] == [
        0,
        8,
        13,
    ]
    assert (len(VINDR_LOCAL_FINDINGS), len(set(VINDR_ALL_FINDINGS))) == (22, 27)
    assert VINDR_ALL_FINDINGS[:14] == VINDR_FINDINGS
    assert VINDR_ALL_FINDINGS[14:16] == ("Clavicle fracture", "Edema")
    assert VINDR_ALL_FINDINGS[21:] == ("Rib fracture", *VINDR_DISEASES)


def test_other_spellings_fold() -> None:
    assert finding_number("Infiltrate", NIH_FINDINGS, NIH_SPELLINGS) == NIH_FINDINGS.index("Infiltration")
    for name in ("Rib fracture", "rib_fracture", " RIB  fracture"):
        assert finding_number(name, VINDR_FINDINGS, VINDR_SPELLINGS) == 9
        assert finding_number(name, VINDR_LOCAL_FINDINGS) == 21
    assert finding_number(" lung opacity ", VINDR_FINDINGS) == 7
    assert finding_number("Lung_Opacity", VINDR_FINDINGS) == 7
    assert is_no_finding("No_Finding ")
    assert not is_no_finding("Finding")
    with pytest.raises(ValueError, match="did you mean 'Nodule/Mass'"):
        finding_number("Nodule_Mass", VINDR_FINDINGS)
    with pytest.raises(ValueError, match="unknown finding 'Tuberculosis'"):
        finding_number("Tuberculosis", VINDR_LOCAL_FINDINGS)
