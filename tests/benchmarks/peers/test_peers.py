"""Every peer gives two views of every image of a pass, and goes on without end."""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import loader_child, loader_read
from benchmarks.children import PEERS_PYTHON, Child
from benchmarks.loader_arms import Means, Way, base_name, fault, ways_of
from benchmarks.loader_sets import Source
from benchmarks.peers import augment, dali_native, loose, webdata
from benchmarks.peers.serve import Batch, describe, take

HERE: dict[str, Callable[[dict[str, Any], int], Iterator[Batch]]] = {
    "benchmarks.loader_child": loader_child.batches,
    "benchmarks.peers.loose": loose.batches,
    "benchmarks.peers.webdata": webdata.batches,
    "benchmarks.peers.dali_native": dali_native.batches,
}
BASE = "the reference on PNG 128"
NAMES = [
    BASE,
    "the reference",
    *(f"ours, {kind}" for kind in ("cubic", "linear", "levels, cubic", "levels, linear")),
    *(
        f"{peer}, {kind}"
        for peer in ("webdataset + torchvision v2", "DALI's own reader")
        for kind in ("cubic", "linear")
    ),
    "decode alone",
]
ELSEWHERE = [
    "webdataset + OpenCV",
    "litdata + torchvision v2, cubic",
    "mosaicml-streaming + torchvision v2, cubic",
]


def _way(sources: list[Source], means: Means, name: str) -> Way:
    ways = {way.name: way for way in ways_of(sources[1], sources[0], means)}
    assert set(ways) == {*NAMES, *ELSEWHERE}
    return ways[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_gives_every_image_once_a_pass(sources: list[Source], means: Means, name: str) -> None:
    way = _way(sources, means, name)
    about = {**way.program.about, "workers": 0}
    stream = HERE[way.program.module]
    one_pass = sum(len(batch[0]) for batch in stream(about, 1))
    endless = stream(about, 0)
    ready = describe(next(endless))
    assert fault({"ready": ready, "one_pass": one_pass}, way, means) == ""
    assert ready["dtype"] == ("float32" if "reference" in name else "uint8")
    further = list(islice(endless, 6))
    assert sum(len(batch[0]) for batch in further) == 24, "more than a pass"
    if ready["views"] == 2:
        assert not np.array_equal(np.asarray(further[0][0]), np.asarray(further[4][0])), "drawn anew"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_peer_with_libraries_of_its_own(sources: list[Source], means: Means, name: str, tmp_path: Path) -> None:
    if not PEERS_PYTHON.exists():
        pytest.skip("the peers' environment is absent: make peers")
    way = _way(sources, means, name)
    child = Child(way.program, tmp_path / "log")
    try:
        assert fault(child.about, way, means) == ""
        items, _ = child.take(steps=3)
        assert items == [4, 4, 4]
    finally:
        child.close()


def test_reading_alone_gives_the_bytes(sources: list[Source], means: Means) -> None:
    about = {"shards": [str(sources[1].shards)], "batch": 4, "seed": 0, "threads": 1}
    assert sum(len(batch[0]) for batch in loader_read.batches(about, 1)) == sources[1].number
    (first,) = next(loader_read.batches(about, 0))
    heads = {bytes(image[:2]) for image in first}
    assert heads == {b"\xff\xd8"}


def test_what_is_wrong_with_a_peer_is_told(sources: list[Source], means: Means) -> None:
    way = _way(sources, means, "the reference")
    good = {"ready": {"views": 2, "shape": [4, 3, 24, 24], "dtype": "float32"}, "one_pass": 16}
    assert fault(good, way, means) == ""
    assert fault({**good, "one_pass": 15}, way, means) == "a pass gave 15 images instead of 16"
    assert "[4, 3, 24, 25]" in fault({**good, "ready": {**good["ready"], "shape": [4, 3, 24, 25]}}, way, means)  # type: ignore[dict-item]
    assert base_name(sources[0]) == BASE


@pytest.mark.parametrize(
    ("views", "told"),
    [
        ([np.zeros((2, 4, 4)), np.ones((2, 4, 4))], "constant"),
        ([np.arange(32.0).reshape(2, 4, 4)] * 2, "both views are the same"),
        ([np.arange(32.0).reshape(2, 4, 4), np.arange(18.0).reshape(2, 3, 3)], "(2, 3, 3)"),
    ],
)
def test_views_of_no_use_are_refused(views: list[Any], told: str) -> None:
    with pytest.raises(AssertionError, match=told.replace("(", r"\(").replace(")", r"\)")):
        describe(views)


def test_taking_by_steps_and_by_time() -> None:
    def stream() -> Iterator[Batch]:
        while True:
            yield [np.zeros(3), np.zeros(3)]

    taken = take(stream(), steps=4, pace=0.01)
    assert taken["items"] == [3, 3, 3, 3]
    assert taken["ends"] == sorted(taken["ends"])
    assert taken["ends"][3] > 0.03
    assert take(stream(), seconds=0.02)["ends"][-1] >= 0.02


def test_a_crop_lies_within_the_image() -> None:
    np.random.seed(0)
    for height, width in ((100, 300), (40, 30), (1, 1)):
        for _ in range(50):
            y, x, h, w = augment.window(height, width)
            assert 0 <= y <= y + h <= height
            assert 0 <= x <= x + w <= width
            assert min(h, w) >= 1


def test_peers_import_nothing_of_ours() -> None:
    ours = ("cluster", "sharding", "loaders", "trainers", "eval")
    for path in Path(augment.__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["from"], ["import"]):
                assert words[1].split(".")[0] not in ours, (path.name, line)
                assert not words[1].startswith("benchmarks") or words[1].startswith("benchmarks.peers"), (path, line)


def test_the_answers_are_json_lines(sources: list[Source], means: Means, tmp_path: Path) -> None:
    import subprocess

    way = _way(sources, means, "decode alone")
    root = Path(__file__).parents[3]
    told = subprocess.run(
        [sys.executable, "-m", way.program.module, json.dumps(dict(way.program.about))],
        input='{"steps": 2}\n',
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
    )
    ready, taken = (json.loads(line) for line in told.stdout.splitlines())
    assert ready["one_pass"] == sources[1].number
    assert taken["items"] == [4, 4]
