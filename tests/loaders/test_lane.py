"""The loader's stream: nothing on a CPU; on a GPU, batches come while another stream is busy."""

import time
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch

from loaders.arguments import view_arguments
from loaders.draws import whole_view
from loaders.lane import Lane, complete
from loaders.options import PipelineOptions
from loaders.pipeline import views_pipeline
from loaders.views import WholeViewConfig

Gray = npt.NDArray[np.uint8]


def test_on_a_cpu_it_is_nothing() -> None:
    with Lane("cpu").on():
        made = torch.ones(3)
    complete(made.device)
    assert made.sum() == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_chunks_come_while_training_is_busy(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    images, encoded = radiographs
    config, sizes = WholeViewConfig(size_px=96), np.array([image.shape for image in images])
    arguments = view_arguments(config, [whole_view(sizes)], sizes, sizes, "cuda:0")
    chunks = iter([(encoded, arguments)] * 8)
    pipeline = views_pipeline(config, partial(next, chunks), PipelineOptions("cuda:0", 2, 8))
    lane = Lane("cuda:0")

    def run() -> torch.Tensor:
        with lane.on():
            out = torch.empty((8, 96, 96, 1), dtype=torch.uint8, device="cuda:0")
            pipeline.run([out])
        return out

    first = run()
    training = torch.cuda.current_stream()
    torch.cuda._sleep(10_000_000_000)  # type: ignore[no-untyped-call]  # some seconds of the default stream
    start = time.perf_counter()
    others = [run() for _ in range(4)]
    took = time.perf_counter() - start
    assert not training.query(), "training went on meanwhile"
    training.synchronize()
    assert took < 1
    assert all(torch.equal(first, other) for other in others)
