"""The findings of each source in their order, which is law (shards store positions), and how other spellings fold."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

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

VINDR_SPELLINGS: Mapping[str, str] = {
    "Clavicle fracture": "Other lesion",
    "Edema": "Other lesion",
    "Emphysema": "Other lesion",
    "Enlarged PA": "Other lesion",
    "Lung cavity": "Other lesion",
    "Lung cyst": "Other lesion",
    "Mediastinal shift": "Other lesion",
    "Rib fracture": "Other lesion",
}
"""The 8 rare findings of the PhysioNet edition, which the Kaggle edition folds into "Other lesion"."""


def is_no_finding(name: str) -> bool:
    """True for "No finding" in any case."""
    return name.strip().casefold() == NO_FINDING.casefold()


def finding_number(name: str, findings: tuple[str, ...], spellings: Mapping[str, str] | None = None) -> int:
    """Position of `name` in `findings` (0-based), after folding `spellings` and ignoring case and outer blanks.

    Raises ValueError for a name that is in neither, with the nearest right one.
    """
    wanted = name.strip()
    wanted = (spellings or {}).get(wanted, wanted)
    if wanted in findings:
        return findings.index(wanted)
    folded = [finding.casefold() for finding in findings]
    if wanted.casefold() in folded:
        return folded.index(wanted.casefold())
    near = difflib.get_close_matches(wanted.casefold(), folded, n=1, cutoff=0.6)
    hint = f"; did you mean {findings[folded.index(near[0])]!r}?" if near else ""
    raise ValueError(f"unknown finding {name!r}{hint} Known are: {', '.join(findings)}")
