"""Heat maps on a small, randomly initialised Faster R-CNN at 128 px."""

import numpy as np
import pytest
import torch
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from eval import cam


@pytest.fixture(scope="module")
def detector() -> FasterRCNN:
    torch.manual_seed(0)
    body = resnet18(weights=None)
    layers = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    backbone = BackboneWithFPN(body, layers, [64, 128, 256, 512], 32)
    made = FasterRCNN(
        backbone, num_classes=4, min_size=128, max_size=128, box_score_thresh=0.0, rpn_post_nms_top_n_test=50,
        box_detections_per_img=10,
    )  # fmt: skip
    for parameter in body.layer1.parameters():
        parameter.requires_grad_(False)
    return made.train()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(3, 128, 96, generator=torch.Generator().manual_seed(1))


def state_of(detector: FasterRCNN) -> list:
    hooks = [len(module._forward_hooks) for module in detector.modules()]
    flags = [(parameter.requires_grad, parameter.grad is None) for parameter in detector.parameters()]
    return [hooks, flags, [module.training for module in detector.modules()]]


@pytest.mark.parametrize("method", ["eigencam", "gradcam", "gradcam++", "layercam"])
@pytest.mark.parametrize("layer", ["layer1", "layer4"])
def test_shape_range_and_a_detector_left_alone(detector: FasterRCNN, image: torch.Tensor, method, layer: str) -> None:
    with torch.no_grad():
        found = detector.eval()([image])[0]
    detector.train()
    box, finding = found["boxes"][0].numpy(), int(found["labels"][0]) - 1
    before = state_of(detector)
    maps = [cam.heat_map(detector, detector.backbone.body[layer], image, box, finding, method) for _ in range(2)]
    assert state_of(detector) == before
    assert maps[0].shape == (128, 96)
    assert maps[0].dtype == np.float32
    assert maps[0].min() >= 0
    assert 0.9 < maps[0].max() <= 1
    np.testing.assert_array_equal(maps[0], maps[1])


def test_refusals(detector: FasterRCNN, image: torch.Tensor) -> None:
    last = detector.backbone.body["layer4"]
    box = np.array([0, 0, 1, 1], np.float32)
    with pytest.raises(ValueError, match="give its box and finding"):
        cam.heat_map(detector, last, image, method="gradcam")
    with pytest.raises(ValueError, match="finds nothing of finding 2"):
        cam.heat_map(detector, last, image, box, 2, "gradcam")
    with pytest.raises(ValueError, match="the layer gave a OrderedDict"):
        cam.heat_map(detector, detector.backbone, image)
    assert detector.training


def test_the_component_is_the_svd_s_and_its_sign_follows_the_magnitude() -> None:
    rng = np.random.default_rng(0)
    activations = rng.random((6, 5, 7)).astype(np.float32) * 0.1
    activations[:, 2, 3] += 5
    rows = activations.reshape(6, -1).T
    centred = rows - rows.mean(axis=0)
    along = centred @ np.linalg.svd(centred.astype(np.float64))[2][0]
    ours = cam.first_component(activations)
    assert np.unravel_index(ours.argmax(), ours.shape) == (2, 3)
    np.testing.assert_allclose(ours.ravel(), np.maximum(along * np.sign(along[2 * 7 + 3]), 0), atol=1e-5)


def test_other_detectors_come_by_their_own_call(detector: FasterRCNN) -> None:
    image_1HW = torch.randint(0, 256, (1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))

    def call(module: torch.nn.Module, images_B1HW: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return cam.call_torchvision(module, images_B1HW.expand(-1, 3, -1, -1).float() / 255)

    with torch.no_grad():
        found = call(detector.eval(), image_1HW[None])[0]
    box, finding = found["boxes"][0].numpy(), int(found["findings"][0])
    heat = cam.heat_map(detector, detector.backbone.body["layer3"], image_1HW, box, finding, "gradcam", call)
    assert heat.shape == (64, 64)
