import csv
import dataclasses
import gzip
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.arrange import Arrangement, Placement, arrange, is_normal
from sharding.findings import NIH_FINDINGS
from sharding.sample import SourceImage
from sharding.splits import check_patients

Found = tuple[int, ...] | None


def image(
    key: str, patient: str | None = None, findings: Found = None, split: str = "train", source: str = "s"
) -> SourceImage:
    return SourceImage(
        path=f"/{key}.png",
        kind="image",
        name=f"{key}.png",
        key=key,
        source=source,
        split=split,
        findings=findings,
        boxes=None,
        patient=patient,
    )


@st.composite
def cohorts(draw: st.DrawFn, by_patient: bool = False) -> list[SourceImage]:
    """Images of up to 12 patients, some of nobody; each patient in one split."""
    found = st.one_of(st.none(), st.sets(st.integers(0, 3), max_size=2).map(lambda numbers: tuple(sorted(numbers))))
    splits = {f"p{number}": draw(st.sampled_from(["train", "train", "valid", "test", ""])) for number in range(12)}
    rows = draw(st.lists(st.tuples(st.one_of(st.none(), st.sampled_from(sorted(splits))), found), max_size=50))
    return [
        image(f"k{number}", patient, findings, "train" if patient is None else splits[patient])
        for number, (patient, findings) in enumerate(rows)
    ]


hows = st.builds(
    Arrangement,
    by_patient=st.booleans(),
    valid_share=st.sampled_from([0.0, 0.1, 0.3]),
    test_share=st.sampled_from([0.0, 0.2, 0.7]),
    folds=st.sampled_from([0, 2, 5]),
    subsets=st.sampled_from([(), (1.0, 10.0, 100.0), (10.0, 50.0), (0.1,)]),
    keep_normals=st.booleans(),
)


def nobody_or(image: SourceImage) -> str:
    return image.patient or image.key


