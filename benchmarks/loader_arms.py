"""The ways to load the same radiographs, each as a program of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.children import PEERS_PYTHON, Child, ChildFailed, Program
from benchmarks.harness import Arm, Meter, Table
from benchmarks.loader_sets import Source

Filter = Literal["cubic", "linear"]
FILTERS: tuple[Filter, ...] = ("cubic", "linear")
PEER_LIBRARIES = ("litdata", "mosaicml-streaming", "simplejpeg", "opencv-python-headless", "numpy", "torch")
REPEAT = 8
"""How often the sets of loaders without an endless stream hold the images, so that an epoch's end weighs little."""


@dataclass(frozen=True, slots=True)
class Means:
    """What every way is given."""

    size_px: int
    """Height and width of a view."""
    batch: int
    """Images of a batch."""
    cores: int
    """Worker processes of the peers, threads of DALI's reader and of the decoder alone."""
    num_threads: int
    """DataConfig.num_threads of this project's loader."""
    seconds: float
    """Length of a turn, at least."""
    seed: int


@dataclass(frozen=True, slots=True)
class Way:
    """One way to load."""

    name: str
    """Of its arm."""
    program: Program
    filter: Filter | None
    """The true, antialiased filter of its resize; None where it is another one, or none."""
    ours: bool = False
    note: str = ""
    images: int = 0
    """Of one pass, where the program counts them."""


def base_name(png: Source) -> str:
    """Name of the arm that all others are divided by."""
    return f"the reference on {png.name}"


def ways_of(source: Source, png: Source, means: Means) -> list[Way]:
    """Every way for a source, the reference on its own PNG first."""
    shared: dict[str, Any] = {
        "size_px": means.size_px,
        "batch": means.batch,
        "workers": means.cores,
        "threads": means.cores,
        "shuffle": min(1000, source.number),
        "tars": source.tars,
        "indexes": source.indexes,
        "ending": source.ending,
        "filter": "cubic",
    }
    number = source.number
    reference = {**shared, "way": "reference"}
    found = [Way(base_name(png), _peer("loose", {**reference, "folder": str(png.files)}), "cubic", images=number)]
    if source.name != png.name:
        program = _peer("loose", {**reference, "folder": str(source.files)})
        found.append(Way("the reference", program, "cubic", images=number))
    found += [ours(source.shards, kind, means, images=number) for kind in FILTERS]
    if source.levels is not None:
        found += [ours(source.levels, kind, means, "levels", images=number) for kind in FILTERS]
    for kind in FILTERS:
        about = {**shared, "filter": kind, "way": "tensors"}
        found.append(Way(f"webdataset + torchvision v2, {kind}", _peer("webdata", about), kind, images=number))
        found.append(Way(f"DALI's own reader, {kind}", _peer("dali_native", about), kind, images=number))
    opencv = _peer("webdata", {**shared, "way": "opencv"}, PEERS_PYTHON)
    found.append(Way("webdataset + OpenCV", opencv, None, note="other pixels: not antialiased", images=number))
    chunks = {**shared, "source": str(source.files), "repeat": REPEAT}
    for name, module in (("litdata", "lit"), ("mosaicml-streaming", "mosaic")):
        about = {**chunks, "chunks": str(source.files.with_name(f"{source.files.name}-{module}"))}
        found.append(Way(f"{name} + torchvision v2, cubic", _peer(module, about, PEERS_PYTHON), "cubic", images=number))
    found.append(decoder(source, means))
    return found


def ours(
    shards: Path, kind: Filter, means: Means, what: str = "", view: Mapping[str, Any] | None = None, images: int = 0
) -> Way:
    """This project's loader; `view`: other fields of TwoViewConfig."""
    about = {
        "shards": [str(shards)],
        "batch": means.batch,
        "threads": means.num_threads,
        "seed": means.seed,
        "view": {"size_px": means.size_px, "interpolation": kind, **(view or {})},
    }
    name = ", ".join(word for word in ("ours", what, kind) if word)
    return Way(name, Program("benchmarks.loader_child", about), kind, ours=True, images=images)


def decoder(source: Source, means: Means) -> Way:
    """Decoding alone."""
    about = {
        "batch": means.batch,
        "threads": means.cores,
        "tars": source.tars,
        "ending": source.ending,
        "decode_only": True,
    }
    note = "DALI, gray, bytes in memory"
    return Way("decode alone", _peer("dali_native", about), None, note=note, images=source.number)


def open_table(name: str, ways: Sequence[Way], base: str, means: Means, work: Path, missing: list[str]) -> Table:
    """A table of running programs; `missing` is told of those that do not run or give other images.

    Raises ChildFailed where this project's own loader or the base does not run.
    """
    children: dict[str, Child] = {}
    try:
        for way in ways:
            try:
                if not way.program.python.exists():
                    raise ChildFailed("its libraries are not installed: make peers")
                child = Child(way.program, work / "program.log")
                children[way.name] = child
                wrong = fault(child.about, way, means)
                if wrong:
                    children.pop(way.name).close()
                    raise ChildFailed(wrong)
            except ChildFailed as error:
                if way.ours or way.name == base:
                    raise
                missing.append(f"{name}: {way.name}: {error}")
    except BaseException:
        _close(children)
        raise
    arms = tuple(_arm(way, children[way.name], means) for way in ways if way.name in children)
    return Table(name, arms, base, close=lambda: _close(children))


def fault(about: Mapping[str, Any], way: Way, means: Means) -> str:
    """What is wrong with the batches of a program, or ""."""
    ready, size = about["ready"], means.size_px
    if way.images and about["one_pass"] != way.images:
        return f"a pass gave {about['one_pass']} images instead of {way.images}"
    if ready["views"] == 1:
        return ""
    shapes = ([means.batch, size, size, 1], [means.batch, 1, size, size], [means.batch, 3, size, size])
    if ready["shape"] not in shapes or ready["dtype"] not in ("uint8", "float32"):
        return f"its batches are {ready['dtype']} {ready['shape']}"
    return ""


def peer_versions() -> dict[str, str]:
    """Versions of what the peers' own interpreter has; empty where it is absent."""
    if not PEERS_PYTHON.exists():
        return {}
    words = "import importlib.metadata, sys; print(*(importlib.metadata.version(n) for n in sys.argv[1:]))"
    told = subprocess.run(
        [str(PEERS_PYTHON), "-c", words, *PEER_LIBRARIES], capture_output=True, text=True, check=False
    )
    versions = zip(PEER_LIBRARIES, told.stdout.split(), strict=False)
    return {f"{name} (peers)": version for name, version in versions}


def _peer(module: str, about: Mapping[str, Any], python: Path | None = None) -> Program:
    module = f"benchmarks.peers.{module}"
    return Program(module, about) if python is None else Program(module, about, python)


def _arm(way: Way, child: Child, means: Means) -> Arm:
    def work() -> int:
        return sum(child.take(means.seconds)[0])

    return Arm(way.name, work, note=way.note, meter=Meter(child.cpu_seconds, child.memory_bytes))


def _close(children: dict[str, Child]) -> None:
    for child in children.values():
        child.close()
