"""mosaicml-streaming: MDSWriter, then StreamingDataset in a DataLoader.

`about`: source (folder of files), chunks (folder to make), repeat, filter, size_px, batch, workers. An epoch of the
endless stream holds the images `repeat` times, by its Stream's own option.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming import MDSWriter, Stream, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader

from benchmarks.peers.augment import Views, seed_worker
from benchmarks.peers.serve import About, Batch, serve


class Images(StreamingDataset):  # type: ignore[misc]
    """Two views of every stored image."""

    def __init__(self, views: Views, **options: Any) -> None:
        super().__init__(shuffle=True, **options)
        self.views = views

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        return self.views(super().__getitem__(index)["image"])


def write(about: About) -> None:
    """Makes the shards, unless they are there: not compressed, for JPEG and PNG are; 64 MB each, its default."""
    out = Path(about["chunks"])
    if (out / "index.json").exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    with MDSWriter(out=str(out), columns={"image": "bytes"}) as writer:
        for path in sorted(Path(about["source"]).iterdir()):
            writer.write({"image": path.read_bytes()})


def batches(about: About, passes: int) -> Iterator[Batch]:
    """The stream of this program."""
    write(about)
    clean_stale_shared_memory()
    streams = [Stream(local=about["chunks"], repeat=1 if passes == 1 else about["repeat"])]
    views = Views("tensors", about["size_px"], about["filter"])
    dataset = Images(views, streams=streams, batch_size=about["batch"], num_canonical_nodes=1)
    options = {"num_workers": about["workers"], "worker_init_fn": seed_worker}
    loader: Any = DataLoader(dataset, batch_size=about["batch"], persistent_workers=passes == 0, **options)
    for _ in range(1) if passes == 1 else itertools.count():
        yield from loader


if __name__ == "__main__":
    serve(batches)
