"""This project's loader as a program of its own, so that it takes turns with the peers as they do.

`about`: shards (folders), batch, threads, seed, device, view (fields of TwoViewConfig), data (fields of DataConfig).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.serve import About, Batch, serve
from cluster.world import World
from loaders.config import DataConfig
from loaders.loader import open_pretrain_loader
from loaders.views import TwoViewConfig


def batches(about: About, passes: int) -> Iterator[Batch]:
    """The stream of this program."""
    data = DataConfig(
        shards=tuple(Path(folder) for folder in about["shards"]),
        num_threads=about["threads"],
        drop_last=passes == 0,
        **about.get("data", {}),
    )
    view = TwoViewConfig(**about["view"])
    world = World(0, 1, 0, about.get("device", "cpu"))
    loader = open_pretrain_loader(data, view, about["batch"], about["seed"], world)
    with loader:
        for batch in loader.epoch() if passes == 1 else loader:
            yield batch.views


if __name__ == "__main__":
    serve(batches)
