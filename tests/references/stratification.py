"""Dealing groups into parts in plain loops with exact fractions: the order, and how good each choice was."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

Found = tuple[int, ...] | None


def traits(groups: Sequence[str], findings: Sequence[Found]) -> dict[str, Counter[str]]:
    """What each group brings, by name of the trait."""
    brought: dict[str, Counter[str]] = {}
    for group, found in zip(groups, findings, strict=True):
        mine = brought.setdefault(group, Counter({"group": 1}))
        mine["image"] += 1
        if found is None:
            mine["unread"] += 1
        elif not found:
            mine["nothing"] += 1
        for number in found or ():
            mine[f"finding {number:03d}"] += 1
    return brought


def order(brought: Mapping[str, Counter[str]], left: set[str]) -> list[str]:
    """Groups by their rarest finding among those left; most of it first, then most findings, then by hash."""
    dealt: list[str] = []
    left = set(left)
    while left:
        count: Counter[str] = Counter()
        for group in left:
            count.update({trait: n for trait, n in brought[group].items() if trait not in ("group", "image")})
        rarest = min(count, key=lambda trait: (count[trait], trait))
        having = [group for group in left if brought[group][rarest]]
        having.sort(
            key=lambda group: (
                -brought[group][rarest],
                -sum(n for trait, n in brought[group].items() if trait not in ("group", "image")),
                hashlib.blake2b(group.encode(), digest_size=8).digest(),
            )
        )
        dealt += having
        left -= set(having)
    return dealt


def regret(
    groups: Sequence[str],
    findings: Sequence[Found],
    shares: Sequence[float],
    taken: Mapping[str, int],
    parts: Mapping[str, int],
) -> tuple[float, int]:
    """How far the worst choice fell short of the best one (of chi-square), and how many ties went to a later part."""
    brought = traits(groups, findings)
    whole = sum(Fraction(share) for share in shares)
    sizes = [Fraction(share) / whole for share in shares]
    total: Counter[str] = Counter()
    for mine in brought.values():
        total.update(mine)
    number = [Counter[str]() for _ in shares]
    for group, part in taken.items():
        if group in brought:
            number[part].update(brought[group])

    def chi_square(part: int, trait: str, more: int) -> Fraction:
        wanted = total[trait] * sizes[part]
        return (number[part][trait] + more - wanted) ** 2 / wanted

    worst, late = Fraction(0), 0
    for group in order(brought, set(brought) - set(taken)):
        gains = {
            part: sum(chi_square(part, trait, 0) - chi_square(part, trait, n) for trait, n in brought[group].items())
            for part, size in enumerate(sizes)
            if size > 0
        }
        best = max(gains.values())
        chosen = gains[parts[group]]
        worst = max(worst, best - chosen)
        late += chosen == best and parts[group] != min(part for part, gain in gains.items() if gain == best)
        number[parts[group]].update(brought[group])
    return float(worst), late
