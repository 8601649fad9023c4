"""The findings of each source in their order, which is law (shards store positions), and how other spellings fold."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.spelling import near

VINDR_FINDINGS: tuple[str, ...] = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
"""The 14 local findings of VinDr-CXR as its Kaggle edition numbers them (`class_id` 0 to 13)."""

VINDR_RARE_FINDINGS: tuple[str, ...] = (
    "Clavicle fracture",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Rib fracture",
)
"""The 8 rare local findings of the PhysioNet edition, which the Kaggle edition folds into "Other lesion"."""

VINDR_DISEASES: tuple[str, ...] = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease")
"""The global findings of the PhysioNet edition: of a whole image, never boxed. Its sixth is "No finding"."""

VINDR_LOCAL_FINDINGS: tuple[str, ...] = (*VINDR_FINDINGS, *VINDR_RARE_FINDINGS)
"""All 22 local findings. "Other lesion" is narrower here than among the 14, for the rare ones stand for themselves."""

VINDR_ALL_FINDINGS: tuple[str, ...] = (*VINDR_LOCAL_FINDINGS, *VINDR_DISEASES)
"""All 27: the 14 in Kaggle's order (positions 0 to 13), the 8 rare ones by name (14 to 21), the diseases as the csv
files order them (22 to 26)."""

NIH_FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
"""The 14 findings of NIH ChestX-ray14, in alphabetical order."""

NO_FINDING = "No finding"
"""What both sources write (in different case) where a reader found nothing. Never stored: an empty tuple says it."""

NIH_SPELLINGS: Mapping[str, str] = {"Infiltrate": "Infiltration"}
"""BBox_List_2017.csv writes "Infiltrate" for what Data_Entry_2017.csv calls "Infiltration"."""

VINDR_SPELLINGS: Mapping[str, str] = dict.fromkeys(VINDR_RARE_FINDINGS, "Other lesion")
"""How the 22 local findings become 14, as in the Kaggle edition."""


def folded(name: str) -> str:
    """A name without what people's files differ in: case, and blanks or underscores between and around its words."""
    return " ".join(name.replace("_", " ").split()).casefold()


def is_no_finding(name: str) -> bool:
    """True for "No finding" in any case."""
    return folded(name) == folded(NO_FINDING)


def finding_number(name: str, findings: tuple[str, ...], spellings: Mapping[str, str] | None = None) -> int:
    """Position of `name` in `findings` (0-based), after replacing `spellings`; case, blanks and underscores aside.

    Raises ValueError for a name that is in neither, with the nearest right one.
    """
    if name in findings:
        return findings.index(name)
    others = {folded(other): right for other, right in (spellings or {}).items()}
    known = [folded(finding) for finding in findings]
    wanted = folded(name)
    wanted = folded(others.get(wanted, wanted))
    if wanted in known:
        return known.index(wanted)
    meant = near(wanted, findings)
    hint = f"; did you mean {meant!r}?" if meant else ""
    raise ValueError(f"unknown finding {name!r}{hint} Known are: {', '.join(findings)}")
