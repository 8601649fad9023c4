"""The detector against torchvision's Faster R-CNN with the same weights, and what it promises of its losses."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import roi_align

from tests.references.assigner import assign
from trainers.models import boxes as bx
from trainers.models.detector import Detector, DetectorConfig
from trainers.models.encoder import Encoder

SMALL = DetectorConfig(
    norm="frozen",
    frozen_stages=0,
    strides_px=(8, 16, 32),
    fpn_channels=32,
    anchor_scales=(3.0,),
    num_anchors_sampled=32,
    num_before_nms_train=60,
    num_before_nms_test=60,
    num_proposals_train=60,
    num_proposals_test=60,
    num_rois=24,
    head_width=48,
)


def small(config: DetectorConfig = SMALL, num_findings: int = 3) -> Detector:
    torch.manual_seed(0)
    return Detector(Encoder("resnet10", 1), config, num_findings)


def batch(count: int = 3, side: int = 96) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, side, side, 1), generator=draw).to(torch.uint8)
    sizes = torch.tensor([[side, side - 16 * i] for i in range(count)])
    boxes, findings = [], []
    for i in range(count):
        corner = torch.rand(i, 2, generator=draw) * 30
        boxes.append(torch.cat([corner, corner + 12 + torch.rand(i, 2, generator=draw) * 25], 1))
        findings.append(torch.randint(0, 3, (i,), generator=draw))
    return images, sizes, boxes, findings


class AlignedPool(nn.Module):
    """torchvision's pooler with half-pixel alignment and adaptive sampling, in a plain loop over regions."""

    def forward(self, maps: dict[str, Tensor], regions: Sequence[Tensor], shapes: object) -> Tensor:
        pooled = []
        for image, boxes in enumerate(regions):
            for box in boxes:
                side = float(((box[2] - box[0]) * (box[3] - box[1])).sqrt())
                level = next((i for i, edge in enumerate((112, 224, 448)) if side < edge), 3)
                region = torch.cat([torch.zeros(1), box])[None]
                scale = 1 / (4 * 2**level)
                pooled.append(roi_align(maps[str(level)][image : image + 1], region, 7, scale, 0, aligned=True))
        return torch.cat(pooled)


def test_detections_equal_torchvisions_with_the_same_weights() -> None:
    torch.manual_seed(3)
    config = DetectorConfig(num_before_nms_test=100, num_proposals_test=40, score_threshold=0.1)
    images = torch.randint(0, 256, (2, 256, 256, 1), dtype=torch.uint8)
    sizes = torch.full((2, 2), 256)
    ours = Detector(Encoder("resnet18", 3), config, 4)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0  # statistics of this batch: without, random weights saturate every score
    with torch.no_grad():
        ours.backbone(ours.prepare(images, sizes))
    ours.eval()
    nn.init.normal_(ours.roi_heads.box_predictor.cls_score.weight, std=0.3)
    nn.init.normal_(ours.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
    nn.init.normal_(ours.rpn.head.bbox_pred.weight, std=0.02)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    anchors.cell_anchors = [bx.make_anchors([(1, 1)], (s,), (8.0,), (0.5, 1.0, 2.0))[0] for s in config.strides_px]
    theirs = FasterRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d),
        num_classes=5,
        min_size=256,
        max_size=256,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_test=40,
        box_score_thresh=0.1,
    ).eval()
    theirs.roi_heads.box_roi_pool = AlignedPool()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        mine = ours(images, sizes)
        expected = theirs(list(ours.prepare(images, sizes)))
    for a, b in zip(mine, expected, strict=True):
        assert len(b["scores"]) > 5
        same = (a["findings"][:, None] == b["labels"] - 1) & ((a["scores"][:, None] - b["scores"]).abs() < 1e-4)
        same &= (a["boxes"][:, None] - b["boxes"]).abs().amax(-1) < 0.02
        assert len(a["scores"]) == len(b["scores"])
        assert same.any(0).all()
        assert same.any(1).all()


def test_proposal_losses_equal_a_plain_loop() -> None:
    model = small(
        DetectorConfig(strides_px=(8, 16, 32), fpn_channels=32, anchor_scales=(3.0,), num_anchors_sampled=10**4)
    )
    model.rpn.settings = type(model.rpn.settings)(
        (8, 16, 32), (3.0,), (0.5, 1.0, 2.0), (60, 60), (60, 60), num_sampled=10**4, positive_share=1.0
    )
    images, _, boxes, findings = batch()
    sizes = torch.full((3, 2), 96)
    losses = model(images, sizes, boxes, findings)
    maps = model.backbone(model.prepare(images, sizes))
    _, _, logits, offsets = model.rpn(maps, sizes)
    anchors = torch.cat(model.rpn.anchors(maps))
    scored, missed = [], []
    for i in range(3):
        owners, states = assign(boxes[i].tolist(), anchors.tolist(), 0.7, 0.3, 0.3)
        used = [j for j, s in enumerate(states) if s >= 0]
        wanted = torch.tensor([float(states[j]) for j in used])
        scored.append(nn.functional.binary_cross_entropy_with_logits(logits[i, used], wanted))
        positive = [j for j in used if states[j] == 1]
        if positive:
            true = boxes[i][[owners[j] for j in positive]]
            target = BoxCoder((1.0, 1.0, 1.0, 1.0)).encode_single(true, anchors[positive])
            missed.append((offsets[i, positive] - target).abs().sum() / len(used))
    torch.testing.assert_close(losses["loss_objectness"], torch.stack(scored).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss_rpn_box_reg"], torch.stack(missed).sum() / 3, rtol=1e-4, atol=1e-5)


def test_a_batch_is_the_mean_of_its_images() -> None:
    model = small().double()
    images, sizes, boxes, findings = batch()
    seeds = torch.tensor([5, 6, 7])
    together = model(images, sizes, boxes, findings, seeds)
    alone = [
        model(images[i : i + 1], sizes[i : i + 1], boxes[i : i + 1], findings[i : i + 1], seeds[i : i + 1])
        for i in range(3)
    ]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([a[name] for a in alone]).mean(), rtol=1e-9, atol=1e-12)


