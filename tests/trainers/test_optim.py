"""LARS against plain NumPy; the schedule at its corners; what gets decay and adaptation."""

import numpy as np
import pytest
import torch

from tests.references.barlow_twins import lars
from trainers.optim import LARS, OptimConfig, build_optimizer, parameter_groups, rate_factor, set_rates


def test_lars_equals_plain_numpy_over_20_steps() -> None:
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(4, 3)), rng.normal(size=5)
    gradients = [(rng.normal(size=(4, 3)), rng.normal(size=5)) for _ in range(20)]
    params = [torch.nn.Parameter(torch.tensor(x)) for x in (weight, bias)]
    optimizer = LARS(
        [{"params": params[:1], "weight_decay": 0.01}, {"params": params[1:], "adapt": False}], lr=0.3, momentum=0.9
    )
    for pair in gradients:
        for p, g in zip(params, pair, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
    expected_w = lars(weight, [g[0] for g in gradients], 0.3, 0.01, 0.9, 0.001)
    expected_b = lars(bias, [g[1] for g in gradients], 0.3, 0.0, 0.9, 0.001)
    np.testing.assert_allclose(params[0].detach().numpy(), expected_w, rtol=1e-10)
    np.testing.assert_allclose(params[1].detach().numpy(), expected_b, rtol=1e-10)


def test_a_zero_parameter_moves() -> None:
    p = torch.nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.ones(2, 2)
    LARS([{"params": [p]}], lr=0.1).step()
    assert torch.equal(p, torch.full((2, 2), -0.1))


def test_one_dimensional_parameters_have_their_own_rate_and_no_decay() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module[0].weight.requires_grad_(True)
    wide, flat = parameter_groups(module, OptimConfig(), 512)
    assert [tuple(p.shape) for p in wide["params"]] == [(4, 3)]
    assert len(flat["params"]) == 3
    assert wide["lr"] == pytest.approx(0.4)
    assert flat["lr"] == pytest.approx(0.0096)
    assert flat["weight_decay"] == 0
    assert not flat["adapt"]


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_every_optimizer_learns(name: str) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 1)
    optimizer = build_optimizer(module, OptimConfig(name=name, lr=0.5, lr_batch=0, eta=0.1), 1)  # type: ignore[arg-type]
    x = torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
    losses = []
    for step in range(60):
        set_rates(optimizer, rate_factor(OptimConfig(warmup_epochs=0), step, 60, 60))
        loss = (module(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_schedule_is_the_papers_at_every_step() -> None:
    config = OptimConfig(warmup_epochs=10, final_ratio=0.001)
    num_steps, warmup = 1000, 100
    for step in range(num_steps):
        got = rate_factor(config, step, num_steps, 10)
        if step < warmup:
            want = step / warmup
        else:
            q = 0.5 * (1 + np.cos(np.pi * (step - warmup) / (num_steps - warmup)))
            want = q + (1 - q) * 0.001
        assert got == pytest.approx(want, abs=1e-12)


def test_warmup_longer_than_the_run_stays_below_the_peak() -> None:
    config = OptimConfig(warmup_epochs=10)
    assert [rate_factor(config, s, 4, 1) for s in range(4)] == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("lr", value) for value in (-1, 0, float("nan"), float("inf"))),
        *(("weight_decay", -1), ("warmup_epochs", -1), ("momentum", 5), ("eta", 0), ("final_ratio", 2)),
    ],
)
def test_nonsense_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"optim.{field}"):
        OptimConfig(**{field: value})
