"""The encoder: a torchvision ResNet without its classifier, and how weights get into it.

Shapes: N images, C channels, H and W height and width in pixels.

Parameter names are torchvision's own (`conv1.weight`, `layer1.0.conv1.weight` ...), so that a checkpoint opens
elsewhere. A radiograph is gray: an encoder of one channel reads it as it is; one of three channels (which pretrained
weights need) gets the gray channel widened on the device, after each channel's own mean and deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

EncoderName = Literal[
    "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GRAY_MEAN = (0.449,)
GRAY_STD = (0.226,)


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Which network looks at the image, and what it knows at the start."""

    name: EncoderName = "resnet50"
    """Architecture. resnet10 (one basic block per stage) is for small machines."""
    channels: Literal[1, 3] = 3
    """Input channels of the first convolution. ImageNet weights need 3: the gray image is widened on the device."""
    weights: str = "none"
    """Initial weights: none, imagenet_v1, imagenet_v2, a file (.safetensors, .pth), or a run or checkpoint folder."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An architecture in torchvision's terms."""

    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, int, int, int]
    width_per_group: int = 64


PLANS: dict[str, Plan] = {
    "resnet10": Plan(BasicBlock, (1, 1, 1, 1)),
    "resnet18": Plan(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Plan(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Plan(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Plan(Bottleneck, (3, 4, 23, 3)),
    "resnet152": Plan(Bottleneck, (3, 8, 36, 3)),
    "wide_resnet50_2": Plan(Bottleneck, (3, 4, 6, 3), 128),
    "wide_resnet101_2": Plan(Bottleneck, (3, 4, 23, 3), 128),
}


class Encoder(ResNet):  # type: ignore[misc]
    """torchvision's ResNet with `fc` an identity: [N, C, H, W] -> [N, num_features].

    `stages` gives the maps of the four stages (strides 4, 8, 16, 32), `prepare` turns a uint8 batch into its input.
    """

    def __init__(self, name: EncoderName, channels: int) -> None:
        plan = PLANS[name]
        super().__init__(plan.block, list(plan.layers), width_per_group=plan.width_per_group)
        self.name = name
        self.channels = channels
        self.num_features: int = 512 * plan.block.expansion
        self.stage_channels: tuple[int, int, int, int] = (
            self.num_features // 8,
            self.num_features // 4,
            self.num_features // 2,
            self.num_features,
        )
        self.fc: nn.Module = nn.Identity()
        if channels == 1:
            self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (GRAY_MEAN, GRAY_STD)
        self.register_buffer("pixel_gain", torch.tensor([1.0 / (255.0 * s) for s in std]), persistent=False)
        self.register_buffer(
            "pixel_shift", torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]), persistent=False
        )

    def prepare(self, images_NHW1: Tensor) -> Tensor:
        """Gray images, uint8 [N, H, W, 1] -> normalised float32 [N, channels, H, W] in channels-last memory."""
        images_NHWC: Tensor = images_NHW1.float() * self.pixel_gain + self.pixel_shift
        return images_NHWC.permute(0, 3, 1, 2)

    def stages(self, images_NCHW: Tensor) -> list[Tensor]:
        """Maps of layer1 .. layer4, float [N, stage_channels[i], H / (4 * 2**i), W / (4 * 2**i)], rounded up."""
        if images_NCHW.shape[1] == 1 and self.channels == 3:
            images_NCHW = images_NCHW.expand(-1, 3, -1, -1)
        x = self.maxpool(self.relu(self.bn1(self.conv1(images_NCHW))))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Pooled features, float [N, num_features]. A single channel is widened when the encoder has three."""
        return torch.flatten(self.avgpool(self.stages(images_NCHW)[-1]), 1)


def build_encoder(config: EncoderConfig) -> Encoder:
    """The encoder of `config`, with its initial weights loaded. Random ones follow torch's global generator.

    Raises ValueError where the weights cannot be had or are those of another model.
    """
    from trainers.models.encoder_weights import load_encoder_weights

    encoder = Encoder(config.name, config.channels)
    if config.weights != "none":
        load_encoder_weights(encoder, config.weights)
    return encoder
