"""A shard as a piece of work: plain data that travels to the process that makes it, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.target import Target
from sharding.codecs import Codec
from sharding.filters import Filter
from sharding.pixels import Rendering
from sharding.sample import Refusal, SourceImage


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pixels are stored."""

    max_side_px: int = 1024
    """Longer side of the full-size copy, 0 for no limit."""
    levels: tuple[int, ...] = ()
    """Longer sides of the smaller copies, falling."""
    codec: Codec = "jpeg"
    """What the images are encoded by."""
    quality: int = 95
    """JPEG quality."""
    rendering: Rendering = field(default_factory=Rendering)
    """What the values of a file become."""
    use_gpu: bool = True
    """Decode on a GPU what it decodes without loss."""
    keep_burned_in: bool = False
    """Do not refuse DICOM files whose header says that text is burned in."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Everything that one shard is made of."""

    shard: int
    """Number of the tar."""
    name: str
    """Start of its file name."""
    target: Target
    """The shard set's folder."""
    findings: tuple[str, ...]
    """Names that the images' findings refer to."""
    images: tuple[SourceImage, ...]
    """What goes in, in order."""
    encoding: Encoding
    """How."""
    only: Filter
    """Samples that it does not take are left out."""
    secret: bytes
    """Key of the pseudonyms."""
    records: Path
    """Folder in which seek points of archives are kept, where this machine has it."""
    strict: bool
    """Raise TooManyFailures at the first image that cannot be used."""
    digest: str
    """Of all that decides the bytes; a shard on disk with the same digest need not be made again."""


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What became of a shard."""

    shard: int
    """Its number."""
    digest: str
    """Of its task."""
    num_images: int
    """Images that were tried."""
    num_left_out: int
    """Those of them that the filter did not take."""
    refusals: tuple[Refusal, ...]
    """Those of them that could not be used."""
    source_digest: str
    """xxh3-128 of the digests of the files that the images came from, one after another."""
    files: dict[str, dict[str, Any]]
    """name -> bytes, sha256 of the tar and its DALI index; empty where no image is left."""
    rows: tuple[dict[str, Any], ...]
    """Rows of the index."""
