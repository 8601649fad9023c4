"""What the tests let Ray's workers do: importable there by name."""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from cluster import door, workers, world
from cluster.scale import ScaleConfig
from cluster.tasks import map_tasks
from tests.cluster.work_for_tasks import square, wait_for_ever


@dataclass(frozen=True, slots=True)
class JobConfig:
    """Where the ranks write, and which rank fails how."""

    out: Path
    """folder"""
    fail: str = ""
    """"", "value", "nan", "runtime", "once" or "killed" """
    num_steps: int = 2
    """reports"""


def sum_ranks(config: JobConfig) -> None:
    """Each rank writes what the sum over the ranks of (rank + 1) is, and where it ran."""
    me = world.current_world()
    (config.out / f"started-{os.getpid()}").touch()
    world.open_process_group(me)
    total = torch.tensor([me.rank + 1.0])
    dist.all_reduce(total)
    if config.fail == "value" and me.rank == me.size - 1:
        raise ValueError("data.shards is 'nowhere': there is no such folder")
    if config.fail == "nan" and me.rank == me.size - 1:
        raise FloatingPointError("the loss is nan at step 3")
    if config.fail == "runtime" and me.rank == 0:
        raise RuntimeError("the loss is not finite at step 3")
    attempts = len(list(config.out.glob("attempt-*")))
    if config.fail == "once" and me.is_main and attempts == 0:
        (config.out / "attempt-0").touch()
        raise RuntimeError("lost once")
    if config.fail == "killed" and not me.is_main and attempts == 0:
        (config.out / "attempt-0").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    for step in range(config.num_steps):
        checkpoint = config.out / "checkpoints" / f"step-{step:08d}"
        if me.is_main:
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "manifest.json").write_text("{}")
        workers.report({"step": float(step)}, checkpoint if me.is_main else None)
    told = {
        "rank": me.rank,
        "size": me.size,
        "device": me.device,
        "sum": total.item(),
        "cwd": os.getcwd(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "mark": os.environ.get("CXR_TEST_MARK"),
        "process": os.getpid(),
    }
    (config.out / f"rank-{me.rank}.json").write_text(json.dumps(told))
    world.close_process_group()


@dataclass(frozen=True, slots=True)
class EndlessConfig:
    """Nothing to choose."""

    workers: int = 2
    """Ray workers"""


def train_for_ever(config: EndlessConfig) -> None:
    """Two workers that never end."""
    run_dir = Path(os.environ["CXR_TEST_FOLDER"]) / "run"
    workers.run_on_workers(wait_for_ever, 0, ScaleConfig(workers=config.workers), run_dir)


def main() -> None:
    """As a command: so many workers, then tasks where there is a cluster; or, without words, for ever."""
    if len(sys.argv) == 1:
        sys.exit(door.enter("cxr endless", EndlessConfig, train_for_ever, []))
    out, num_workers = Path(sys.argv[1]), int(sys.argv[2])
    workers.run_on_workers(sum_ranks, JobConfig(out), ScaleConfig(workers=num_workers), out)
    if not num_workers:
        return
    squares = [result for result, _ in map_tasks(square, range(5), 0)]
    (out / "squares.json").write_text(json.dumps(squares))


if __name__ == "__main__":
    from tests.cluster.jobs_for_workers import main

    main()
