"""The arithmetic of boxes against plain loops and torchvision's own."""

import numpy as np
import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.references.assigner import assign
from trainers.models import boxes as bx


def draw_boxes(seed: int, count: int, grid: int = 0) -> Tensor:
    """Random boxes; on a coarse grid, so that many overlaps are equal, where `grid` is given."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (count, 2))
    size = rng.uniform(2, 40, (count, 2))
    if grid:
        corner, size = corner // grid * grid, size // grid * grid + grid
    return torch.tensor(np.concatenate([corner, corner + size], 1), dtype=torch.float32)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_decode_undoes_encode(seed: int) -> None:
    boxes, references = draw_boxes(seed, 9), draw_boxes(seed + 1, 9)
    weights = (10.0, 10.0, 5.0, 5.0)
    torch.testing.assert_close(
        bx.decode(bx.encode(boxes, references, weights), references, weights), boxes, rtol=1e-4, atol=1e-3
    )


def test_decode_clamps_the_growth_on_both_sides() -> None:
    reference = torch.tensor([0.0, 0.0, 16.0, 16.0])
    wide = bx.decode(torch.tensor([0.0, 0.0, 99.0, -99.0]), reference, (1.0, 1.0, 1.0, 1.0))
    assert (wide[2] - wide[0]).item() == pytest.approx(1000, rel=1e-4)
    assert (wide[3] - wide[1]).item() == pytest.approx(0.256, rel=1e-4)


def test_iou_equals_torchvisions() -> None:
    a, b = draw_boxes(0, 7), draw_boxes(1, 11)
    torch.testing.assert_close(bx.iou(a[None], b[None])[0], torchvision.ops.box_iou(a, b))


@given(st.integers(0, 10**6), st.integers(0, 5), st.sampled_from([None, 0.3, 0.6]), st.sampled_from([0, 8]))
@settings(max_examples=60, deadline=None)
def test_matching_equals_the_plain_loop(seed: int, num_boxes: int, rescue: float | None, grid: int) -> None:
    boxes, candidates = draw_boxes(seed, num_boxes, grid), draw_boxes(seed + 1, 25, grid)
    padded, _, valid = bx.pad_boxes([boxes, draw_boxes(seed + 2, 6)], [torch.zeros(num_boxes), torch.zeros(6)])
    owner, state = bx.match(padded, valid, candidates.expand(2, -1, -1), 0.7, 0.3, rescue)
    owners, states = assign(boxes.tolist(), candidates.tolist(), 0.7, 0.3, rescue)
    assert state[0].tolist() == states
    positive = [i for i, s in enumerate(states) if s == 1]
    assert [owner[0, i].item() for i in positive] == [owners[i] for i in positive]


def test_matching_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    padded, _, valid = bx.pad_boxes([draw_boxes(i, i) for i in range(5)], [torch.zeros(i) for i in range(5)])
    candidates = torch.stack([draw_boxes(10 + i, 30) for i in range(5)])
    whole = bx.match(padded, valid, candidates, 0.5, 0.5, 0.3)
    monkeypatch.setattr(bx, "CHUNK_ELEMENTS", 250)
    parts = bx.match(padded, valid, candidates, 0.5, 0.5, 0.3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_degenerate_boxes_are_left_out() -> None:
    bad = [[0, 0, 0.5, 9], [5, 5, 2, 9], [0, 0, float("nan"), 9], [1, 1, 4, 4]]
    _, _, valid = bx.pad_boxes([torch.tensor(bad)], [torch.zeros(4)])
    assert valid.tolist() == [[False, False, False, True]]


def test_anchors_follow_the_strides_and_are_not_rounded() -> None:
    levels = bx.make_anchors([(56, 56), (4, 4)], (4, 64), (8.0,), (0.5, 1.0, 2.0))
    assert [len(a) for a in levels] == [56 * 56 * 3, 4 * 4 * 3]
    first = levels[0][0]
    assert (first[2] - first[0]).item() == pytest.approx(45.2548, abs=1e-3)
    assert (first[3] - first[1]).item() == pytest.approx(22.6274, abs=1e-3)
    centre = (levels[1][-1][:2] + levels[1][-1][2:]) / 2
    assert centre.tolist() == pytest.approx([192.0, 192.0])


def test_keys_are_uniform_and_do_not_depend_on_the_batch() -> None:
    seeds = torch.tensor([1, 2, -5, 2**62])
    keys = bx.random_keys(seeds, 20_000)
    assert torch.equal(keys[2], bx.random_keys(seeds[2:3], 20_000)[0])
    assert 0 <= keys.min() < keys.max() < 1
    assert len(keys.unique()) == keys.numel()
    histogram = torch.histc(keys, 10, 0, 1) / keys.numel()
    assert (histogram - 0.1).abs().max() < 0.005
    correlation = torch.corrcoef(torch.cat([keys, keys.roll(1, 1)]))
    assert (correlation - torch.eye(8)).abs().max() < 0.03


@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_sampling_takes_what_there_is(seed: int, num_positive: int, num_negative: int) -> None:
    state = torch.full((1, 100), -1, dtype=torch.int8)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    state[0, order[:num_positive]] = 1
    state[0, order[num_positive : num_positive + num_negative]] = 0
    chosen, real = bx.sample(state, torch.tensor([seed]), 32, 0.25)
    picked = chosen[0][real[0]]
    positives = min(num_positive, 8)
    assert (state[0, picked] == 1).sum() == positives
    assert (state[0, picked] == 0).sum() == min(num_negative, 32 - positives)
    assert len(picked.unique()) == len(picked)


def test_every_candidate_is_sampled_equally_often() -> None:
    state = torch.tensor([[1] * 10 + [0] * 30], dtype=torch.int8).expand(4000, -1)
    chosen, real = bx.sample(state, torch.arange(4000), 8, 0.5)
    assert real.all()
    share = torch.bincount(chosen.flatten(), minlength=40) / 4000
    assert (share[:10] - 0.4).abs().max() < 0.04
    assert (share[10:] - 4 / 30).abs().max() < 0.03
