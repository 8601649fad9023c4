"""Where the benches touch the room that they measure: its sources, writer, decoders and encoders, its whole run.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pydicom

from cluster.target import open_target
from sharding import filters, shards
from sharding.build import run
from sharding.codecs import Codec, encode
from sharding.decoders import decoders_of
from sharding.dicom import read_dicom
from sharding.folder import FolderConfig, read_folder
from sharding.image import read_image
from sharding.manifest import partial_directory
from sharding.pixels import Gray, Rendering, shrink
from sharding.sample import SourceImage
from sharding.writer import write_shard

SECRET = b"the key of a benchmark, kept by nobody"
_USUAL = FolderConfig(root="in", out="out")
MAX_SIDE_PX, QUALITY = _USUAL.max_side_px, _USUAL.quality
"""What `cxr shard` does where it is not told otherwise."""
NUM_LOOKED_AT = 4_000
"""Files of a folder, at most, that are looked at to find some of each kind."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Files of one kind, such as "png" or "dicom JPEG 2000 Image Compression (Lossless Only)"."""

    kind: str
    images: tuple[SourceImage, ...]

    def read(self) -> list[bytes]:
        """The files' bytes."""
        return [Path(image.path).read_bytes() for image in self.images]

    @property
    def is_dicom(self) -> bool:
        """Whether the files are DICOM."""
        return self.images[0].kind == "dicom"


def find_batches(root: Path, num_images: int, num_dicoms: int) -> list[Batch]:
    """The first files of each kind below a folder: PNG, JPEG, then DICOM by transfer syntax.

    Raises ValueError where there is none, or where one cannot be used.
    """
    cohort = read_folder(FolderConfig(root=root, out=root / "unused"), SECRET)
    found: dict[str, list[SourceImage]] = {}
    for image in cohort.images[:NUM_LOOKED_AT]:
        some = found.setdefault(_kind_of(image), [])
        if len(some) < (num_dicoms if image.kind == "dicom" else num_images):
            some.append(image)
    batches = [Batch(kind, tuple(images)) for kind, images in found.items()]
    return sorted(batches, key=lambda batch: (batch.is_dicom, batch.kind != "png", batch.kind))


def _kind_of(image: SourceImage) -> str:
    if image.kind != "dicom":
        return "png" if image.path.lower().endswith(".png") else "jpeg"
    try:
        header = pydicom.dcmread(image.path, stop_before_pixels=True, specific_tags=["Rows"])
        return f"dicom {header.file_meta.TransferSyntaxUID.name}"
    except Exception as error:  # pydicom raises nearly anything on a damaged file
        raise ValueError(
            f"source: {image.name} is no usable DICOM file ({type(error).__name__}): take it out"
        ) from error


def write_ours(images: tuple[SourceImage, ...], out: Path) -> int:
    """One shard by the real writer, in this process; `out` must be ready (see `make_ready`)."""
    config = FolderConfig(root=out.parent, out=out)
    job = shards.Job(config, (), SECRET, open_target(out), filters.parse(()))
    result = write_shard(job.task(0, images))
    if result.refusals:
        raise ValueError(f"source: {result.refusals[0].name} cannot be used: {result.refusals[0].reason}")
    return result.num_images


def make_ready(out: Path) -> None:
    """The folders that `write_ours` writes into."""
    out.mkdir(parents=True)
    partial_directory(out).mkdir(parents=True)


def decode_ours(data: bytes, is_dicom: bool, bits: int = 8) -> Gray:
    """Pixels of a file in memory as `cxr shard` reads them."""
    rendering = Rendering(bits=16) if bits == 16 else Rendering()
    return read_dicom(data, rendering)[0] if is_dicom else read_image(data, rendering)


def encode_ours(gray: Gray, codec: Codec = "jpeg") -> bytes:
    """The pixels as they are stored by default."""
    return encode(gray, codec, QUALITY)


def shrink_ours(gray: Gray) -> Gray:
    """The pixels at the default size."""
    return shrink(gray, MAX_SIDE_PX)


def run_whole(root: Path, out: Path, processes: int, per_shard: int) -> int:
    """`cxr shard folder` without a word on the screen; gives the number of images."""
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(io.StringIO()):
        run(FolderConfig(root=root, out=out, processes=processes, samples_per_shard=per_shard))
    assert out.is_dir(), told.getvalue()
    return sum(1 for _ in root.iterdir())


def first_decoder(data: bytes) -> str:
    """The plugin of pydicom that `cxr shard` asks first for the pixels of a DICOM file; "" where they are plain."""
    header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    return next(iter(decoders_of(header.file_meta.TransferSyntaxUID)), "")