@given(cohorts(), hows, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_what_holds_for_every_arrangement(images: list[SourceImage], how: Arrangement, shuffler: random.Random) -> None:
    dealt = arrange(images, how)
    kept = [image for image in images if how.keep_normals or not is_normal(image)]
    assert [image.key for image in dealt] == [image.key for image in kept]
    where = defaultdict(set)
    for before, after in zip(kept, dealt, strict=True):
        where[nobody_or(after)].add((after.split, after.fold, after.subset))
        assert dataclasses.replace(after, split=before.split, fold=None, subset=None) == before
        assert how.by_patient or after.split == before.split
        assert after.split in ("train", "valid", "test") if how.by_patient else True
        assert (after.fold in range(how.folds)) == (how.folds > 0 and after.split in ("train", "valid"))
        assert after.fold is None or after.split in ("train", "valid")
        assert after.subset is None or (after.split == "train" and after.subset in how.subsets)
        assert after.subset is not None or after.split != "train" or how.subsets[-1:] != (100.0,)
    assert all(len(several) == 1 for several in where.values())
    check_patients([image.patient for image in dealt], [image.split for image in dealt])
    other = images.copy()
    shuffler.shuffle(other)
    assert sorted(arrange(other, how), key=lambda image: image.key) == sorted(dealt, key=lambda image: image.key)


@given(cohorts(), cohorts(), hows)
@settings(max_examples=200)
def test_a_second_delivery_leaves_the_first_where_it_is(
    first: list[SourceImage], second: list[SourceImage], how: Arrangement
) -> None:
    how = dataclasses.replace(how, by_patient=True)
    earlier = {nobody_or(i): Placement(i.split, i.fold, i.subset) for i in arrange(first, how)}
    second = [dataclasses.replace(image, key=f"second-{image.key}") for image in second]
    # As they come back from the index, where a percentage is a float32.
    stored = {
        name: dataclasses.replace(place, subset=None if place.subset is None else float(np.float32(place.subset)))
        for name, place in earlier.items()
    }
    for after in arrange(second, how, stored):
        if after.patient in earlier:
            assert Placement(after.split, after.fold, after.subset) == earlier[after.patient]


def test_a_patient_without_a_split_stays_without_one() -> None:
    how = Arrangement(by_patient=True, folds=2, subsets=(50.0,))
    (dealt,) = arrange([image("new", "ann", ())], how, {"ann": Placement("")})
    assert (dealt.split, dealt.fold, dealt.subset) == ("", None, None)


def test_a_key_is_no_patient() -> None:
    """An image without a patient is placed by its key, and never by a patient of that name."""
    images = [image("ann", None, ()), image("k", "ann", ())]
    alone = arrange(images, Arrangement(by_patient=True, valid_share=0.5, test_share=0.0))
    assert {dealt.split for dealt in alone} == {"train", "valid"}


def test_other_folds_and_subsets_than_before_are_refused() -> None:
    images = [image("new", "ann", ())]
    with pytest.raises(ValueError, match=r"folds: patient ann is in fold 4 .*give as many as before"):
        arrange(images, Arrangement(folds=3), {"ann": Placement("train", 4)})
    with pytest.raises(ValueError, match=r"subsets: patient ann is in the subset of 5 % .* there are 1 10; "):
        arrange(images, Arrangement(subsets=(1.0, 10.0)), {"ann": Placement("train", None, 5.0)})


def test_folds_and_subsets_added_later_are_dealt_to_everyone() -> None:
    images = [image(f"k{number}", f"p{number}", ()) for number in range(40)]
    earlier = {f"p{number}": Placement("train") for number in range(20)}
    dealt = arrange(images, Arrangement(folds=4, subsets=(10.0, 100.0)), earlier)
    assert Counter(image.fold for image in dealt) == {0: 10, 1: 10, 2: 10, 3: 10}
    assert Counter(image.subset for image in dealt) == {10.0: 4, 100.0: 36}
    beyond = arrange(images, Arrangement(subsets=(10.0,)), earlier)
    assert all(image.subset is None for image in beyond[:20])


def test_normals_go_and_unread_images_stay() -> None:
    images = [image("ill", "a", (1,)), image("well", "a", ()), image("unread", "b", None)]
    dealt = arrange(images, Arrangement(keep_normals=False))
    assert [image.key for image in dealt] == ["ill", "unread"]


@pytest.fixture(scope="module")
def nih(real_data: Path) -> list[SourceImage]:
    """The images of the official training list, and "" for the others."""
    with gzip.open(real_data / "nih" / "Data_Entry_2017_v2020.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    with gzip.open(real_data / "nih" / "train_val_list.txt.gz", "rt") as file:
        listed = set(file.read().split())
    return [
        image(
            row["Image Index"][:-4],
            row["Patient ID"],
            tuple(NIH_FINDINGS.index(name) for name in row["Finding Labels"].split("|") if name != "No Finding"),
            "train" if row["Image Index"] in listed else "test",
        )
        for row in rows
    ]


def test_nih_in_nested_subsets_and_folds(nih: list[SourceImage]) -> None:
    """Official lists kept: 86,524 images of train in 1, 10 and 100 %, and in five folds that know nothing of them."""
    dealt = [i for i in arrange(nih, Arrangement(folds=5, subsets=(1.0, 10.0, 100.0))) if i.split == "train"]
    assert len(dealt) == 86_524
    for percent in (1.0, 10.0):
        held = [image for image in dealt if image.subset is not None and image.subset <= percent]
        assert abs(len(held) - 86_524 * percent / 100) < 5
        for finding in range(14):
            whole = sum(finding in (image.findings or ()) for image in dealt)
            assert abs(sum(finding in (image.findings or ()) for image in held) - whole * percent / 100) < 5
        # Were the ties the same for both, all of a small subset could lie in one fold.
        folds = Counter(image.fold for image in held)
        assert all(abs(folds[fold] / len(held) - 0.2) < 0.1 for fold in range(5))
    assert all(abs(number - 86_524 / 5) < 4 for number in Counter(image.fold for image in dealt).values())
