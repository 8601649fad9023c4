"""Faster R-CNN with a feature pyramid over an encoder, as mmdetection 2.28.2 defines it, on torchvision's parts.

Shapes: B images, H and W canvas height and width in pixels, M boxes per image.

Parameter names are torchvision's (`backbone.body.*`, `backbone.fpn.*`, `rpn.head.*`, `roi_heads.box_head.*`,
`roi_heads.box_predictor.*`), so a state dict opens in `torchvision.models.detection.FasterRCNN`. The defaults are the
reference's settings. Like mmdetection and unlike torchvision: anchors are not rounded and have fixed strides; cells
beyond an image's own content (to 32 px) are not learned from; a true box claims its best anchors from IoU .3 on; true
boxes join the proposals as themselves; L1 losses; aligned RoIAlign with adaptive sampling; dw and dh clamped on both
sides; 1000 proposals in training; Xavier and normal initial weights; trainable affine in frozen batch norms.
What remains different: a loss is averaged within an image before it is averaged over images (equal unless fewer than
`num_rois` or `num_anchors_sampled` could be drawn; it makes ranks add up exactly); samplers have another random stream;
the class-specific regression keeps torchvision's four unused background rows, which weight decay shrinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from trainers.models import boxes as bx
from trainers.models.encoder import Encoder
from trainers.models.proposals import ProposalNetwork, ProposalSettings
from trainers.models.regions import RegionHeads, RegionSettings

STAGE_STRIDES_PX = (4, 8, 16, 32)
POOLED_STRIDE_PX = 64


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """Faster R-CNN. The defaults are the reference's; smaller numbers make it fit small machines."""

    norm: Literal["frozen", "batch"] = "frozen"
    """Batch norm of the encoder. frozen: kept statistics, trainable scale and shift; batch: statistics of the batch."""
    frozen_stages: Literal[0, 1, 2, 3, 4] = 1
    """0: everything learns; 1: the stem and layer1 keep their weights; 2: also layer2; and so on."""
    strides_px: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Levels of the pyramid, neighbours among 4, 8, 16, 32, 64. 64 is pooled from 32 and makes proposals only."""
    fpn_channels: int = 256
    """Channels of every level."""
    anchor_scales: tuple[float, ...] = (8.0,)
    """Sides of a square anchor, in strides of its level."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    num_anchors_sampled: int = 256
    """Anchors per image that the proposal stage learns from."""
    num_before_nms_train: int = 2000
    """Proposals per level before suppression, in training."""
    num_before_nms_test: int = 1000
    """Proposals per level before suppression, otherwise."""
    num_proposals_train: int = 1000
    """Proposals per image after suppression, in training."""
    num_proposals_test: int = 1000
    """Proposals per image after suppression, otherwise."""
    num_rois: int = 512
    """Regions per image that the second stage learns from."""
    roi_positive_share: float = 0.25
    """At most this share of them lies on a true box."""
    roi_sampling_ratio: int = 0
    """Samples per side and bin in RoIAlign; 0: adaptive."""
    head_width: int = 1024
    """Units of each of the two hidden layers over a region."""
    score_threshold: float = 0.05
    """Detections below this score are dropped, 0 to 1."""
    nms_iou: float = 0.5
    """Of two boxes of a finding that overlap more than this, the better one stays."""
    max_boxes: int = 100
    """Detections per image at most."""

    def __post_init__(self) -> None:
        levels = (*STAGE_STRIDES_PX, POOLED_STRIDE_PX)
        start = levels.index(self.strides_px[0]) if self.strides_px and self.strides_px[0] in levels else -1
        if start < 0 or self.strides_px != levels[start : start + len(self.strides_px)] or self.strides_px[0] == 64:
            raise ValueError(f"detector.strides_px {self.strides_px}: give neighbours among {levels}, as 8 16 32")
        if not self.anchor_scales or not self.anchor_ratios or min(*self.anchor_scales, *self.anchor_ratios) <= 0:
            raise ValueError(
                "detector.anchor_scales and detector.anchor_ratios: give at least one positive number each"
            )
        for name in ("roi_positive_share", "score_threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"detector.{name} {getattr(self, name)}: give a share from 0 to 1")
        counts = ("fpn_channels", "num_anchors_sampled", "num_before_nms_train", "num_before_nms_test", "num_rois")
        for name in (*counts, "num_proposals_train", "num_proposals_test", "head_width", "max_boxes"):
            if getattr(self, name) < 1:
                raise ValueError(f"detector.{name} {getattr(self, name)}: give at least 1")


class Pyramid(nn.Module):
    """Encoder (`body`) and feature pyramid (`fpn`): prepared images -> a map per level of `strides_px`."""

    def __init__(self, encoder: Encoder, strides_px: Sequence[int], channels: int) -> None:
        super().__init__()
        self.body = encoder
        self.stages = [i for i, stride in enumerate(STAGE_STRIDES_PX) if stride in strides_px]
        extra = LastLevelMaxPool() if POOLED_STRIDE_PX in strides_px else None
        self.fpn = FeaturePyramidNetwork([encoder.stage_channels[i] for i in self.stages], channels, extra)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """[B, channels, H / stride, W / stride] per level, finest first."""
        maps = self.body.stages(images_BCHW)
        levels: dict[str, Tensor] = self.fpn({str(i): maps[i] for i in self.stages})
        return list(levels.values())


LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")


class Detector(nn.Module):
    """Images -> four losses in training, detections otherwise."""

    def __init__(self, encoder: Encoder, config: DetectorConfig, num_findings: int) -> None:
        super().__init__()
        self.config = config
        self.num_findings = num_findings
        self.backbone = Pyramid(encoder, config.strides_px, config.fpn_channels)
        self.rpn = ProposalNetwork(
            config.fpn_channels,
            ProposalSettings(
                strides_px=config.strides_px,
                scales=config.anchor_scales,
                ratios=config.anchor_ratios,
                num_before_nms=(config.num_before_nms_train, config.num_before_nms_test),
                num_after_nms=(config.num_proposals_train, config.num_proposals_test),
                num_sampled=config.num_anchors_sampled,
            ),
        )
        self.roi_heads = RegionHeads(
            config.fpn_channels,
            RegionSettings(
                strides_px=tuple(s for s in config.strides_px if s in STAGE_STRIDES_PX),
                num_findings=num_findings,
                head_width=config.head_width,
                num_sampled=config.num_rois,
                positive_share=config.roi_positive_share,
                score_threshold=config.score_threshold,
                nms_iou=config.nms_iou,
                max_boxes=config.max_boxes,
                sampling_ratio=config.roi_sampling_ratio,
            ),
        )
        self._initialise()
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train()

    def _initialise(self) -> None:
        for module in (*self.backbone.fpn.modules(), *self.roi_heads.box_head.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        predictor = self.roi_heads.box_predictor
        for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def _frozen_parts(self) -> list[nn.Module]:
        body, depth = self.backbone.body, self.config.frozen_stages
        if depth == 0:
            return []
        return [body.conv1, body.bn1, *(body.layer1, body.layer2, body.layer3, body.layer4)[:depth]]

    def train(self, mode: bool = True) -> Detector:
        """As ever, but frozen stages and frozen batch norms stay in evaluation mode."""
        super().train(mode)
        still = [self.backbone.body] if self.config.norm == "frozen" else self._frozen_parts()
        for part in still:
            for module in part.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def prepare(self, images_BHW1: Tensor, sizes_B2: Tensor) -> Tensor:
        """uint8 canvases -> normalised float32 [B, C, H, W], 0 beyond each image, sides filled to multiples of 32."""
        images = self.backbone.body.prepare(images_BHW1)
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device)[None, :, None] < sizes_B2[:, 0, None, None]
        columns = torch.arange(width, device=images.device)[None, None, :] < sizes_B2[:, 1, None, None]
        images = images * (rows & columns)[:, None]
        return F.pad(images, (0, -width % 32, 0, -height % 32)) if height % 32 or width % 32 else images

    def forward(
        self,
        images_BHW1: Tensor,
        sizes_B2: Tensor,
        boxes: Sequence[Tensor] | None = None,
        findings: Sequence[Tensor] | None = None,
        seeds_B: Tensor | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """In training a dict of four losses (means over the images), otherwise per image a dict of detections.

        images_BHW1: uint8, content at the top left. sizes_B2: int64 (height, width) of the content, px. boxes: float32
        [K, 4] per image, canvas px; findings: int64 [K] from 0. seeds_B: int64, decides what the samplers draw
        (default: from torch's generator). Detections: boxes [K, 4] canvas px, findings [K], scores [K] in 0..1.
        """
        if self.training and not len(images_BHW1):
            return self._no_losses(self.prepare(images_BHW1, sizes_B2))
        maps = self.backbone(self.prepare(images_BHW1, sizes_B2))
        proposals_BP4, real_BP, logits_BN, offsets_BN4 = self.rpn(maps, sizes_B2)
        pooled = [m for m, stride in zip(maps, self.config.strides_px, strict=True) if stride in STAGE_STRIDES_PX]
        if not self.training:
            found: list[dict[str, Tensor]] = self.roi_heads.detect(pooled, proposals_BP4, real_BP, sizes_B2)
            return found
        assert boxes is not None, "training needs boxes"
        assert findings is not None, "training needs findings"
        boxes_BM4, findings_BM, valid_BM = bx.pad_boxes(boxes, findings)
        if seeds_B is None:
            seeds_B = torch.randint(1 << 62, (len(boxes),), device=images_BHW1.device)
        objectness, rough = self.rpn.losses(maps, logits_BN, offsets_BN4, sizes_B2, boxes_BM4, valid_BM, seeds_B)
        named, exact = self.roi_heads.losses(pooled, proposals_BP4, real_BP, boxes_BM4, findings_BM, valid_BM, ~seeds_B)
        return dict(zip(LOSSES, (objectness, rough, named, exact), strict=True))

    def _no_losses(self, images_0CHW: Tensor) -> dict[str, Tensor]:
        """Losses of 0 for a rank whose share is empty: it takes part in global batch norms, and its gradients are 0."""
        stages = self.backbone.body.stages(images_0CHW)
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        nothing = torch.stack([part.sum() * 0 for part in (*stages, *weights)]).sum()
        return dict.fromkeys(LOSSES, nothing)
