"""The same radiographs in every form that is measured: shard sets, made by `cxr shard`, and their images as files.

Shapes: H, W rows and columns.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.inputs import NUM_DRAWN, vary
from cluster.files import write_atomic
from cluster.progress import Progress
from sharding.build import run
from sharding.folder import FolderConfig
from sharding.phantom.nih_files import draw_nih
from sharding.phantom.plan import PHANTOM_VERSION, plan_cohort

NUM_SHARDS = 8
"""Tars of a set: enough for every worker of every peer to have some."""
QUALITY = 95
FEW = 64
"""Up to so many images, starting processes would take longer than the work."""
_VERSION = 1
"""Changes whenever the same config would give other files."""


@dataclass(frozen=True, slots=True)
class Images:
    """Which radiographs."""

    number: int
    """How many."""
    side_px: int
    """Height and width, pixels."""
    seed: int
    """Of the phantoms."""
    source: Path | None
    """Folder of one's own radiographs; None draws phantoms."""


@dataclass(frozen=True, slots=True)
class Source:
    """Images in one form."""

    name: str
    """Such as "JPEG 1024"."""
    shards: Path
    """The shard set, without smaller levels."""
    levels: Path | None
    """The same with a half-size level; None where there is none."""
    files: Path
    """The images of `shards`, byte for byte, as loose files."""
    ending: str
    """png or jpg."""
    side_px: int
    """Height and width, pixels."""
    number: int
    """How many."""

    @property
    def tars(self) -> list[str]:
        """The tars of `shards`."""
        return sorted(str(path) for path in self.shards.glob("*.tar"))

    @property
    def indexes(self) -> list[str]:
        """DALI's index of each tar."""
        return [str(Path(tar).with_suffix(".idx")) for tar in self.tars]

    def encoded(self, number: int) -> list[bytes]:
        """The bytes of the first images."""
        return [path.read_bytes() for path in sorted(self.files.iterdir())[:number]]


def make_sources(work: Path, images: Images) -> list[Source]:
    """PNG at full side, JPEG at full, half and quarter side, below `work`, made unless they are there.

    Raises ValueError where `images.source` holds no PNG or JPEG.
    """
    full, half, quarter = images.side_px, images.side_px // 2, images.side_px // 4
    folder = work / f"loader-{digest_of(images)}"
    drawn = folder / "drawn"
    if not (folder / "drawn.done").exists():
        shutil.rmtree(drawn, ignore_errors=True)
        drawn.mkdir(parents=True)
        with Progress(images.number, "bench: drawing", "files") as progress:
            for number, image_HW in enumerate(varied(images)):
                done, data = cv2.imencode(".png", image_HW, [cv2.IMWRITE_PNG_COMPRESSION, 6])
                assert done, number
                write_atomic(drawn / f"{number:05d}.png", data.tobytes())
                progress.update()
        (folder / "drawn.done").touch()
    sources: list[Source] = []
    for codec, side in (("png", full), ("jpeg", full), ("jpeg", half), ("jpeg", quarter)):
        name = f"{codec.upper()} {side}"
        shards = _shard(drawn, folder / name.replace(" ", "-"), codec, side, (), images.number)
        levels = (
            _shard(drawn, folder / "levels", codec, side, (half,), images.number) if name == f"JPEG {full}" else None
        )
        ending = "png" if codec == "png" else "jpg"
        files = _unpack(shards, ending)
        sources.append(Source(name, shards, levels, files, ending, side, images.number))
    return sources


def digest_of(images: Images) -> str:
    """Names what `make_sources` makes; one's own files count by name and size."""
    own: list[Any] = []
    if images.source is not None:
        own = [(path.name, path.stat().st_size) for path in own_files(images.source)]
    words = repr((_VERSION, PHANTOM_VERSION, images, own)).encode()
    return hashlib.blake2b(words, digest_size=6).hexdigest()


def own_files(folder: Path) -> list[Path]:
    """PNG and JPEG files of a folder, in order. Raises ValueError where there is none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise ValueError(f"source: {folder} holds no *.png or *.jpg")
    return paths


def varied(images: Images) -> Iterator[npt.NDArray[np.uint8]]:
    """uint8 [side, side] each: the drawn or own ones, then those again, flipped and shifted."""
    bases: Sequence[npt.NDArray[np.uint8]]
    if images.source is None:
        bases = [draw_nih(case)[0] for case in plan_cohort("nih", images.seed, NUM_DRAWN, images.side_px)]
    else:
        bases = [_squared(path, images.side_px) for path in own_files(images.source)[: images.number]]
    for number in range(images.number):
        turn, place = divmod(number, len(bases))
        yield vary(bases[place], turn * NUM_DRAWN)


def _squared(path: Path, side_px: int) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"source: {path.name} cannot be read: take it out")
    shrinks = max(image.shape) > side_px
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (side_px, side_px), interpolation=way), dtype=np.uint8)


def _shard(drawn: Path, out: Path, codec: Any, side: int, levels: tuple[int, ...], number: int) -> Path:
    if not (out / "manifest.json").exists():
        config = FolderConfig(
            root=drawn,
            out=out,
            codec=codec,
            quality=QUALITY,
            max_side_px=side,
            levels=levels,
            split="none",
            key_file=out.with_name("key"),  # one for all: an image has the same name in every set
            samples_per_shard=-(-number // NUM_SHARDS),
            processes=1 if number <= FEW else 0,
        )
        with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(io.StringIO()):
            run(config)
        assert (out / "manifest.json").exists(), told.getvalue()
    return out


def _unpack(shards: Path, ending: str) -> Path:
    files = shards.with_name(f"{shards.name}-files")
    done = shards.with_name(f"{shards.name}-files.done")
    if not done.exists():
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        for path in sorted(shards.glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.name.endswith(f".{ending}") else None
                    if file is not None:
                        (files / member.name).write_bytes(file.read())
        done.touch()
    return files
