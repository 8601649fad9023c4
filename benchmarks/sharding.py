"""`cxr bench sharding`: images/s of `cxr shard` against a plain writer and against the codecs alone.

Three kinds of tables. Per kind of file, on one core: the writer, what most people would write, and ceilings in memory.
Per codec: encoding and decoding alone. The whole run over 1, 2 and 4 processes.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from benchmarks.harness import Arm, Table
from benchmarks.inputs import InputPlan, make_inputs
from benchmarks.plain import decode_barely, encode_barely, write_plainly
from benchmarks.session import Bar, BenchConfig, conduct, workplace
from benchmarks.sharding_cases import (
    MAX_SIDE_PX,
    QUALITY,
    Batch,
    decode_ours,
    encode_ours,
    find_batches,
    first_decoder,
    make_ready,
    run_whole,
    shrink_ours,
    write_ours,
)
from cluster import door
from cluster.tasks import available_cores
from sharding.codecs import Codec, decode
from sharding.pixels import Gray

LEAST = 0.85
"""Share of the decode + shrink + encode ceiling that the writer has to reach on one core."""
OURS, PLAINLY, CEILING = "cxr shard's writer", "webdataset + Pillow", "ceiling"
CODECS_8: tuple[Codec, ...] = ("jpeg", "jpeg2000", "htj2k", "png")
CODECS_16: tuple[Codec, ...] = ("jpeg2000", "htj2k", "png")
USED = ("numpy", "opencv-python-headless", "pillow", "pydicom", "python-gdcm", "imagecodecs", "webdataset", "xxhash")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingBenchConfig(BenchConfig):
    """Measure `cxr shard`: images/s per core against a plain writer and the codecs alone, and over several cores."""

    num_images: int = 64
    """PNG and JPEG files of a round; all files of a round are held in memory."""
    num_dicoms: int = 8
    """DICOM files of a round, of each transfer syntax."""
    num_run_images: int = 2048
    """Images of the whole run over several processes; the files of the first kind, again and again. Starting
    a process takes as long as some hundred images, so few images show that alone. 0: leave it out."""
    num_codec_images: int = 8
    """Images per codec. 0: leave the codecs out."""
    side_px: int = 1024
    """Side of the PNG files that are drawn; JPEG and DICOM have about two and a half times that."""
    source: Path | None = None
    """Folder of your own files to measure with instead of drawn ones: PNG, JPEG, DICOM; the first of each kind."""

    def __post_init__(self) -> None:
        BenchConfig.__post_init__(self)
        for field, least in (("num_images", 1), ("num_dicoms", 1), ("num_run_images", 0), ("num_codec_images", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field}: {getattr(self, field)} is below {least}")
        if not 128 <= self.side_px <= 4096:
            raise ValueError(f"side_px: {self.side_px} is not in 128 to 4096")
        if self.source is not None and not self.source.is_dir():
            raise ValueError(f"source: {self.source} is not a folder")


def main(argv: Sequence[str] | None = None) -> int:
    """The bench's door; gives the exit status."""
    return door.enter("cxr bench sharding", ShardingBenchConfig, run, argv)


def run(config: ShardingBenchConfig) -> None:
    """Measures, shows the tables and writes what the config asks for. Raises ValueError for files of no use."""
    cv2.setNumThreads(1)
    with workplace(config) as work:
        root = config.source
        if root is None:
            plan = InputPlan(config.num_images, config.num_dicoms, config.side_px, config.seed)
            root = make_inputs(work, plan)
        batches = find_batches(root.absolute(), config.num_images, config.num_dicoms)
        target = work / "written"
        missing = [
            "reading from a cold disk, NFS or an object store: all files were in the page cache",
            "a GPU's decoders",
            "more than one machine",
        ]
        tables = [writer_table(batch, target) for batch in batches]
        bars = [Bar(table.name, OURS, LEAST) for table in tables]
        if config.num_codec_images:
            tables += codec_tables(batches, config.num_codec_images)
            if not any(batch.is_dicom for batch in batches):
                missing.append("codecs at 16 bits: no DICOM among the files")
        if config.num_run_images:
            tables.append(run_table(batches[0], work, config.num_run_images))
        cores = available_cores()
        missing += [f"{number} processes: only {cores} cores here" for number in (2, 4) if number > cores]
        try:
            conduct("sharding", config, work, tables, bars, USED, missing)
        finally:
            shutil.rmtree(target, ignore_errors=True)
            shutil.rmtree(work / "run", ignore_errors=True)


