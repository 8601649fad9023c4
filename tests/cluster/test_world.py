"""Who I am among the ranks."""

import re

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from cluster import world
from cluster.world import World, current_world, world_from


def test_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_TORCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    me = current_world()
    assert (me.rank, me.size, me.local_rank, me.is_main) == (0, 1, 0, True)
    assert world_from({}, 0).device == "cpu"
    assert world_from({}, 4).device == "cuda:0"
    assert world_from({"RANK": "3"}, 0) == World(0, 1, 0, "cpu")  # half a launcher is none


@given(st.integers(0, 63), st.integers(1, 64), st.integers(0, 8))
def test_a_launcher_is_believed(rank: int, size: int, num_gpus: int) -> None:
    environment = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank % 8)}
    if rank >= size:
        with pytest.raises(ValueError, match="below the size"):
            world_from(environment, num_gpus)
    elif 0 < num_gpus <= rank % 8:
        with pytest.raises(ValueError, match=f"LOCAL_RANK is {rank % 8}"):
            world_from(environment, num_gpus)
    else:
        device = f"cuda:{rank % 8}" if num_gpus else "cpu"
        assert world_from(environment, num_gpus) == World(rank, size, rank % 8, device)


def test_ray_names_the_device() -> None:
    """Two workers with one GPU each share CUDA_VISIBLE_DEVICES: the second's device is not by its local rank alone."""
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_TORCH_DEVICE": "cuda:3"}
    assert world_from(environment, 4).device == "cuda:3"
    assert world_from({**environment, "ACCELERATE_TORCH_DEVICE": "cpu"}, 4).device == "cpu"
    assert world_from({**environment, "ACCELERATE_TORCH_DEVICE": "cuda"}, 1).device == "cuda:0"


@pytest.mark.parametrize(("name", "value"), [("RANK", "one"), ("WORLD_SIZE", "-2"), ("LOCAL_RANK", "")])
def test_nonsense_is_named(name: str, value: str) -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", name: value}
    with pytest.raises(ValueError, match=f"{name} in the environment is {re.escape(repr(value))}"):
        world_from(environment, 0)


def test_a_group_of_one_needs_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    world.open_process_group(World(0, 1, 0, "cpu"))
    try:
        world.open_process_group(World(0, 1, 0, "cpu"))  # again: nothing happens
        total = torch.tensor([2.0])
        dist.all_reduce(total)
        assert total.item() == 2.0
        assert dist.get_world_size() == 1
    finally:
        world.close_process_group()
    world.close_process_group()
    assert not dist.is_initialized()


def test_the_timeout_reaches_groups_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import distributed_c10d

    monkeypatch.setattr(distributed_c10d, "default_pg_timeout", distributed_c10d.default_pg_timeout)
    monkeypatch.setattr(distributed_c10d, "default_pg_nccl_timeout", distributed_c10d.default_pg_nccl_timeout)
    monkeypatch.setenv("DEEPSPEED_TIMEOUT", "30")
    world.set_timeout(90)
    assert distributed_c10d._get_default_timeout("gloo").total_seconds() == 90
    assert distributed_c10d._get_default_timeout("nccl").total_seconds() == 90