def test_what_lies_beyond_an_image_does_not_matter() -> None:
    model = small()
    images, sizes, boxes, findings = batch()
    seeds = torch.arange(3)
    clean = model(images, sizes, boxes, findings, seeds)
    for i, (height, width) in enumerate(sizes.tolist()):
        images[i, height:], images[i, :, width:] = 255, 255
    assert all(torch.equal(v, clean[k]) for k, v in model(images, sizes, boxes, findings, seeds).items())


def test_images_without_a_box_teach_the_background_only() -> None:
    model = small()
    images, sizes, _, _ = batch()
    losses = model(images, sizes, [torch.zeros(0, 4)] * 3, [torch.zeros(0, dtype=torch.int64)] * 3)
    sum(losses.values()).backward()
    assert losses["loss_box_reg"] == 0
    assert losses["loss_rpn_box_reg"] == 0
    assert losses["loss_classifier"] > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_bf16_autocast_stays_close() -> None:
    model = small()
    images, sizes, boxes, findings = batch()
    exact = model(images, sizes, boxes, findings, torch.arange(3))
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model(images, sizes, boxes, findings, torch.arange(3))
    for name, value in coarse.items():
        assert value.dtype == torch.float32
        assert float(value.detach()) == pytest.approx(float(exact[name].detach()), rel=0.15, abs=0.02)


@pytest.mark.parametrize("side", [96, 100])
def test_any_canvas_gives_boxes_within_the_image(side: int) -> None:
    model = small(replace(SMALL, score_threshold=0.0)).eval()
    images, sizes, _, _ = batch(side=side)
    for (height, width), found in zip(sizes.tolist(), model(images, sizes), strict=True):
        assert 0 < len(found["scores"]) <= 100
        assert (found["scores"].diff() <= 0).all()
        assert found["boxes"][:, [0, 2]].max() <= width
        assert found["boxes"][:, [1, 3]].max() <= height
        assert 0 <= found["findings"].min() <= found["findings"].max() < 3


def test_frozen_stages_and_norms_stay_as_they_are() -> None:
    model = small(DetectorConfig(strides_px=(8, 16, 32), fpn_channels=32, head_width=16, num_rois=8)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images, sizes, boxes, findings = batch()
    sum(model(images, sizes, boxes, findings).values()).backward()
    body = model.backbone.body
    assert body.conv1.weight.grad is None
    assert body.layer1[0].conv1.weight.grad is None
    assert body.layer2[0].bn1.weight.grad is not None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "running" in k)


def test_batch_norm_learns_its_statistics_where_asked() -> None:
    model = small(
        DetectorConfig(
            norm="batch", frozen_stages=1, strides_px=(8, 16, 32), fpn_channels=32, head_width=16, num_rois=8
        )
    )
    model.train()
    images, sizes, boxes, findings = batch()
    model(images, sizes, boxes, findings)
    assert model.backbone.body.bn1.num_batches_tracked == 0
    assert model.backbone.body.layer2[0].bn1.num_batches_tracked == 1


def test_it_learns_to_find_a_bright_square() -> None:
    config = replace(SMALL, norm="batch")
    model = small(config, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(0)

    def scene(count: int) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        images = torch.randint(0, 60, (count, 64, 64, 1), generator=draw).to(torch.uint8)
        boxes, findings = [], []
        for i in range(count):
            x, y, side = (int(v) for v in torch.randint(2, 32, (3,), generator=draw))
            side, kind = 16 + side // 2, i % 2
            images[i, y : y + side, x : x + side] = 250 if kind else 130
            boxes.append(torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32).clamp(max=64))
            findings.append(torch.tensor([kind]))
        return images, torch.full((count, 2), 64), boxes, findings

    for _ in range(60):
        loss = sum(model(*scene(8)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, sizes, boxes, findings = scene(16)
    model.eval()
    with torch.no_grad():
        found = model(images, sizes)
    hits = [
        len(f["scores"]) > 0
        and bool(bx.iou(f["boxes"][None, :1], b[None])[0, 0, 0] > 0.5)
        and int(f["findings"][0]) == int(k[0])
        for f, b, k in zip(found, boxes, findings, strict=True)
    ]
    assert sum(hits) >= 12


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strides_px", (4, 16)),
        ("strides_px", (64,)),
        ("num_rois", 0),
        ("anchor_scales", ()),
        ("nms_iou", 1.5),
        ("score_threshold", float("nan")),
        ("roi_positive_share", -0.1),
    ],
)
def test_impossible_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"detector\.{field}"):
        DetectorConfig(**{field: value})  # type: ignore[arg-type]