def writer_table(batch: Batch, target: Path) -> Table:
    """The writer on one kind of files, beside the plain one and what it cannot beat.

    The ceiling does in memory what the writer does to the pixels, with the same decoders, and nothing else: no file is
    opened or written, nothing is digested; "ceiling, files read" opens them too, which tells what reading costs.
    "decode alone" is its first part. "bare codecs" decode, shrink and encode by the plainest calls there are, without
    the checks and the rendering that make pixels right.
    """
    files, paths = batch.read(), [image.path for image in batch.images]
    is_dicom = batch.is_dicom
    plugin = first_decoder(files[0]) if is_dicom else ""
    out = target / "out"

    def clear(ready: Callable[[Path], None]) -> Callable[[], None]:
        def prepare() -> None:
            shutil.rmtree(target, ignore_errors=True)
            ready(out)

        return prepare

    def ceiling() -> int:
        for data in files:
            encode_ours(shrink_ours(decode_ours(data, is_dicom)))
        return len(files)

    def reading() -> int:
        for path in paths:
            encode_ours(shrink_ours(decode_ours(Path(path).read_bytes(), is_dicom)))
        return len(paths)

    def decoding() -> int:
        for data in files:
            decode_ours(data, is_dicom)
        return len(files)

    def bare() -> int:
        for data in files:
            encode_barely(decode_barely(data, is_dicom, plugin), MAX_SIDE_PX, QUALITY)
        return len(files)

    arms = (
        Arm(OURS, lambda: write_ours(batch.images, out), clear(make_ready)),
        Arm(
            PLAINLY,
            lambda: write_plainly(paths, out, MAX_SIDE_PX, QUALITY),
            clear(lambda folder: folder.mkdir(parents=True)),
        ),
        Arm(CEILING, ceiling, note="decode, shrink, encode in memory"),
        Arm("ceiling, files read", reading, note="out of the page cache"),
        Arm("decode alone", decoding),
        Arm("bare codecs", bare, note="other pixels"),
    )
    megabytes = sum(map(len, files)) / len(files) / 1e6
    return Table(f"{batch.kind}, {len(files)} files of {megabytes:.1f} MB, one core", arms, CEILING, one_core=True)


def codec_tables(batches: Sequence[Batch], number: int) -> list[Table]:
    """Encoding and decoding alone, at the default size: 8 bits of the first kind, 16 bits of the first DICOM kind."""
    tables: list[Table] = []
    dicoms = next((batch for batch in batches if batch.is_dicom), None)
    for bits, codecs, batch in ((8, CODECS_8, batches[0]), (16, CODECS_16, dicoms)):
        if batch is None:
            continue
        files = batch.read()[:number]
        grays = [shrink_ours(decode_ours(data, batch.is_dicom, bits)) for data in files]
        stored: dict[Codec, list[bytes]] = {codec: [encode_ours(gray, codec) for gray in grays] for codec in codecs}
        notes = {c: f"{sum(map(len, encoded)) / len(encoded) / 1e3:,.0f} kB each" for c, encoded in stored.items()}
        about = f"{bits} bits, longer side {max(grays[0].shape)}, {len(grays)} images"
        encoding = tuple(Arm(c, _encode_all(grays, c), note=notes[c]) for c in codecs)
        decoding = tuple(Arm(c, _decode_all(stored[c], c), note=notes[c]) for c in codecs)
        tables.append(Table(f"encode, {about}", encoding, codecs[0], one_core=True))
        tables.append(Table(f"decode, {about}", decoding, codecs[0], one_core=True))
    return tables


def _encode_all(grays: list[Gray], codec: Codec) -> Callable[[], int]:
    return lambda: len([encode_ours(gray, codec) for gray in grays])


def _decode_all(stored: list[bytes], codec: Codec) -> Callable[[], int]:
    def work() -> int:
        for data in stored:
            assert decode(data, codec) is not None, codec
        return len(stored)

    return work


def run_table(batch: Batch, work: Path, number: int) -> Table:
    """All of `cxr shard folder` on `number` links to the files of one kind, over 1, 2 and 4 processes."""
    root, out = work / "run" / "in", work / "run" / "out"
    shutil.rmtree(work / "run", ignore_errors=True)
    root.mkdir(parents=True)
    for i in range(number):
        path = Path(batch.images[i % len(batch.images)].path)
        (root / f"{i:06d}{path.suffix}").symlink_to(path)

    def prepare() -> None:
        for path in (work / "run").glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    per_shard = math.ceil(number / 16)
    num_shards = math.ceil(number / per_shard)
    counts = [n for n in (1, 2, 4) if n <= max(2, available_cores())]
    arms = tuple(
        Arm("1 process" if n == 1 else f"{n} processes", partial(run_whole, root, out, n, per_shard), prepare)
        for n in counts
    )
    return Table(f"the whole run, {number} x {batch.kind}, {num_shards} shards", arms, "1 process")


if __name__ == "__main__":
    from benchmarks.sharding import main as imported_main

    sys.exit(imported_main())
