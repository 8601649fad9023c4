"""`cxr verify DIR ...`: is this shard set whole, decodable, what its index says it is, and under pseudonyms?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster import door
from cluster.failure import Failure
from sharding.across import across_sets
from sharding.inspection import Inspection, find_problems, inspect, load_manifest
from sharding.near_duplicates import DISTANCE_BITS, HASH_BITS, find
from sharding.repair import Source, repair
from sharding.sample import SPLITS

__all__ = ["DamagedShardSet", "find_problems", "main", "run"]

NUM_SHOWN = 50
"""Problems that are printed; the others are counted."""


class DamagedShardSet(Failure):
    """A shard set that is not what its manifest and index say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """Checks every file, sample and row of a shard set: that it is there as it was written, that it decodes, that index
    and members agree; that patients, and keys unless published or kept by --keep_names, are pseudonyms; that sex, age
    band and view position are words of the vocabulary; that images hold no EXIF, comment or other part, json members
    no other field, tar headers no user and no date. It cannot see text that is burned into the pixels."""

    directory: str | Path
    """The shard set, a folder or an s3:// or gs:// URL. `--directory` may be left out before it."""
    others: tuple[str, ...] = ()
    """More shard sets that a run draws from beside it: keys are then looked for that several have, and patients (of
    sets with the same key file) that are in different splits. Only their indexes are read."""
    near_duplicates: bool = False
    """Report pairs of images in different splits that look alike; such a pair is no damage."""
    alike_bits: int = DISTANCE_BITS
    """Bits, of 256, in which the perceptual hashes of images that look alike may differ."""
    repair: bool = False
    """Make damaged shards again from `root`, then check them."""
    root: str | Path = ""
    """Folder of the source, as `cxr shard` was given it, for --repair."""
    csv: str | Path = ""
    """The csv file that `cxr shard folder --csv` was given, for --repair."""
    key_file: Path | None = None
    """Secret of the pseudonyms for --repair; default is `<directory>.key`."""
    processes: int = 0
    """Processes that decode; 0 is one for each core."""

    def __post_init__(self) -> None:
        if not 0 <= self.alike_bits < HASH_BITS // 4:
            raise ValueError(f"alike_bits: {self.alike_bits} is not in 0 to {HASH_BITS // 4 - 1}")
        if self.repair and not str(self.root):
            raise ValueError("root: --repair needs the folder of the source images, as `cxr shard` was given it")


def main(argv: Sequence[str] | None = None) -> int:
    """The verb. Gives the exit status: 0 whole, 1 damaged, 2 not a shard set."""
    words = list(sys.argv[1:] if argv is None else argv)
    given = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if given:
        words = ["--directory", words[0], *(["--others", *words[1:given]] if given > 1 else []), *words[given:]]
    return door.enter("cxr verify", VerifyConfig, run, words)


def run(config: VerifyConfig) -> None:
    """Prints what is wrong, one line each. Raises DamagedShardSet where anything is, ValueError where it is no set."""
    place = config.directory
    hashed = config.near_duplicates
    found = inspect(place, config.processes, hashed)
    if found.problems and config.repair:
        _show(found.problems)
        repair(place, found, Source(config.root, config.csv, config.key_file), config.processes)
        found = inspect(place, config.processes, hashed)
    problems = found.problems + across_sets([str(place), *config.others])
    _show(problems)
    if hashed:
        _show_alike(found, config.alike_bits)
    if problems:
        raise DamagedShardSet(f"{place}: {len(problems):,} things are wrong; the first: {problems[0]}")
    manifest = load_manifest(place)[1]
    print(f"{place}: {manifest['num_samples']:,} samples are whole (version {manifest['version']})")
    if found.unfinished:
        print("  (a further delivery has begun there and is not committed: the same `cxr shard --append` finishes it)")
    whose = "patients (not keys) are" if manifest["keep_names"] else "patients and keys are"
    print(f"  {whose} pseudonyms, images hold pictures alone; text burned into the pixels was not looked for")


def _show_alike(found: Inspection, distance_bits: int) -> None:
    """Pairs across splits; images without a split are on no side."""
    dealt = np.array([n for n, (_, split) in enumerate(found.rows) if split and split in SPLITS], dtype=np.int64)
    sides = np.array([SPLITS.index(found.rows[number][1]) for number in dealt.tolist()], dtype=np.int64)
    pairs = find(found.hashes_N4[dealt], sides, distance_bits)
    alike = [(found.rows[dealt[first]], found.rows[dealt[second]], bits) for first, second, bits in pairs]
    _show([f"alike ({bits} of {HASH_BITS} bits): {_named(one)} and {_named(other)}" for one, other, bits in alike])
    print(f"{len(pairs):,} pairs of images in different splits look alike")


def _named(row: tuple[str, str]) -> str:
    return f"{row[0]} ({row[1] or 'no split'})"


def _show(problems: Sequence[str]) -> None:
    for problem in problems[:NUM_SHOWN]:
        print(problem)
    if len(problems) > NUM_SHOWN:
        print(f"... and {len(problems) - NUM_SHOWN:,} more")


if __name__ == "__main__":
    from sharding.verify import main as imported_main

    sys.exit(imported_main())
