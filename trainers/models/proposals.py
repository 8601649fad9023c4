"""Stage one: where something may be. Anchors are scored and refined; the best survive as proposals.

Shapes: B images, M true boxes per image (padded), N anchors, P proposals (padded), 4 box sides.
torchvision's `RPNHead` under its name (`head`); the rules around it are mmdetection's (see detector.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms

from trainers.models import boxes as bx

UNIT = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class ProposalSettings:
    """How anchors are laid out, learned from and thinned out."""

    strides_px: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    num_before_nms: tuple[int, int]
    num_after_nms: tuple[int, int]
    """Per level before, per image after suppression; (in training, otherwise)."""
    num_sampled: int
    positive_share: float = 0.5
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    nms_iou: float = 0.7


class ProposalNetwork(nn.Module):
    """Maps of the pyramid -> proposals, and in training the two losses of this stage."""

    def __init__(self, channels: int, settings: ProposalSettings) -> None:
        super().__init__()
        self.settings = settings
        self.head = RPNHead(channels, len(settings.scales) * len(settings.ratios))
        self._anchors: dict[tuple[object, ...], list[Tensor]] = {}

    def anchors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors [N_level, 4] of each level; made once per shape of the maps."""
        grid = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        key = (*grid, maps[0].device)
        if key not in self._anchors:
            s = self.settings
            self._anchors = {key: bx.make_anchors(grid, s.strides_px, s.scales, s.ratios, maps[0].device)}
        return self._anchors[key]

    def forward(self, maps: Sequence[Tensor], sizes_B2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gives proposals_BP4, real_BP, and the raw logits_BN and offsets_BN4 (float32) that the losses need."""
        raw_logits, raw_offsets = self.head(list(maps))
        logits = [bx.widen(x).permute(0, 2, 3, 1).flatten(1) for x in raw_logits]
        offsets = [bx.widen(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for x in raw_offsets]
        with torch.no_grad():
            proposals, real = self._select(logits, offsets, self.anchors(maps), sizes_B2)
        return proposals, real, torch.cat(logits, 1), torch.cat(offsets, 1)

    def _select(
        self, logits: list[Tensor], offsets: list[Tensor], anchors: list[Tensor], sizes_B2: Tensor
    ) -> tuple[Tensor, Tensor]:
        before = self.settings.num_before_nms[0 if self.training else 1]
        after = self.settings.num_after_nms[0 if self.training else 1]
        scores, boxes, levels = [], [], []
        for i, (logit, offset, anchor) in enumerate(zip(logits, offsets, anchors, strict=True)):
            score, at = logit.topk(min(before, logit.shape[1]), dim=1)
            chosen = offset.gather(1, at[..., None].expand(-1, -1, 4))
            boxes.append(bx.decode(chosen, anchor[at], UNIT))
            scores.append(score.sigmoid())
            levels.append(torch.full_like(at, i))
        boxes_BK4, scores_BK, levels_BK = (
            bx.clip(torch.cat(boxes, 1), sizes_B2),
            torch.cat(scores, 1),
            torch.cat(levels, 1),
        )
        sides = boxes_BK4[..., 2:] - boxes_BK4[..., :2]
        usable = (sides > 0).all(-1)
        image_BK = torch.arange(len(scores_BK), device=scores_BK.device)[:, None]
        group = image_BK * len(anchors) + levels_BK
        # An empty box has IoU 0 with all others: it suppresses nothing and is dropped below.
        kept = batched_nms(boxes_BK4.flatten(0, 1), scores_BK.flatten(), group.flatten(), self.settings.nms_iou)
        alive = torch.zeros_like(usable).flatten()
        alive[kept] = True
        ranked = scores_BK.masked_fill(~(alive.view_as(usable) & usable), -1.0)
        score_BP, at_BP = ranked.topk(min(after, ranked.shape[1]), dim=1)
        return boxes_BK4.gather(1, at_BP[..., None].expand(-1, -1, 4)), score_BP >= 0

    def losses(
        self,
        maps: Sequence[Tensor],
        logits_BN: Tensor,
        offsets_BN4: Tensor,
        sizes_B2: Tensor,
        boxes_BM4: Tensor,
        valid_BM: Tensor,
        seeds_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy and L1 of the sampled anchors, each averaged within an image and then over images."""
        s = self.settings
        anchors_N4 = torch.cat(self.anchors(maps))
        anchors_BN4 = anchors_N4.expand(len(logits_BN), -1, -1)
        with torch.no_grad():
            owner, state = bx.match(boxes_BM4, valid_BM, anchors_BN4, s.positive_iou, s.negative_iou, s.negative_iou)
            # Cells beyond the image's own content, rounded up to 32 px, are not learned from.
            centre_N2 = (anchors_N4[:, :2] + anchors_N4[:, 2:]) / 2
            limit_B2 = ((sizes_B2.flip(1) + 31) // 32 * 32).to(centre_N2.dtype)
            state = state.masked_fill((centre_N2[None] >= limit_B2[:, None]).any(-1), -1)
            chosen_BS, real_BS = bx.sample(state, seeds_B, s.num_sampled, s.positive_share)
            positive_BS = (state.gather(1, chosen_BS) == 1) & real_BS
            owner_BS = owner.gather(1, chosen_BS)
            true_BS4 = boxes_BM4.gather(1, owner_BS[..., None].expand(-1, -1, 4))
            wanted_BS4 = bx.encode(true_BS4, anchors_N4[chosen_BS], UNIT)
        logits_BS = logits_BN.gather(1, chosen_BS)
        offsets_BS4 = offsets_BN4.gather(1, chosen_BS[..., None].expand(-1, -1, 4))
        scored = F.binary_cross_entropy_with_logits(logits_BS, positive_BS.to(logits_BS.dtype), reduction="none")
        missed = (offsets_BS4 - wanted_BS4).abs().sum(-1)
        weight = 1.0 / real_BS.sum(1, keepdim=True).clamp(min=1).to(scored.dtype) / len(logits_BN)
        return (scored * real_BS * weight).sum(), (missed * positive_BS * weight).sum()
