"""Several ranks of a loader as processes that agree over gloo, as in training."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

from cluster.world import World


def run_ranks(work: Callable[..., Any], size: int, folder: Path, *arguments: Any) -> list[Any]:
    """What `work(world, *arguments)` gives on each of `size` ranks; what it raises comes back as the exception."""
    folder.mkdir(parents=True)
    mp.spawn(_enter, (work, size, folder, arguments), nprocs=size)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(size)]


def _enter(rank: int, work: Callable[..., Any], size: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    try:
        result = work(World(rank, size, rank, "cpu"), *arguments)
    except Exception as error:
        traceback.print_exc()
        result = error
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()
