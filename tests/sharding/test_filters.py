import dataclasses
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.filters import FIELDS, Filter, parse
from sharding.sample import Sample
from sharding.schema import INDEX_SCHEMA

FINDINGS = ("Cardiomegaly", "Effusion", "Nodule/Mass")

CLEAN = Sample("k", "nih", "train", 10, 10, (0,), None, "ann", "F", "40-49", "PA", None)


def sample(**fields: Any) -> Sample:
    return dataclasses.replace(CLEAN, **fields)


def table_of(samples: list[Sample]) -> pa.Table:
    """An index of these samples."""
    rows = [{**dataclasses.asdict(one), "digest": "", "boxes": None, "levels": []} for one in samples]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


samples = st.builds(
    sample,
    split=st.sampled_from(["train", "valid", "test", ""]),
    source=st.sampled_from(["nih", "vindr"]),
    view_position=st.sampled_from([None, "PA", "AP", "LATERAL", "LL", "RL", "LLD", "RLO", "OTHER"]),
    sex=st.sampled_from([None, "F", "M"]),
    age_band=st.sampled_from([None, "0-9", "40-49", "90+"]),
    patient=st.sampled_from([None, "ann", "bob"]),
    scanner=st.sampled_from([None, "Acme X1"]),
    fold=st.sampled_from([None, 0, 1, 12]),
    subset=st.sampled_from([None, 0.1, 1.0, 10.0, 100.0]),
    findings=st.one_of(st.none(), st.sets(st.integers(0, 2)).map(lambda numbers: tuple(sorted(numbers)))),
)
VALUES: dict[str, list[str]] = {
    "split": ["train", "VALID", "test", ""],
    "view_position": ["PA", "ap", "LATERAL", "LL", "LLD", "OTHER", ""],
    "sex": ["F", "m", ""],
    "age_band": ["0-9", "40-49", "90+", ""],
    "patient": ["ann", "nobody", ""],
    "scanner": ["Acme X1", ""],
    "source": ["nih", "vindr", ""],
    "fold": ["0", "12", "7", ""],
    "subset": ["0.1", ".1", "1", "10", "100", ""],
    "finding": ["Cardiomegaly", "effusion", "No finding", ""],
}
words = st.sampled_from(FIELDS).flatmap(
    lambda field: st.tuples(
        st.just(field), st.sampled_from(["=", "!="]), st.lists(st.sampled_from(VALUES[field]), min_size=1, max_size=3)
    ).map(lambda parts: f"{parts[0]}{parts[1]}{','.join(parts[2])}")
)


def plainly(word: str, one: Sample) -> bool:
    """What a word says, spelled out for the values of these tests."""
    field, _, given_values = word.replace("!=", "=").partition("=")
    taken = False
    for value in given_values.split(","):
        if field == "finding":
            has = {FINDINGS[number].lower() for number in one.findings or ()}
            normal = value == "No finding" and one.findings == ()
            taken |= one.findings is None if value == "" else normal or value.lower() in has
        elif field == "subset":
            taken |= one.subset is None if value == "" else one.subset is not None and one.subset <= float(value)
        elif field == "view_position" and value == "LATERAL":
            taken |= one.view_position in ("LATERAL", "LL", "RL")
        elif field in ("patient", "scanner", "source"):
            taken |= (getattr(one, field) or "") == value
        else:
            known = getattr(one, field)
            taken |= ("" if known is None else str(known)).lower() == value.lower()
    return taken != ("!=" in word)


@given(st.lists(samples, max_size=8), st.lists(words, max_size=3), st.integers(0, 8), st.randoms(use_true_random=False))
@settings(max_examples=400)
def test_rows_and_samples_are_taken_alike(
    many: list[Sample], said: list[str], border: int, shuffler: random.Random
) -> None:
    filtered = parse(tuple(said))
    expected = [all(plainly(word, one) for word in said) for one in many]
    assert [filtered.takes(one, FINDINGS) for one in many] == expected
    table = table_of(many)
    assert filtered.mask(table, FINDINGS).tolist() == expected
    chunked = pa.concat_tables([table.slice(0, border), table.slice(border)])
    assert filtered.mask(chunked.select(list(filtered.columns) or ["key"]), FINDINGS).tolist() == expected
    assert filtered.mask(table.slice(border), FINDINGS).tolist() == expected[border:]
    shuffled = said.copy()
    shuffler.shuffle(shuffled)
    assert parse(tuple(shuffled)).mask(table, FINDINGS).tolist() == expected


def test_without_words_all_are_taken() -> None:
    assert Filter().takes(CLEAN, FINDINGS)
    assert Filter().columns == ()
    assert Filter().mask(table_of([CLEAN, CLEAN]), FINDINGS).tolist() == [True, True]


def test_what_is_not_known_yet_can_wait() -> None:
    filtered = parse(("view_position=PA", "sex=F", "finding=Effusion", "sex!="))
    assert filtered.columns == ("view_position", "sex", "findings")
    early = filtered.about("sex", "split")
    assert early == parse(("sex=F", "sex!="))
    assert early.takes(sample(view_position=None), FINDINGS)
    assert not filtered.takes(sample(view_position=None), FINDINGS)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sex", "'sex' is no filter; write field=value"),
        ("sex>F", "is no filter"),
        ("vew_position=PA", r"there is no field 'vew_position' \(the nearest is view_position\)"),
        ("colour=red", "there are split, view_position"),
        ("=PA", "there is no field ''"),
        ("view_position=LATERL", r"view_position 'LATERL' is none of PA, .*\(the nearest is LATERAL\)"),
        ("view_position=P A", "view_position 'P A' is none of PA"),
        ("sex=woman", "sex 'woman' is none of F, M"),
        ("age_band=90", r"age_band '90' is none of 0-9, .*\(the nearest is 90\+\)"),
        ("split=training", r"split 'training' .*\(the nearest is train\)"),
        ("fold=first", "fold 'first' is not the number of a fold"),
        ("fold=-1", "fold '-1' is not"),
        ("subset=ten", "subset 'ten' is not a percentage"),
        ("subset=0", "subset '0' is not a percentage above 0"),
        ("subset=101", "subset '101' is not a percentage"),
        ("subset=nan", "subset 'nan' is not a percentage"),
    ],
)
def test_what_cannot_be_is_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"only: .*{message}"):
        parse((word,))


def test_a_finding_that_the_set_does_not_know_is_refused() -> None:
    filtered = parse(("finding=Cardiomegali",))
    with pytest.raises(ValueError, match=r"only: .*Cardiomegali.*Cardiomegaly"):
        filtered.takes(CLEAN, FINDINGS)
    with pytest.raises(ValueError, match=r"only: .*Cardiomegali.*Cardiomegaly"):
        filtered.mask(table_of([]), FINDINGS)
