"""`cxr bench loader`: two views of every radiograph, this project's loader beside its peers, from the same images.

A table for each form the images are stored in; then how far each way's pixels are from the plain filters, where the
time goes, and what an epoch's border costs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.children import PEERS_PYTHON
from benchmarks.harness import Table
from benchmarks.loader_arms import FILTERS, Means, Way, base_name, open_table, peer_versions, ways_of
from benchmarks.loader_borders import borders_grid
from benchmarks.loader_pixels import pixels_grid
from benchmarks.loader_sets import Images, Source, make_sources
from benchmarks.loader_stages import stages_table
from benchmarks.machine import libraries
from benchmarks.report import Grid
from benchmarks.session import Bar, BenchConfig, conduct, workplace
from cluster import door
from cluster.tasks import available_cores

FORMS = ("png", "full", "half", "quarter")
"""As `make_sources` gives them."""
USED = ("torch", "torchvision", "nvidia-dali-cuda130", "webdataset", "pillow", "numpy", "opencv-python-headless")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderBenchConfig(BenchConfig):
    """Measure the loader: two views of every image, images/s beside the reference and other loaders."""

    rounds: int = 4
    """Rounds that count; one more comes first and is dropped."""
    seconds: float = 2.0
    """Length of a turn, at least: it ends with a batch."""
    num_images: int = 192
    """Radiographs, in eight tars; they stay in the page cache."""
    side_px: int = 1024
    """Height and width of the largest form; the others are a half and a quarter of it."""
    size_px: int = 224
    """Height and width of a view."""
    batch: int = 64
    """Images of a batch."""
    num_threads: int = 0
    """This loader's threads; 0 is one for each core. The peers have one worker process for each core."""
    source: Path | None = None
    """Folder of your own radiographs, PNG and JPEG, resized to side_px; none: drawn ones."""
    forms: tuple[Literal["png", "full", "half", "quarter"], ...] = ("png", "full", "half", "quarter")
    """What is read: PNG and JPEG at side_px, JPEG at a half and a quarter of it."""
    peers: bool = True
    """Measure the peers too; otherwise the reference alone stands beside this loader."""
    pixels: bool = True
    """Compare pixels."""
    stages: bool = True
    """Measure where the time goes."""
    borders: bool = True
    """Measure what the border between two epochs costs."""

    def __post_init__(self) -> None:
        BenchConfig.__post_init__(self)
        if not 0 < self.seconds <= 600:
            raise ValueError(f"seconds: {self.seconds} is not above 0 and up to 600")
        for field, least, most in (("side_px", 64, 4096), ("size_px", 16, 1024), ("batch", 1, 4096)):
            if not least <= getattr(self, field) <= most:
                raise ValueError(f"{field}: {getattr(self, field)} is not in {least} to {most}")
        if self.num_images < max(16, self.batch):
            raise ValueError(
                f"num_images: {self.num_images} is below {max(16, self.batch)}: 16, and a batch, are needed"
            )
        if not self.forms:
            raise ValueError("forms is empty: name at least one of png, full, half, quarter")
        if self.num_threads < 0:
            raise ValueError(f"num_threads: {self.num_threads} is below 0")
        if self.source is not None and not self.source.is_dir():
            raise ValueError(f"source: {self.source} is not a folder")

    def means(self) -> Means:
        """What every way is given on this machine."""
        cores = available_cores()
        return Means(self.size_px, self.batch, cores, self.num_threads or cores, self.seconds, self.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """The bench's door; gives the exit status."""
    return door.enter("cxr bench loader", LoaderBenchConfig, run, argv)


def run(config: LoaderBenchConfig) -> None:
    """Measures, shows the tables and writes what the config asks for. Raises ValueError for files of no use."""
    missing = [
        "a cold disk or an object store: all files were in the page cache",
        "a GPU: see benchmarks.gpu",
        "FFCV: its package is built from source against OpenCV's headers and pkg-config, which are not here",
    ]
    if config.peers and not PEERS_PYTHON.exists():
        missing.append("litdata, mosaicml-streaming, simplejpeg + OpenCV: their environment is absent, `make peers`")
    bars: list[Bar] = []
    with workplace(config) as work:
        sources = make_sources(work, Images(config.num_images, config.side_px, config.seed, config.source))
        tables = make_tables(config, work, sources, bars, missing)
        grids = make_grids(config, work, sources)
        used = {**libraries(USED), **peer_versions()}
        conduct("loader", config, work, tables, bars, used, missing, grids, one_by_one=True)


def make_tables(
    config: LoaderBenchConfig, work: Path, sources: Sequence[Source], bars: list[Bar], missing: list[str]
) -> Iterator[Table]:
    """The tables, each with its programs started when it is asked for; `bars` and `missing` grow with them."""
    means, png = config.means(), sources[0]
    base = base_name(png)
    chosen = [source for form, source in zip(FORMS, sources, strict=True) if form in config.forms]
    for source in chosen:
        ways = [way for way in ways_of(source, png, means) if config.peers or not _is_peer(way, base)]
        megabytes = sum(map(len, source.encoded(source.number))) / source.number / 1e6
        name = f"{source.name}, {megabytes:.2f} MB each, two views of {config.size_px}"
        table = open_table(name, ways, base, means, work, missing)
        bars += make_bars(table, source, {way.name: way for way in ways}, png)
        yield table
    if config.stages:
        for source in [source for source in sources[1:3] if source in chosen]:
            yield stages_table(source, means, work, missing)


def make_bars(table: Table, source: Source, ways: dict[str, Way], png: Source) -> list[Bar]:
    """What is asked of a table's own arms."""
    names = [arm.name for arm in table.arms]
    bar = partial(Bar, table.name)
    found: list[Bar] = []
    for kind in FILTERS:
        mine = f"ours, {kind}"
        if source.levels is not None:
            found += [bar(f"ours, levels, {kind}", 8.0), bar(mine, 0.5, "decode alone", 0.6)]
        elif source.side_px * 2 == png.side_px:
            found.append(bar(mine, 10.0, stretch=12.0))
        rivals = [name for name in names if ways[name].filter == kind and not ways[name].ours and name != table.base]
        if source.name == png.name and kind == "cubic":
            rivals.append(table.base)
        found += [bar(mine, 1.0, rival) for rival in rivals]
        if "webdataset + OpenCV" in names:
            found.append(bar(mine, 0.0, "webdataset + OpenCV", 1.0))
    return found


def make_grids(config: LoaderBenchConfig, work: Path, sources: Sequence[Source]) -> Iterator[Grid]:
    """The tables that hold no rates."""
    if config.pixels:
        yield pixels_grid(sources[1], config.size_px, config.seed)
    if config.borders:
        yield borders_grid(sources[3], config.means(), work)


def _is_peer(way: Way, base: str) -> bool:
    return not way.ours and way.name not in (base, "decode alone")


if __name__ == "__main__":
    from benchmarks.loader import main as imported_main

    sys.exit(imported_main())
