"""Between a reader and the writer: which images stay, and which split, fold and subset each of them gets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sharding.balance import deal
from sharding.sample import SourceImage


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What is to be dealt. `sharding.options` says it in full."""

    by_patient: bool = False
    """Deal the split; otherwise each image keeps its reader's."""
    valid_share: float = 0.1
    """Share (0 to 1) of the whole that becomes valid, where the split is dealt."""
    test_share: float = 0.2
    """Share (0 to 1) of the whole that becomes test, where the split is dealt."""
    folds: int = 0
    """Folds that train and valid are dealt into; 0 for none."""
    subsets: tuple[float, ...] = ()
    """Percentages of train, rising, each subset within the next."""
    keep_normals: bool = True
    """Keep images known to show no finding."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a patient is since an earlier delivery."""

    split: str
    """As in Sample."""
    fold: int | None = None
    """As in Sample."""
    subset: float | None = None
    """As in Sample."""


def arrange(
    images: Sequence[SourceImage], how: Arrangement, earlier: Mapping[str, Placement] | None = None
) -> tuple[SourceImage, ...]:
    """The images that stay, in their order, with split, fold and subset.

    Everything is dealt by patient and balanced over the findings (`sharding.balance`); an image without a patient is
    one of its own. Folds are dealt over train and valid together, other images have None. Subsets are dealt over train;
    an image's subset is the smallest percentage that holds it, None beyond the largest and outside train.

    `earlier` has the placements of the patients, or of the keys of images without one, that an earlier delivery has:
    they stay in their parts, and the others are dealt around them. What is new is balanced as it is; the findings of
    earlier images are not looked at. The result does not depend on the order of the images. Raises ValueError where an
    earlier fold or subset is none of those asked for.
    """
    kept = [image for image in images if how.keep_normals or not is_normal(image)]
    placed = {_group(image): earlier[_name(image)] for image in kept if earlier and _name(image) in earlier}
    if how.by_patient:
        kept = _split(kept, how, placed)
    if how.folds:
        kept = _fold(kept, how.folds, placed)
    if how.subsets:
        kept = _subset(kept, how.subsets, placed)
    return tuple(kept)


def is_normal(image: SourceImage) -> bool:
    """The image is known to show no finding: somebody has read it."""
    return image.findings == ()


def _split(images: list[SourceImage], how: Arrangement, placed: Mapping[str, Placement]) -> list[SourceImage]:
    names = ("train", "valid", "test")
    shares = (max(0.0, round(1.0 - how.valid_share - how.test_share, 9)), how.valid_share, how.test_share)
    fixed = {group: place.split for group, place in placed.items()}
    free = [image for image in images if fixed.get(_group(image), "train") in names]
    taken = {group: names.index(split) for group, split in fixed.items() if split in names}
    parts = _deal("split", free, shares, taken)
    splits = {**fixed, **{group: names[part] for group, part in parts.items()}}
    return [dataclasses.replace(image, split=splits[_group(image)]) for image in images]


def _fold(images: list[SourceImage], folds: int, placed: Mapping[str, Placement]) -> list[SourceImage]:
    taken = {group: place.fold for group, place in placed.items() if place.fold is not None}
    for group, fold in taken.items():
        if not 0 <= fold < folds:
            raise ValueError(
                f"folds: {group} is in fold {fold} since an earlier delivery, {folds} folds end at {folds - 1}; "
                "give as many as before"
            )
    folded = [image for image in images if image.split in ("train", "valid")]
    parts = _deal("fold", folded, (1.0,) * folds, taken)
    return [
        dataclasses.replace(image, fold=parts[_group(image)] if image.split in ("train", "valid") else None)
        for image in images
    ]


def _subset(
    images: list[SourceImage], subsets: tuple[float, ...], placed: Mapping[str, Placement]
) -> list[SourceImage]:
    # Dealt into the differences, so that each subset is balanced and lies within the next.
    percents = (*subsets, None) if subsets[-1] < 100 else subsets
    borders = (0.0, *subsets, *((100.0,) if subsets[-1] < 100 else ()))
    shares = tuple(high - low for low, high in itertools.pairwise(borders))
    numbers = {percent: number for number, percent in enumerate(percents)}
    taken: dict[str, int] = {}
    for group, place in placed.items():
        if place.split != "train" or (place.subset is None and None not in numbers):
            continue
        number = numbers.get(place.subset)
        if number is None:
            raise ValueError(
                f"subsets: {group} is in the subset of {place.subset:g} % since an earlier delivery, now there are "
                f"{' '.join(f'{percent:g}' for percent in subsets)}; give the same as before"
            )
        taken[group] = number
    parts = _deal("subset", [image for image in images if image.split == "train"], shares, taken)
    return [
        dataclasses.replace(image, subset=percents[parts[_group(image)]] if image.split == "train" else None)
        for image in images
    ]


def _deal(
    what: str, images: Sequence[SourceImage], shares: Sequence[float], taken: Mapping[str, int]
) -> dict[str, int]:
    """Part of each group. Ties follow the name, so `what` before it keeps folds and subsets from going in step."""
    groups = [_group(image) for image in images]
    names = [f"{what} {group}" for group in groups]
    fixed = {f"{what} {group}": part for group, part in taken.items()}
    parts = deal(names, [image.findings for image in images], shares, fixed)
    return dict(zip(groups, parts.tolist(), strict=True))


def _name(image: SourceImage) -> str:
    return image.key if image.patient is None else image.patient


def _group(image: SourceImage) -> str:
    return f"image {image.key}" if image.patient is None else f"patient {image.patient}"
