"""Words such as `view_position=PA,AP` or `sex!=M` that choose samples, one by one or over an index table.

Shapes: N samples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cluster.spelling import near
from sharding.findings import finding_number, is_no_finding
from sharding.sample import VIEW_POSITIONS, Sample, age_band

FIELDS: tuple[str, ...] = (
    "split",
    "view_position",
    "sex",
    "age_band",
    "patient",
    "scanner",
    "source",
    "fold",
    "subset",
    "finding",
)
"""What a filter may look at."""

LATERAL: tuple[str, ...] = ("LATERAL", "LL", "RL")
"""What `view_position=LATERAL` takes: DICOM's defined terms (PS3.3 C.8.1.1, View Position) for left and right lateral,
and the plain word. In a lateral decubitus view (LLD, RLD) the patient lies on a side, but is looked at from front or
back, and an oblique one (LLO, RLO) is neither: they are taken by their own names."""

_VOCABULARIES: Mapping[str, tuple[str, ...]] = {
    "split": ("train", "valid", "test"),
    "sex": ("F", "M"),
    "age_band": tuple(str(age_band(years)) for years in range(0, 100, 10)),
}
_NEAR_VIEW = 0.7
"""Likeness (difflib's ratio) to a known view position from which another word is taken for a slip of the pen."""


@dataclass(frozen=True, slots=True)
class Term:
    """One word: a field has one of these values, or none of them."""

    field: str
    """One of FIELDS."""
    values: tuple[str, ...]
    """What it may be; folds and the subset's percentage as written."""
    unknown: bool
    """Take samples where the field is not known, too."""
    without: bool
    """Take exactly the samples that this term would not take otherwise (`!=`)."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Takes a sample that all terms take; without terms, every sample."""

    terms: tuple[Term, ...] = ()
    """Joined by "and"."""

    def takes(self, sample: Sample, findings: tuple[str, ...]) -> bool:
        """Whether this sample is taken; `findings` are the names that it numbers.

        Raises ValueError for a term about a finding that is not among them.
        """
        return all(_takes(term, sample, findings) != term.without for term in self.terms)

    def mask(self, table: pa.Table, findings: tuple[str, ...]) -> npt.NDArray[np.bool_]:
        """Which rows are taken, bool [N], as `takes` would; of the index's columns the table needs `columns` alone.

        Raises ValueError for a term about a finding that is not among `findings`.
        """
        taken_N = np.ones(table.num_rows, np.bool_)
        for term in self.terms:
            taken_N &= _mask(term, table, findings) != term.without
        return taken_N

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the index that the terms look at, each once."""
        return tuple(dict.fromkeys(_column(term.field) for term in self.terms))

    def about(self, *fields: str) -> Filter:
        """The terms about these fields alone, for where the others are not known yet."""
        return Filter(tuple(term for term in self.terms if term.field in fields))


def parse(words: tuple[str, ...]) -> Filter:
    """The filter of words such as view_position=PA,AP sex=F age_band=40-49,50-59 finding=Cardiomegaly subset=10.

    All words must hold. Of the values of a word, parted by commas, one must: the field is that value, or for `finding`
    the image shows that finding ("No finding": known to show none). An empty value is the unknown (for `split`, none):
    `sex=` takes images whose sex nobody knows, `sex=F,` those and women's. subset=10 takes the subset of 10 %, with
    those within it. LATERAL takes LL and RL too. `field!=values` takes exactly what `field=values` does not, so the
    unknown as well, unless there is an empty value among them. Case matters for patient, scanner and source alone.

    Raises ValueError, with the nearest right one, for another field or a value that the field cannot have.
    """
    return Filter(tuple(_parse(word) for word in words))


def _parse(word: str) -> Term:
    parts = re.fullmatch(r"\s*(\w*)\s*(!?)=(.*)", word, flags=re.DOTALL)
    if parts is None:
        raise ValueError(f"only: {word!r} is no filter; write field=value or field!=value, such as view_position=PA,AP")
    field = parts[1].lower()
    if field not in FIELDS:
        raise ValueError(
            f"only: there is no field {parts[1]!r}{_nearest(field, FIELDS)}; there are {', '.join(FIELDS)}"
        )
    values = [value.strip() for value in parts[3].split(",")]
    known = dict.fromkeys(_value(field, value) for value in values if value)
    if field == "view_position" and "LATERAL" in known:
        known |= dict.fromkeys(LATERAL)
    return Term(field, tuple(known), "" in values, parts[2] == "!")


def _value(field: str, value: str) -> str:
    match field:
        case "split" | "sex" | "age_band":
            folded = value.lower() if field == "split" else value.upper()
            if folded not in _VOCABULARIES[field]:
                possible = _VOCABULARIES[field]
                raise ValueError(
                    f"only: {field} {value!r} is none of {', '.join(possible)}{_nearest(folded, possible)}"
                )
            return folded
        case "view_position":
            folded = value.upper()
            # A csv file of one's own may have other words, but hardly one that is a letter away from these.
            hint = _nearest(folded, VIEW_POSITIONS, _NEAR_VIEW)
            if folded not in VIEW_POSITIONS and (hint or not re.fullmatch(r"[A-Z]{1,12}", folded)):
                raise ValueError(f"only: view_position {value!r} is none of {', '.join(VIEW_POSITIONS)}{hint}")
            return folded
        case "fold":
            if not re.fullmatch(r"\d{1,4}", value):
                raise ValueError(f"only: fold {value!r} is not the number of a fold, 0 and up")
            return str(int(value))
        case "subset":
            if not re.fullmatch(r"\d*\.?\d+", value) or not 0 < float(value) <= 100:
                raise ValueError(f"only: subset {value!r} is not a percentage above 0 and up to 100")
            return value
    return value


def _nearest(word: str, possible: tuple[str, ...], likeness: float = 0.5) -> str:
    found = near(word, possible, likeness)
    return f" (the nearest is {found})" if found else ""


def _column(field: str) -> str:
    return "findings" if field == "finding" else field


def _numbers(term: Term, findings: tuple[str, ...]) -> tuple[frozenset[int], bool]:
    """Findings of the term by number, and whether it takes images without any."""
    names = [name for name in term.values if not is_no_finding(name)]
    try:
        return frozenset(finding_number(name, findings) for name in names), len(names) < len(term.values)
    except ValueError as error:
        raise ValueError(f"only: {error}") from None


def _percent(term: Term) -> float:
    """The largest percentage."""
    return max((float(value) for value in term.values), default=-1.0)


def _takes(term: Term, sample: Sample, findings: tuple[str, ...]) -> bool:
    match term.field:
        case "finding":
            numbers, normal = _numbers(term, findings)
            if sample.findings is None:
                return term.unknown
            return bool(numbers & set(sample.findings)) or (normal and not sample.findings)
        case "subset":
            return term.unknown if sample.subset is None else sample.subset <= _percent(term)
        case "fold":
            return term.unknown if sample.fold is None else str(sample.fold) in term.values
    value: Any = getattr(sample, term.field)
    return term.unknown if not value else value in term.values


def _mask(term: Term, table: pa.Table, findings: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    column = table.column(_column(term.field)).combine_chunks()
    unknown_N = np.asarray(column.is_null())
    match term.field:
        case "finding":
            numbers, normal = _numbers(term, findings)
            lengths_N = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
            shown = np.isin(np.asarray(column.flatten()), list(numbers))
            taken_N = np.zeros(len(column), np.bool_)
            taken_N[np.repeat(np.arange(len(column)), lengths_N)[shown]] = True
            taken_N |= normal & (lengths_N == 0)
        case "subset":
            taken_N = np.asarray(pc.fill_null(column, np.inf)) <= _percent(term)
        case "fold":
            taken_N = np.isin(np.asarray(pc.fill_null(column, -1)), [int(value) for value in term.values])
        case _:
            unknown_N = unknown_N | np.asarray(pc.fill_null(pc.equal(column, ""), False))
            taken_N = np.asarray(pc.is_in(column, value_set=pa.array(term.values, pa.string())))
    return np.asarray(np.where(unknown_N, term.unknown, taken_N), np.bool_)
