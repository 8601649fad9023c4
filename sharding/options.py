"""What every kind of shard set lets its user choose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """Where a shard set goes and what its files are like."""

    root: Path
    """Folder that holds the images (and the csv files)."""
    out: Path
    """Folder to make; absent, empty, or with an unfinished run of the same words, which goes on."""
    name: str = "images"
    """Start of the tars' names, and the samples' `source`."""
    max_side_px: int = 1024
    """Longer side of the stored images in pixels, ratio kept; 0: as they are. Boxes stay in original pixels."""
    levels: tuple[int, ...] = ()
    """Longer sides in pixels of smaller copies to store as well, largest first, such as 512 256."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    samples_per_shard: int = 512
    """Images per tar, about 150 MB at 1024 px. A count and not bytes: so it is known which image goes into which tar
    before any is encoded, and every tar is a task of its own that can run anywhere and be repeated."""
    processes: int = 0
    """Processes that encode; 0 is one for each core (or for each of the cluster's, inside a Ray job)."""
    key_file: Path | None = None
    """Secret of the pseudonyms; default is `<out>.key`, made if absent. The same key gives the same pseudonyms."""
    max_bad_share: float = 0.05
    """Stop with a failure when more than this share (0 to 1) of images and rows is unusable."""
    strict: bool = False
    """Stop at the first unusable image or row."""
    keep_burned_in: bool = False
    """Keep DICOM files that say that text is burned into their pixels; otherwise they are set aside."""
    dry_run: bool = False
    """Print the resolved config, the number of images, bytes and an estimate of bytes and time; write nothing."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name: {self.name!r} may hold letters, digits, - and _ only")
        if self.max_side_px < 0:
            raise ValueError(f"max_side_px: {self.max_side_px} is below 0; give pixels, or 0 for no limit")
        full = self.max_side_px or float("inf")
        if any(not 16 <= side < full for side in self.levels) or list(self.levels) != sorted(
            set(self.levels), reverse=True
        ):
            raise ValueError(f"levels: {self.levels} must fall, from below max_side_px to 16 at least")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality: {self.quality} is not in 1 to 100")
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard: {self.samples_per_shard} is below 1")
        if self.processes < 0:
            raise ValueError(f"processes: {self.processes} is below 0; 0 is all cores")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share: {self.max_bad_share} is not a share from 0 to 1")

    def key_path(self) -> Path:
        """The key file, `<out>.key` unless named."""
        return self.key_file or beside(self.out, ".key")


def beside(out: Path, ending: str) -> Path:
    """The file `<out><ending>` next to a shard set, for what must not lie in it."""
    whole = out.absolute()
    return whole.parent / f"{whole.name}{ending}"


NOT_IN_MANIFEST = frozenset({"root", "out", "key_file", "csv", "processes", "max_bad_share", "strict", "dry_run"})
"""Fields that name places or people's files, or do not change a byte of what is written."""


def check_share(field: str, value: float, below: float = 1.0) -> None:
    """Raises ValueError unless 0 <= value < below."""
    if not 0 <= value < below:
        raise ValueError(f"{field}: {value} is not a share from 0 to less than {below:g}")
