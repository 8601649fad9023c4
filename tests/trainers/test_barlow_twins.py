"""The loss against plain NumPy, and W ranks against one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.references.barlow_twins import barlow_twins_loss as reference_loss
from tests.references.barlow_twins import numerical_gradient
from trainers.models.barlow_twins import BarlowTwins, BarlowTwinsConfig, barlow_twins_loss
from trainers.models.encoder import EncoderConfig
from trainers.models.global_norm import use_global_norm
from trainers.optim import OptimConfig, build_optimizer

SHARES = {1: [12], 2: [7, 5], 3: [5, 4, 3]}


def test_loss_and_gradient_equal_plain_numpy() -> None:
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(9, 5)), rng.normal(size=(9, 5)) * 3 + 1
    z1_t = torch.tensor(z1, requires_grad=True)
    result = barlow_twins_loss(z1_t, torch.tensor(z2), 9, 0.0051)
    result.loss.backward()
    assert float(result.loss.detach()) == pytest.approx(reference_loss(z1, z2, 0.0051), rel=1e-9)
    np.testing.assert_allclose(z1_t.grad.numpy(), numerical_gradient(z1, z2, 0.0051), rtol=1e-5, atol=1e-8)


def test_a_batch_of_equal_images_gives_a_finite_loss() -> None:
    z = torch.ones(8, 4, requires_grad=True)
    result = barlow_twins_loss(z, z, 8, 0.0051)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert torch.isfinite(z.grad).all()


def test_the_loss_stays_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = barlow_twins_loss(torch.randn(8, 4).bfloat16(), torch.randn(8, 4).bfloat16(), 8, 0.0051)
    assert result.loss.dtype == torch.float32


def test_thirty_steps_on_one_batch_bring_the_loss_down() -> None:
    torch.manual_seed(0)
    model = BarlowTwins(EncoderConfig("resnet10", 1), BarlowTwinsConfig((64, 64)))
    optimizer = build_optimizer(model, OptimConfig("adamw", lr=1e-3, lr_1d=0, lr_batch=0, warmup_epochs=0), 16)
    images = torch.randint(0, 256, (16, 8, 8, 1)).repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    losses = []
    for _ in range(30):
        result = model(images, images.flip(2), 16)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(float(result.loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def _convert_frozen(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/frozen", 2), rank=rank, world_size=2)
    norm = torch.nn.BatchNorm2d(3).requires_grad_(False).eval()
    module = use_global_norm(torch.nn.Sequential(norm, torch.nn.BatchNorm2d(3)))
    assert module[0].weight is norm.weight
    assert module[0].running_var is norm.running_var
    assert not module[0].weight.requires_grad
    assert not module[0].training
    assert module[1].weight.requires_grad
    dist.destroy_process_group()


def test_frozen_norms_stay_frozen_over_several_ranks(tmp_path: Path) -> None:
    mp.spawn(_convert_frozen, args=(str(tmp_path),), nprocs=2)


def _three_steps(rank: int, shares: list[int], folder: str) -> None:
    torch.set_num_threads(1)
    world = len(shares)
    store = dist.FileStore(f"{folder}/store{world}", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.manual_seed(0)
    model = BarlowTwins(EncoderConfig("resnet10", 1), BarlowTwinsConfig((16, 8)))
    model = use_global_norm(model).double()
    optimizer = build_optimizer(model, OptimConfig(lr=0.5, warmup_epochs=0), 12)
    views = torch.randint(0, 256, (3, 2, 12, 32, 32, 1), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    begin = sum(shares[:rank])
    losses = []
    for step in range(3):
        mine = views[step, :, begin : begin + shares[rank]]
        result = model(mine[0], mine[1], 12)
        optimizer.zero_grad()
        result.loss.backward()
        for p in model.parameters():
            dist.all_reduce(p.grad)
            p.grad /= world
        optimizer.step()
        losses.append(float(result.loss.detach()))
    if rank == 0:
        torch.save({"losses": losses, "state": model.state_dict()}, f"{folder}/w{world}.pt")
    dist.destroy_process_group()


def test_ranks_with_uneven_shares_equal_one_rank(tmp_path: Path) -> None:
    """Loss, weights and running statistics after three LARS steps in float64, to 1e-9."""
    for shares in SHARES.values():
        mp.spawn(_three_steps, args=(shares, str(tmp_path)), nprocs=len(shares))
    one = torch.load(tmp_path / "w1.pt")
    for world in (2, 3):
        many = torch.load(tmp_path / f"w{world}.pt")
        assert many["losses"] == pytest.approx(one["losses"], rel=1e-9)
        for name, value in one["state"].items():
            torch.testing.assert_close(many["state"][name], value, rtol=1e-8, atol=1e-10, msg=name)
