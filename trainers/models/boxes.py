"""The arithmetic of boxes for a two-stage detector: anchors, offsets, matching, sampling; no loops over boxes.

Shapes: B images, M true boxes per image (padded), N anchors or proposals per image, S sampled of them.
Boxes are x_min, y_min, x_max, y_max in canvas pixels, float32. The rules are mmdetection 2.28's (see detector.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
CHUNK_ELEMENTS = 1 << 24


def widen(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def make_anchors(
    grid: Sequence[tuple[int, int]],
    strides_px: Sequence[int],
    scales: Sequence[float],
    ratios: Sequence[float],
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Anchors of each level, float32 [rows * columns * A, 4], by position and then ratio, then scale; not rounded.

    `grid` holds (rows, columns) per level. A square anchor has side scale * stride, its centre lies at
    (column * stride, row * stride); a ratio is height over width at equal area.
    """
    levels = []
    for (rows, columns), stride in zip(grid, strides_px, strict=True):
        sides = [(math.sqrt(r), s * stride) for r in ratios for s in scales]
        widths = torch.tensor([side / root for root, side in sides], dtype=torch.float32, device=device)
        heights = torch.tensor([side * root for root, side in sides], dtype=torch.float32, device=device)
        cell_A4 = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
        x = torch.arange(columns, dtype=torch.float32, device=device) * stride
        y = torch.arange(rows, dtype=torch.float32, device=device) * stride
        y_grid, x_grid = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([x_grid, y_grid, x_grid, y_grid], dim=-1).reshape(-1, 1, 4)
        levels.append((centre + cell_A4).reshape(-1, 4))
    return levels


def encode(boxes: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Offsets (dx, dy, dw, dh) that turn `references` [..., 4] into `boxes` [..., 4], times `weights`.

    Sides must be positive.
    """
    reference_size = references[..., 2:] - references[..., :2]
    size = boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - references[..., :2] - references[..., 2:]) / 2 / reference_size
    offsets = torch.cat([shift, torch.log(size / reference_size)], dim=-1)
    return offsets * torch.tensor(weights, dtype=offsets.dtype, device=offsets.device)


def decode(offsets: Tensor, references: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """The inverse of `encode`; dw and dh are clamped to +-ln(1000 / 16). [..., 4] each."""
    offsets = offsets / torch.tensor(weights, dtype=offsets.dtype, device=offsets.device)
    size = references[..., 2:] - references[..., :2]
    centre = references[..., :2] + size / 2 + offsets[..., :2] * size
    half = offsets[..., 2:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp() * size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, sizes_B2: Tensor) -> Tensor:
    """`boxes` [B, ..., 4] cut to their images; sizes_B2 is (height, width) in pixels."""
    limits = sizes_B2.flip(1).to(boxes.dtype).repeat(1, 2)
    limits = limits.reshape(limits.shape[0], *([1] * (boxes.dim() - 2)), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def pad_boxes(boxes: Sequence[Tensor], findings: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of [K, 4] and [K] -> boxes_BM4, findings_BM int64 and valid_BM, M at least 1.

    Boxes less than a pixel wide or high, or with a coordinate that is not finite, are left out, as the reference does.
    """
    most = max([1, *(len(b) for b in boxes)])
    device = boxes[0].device
    boxes_BM4 = torch.zeros(len(boxes), most, 4, device=device)
    findings_BM = torch.zeros(len(boxes), most, dtype=torch.int64, device=device)
    for i, (box, finding) in enumerate(zip(boxes, findings, strict=True)):
        boxes_BM4[i, : len(box)] = box
        findings_BM[i, : len(box)] = finding
    sides_BM2 = boxes_BM4[..., 2:] - boxes_BM4[..., :2]
    valid_BM = (sides_BM2 >= 1).all(-1) & boxes_BM4.isfinite().all(-1)
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device)
    return torch.where(valid_BM[..., None], boxes_BM4, unit), findings_BM, valid_BM


