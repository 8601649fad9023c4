"""What every kind of shard set lets its user choose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster import storage
from cluster.files import sha256_bytes
from sharding.codecs import Codec
from sharding.filters import parse
from sharding.pixels import Intensity, Rendering


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """Where a shard set goes and what its files are like."""

    root: str | Path
    """Folder that holds the images (and the csv files): a path, s3://bucket/folder or gs://bucket/folder."""
    out: str | Path
    """Folder to make, as `root`: absent, empty, or with an unfinished run of the same words, which goes on."""
    name: str = "images"
    """Start of the tars' names, and the samples' `source`."""
    append: bool = False
    """Add the images that `out` does not hold yet, as another delivery; its files stay as they are."""
    max_side_px: int = 1024
    """Longer side of the stored images in pixels, ratio kept; 0: as they are. Boxes stay in original pixels."""
    levels: tuple[int, ...] = ()
    """Longer sides in pixels of smaller copies to store as well, largest first, such as 512 256."""
    codec: Codec = "jpeg"
    """jpeg: gray, lossy, decoded by a GPU's hardware; jpeg2000, htj2k (its fast form) and png: without loss."""
    quality: int = 95
    """JPEG quality, 1 to 100; the lossless codecs do not look at it."""
    bits: Literal[8, 16] = 8
    """Bits of a stored pixel; 16 with a lossless codec alone."""
    intensity: Intensity = "voi"
    """What becomes black and white. voi: the DICOM's own VOI LUT, else its window, else the range; window: its window,
    else the range; percentile: from one percentile of the values to another; range: smallest to largest value."""
    window: int = 0
    """Which of a DICOM's windows (or VOI LUTs), 0 the first; one that has fewer gives its last."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Percentiles (0 to 100) of the values that become black and white where `intensity` is percentile."""
    shard_mb: int = 256
    """Megabytes (10^6 bytes) of a tar, about: a few images are tried to tell how many that is."""
    samples_per_shard: int = 0
    """Images per tar; 0 is as many as `shard_mb` holds and, of a set of more than 512, no more than an eighth."""
    only: tuple[str, ...] = ()
    """Keep only images whose field has one of these values, such as view_position=PA,AP sex=F; others are counted and
    left out. Fields: split, view_position, sex, age_band, patient, scanner, source, fold, subset, finding. `field=`
    takes what is unknown, `field!=value` what has not that value, subset=10 the smaller subsets too."""
    keep_normals: bool = True
    """Keep images known to show no finding; without them there is no specificity."""
    valid_share: float = 0.1
    """Share (0 to 1) of the patients that become valid where the split is by patient or by hash, and of the official
    training part."""
    test_share: float = 0.2
    """Share (0 to 1) of the patients that become test where the split is by patient or by hash."""
    folds: int = 0
    """Number of folds (2 or more) that train and valid are dealt into, by patient and balanced; column `fold`."""
    subsets: tuple[float, ...] = ()
    """Percentages of train, such as 1 10 100, each within the next, by patient and balanced; column `subset`."""
    processes: int = 0
    """Processes that encode; 0 is one for each core (or for each of the cluster's, inside a Ray job)."""
    key_file: Path | None = None
    """Secret of the pseudonyms; default is `<out>.key`, made if absent. The same key gives the same pseudonyms. The
    lists of what was set aside and of original names lie beside it."""
    max_bad_share: float = 0.05
    """Stop with a failure when more than this share (0 to 1) of images and rows is unusable."""
    strict: bool = False
    """Stop at the first unusable image or row."""
    gpu_decode: bool = True
    """Decode DICOMs of lossless syntaxes on a GPU where there is one (the pixels are the same)."""
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
        if self.bits == 16 and self.codec == "jpeg":
            raise ValueError("bits: JPEG holds 8; take --codec htj2k, jpeg2000 or png for 16")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles: {low:g} {high:g} must rise within 0 to 100")
        for field, least in (("window", 0), ("shard_mb", 1), ("samples_per_shard", 0), ("processes", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field}: {getattr(self, field)} is below {least}")
        if self.folds == 1 or self.folds < 0:
            raise ValueError(f"folds: {self.folds} is no number of folds; give 2 or more, or 0 for none")
        if any(not 0 < share <= 100 for share in self.subsets) or list(self.subsets) != sorted(set(self.subsets)):
            raise ValueError(f"subsets: {self.subsets} must be percentages that rise, from above 0 to 100")
        parse(self.only)  # refuses what is no filter
        check_share("valid_share", self.valid_share)
        check_share("test_share", self.test_share, 1.0 - self.valid_share + 1e-12)
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share: {self.max_bad_share} is not a share from 0 to 1")
        if storage.is_remote(self.out) and storage.parent_of(self.out) == storage.absolute(self.out):
            raise ValueError(f"out: {self.out} is a whole bucket; name a folder in it, such as {self.out}/set")
        if storage.is_remote(self.out) and self.key_file is None:
            raise ValueError(f"key_file: {self.out} is an object store, where no key must lie: name a local file")

    def rendering(self) -> Rendering:
        """What the pixels of a file become."""
        return Rendering(self.intensity, self.window, self.percentiles, self.bits)

    def key_path(self) -> Path:
        """The key file, `<out>.key` unless named."""
        return self.key_file or Path(f"{storage.absolute(self.out)}.key")

    def private(self, ending: str) -> Path:
        """The file `<name of out><ending>` beside the key, for what must not lie in the shard set.

        Sets of one name in several places may share a key: elsewhere than beside `out` the name tells them apart.
        """
        folder = self.key_path().absolute().parent
        name = storage.name_of(self.out)
        if storage.parent_of(self.out) != str(folder):
            name += f"-{sha256_bytes(storage.absolute(self.out).encode())[:8]}"
        return folder / f"{name}{ending}"

    def records(self) -> Path:
        """The folder in which an unfinished run keeps its records: `<out>.partial`, for an object store beside the key.

        They hold names from the source: it is its owner's alone.
        """
        if storage.is_remote(self.out):
            return self.private(".partial")
        return Path(f"{storage.absolute(self.out)}.partial")


NOT_IN_MANIFEST = frozenset(
    {
        "root",
        "out",
        "key_file",
        "csv",
        "append",
        "annotations_only",
        "gpu_decode",
        "processes",
        "max_bad_share",
        "strict",
        "dry_run",
    }
)
"""Fields that name places or people's files, or do not change a byte of what is written."""


def check_share(field: str, value: float, below: float = 1.0) -> None:
    """Raises ValueError unless 0 <= value < below."""
    if not 0 <= value < below:
        raise ValueError(f"{field}: {value} is not a share from 0 to less than {below:g}")
