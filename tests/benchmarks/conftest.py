"""A few drawn radiographs in every form that the loader's bench measures."""

import pytest

from benchmarks.loader_arms import Means
from benchmarks.loader_sets import Images, Source, make_sources

NUM_IMAGES, SIDE_PX, SEED = 16, 128, 3


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """PNG 128, JPEG 128, 64 and 32 of sixteen images."""
    return make_sources(tmp_path_factory.mktemp("loader"), Images(NUM_IMAGES, SIDE_PX, SEED, None))


@pytest.fixture
def means() -> Means:
    """Small batches of small views."""
    return Means(size_px=24, batch=4, cores=1, num_threads=1, seconds=0.05, seed=1)