def iou(a_BM4: Tensor, b_BN4: Tensor) -> Tensor:
    """Intersection over union of every pair within an image, [B, M, N]; 0 where both are empty."""
    a, b = a_BM4[:, :, None, :], b_BN4[:, None, :, :]
    width = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp_(min=0)
    height = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp_(min=0)
    shared = width.mul_(height)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return shared / (area_a + area_b - shared).clamp(min=1e-9)


def match(
    boxes_BM4: Tensor,
    valid_BM: Tensor,
    candidates_BN4: Tensor,
    positive_iou: float,
    negative_iou: float,
    rescue_iou: float | None,
) -> tuple[Tensor, Tensor]:
    """The true box that each candidate stands for, int64 [B, N], and 1 positive, 0 negative, -1 neither, int8 [B, N].

    With `rescue_iou`, each true box whose best IoU reaches it also takes all candidates tied at that best; of two boxes
    that claim the same candidate the later one has it (mmdetection's `gt_max_assign_all`).
    """
    count, most = valid_BM.shape
    per_chunk = max(1, CHUNK_ELEMENTS // (most * max(1, candidates_BN4.shape[1])))
    owners, states = [], []
    for start in range(0, count, per_chunk):
        part = slice(start, start + per_chunk)
        valid = valid_BM[part, :, None]
        overlap = iou(boxes_BM4[part], candidates_BN4[part]).masked_fill_(~valid, -1.0)
        best_BN, owner_BN = overlap.max(dim=1)
        state_BN = torch.full_like(best_BN, -1, dtype=torch.int8)
        state_BN = state_BN.masked_fill(best_BN < negative_iou, 0).masked_fill(best_BN >= positive_iou, 1)
        if rescue_iou is not None:
            top_BM1 = overlap.amax(dim=2, keepdim=True)
            claim = (overlap == top_BM1) & (top_BM1 >= rescue_iou) & valid
            order = torch.arange(1, most + 1, device=overlap.device).view(1, -1, 1)
            claimant_BN = (claim * order).amax(dim=1)
            owner_BN = torch.where(claimant_BN > 0, claimant_BN - 1, owner_BN)
            state_BN = state_BN.masked_fill(claimant_BN > 0, 1)
        owners.append(owner_BN)
        states.append(state_BN)
    return torch.cat(owners), torch.cat(states)


def random_keys(seeds_B: Tensor, count: int) -> Tensor:
    """Pseudo-random float64 in [0, 1), [B, count]: a hash of (seed, position), the same on any device, in any batch.

    SplitMix64's finaliser (Steele, Lea, Flood 2014) in wrapping int64 arithmetic; 52 bits are kept.
    """
    position = torch.arange(1, count + 1, dtype=torch.int64, device=seeds_B.device)
    x = seeds_B.to(torch.int64)[:, None] + position * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return ((x >> 12) & ((1 << 52) - 1)).double() * 2.0**-52


def sample(state_BN: Tensor, seeds_B: Tensor, count: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Chooses up to `count` candidates per image at random: positives up to their share, the rest negatives.

    Gives positions int64 [B, S] and which of them are real, bool [B, S], S = min(count, N); without replacement.
    """
    keys = random_keys(seeds_B, state_BN.shape[1])
    most_positive = int(count * positive_share)
    rank_positive = keys.masked_fill(state_BN != 1, 2.0).argsort(dim=1).argsort(dim=1)
    positive = (state_BN == 1) & (rank_positive < most_positive)
    # Chosen positives first, then negatives by key, then the rest, which is not real.
    order = torch.where(positive, keys - 1, torch.where(state_BN == 0, keys, keys + 2))
    chosen_BS = order.topk(min(count, state_BN.shape[1]), dim=1, largest=False).indices
    real = positive.gather(1, chosen_BS) | (state_BN.gather(1, chosen_BS) == 0)
    return chosen_BS, real
