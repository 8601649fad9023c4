"""Who I am among the ranks: the only reader of RANK and WORLD_SIZE, and the one place that opens a process group."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

DEFAULT_TIMEOUT_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class World:
    """One rank's place. `device` is "cpu" or "cuda:<index among the visible GPUs>"."""

    rank: int
    size: int
    local_rank: int
    device: str

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and speaks."""
        return self.rank == 0


def is_launched() -> bool:
    """True where a launcher (torchrun, Ray Train) has made this process one of several ranks."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _read_count(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise ValueError(f"{name} in the environment is {text!r}: it must be a whole number (set by the launcher)")
    return int(text)


def world_from(environment: Mapping[str, str], num_gpus: int) -> World:
    """The world that a launcher's variables describe on a node with `num_gpus` visible GPUs; alone without them.

    Ray Train shares CUDA_VISIBLE_DEVICES among the workers of a node and names each worker's own device in
    ACCELERATE_TORCH_DEVICE, which therefore wins over LOCAL_RANK. Raises ValueError for variables that contradict
    each other and for more ranks on a node than GPUs.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return World(0, 1, 0, "cuda:0" if num_gpus else "cpu")
    rank, size = _read_count(environment, "RANK"), _read_count(environment, "WORLD_SIZE")
    local_rank = _read_count(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else 0
    if not rank < size:
        raise ValueError(f"RANK is {rank} and WORLD_SIZE is {size} in the environment: a rank is below the size")
    device = environment.get("ACCELERATE_TORCH_DEVICE", "")
    if not device:
        if num_gpus and local_rank >= num_gpus:
            raise ValueError(
                f"LOCAL_RANK is {local_rank} but this machine shows {num_gpus} GPU(s): start at most {num_gpus} "
                "processes per machine, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
            )
        device = f"cuda:{local_rank}" if num_gpus else "cpu"
    return World(rank, size, local_rank, "cuda:0" if device == "cuda" else device)


def current_world() -> World:
    """This process's world: from RANK, WORLD_SIZE and LOCAL_RANK where launched, else alone (rank 0 of 1)."""
    return world_from(os.environ, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def backend_for(device: str) -> str:
    """gloo on the CPU; on a GPU nccl, with gloo beside it for what lies on the CPU."""
    return "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"


def set_timeout(seconds: int) -> None:
    """Bounds every process group opened from now on, those that libraries open by themselves included.

    Their default is 30 minutes whatever the first group was given, so the defaults themselves are replaced.
    """
    timeout = timedelta(seconds=seconds)
    distributed_c10d.default_pg_timeout = timeout
    if hasattr(distributed_c10d, "default_pg_nccl_timeout"):
        distributed_c10d.default_pg_nccl_timeout = timeout
    os.environ["DEEPSPEED_TIMEOUT"] = str(max(1, -(-seconds // 60)))  # minutes


def open_process_group(world: World, timeout_seconds: int | None = None) -> None:
    """Opens torch.distributed's default group; does nothing where one is open (Ray Train opens it before us).

    Launched: rendezvous by MASTER_ADDR and MASTER_PORT. Alone: a store inside this process, no port.
    `timeout_seconds` None: the last `set_timeout`, 30 minutes without one.
    """
    if world.device != "cpu":
        torch.cuda.set_device(torch.device(world.device))
    if dist.is_initialized():
        return
    timeout = distributed_c10d.default_pg_timeout if timeout_seconds is None else timedelta(seconds=timeout_seconds)
    backend = backend_for(world.device)
    if is_launched():
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=timeout)
    else:
        dist.init_process_group(
            backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1, timeout=timeout
        )


def close_process_group() -> None:
    """Closes the default group if one is open."""
    if dist.is_initialized():
        dist.destroy_process_group()
