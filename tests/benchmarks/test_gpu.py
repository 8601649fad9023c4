"""What needs a GPU runs on the processor too, at a tiny size, so that it is known to run."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_config import GpuBenchConfig
from benchmarks.gpu_loader import take_ready
from benchmarks.gpu_use import DecoderUse
from benchmarks.loader_sets import Source
from cluster.world import World
from loaders.config import DataConfig
from loaders.loader import open_pretrain_loader
from loaders.views import TwoViewConfig
from trainers.models.barlow_twins import BarlowTwinsConfig
from trainers.models.encoder import EncoderConfig

TINY = GpuBenchConfig(
    device="cpu",
    rounds=1,
    seconds=0.05,
    num_images=16,
    side_px=128,
    size_px=32,
    batch=4,
    num_threads=1,
    loads=(0.0, 1.0),
    steps=2,
    forms=("half",),
    encoder=EncoderConfig(name="resnet10", channels=1),
    model=BarlowTwinsConfig(projector=(16, 16)),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the parts find each other's images."""
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch's threads wait in loops, which takes tiny operators long on cores that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("part", gpu.PARTS, ids=lambda part: str(part.__name__))
def test_a_part_gives_tables(part: gpu.Part, work: Path) -> None:
    grids = list(part(TINY, work))
    assert grids
    for grid in grids:
        assert grid.lines
        assert all(len(line) == len(grid.headings) for line in grid.lines)
        assert grid.name in grid.text()


def test_a_turn_with_real_data_begins_with_nothing_ready(sources: list[Source]) -> None:
    data = DataConfig(shards=(sources[2].shards,), num_threads=1)
    with open_pretrain_loader(data, TwoViewConfig(size_px=32), 16, 1, World(0, 1, 0, "cpu")) as loader:
        next(loader)
        time.sleep(0.5)  # the loader works ahead
        next(loader)
        assert loader.last_wait_seconds < 0.001
        take_ready(loader, 0.001)
        assert loader.last_wait_seconds > 0.001


def test_without_a_gpu_it_says_so_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines() == ["benchmarks.gpu: torch sees no GPU here: nothing was measured"]
    assert said.out == ""


def test_a_driver_that_tells_nothing_is_no_figure() -> None:
    assert DecoderUse("cpu").percent() is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("device", "gpu"), ("seconds", 0.0), ("loads", (2.0,)), ("num_images", 3), ("steps", 1), ("forms", ())],
)
def test_a_wrong_config_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field}"):
        GpuBenchConfig(**{field: value})  # type: ignore[arg-type]
