"""webdataset's WebLoader over tars. `about`: tars, ending, way, filter, size_px, batch, workers.

The shards are sampled with replacement in the endless stream, as its documents advise for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import webdataset

from benchmarks.peers.augment import Views, seed_worker
from benchmarks.peers.serve import About, Batch, serve


def batches(about: About, passes: int) -> Iterator[Batch]:
    """The stream of this program."""
    views = Views(about["way"], about["size_px"], about["filter"])
    endless = passes == 0
    dataset = webdataset.WebDataset(
        about["tars"], resampled=endless, shardshuffle=False if endless else len(about["tars"]), empty_check=False
    )
    stages = dataset.shuffle(about["shuffle"]).to_tuple(about["ending"]).map(lambda sample: views(sample[0]))
    loader = webdataset.WebLoader(
        stages.batched(about["batch"], collation_fn=collate, partial=not endless),
        batch_size=None,
        num_workers=about["workers"],
        worker_init_fn=seed_worker,
    )
    yield from loader


def collate(samples: list[tuple[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of the views' tensors or arrays; a worker's tensors travel through shared memory."""
    first, second = zip(*samples, strict=True)
    return stack(first), stack(second)


def stack(views: tuple[Any, ...]) -> torch.Tensor:
    """Views one behind another."""
    return torch.stack(views) if isinstance(views[0], torch.Tensor) else torch.from_numpy(np.stack(views))


if __name__ == "__main__":
    serve(batches)
