"""The loader's bench: the same images in every form, filters, bars, tables."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.harness import Arm, Table
from benchmarks.loader import LoaderBenchConfig, make_bars
from benchmarks.loader_arms import Means, base_name, ways_of
from benchmarks.loader_borders import EPOCHS, borders_grid
from benchmarks.loader_pixels import pixels_grid
from benchmarks.loader_sets import Images, Source, own_files, varied
from benchmarks.loader_stages import CROPS, STAGES, WHOLE, stages_table
from benchmarks.resampling import resize, weights
from sharding.index import ShardSet
from tests.benchmarks.conftest import NUM_IMAGES, SEED, SIDE_PX
from tests.conftest import Cxr


def test_every_form_holds_the_same_images(sources: list[Source]) -> None:
    assert [source.name for source in sources] == ["PNG 128", "JPEG 128", "JPEG 64", "JPEG 32"]
    keys = [set(ShardSet.open(source.shards).column("key").tolist()) for source in sources]
    assert all(found == keys[0] for found in keys)
    assert len(keys[0]) == NUM_IMAGES
    assert sources[1].levels is not None
    assert set(ShardSet.open(sources[1].levels).column("key").tolist()) == keys[0]
    exact = {path.stem: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sources[0].files.iterdir()}
    for source in sources:
        files = sorted(source.files.iterdir())
        assert len(files) == NUM_IMAGES
        assert len(source.tars) == len(source.indexes) == 8
        for path in files:
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert image.shape == (source.side_px, source.side_px)
            small = cv2.resize(exact[path.stem], image.shape, interpolation=cv2.INTER_AREA)
            assert np.abs(small.astype(float) - image).mean() < 4


def test_own_radiographs_become_squares_that_differ(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number, shape in enumerate([(90, 70), (200, 260, 3)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), random.integers(0, 256, shape).astype(np.uint8))
    made = list(varied(Images(5, 64, 0, tmp_path)))
    assert [image.shape for image in made] == [(64, 64)] * 5
    assert len({image.tobytes() for image in made}) == 5
    with pytest.raises(ValueError, match="source: "):
        own_files(tmp_path / "..")


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_the_written_out_filter_is_pillows(kind: str) -> None:
    random = np.random.default_rng(1)
    coarse = random.integers(80, 180, (30, 30)).astype(np.uint8)  # Pillow cuts to 0 .. 255 after each of its passes
    image = cv2.resize(coarse, (200, 170), interpolation=cv2.INTER_CUBIC)
    way = Image.Resampling.BICUBIC if kind == "cubic" else Image.Resampling.BILINEAR
    for y, x, height, width in ((0, 0, 170, 200), (20, 31, 97, 120), (5, 7, 40, 30)):
        crop = np.ascontiguousarray(image[y : y + height, x : x + width])
        pillow = np.asarray(Image.fromarray(crop).resize((48, 48), way)).astype(float)
        plain = resize(image, np.array([y, x]), np.array([height, width]), 48, kind)
        assert np.abs(pillow - plain).max() < 1.5, "it rounds twice"


def test_weights_add_up_and_stay_inside() -> None:
    matrix = weights(50, 10, 30, 12, "cubic")
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert not matrix[:, :10].any()
    assert not matrix[:, 40:].any()
    image = np.arange(36.0).reshape(6, 6)
    np.testing.assert_allclose(resize(image, np.zeros(2), np.array([6, 6]), 6, "linear"), image)


def test_pixels_tell_true_filters_from_the_foil(sources: list[Source]) -> None:
    grid = pixels_grid(sources[1], 24, 5)
    off = {line[0]: float(line[2]) for line in grid.lines}
    assert off["ours, cubic"] < 0.6
    assert off["ours, linear"] < 0.6
    assert off["Pillow, cubic"] < 0.6
    assert off["torchvision v2, linear"] < 0.6
    assert off["OpenCV, INTER_LINEAR (the foil's)"] > 2 * off["ours, linear"]
    assert {"ours by the half-size level, cubic", "ours by the half-size level, linear"} < set(off)


def _idle() -> int:
    return 1


def test_bars_ask_of_each_form_what_it_can_give(sources: list[Source], means: Means) -> None:
    png = sources[0]
    asked: dict[str, set[tuple[str, float, str, float]]] = {}
    for source in sources:
        ways = {way.name: way for way in ways_of(source, png, means)}
        table = Table(source.name, tuple(Arm(name, _idle) for name in ways), base_name(png))
        asked[source.name] = {(b.arm, b.least, b.base, b.stretch) for b in make_bars(table, source, ways, png)}
    assert ("ours, levels, cubic", 8.0, "", 0.0) in asked["JPEG 128"]
    assert ("ours, cubic", 0.5, "decode alone", 0.6) in asked["JPEG 128"]
    assert ("ours, linear", 10.0, "", 12.0) in asked["JPEG 64"]
    assert ("ours, cubic", 1.0, base_name(png), 0.0) in asked["PNG 128"]
    for name in ("JPEG 128", "JPEG 64", "JPEG 32"):
        assert ("ours, cubic", 1.0, "the reference", 0.0) in asked[name]
        assert ("ours, cubic", 1.0, "litdata + torchvision v2, cubic", 0.0) in asked[name]
        assert ("ours, linear", 1.0, "DALI's own reader, linear", 0.0) in asked[name]
        assert ("ours, linear", 0.0, "webdataset + OpenCV", 1.0) in asked[name]
        assert not any(base.endswith("cubic") for arm, _, base, _ in asked[name] if arm == "ours, linear")


def test_stages_do_more_and_more(sources: list[Source], means: Means, tmp_path: Path) -> None:
    missing: list[str] = []
    stages = {name: STAGES[name] for name in (CROPS, WHOLE)}
    table = stages_table(sources[1], means, tmp_path, missing, stages=stages)
    try:
        assert missing == []
        assert table.base == WHOLE
        assert [arm.name for arm in table.arms] == ["read alone", "decode alone", CROPS, WHOLE]
        for arm in table.arms:
            assert arm.work() > 0
            assert arm.meter.memory_bytes() > 0
    finally:
        table.close()


def test_borders_are_told_from_the_inside(sources: list[Source], means: Means, tmp_path: Path) -> None:
    grid = borders_grid(sources[3], means, tmp_path, pace=0.05, peers=1)
    lines = {line[0]: line for line in grid.lines}
    assert list(lines) == ["ours", "the reference's DataLoader"]
    for line in lines.values():
        assert len(line[3].split(", ")) == EPOCHS - 1
        assert float(line[1]) >= 50, "the pace of the user"


def test_bench_loader_through_the_console(cxr: Cxr, sources: list[Source], tmp_path: Path) -> None:
    rows, work = tmp_path / "rows.json", sources[0].shards.parents[1]
    small = [
        "--seed",
        SEED,
        "--num_images",
        NUM_IMAGES,
        "--side_px",
        SIDE_PX,
        "--size_px",
        24,
        "--batch",
        4,
        "--seconds",
        0.05,
        "--num_threads",
        1,
    ]
    parts = ["--forms", "half", "--no-peers", "--no-pixels", "--no-stages", "--no-borders"]
    done = cxr("bench", "loader", "--rounds", 1, *small, *parts, "--json", rows, "--work", work)
    assert done.returncode == 0, done.stderr
    assert len(list(work.glob("loader-*"))) == 1, "made once"
    lines: list[dict[str, Any]] = [json.loads(line) for line in rows.read_text().splitlines()]
    arms = {line["arm"] for line in lines if line["kind"] == "row"}
    assert arms == {"the reference on PNG 128", "ours, cubic", "ours, linear", "decode alone"}
    assert "ours, cubic is" in done.stdout
    assert "at least 10.00 is asked" in done.stdout
    assert "the stretch is 12.00" in done.stdout


@pytest.mark.parametrize(
    ("field", "value"),
    [("seconds", 0.0), ("side_px", 32), ("batch", 0), ("num_images", 8), ("num_threads", -1), ("forms", ())],
)
def test_a_wrong_config_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field}"):
        LoaderBenchConfig(**{field: value})  # type: ignore[arg-type]
