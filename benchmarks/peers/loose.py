"""A DataLoader over loose files: the reference's way.

`about`: folder, way, filter, size_px, batch, workers, persistent.

"persistent" absent: one sampler without end, so that no epoch ends. With "persistent" (true or false), epochs as the
reference has them, one after another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks.peers.augment import Views, seed_worker
from benchmarks.peers.serve import About, Batch, serve


class Files(Dataset[Any]):
    """Two views of every file of a folder."""

    def __init__(self, folder: Path, views: Views) -> None:
        self.paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
        self.views = views

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.views(self.paths[index].read_bytes())


class Unending(Sampler[int]):
    """One permutation after another."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.number).tolist()


def batches(about: About, passes: int) -> Iterator[Batch]:
    """The stream of this program."""
    files = Files(Path(about["folder"]), Views(about["way"], about["size_px"], about["filter"]))
    workers = about["workers"]
    options: dict[str, Any] = {"batch_size": about["batch"], "num_workers": workers, "worker_init_fn": seed_worker}
    if passes == 1:
        yield from DataLoader(files, shuffle=True, **options)
    elif "persistent" in about:
        loader = DataLoader(
            files, shuffle=True, drop_last=True, persistent_workers=about["persistent"] and workers > 0, **options
        )
        for _ in itertools.count():
            yield from loader
    else:
        yield from DataLoader(files, sampler=Unending(len(files)), **options)


if __name__ == "__main__":
    serve(batches)
