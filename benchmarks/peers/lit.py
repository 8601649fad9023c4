"""litdata: `optimize` into its own chunks, then StreamingDataset and StreamingDataLoader.

`about`: source (folder of files), chunks (folder to make), repeat, filter, size_px, batch, workers. The images are
written `repeat` times, for its loader has no stream without end, and once more for a single pass.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litdata import StreamingDataLoader, StreamingDataset, optimize

from benchmarks.peers.augment import Views, seed_worker
from benchmarks.peers.serve import About, Batch, serve


class Images(StreamingDataset):  # type: ignore[misc]
    """Two views of every stored image."""

    def __init__(self, folder: str, views: Views) -> None:
        super().__init__(folder, shuffle=True)
        self.views = views

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        return self.views(super().__getitem__(index))


def encoded(path: str) -> bytes:
    """The item of a file: its bytes as they are."""
    return Path(path).read_bytes()


def write(about: About, repeat: int) -> str:
    """Makes the chunks, unless they are there, 64 MB each, as its documents have it; gives their folder."""
    out = Path(f"{about['chunks']}-{repeat}")
    if not (out / "index.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        paths = sorted(str(path) for path in Path(about["source"]).iterdir())
        optimize(encoded, paths * repeat, str(out), chunk_bytes="64MB", num_workers=1, verbose=False)
    return str(out)


def batches(about: About, passes: int) -> Iterator[Batch]:
    """The stream of this program."""
    folder = write(about, 1 if passes == 1 else about["repeat"])
    dataset = Images(folder, Views("tensors", about["size_px"], about["filter"]))
    options = {"num_workers": about["workers"], "worker_init_fn": seed_worker}
    loader = StreamingDataLoader(dataset, batch_size=about["batch"], persistent_workers=passes == 0, **options)
    for _ in range(1) if passes == 1 else itertools.count():
        yield from loader


if __name__ == "__main__":
    serve(batches)
