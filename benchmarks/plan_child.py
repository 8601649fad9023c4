"""One start of a loader over many rows, as a process of its own, so that its memory is its own.

First argument: JSON with shards (a folder), steps, plan_batch, read_batch, batch, seed. Prints one JSON object: seconds
of each thing, and the peak of memory after it.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.loader_read import wanted_of
from benchmarks.usage import peak_bytes
from cluster.world import World
from loaders.config import DataConfig
from loaders.failures import BadSampleError
from loaders.loader import open_pretrain_loader
from loaders.options import PipelineOptions
from loaders.plan import Plan
from loaders.selection import Selection, select
from loaders.store import Store, StoreOptions
from loaders.tasks import planned, pretrain_task
from loaders.views import TwoViewConfig


def start(about: dict[str, Any]) -> dict[str, float]:
    """Opens a loader and takes its first batch: seconds of both, and the peak of memory."""
    data = DataConfig(shards=(Path(about["shards"]),))
    began = time.perf_counter()
    loader = open_pretrain_loader(data, TwoViewConfig(), about["batch"], about["seed"], World(0, 1, 0, "cpu"))
    opened = time.perf_counter()
    with loader:
        assert len(next(loader).rows) == about["batch"]
    return {
        "open_seconds": opened - began,
        "first_batch_seconds": time.perf_counter() - opened,
        "start_seconds": time.perf_counter() - began,
        "peak_bytes": peak_bytes(),
    }


def steps(about: dict[str, Any]) -> dict[str, float]:
    """Plans global batches with all their parameters, half of them in a second epoch, with the arrays that a GPU's
    pipeline takes and with those of a CPU's; reads some of their images."""
    selection = select([Path(about["shards"])], ("train",), None, True, 0)
    size, seed, world = min(about["plan_batch"], len(selection.rows_N)), about["seed"], World(0, 1, 0, "cpu")
    plan = Plan(selection.digests_N, selection.levels[0].shard_N, seed, size, True, 8)
    pick = partial(planned, plan, world)
    gpu, processor = (  # what is prepared for a GPU needs none
        pretrain_task(selection, TwoViewConfig(), seed, pick, PipelineOptions(device, 1, 1))
        for device in ("cuda:0", "cpu")
    )
    half = about["steps"] // 2
    took: list[float] = []
    on_cpu: list[float] = []
    picking: list[float] = []
    cpu: list[float] = []
    places: list[npt.NDArray[np.int64]] = []
    for epoch in (0, 1):
        picks = pick(epoch, 0)
        for _ in range(half):
            began, cpu_began = time.perf_counter(), time.thread_time()
            picked = next(picks)
            picking.append(time.perf_counter() - began)
            gpu.prepare(picked)
            took.append(time.perf_counter() - began)
            cpu.append(time.thread_time() - cpu_began)
            began = time.perf_counter()
            processor.prepare(picked)
            on_cpu.append(picking[-1] + time.perf_counter() - began)
            places.append(picked.positions_n[: about["read_batch"]])
    read = reads(selection, places[:20])
    inside = took[1:half] + took[half + 1 :]
    return {
        "plan_first_seconds": took[0],
        "plan_seconds": float(np.median(inside)),
        "plan_cpu_seconds": float(np.median(cpu)),
        "plan_for_cpu_seconds": float(np.median(on_cpu)),
        "plan_rows_seconds": float(np.median(picking)),
        "plan_epoch_seconds": took[half],
        "plan_worst_seconds": max(inside),
        "read_first_seconds": read[0],
        "read_seconds": float(np.median(read[1:])),
        "peak_bytes": peak_bytes(),
    }


def reads(selection: Selection, places: list[npt.NDArray[np.int64]]) -> list[float]:
    """Seconds of reading each of these batches, one after another."""
    store = Store(selection.shards, selection.key_of, StoreOptions())
    took: list[float] = []
    for positions_n in places:
        began = time.perf_counter()
        results = store.submit(wanted_of(selection, positions_n)).result()
        took.append(time.perf_counter() - began)
        assert not any(isinstance(result, BadSampleError) for result in results)
    store.close()
    return took


def main() -> None:
    """The program."""
    about = json.loads(sys.argv[1])
    found = start(about) if about["what"] == "start" else steps(about)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
