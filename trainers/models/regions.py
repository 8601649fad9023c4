"""Stage two: what is in a proposal, and exactly where.

Shapes: B images, M true boxes per image (padded), P proposals (padded), R regions of all images, F findings and one.
torchvision's `TwoMLPHead` and `FastRCNNPredictor` under their names (`box_head`, `box_predictor`; background is row 0);
the rules around them are mmdetection's (see detector.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import batched_nms, roi_align

from trainers.models import boxes as bx

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """How proposals are pooled, learned from and turned into detections."""

    strides_px: tuple[int, ...]
    num_findings: int
    head_width: int
    num_sampled: int
    positive_share: float
    score_threshold: float
    nms_iou: float
    max_boxes: int
    pool_side: int = 7
    sampling_ratio: int = 0
    positive_iou: float = 0.5


class RegionHeads(nn.Module):
    """Maps of the pyramid and proposals -> losses in training, detections otherwise."""

    def __init__(self, channels: int, settings: RegionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.box_head = TwoMLPHead(channels * settings.pool_side**2, settings.head_width)
        self.box_predictor = FastRCNNPredictor(settings.head_width, settings.num_findings + 1)

    def pool(self, maps: Sequence[Tensor], regions_R4: Tensor, image_R: Tensor) -> Tensor:
        """RoIAlign (half-pixel aligned) from the level that fits a region's size: [R, channels, pool_side, pool_side].

        Level floor(log2(sqrt(area) / 56)) counted from stride 4, as in the FPN paper, limited to the levels there are.
        """
        s = self.settings
        side_R = ((regions_R4[:, 2:] - regions_R4[:, :2]).clamp(min=0).prod(1)).sqrt()
        first = s.strides_px[0].bit_length() - 3
        level_R = torch.floor(torch.log2(side_R / 56 + 1e-6)).clamp(first, first + len(maps) - 1).long() - first
        regions_R5 = torch.cat([image_R[:, None].to(regions_R4.dtype), regions_R4], dim=1)
        kind = bx.widen(maps[0][:0]).dtype
        pooled = regions_R4.new_zeros(len(regions_R4), maps[0].shape[1], s.pool_side, s.pool_side, dtype=kind)
        for level, (level_map, stride) in enumerate(zip(maps, s.strides_px, strict=True)):
            at = torch.where(level_R == level)[0]
            level_map = bx.widen(level_map)
            regions = regions_R5[at].to(level_map.dtype)
            part = roi_align(level_map, regions, s.pool_side, 1.0 / stride, s.sampling_ratio, aligned=True)
            pooled = pooled.index_copy(0, at, part)
        return pooled

    def predict(self, maps: Sequence[Tensor], regions_R4: Tensor, image_R: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [R, F] and offsets [R, F, 4], float32 under autocast; column 0 is background."""
        logits, offsets = self.box_predictor(self.box_head(self.pool(maps, regions_R4, image_R)))
        return bx.widen(logits), bx.widen(offsets).reshape(len(offsets), -1, 4)

    def losses(
        self,
        maps: Sequence[Tensor],
        proposals_BP4: Tensor,
        real_BP: Tensor,
        boxes_BM4: Tensor,
        findings_BM: Tensor,
        valid_BM: Tensor,
        seeds_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy and L1 of the sampled regions, each averaged within an image and then over images.

        True boxes join the proposals, each standing for itself.
        """
        s = self.settings
        count, most = valid_BM.shape
        with torch.no_grad():
            owner, state = bx.match(boxes_BM4, valid_BM, proposals_BP4, s.positive_iou, s.positive_iou, None)
            itself = torch.arange(most, device=owner.device).expand(count, -1)
            owner = torch.cat([owner, itself], 1)
            state = torch.cat([state.masked_fill(~real_BP, -1), valid_BM.to(torch.int8) * 2 - 1], 1)
            candidates = torch.cat([proposals_BP4, boxes_BM4], 1)
            chosen_BS, real_BS = bx.sample(state, seeds_B, s.num_sampled, s.positive_share)
            image_R, slot_R = torch.where(real_BS)
            chosen_R = chosen_BS[image_R, slot_R]
            regions_R4 = candidates[image_R, chosen_R]
            owner_R = owner[image_R, chosen_R]
            positive_R = state[image_R, chosen_R] == 1
            wanted_R = torch.where(positive_R, findings_BM[image_R, owner_R] + 1, 0)
            wanted_R4 = bx.encode(boxes_BM4[image_R, owner_R], regions_R4, BOX_WEIGHTS)
        logits_RF, offsets_RF4 = self.predict(maps, regions_R4, image_R)
        weight_R = (1.0 / real_BS.sum(1).clamp(min=1).to(logits_RF.dtype) / count)[image_R]
        named = F.cross_entropy(logits_RF, wanted_R, reduction="none")
        own_R4 = offsets_RF4.gather(1, wanted_R[:, None, None].expand(-1, 1, 4)).squeeze(1)
        missed = torch.where(positive_R, (own_R4 - wanted_R4).abs().sum(-1), 0.0)
        return (named * weight_R).sum(), (missed * weight_R).sum()

    def detect(
        self, maps: Sequence[Tensor], proposals_BP4: Tensor, real_BP: Tensor, sizes_B2: Tensor
    ) -> list[dict[str, Tensor]]:
        """Per image the detections by falling score: boxes [K, 4] canvas px, findings [K] from 0, scores [K]."""
        s = self.settings
        image_R, slot_R = torch.where(real_BP)
        regions_R4 = proposals_BP4[image_R, slot_R]
        logits_RF, offsets_RF4 = self.predict(maps, regions_R4, image_R)
        scores_RF = logits_RF.softmax(-1)[:, 1:]
        boxes_RF4 = bx.decode(offsets_RF4[:, 1:], regions_R4[:, None].expand(-1, s.num_findings, -1), BOX_WEIGHTS)
        limits = sizes_B2.flip(1).to(boxes_RF4.dtype).repeat(1, 2)[image_R][:, None]
        boxes_RF4 = torch.minimum(boxes_RF4.clamp(min=0), limits)
        # The order of regions follows the image; so each image's rows lie together.
        found = []
        counts = real_BP.sum(1).tolist()
        for scores, boxes in zip(torch.split(scores_RF, counts), torch.split(boxes_RF4, counts), strict=True):
            region, finding = torch.where(scores > s.score_threshold)
            score, box = scores[region, finding], boxes[region, finding]
            keep = batched_nms(box, score, finding, s.nms_iou)[: s.max_boxes]
            found.append({"boxes": box[keep], "findings": finding[keep], "scores": score[keep]})
        return found
