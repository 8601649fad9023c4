"""Patients dealt into parts so that every finding is spread as evenly as can be, and nobody is in two parts.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data") deals
single images, the rarest finding first. Here it deals groups of images, which bring several findings, each several
times: the finding is taken up as there, but the part is chosen by all that a group brings. Chosen by that one alone,
in the same order, ten parts of NIH ChestX-ray14 differ by up to 7 % in images from what they should have; this way the
worst finding is three images off. The package iterative-stratification has the method for images; it knows no groups,
so it would tear patients apart.

Shapes: N images, G groups, L traits (the findings, and four more), P parts that get anything, l traits of one group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt


def deal(
    groups: Sequence[str],
    findings: Sequence[tuple[int, ...] | None],
    shares: Sequence[float],
    taken: Mapping[str, int] | None = None,
) -> npt.NDArray[np.int64]:
    """The part (0 and up) of each image, int64 [N]: all images of a group are in one.

    `groups` and `findings` go image by image. Spread evenly are: each finding, no finding (), not read by anyone
    (None), the images and the groups. `shares` are the sizes of the parts in any unit; 0 gets nothing. `taken` has the
    parts of groups that are placed already: they stay there, and their images among these count.

    The result depends on names, findings and shares alone, not on the order of the images. The rarest finding among
    the groups left comes first, and of its groups those with most of it, then those with most findings in all, then by
    a hash of the name. A group goes where it lowers most the sum over traits and parts of (number - wanted)^2 / wanted
    (chi-square), ties to the lower part.

    Raises ValueError for shares that are no sizes, and for a `taken` part that there is not.
    """
    if not shares or not all(0 <= share < np.inf for share in shares) or sum(shares) <= 0:
        raise ValueError(f"shares: {tuple(shares)} are no sizes of parts: give numbers from 0, one of them above it")
    names = sorted(set(groups))
    numbers = {name: number for number, name in enumerate(names)}
    group_N = np.fromiter((numbers[group] for group in groups), np.int64, len(groups))
    traits_GL = _traits(group_N, findings, len(names))
    total_L = traits_GL.sum(axis=0, dtype=np.int64)
    sizes = np.asarray(shares, dtype=np.float64) / sum(shares)
    open_parts = np.flatnonzero(sizes > 0)
    size_P = sizes[open_parts]
    missing_LP = total_L[:, None] * size_P
    part_G = np.full(len(names), -1, np.int64)
    for group, name in enumerate(names):
        if taken is None or name not in taken:
            continue
        part_G[group] = part = taken[name]
        if not 0 <= part < len(shares):
            raise ValueError(f"taken: {name} is in part {part}; the parts are 0 to {len(shares) - 1}")
        missing_LP[:, open_parts == part] -= traits_GL[group][:, None]
    for group in _order(names, traits_GL[:, :-2], part_G < 0):
        (traits_l,) = np.nonzero(traits_GL[group])
        brought_l1 = traits_GL[group, traits_l][:, None]
        gain_lP = brought_l1 * (2.0 * missing_LP[traits_l] - brought_l1) / total_L[traits_l, None]
        # The sum runs from row to row, in the same order on every machine, for ties are decided by its last bit.
        part = int((gain_lP.sum(axis=0) / size_P).argmax())
        missing_LP[traits_l, part] -= brought_l1[:, 0]
        part_G[group] = open_parts[part]
    return part_G[group_N]


def _traits(
    group_N: npt.NDArray[np.int64], findings: Sequence[tuple[int, ...] | None], num_groups: int
) -> npt.NDArray[np.int32]:
    """How often each group has each trait: findings by number, no finding, not read, images, and itself (1)."""
    num_findings = 1 + max((number for found in findings for number in found or ()), default=-1)
    traits_GL = np.zeros((num_groups, num_findings + 4), np.int32)
    rows, columns = [], []
    for group, found in zip(group_N.tolist(), findings, strict=True):
        for trait in found or (num_findings + (found is None),):
            rows.append(group)
            columns.append(trait)
    np.add.at(traits_GL, (np.asarray(rows, np.int64), np.asarray(columns, np.int64)), 1)
    np.add.at(traits_GL[:, -2], group_N, 1)
    traits_GL[:, -1] = 1
    return traits_GL


def _order(names: Sequence[str], traits_GL: npt.NDArray[np.int32], left_G: npt.NDArray[np.bool_]) -> Iterator[int]:
    """Groups that are left, in the order in which they are dealt."""
    hashes = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    hash_G = np.fromiter((int.from_bytes(digest, "big") for digest in hashes), np.uint64, len(names))
    left_G = left_G.copy()
    while left_G.any():
        count_L = traits_GL[left_G].sum(axis=0, dtype=np.int64)
        rarest = int(np.where(count_L > 0, count_L, np.iinfo(np.int64).max).argmin())
        (having,) = np.nonzero(left_G & (traits_GL[:, rarest] > 0))
        marks = traits_GL[having].sum(axis=1)
        yield from having[np.lexsort((hash_G[having], -marks, -traits_GL[having, rarest]))].tolist()
        left_G[having] = False
