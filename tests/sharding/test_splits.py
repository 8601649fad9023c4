from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.splits import PatientSides, check_patients, hash_split, listed_split, reference_split, torn_patients


def test_hash_split_has_its_shares_and_depends_on_the_name_alone() -> None:
    counts = Counter(hash_split(f"patient {number}", 0.15, 0.2) for number in range(20_000))
    assert abs(counts["valid"] / 20_000 - 0.15) < 0.01
    assert abs(counts["test"] / 20_000 - 0.2) < 0.01
    # Pinned: another hash would move people's images between splits.
    assert [hash_split(str(number), 0.3, 0.3) for number in range(8)] == PINNED
    assert hash_split("anyone", 0.0, 0.0) == "train"


PINNED = ["test", "train", "train", "train", "test", "train", "test", "test"]


def test_listed_split_keeps_patients_together() -> None:
    train_valid = frozenset(f"{patient}_{image}" for patient in range(300) for image in range(3))
    test = frozenset({"900_0"})
    where = {
        key: listed_split(key, key.split("_")[0], train_valid, test, 0.1) for key in [*train_valid, *test, "unknown"]
    }
    assert where["900_0"] == "test"
    assert where["unknown"] == ""
    check_patients([key.split("_")[0] for key in where], where.values())
    assert 10 < len({key.split("_")[0] for key in where if where[key] == "valid"}) < 60


def test_reference_split_is_of_images_in_order() -> None:
    keys = [f"{number:03d}" for number in range(100)]
    split = reference_split(keys)
    assert Counter(split.values()) == {"train": 70, "valid": 15, "test": 15}
    assert reference_split(keys) == split
    assert reference_split(keys[::-1]) != split
    with pytest.raises(ValueError, match="at least 4 images"):
        reference_split(keys[:3])


def test_a_patient_on_two_sides_is_named() -> None:
    with pytest.raises(ValueError, match=r"1 patients are on two sides: ann \(test and train\)"):
        check_patients(["ann", "ann", None, None], ["train", "test", "train", "test"])
    check_patients(["ann", "ann", "ann"], ["train", "train", ""])


@given(
    st.lists(
        st.tuples(st.sampled_from([None, "a", "b", "c", "d"]), st.sampled_from(["", "train", "valid", "test", "odd"])),
        max_size=30,
    ),
    st.integers(0, 30),
)
def test_sides_are_the_same_in_chunks(images: list[tuple[str | None, str]], border: int) -> None:
    sides = PatientSides()
    for chunk in (images[:border], images[border:]):
        sides.see([patient for patient, _ in chunk], [split for _, split in chunk])
    where = {name: sorted({split for patient, split in images if patient == name and split}) for name in "abcd"}
    torn = {name: splits for name, splits in where.items() if len(splits) > 1}
    assert sides.torn() == torn == torn_patients([p for p, _ in images], [s for _, s in images])
    if torn:
        with pytest.raises(ValueError, match=f"{len(torn)} patients are on two sides: {min(torn)} "):
            sides.check()
    else:
        sides.check()
