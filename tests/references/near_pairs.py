"""Near duplicates by comparing every pair, bit by bit."""

from collections.abc import Sequence


def near_pairs(hashes: Sequence[Sequence[int]], parts: Sequence[int], distance: int) -> list[tuple[int, int, int]]:
    """(row, later row, bits) of every pair in different parts that differs in at most `distance` bits."""
    found = []
    for row, mine in enumerate(hashes):
        for other in range(row + 1, len(hashes)):
            bits = sum(bin(a ^ b).count("1") for a, b in zip(mine, hashes[other], strict=True))
            if bits <= distance and parts[row] != parts[other]:
                found.append((row, other, bits))
    return found
