"""Heat maps: where in an image a detector looks, on the pytorch-grad-cam library.

What they are worth: a map shows what moved a score or what the features hold most of, at the resolution of the layer
(4x4 cells for the last backbone stage at 128 px). It is no segmentation and no proof of a reason.

Shapes: C channels, H x W the input image in pixels, h x w the layer's output, D detections.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, LayerCAM
from torch import Tensor, nn
from torchvision.ops import box_iou

Method = Literal["eigencam", "gradcam", "gradcam++", "layercam"]
Call = Callable[[nn.Module, Tensor], list[dict[str, Tensor]]]
_MIN_IOU = 0.5


def call_torchvision(detector: nn.Module, images_BCHW: Tensor) -> list[dict[str, Tensor]]:
    """Run a torchvision detector (list of [C, H, W] in, boxes, labels and scores out; label 0 is background)."""
    return [
        {"boxes": found["boxes"], "findings": found["labels"] - 1, "scores": found["scores"]}
        for found in detector(list(images_BCHW))
    ]


def heat_map(
    detector: nn.Module,
    layer: nn.Module,
    image_CHW: Tensor,
    box_4: NDArray[np.float32] | None = None,
    finding: int | None = None,
    method: Method = "eigencam",
    call: Call = call_torchvision,
) -> NDArray[np.float32]:
    """float32 [H, W] in 0..1, 1 where the layer answers most.

    detector: used in eval mode and left as it was: modes, gradients, hooks.
    layer: gives one tensor [1, C, h, w], for example `detector.backbone.body.layer4`; not the FPN, which gives several.
    image_CHW: on the detector's device, of whatever type `call` passes on.
    box_4, finding: the detection to explain, in pixels of `image_CHW`. "eigencam", the first principal component of the
        layer, needs neither, since it shows what the features hold and not what a box owes to them. The others follow
        the gradient of the score of the detection that overlaps `box_4` most.
    call: how [B, C, H, W] images become, per image, boxes [D, 4] px, findings [D] from 0 and scores [D].

    All zero where no positive evidence is left: the gradient of a score saturated at 1 is 0.
    Raises ValueError where the layer gives no single tensor, where a gradient method lacks the box, and where the
    detector finds nothing of `finding` on it.
    """
    if method != "eigencam" and (box_4 is None or finding is None):
        raise ValueError(f"heat map {method!r}: follows one detection; give its box and finding, or take 'eigencam'")
    watch = layer.register_forward_hook(_OneTensor())
    cam: Any = None
    try:
        with _left_as_it_was(detector):
            cam = _library_class(method)(_Batched(detector, call), [layer])
            if box_4 is not None and finding is not None and method != "eigencam":
                map_HW = cam(image_CHW[None], targets=[_ScoreOf(box_4, finding)])[0]
            else:
                with torch.no_grad():
                    cam.activations_and_grads(image_CHW[None])
                activations_Chw = cam.activations_and_grads.activations[0][0].float().numpy()
                map_HW = _resized(first_component(activations_Chw), (image_CHW.shape[-2], image_CHW.shape[-1]))
    finally:  # not the library's own `with`: that one swallows an IndexError
        watch.remove()
        if cam is not None:
            cam.activations_and_grads.release()
    result: NDArray[np.float32] = np.clip(map_HW, 0, 1).astype(np.float32)
    return result


def first_component(activations_Chw: NDArray[np.float32]) -> NDArray[np.float32]:
    """EigenCAM (Muhammad and Yeasin, 2020): the activations [h, w] along their first principal direction, cut at 0.

    A principal direction has no sign of its own; the one is taken along which the activations grow in magnitude, so
    that background does not light up. Through the C x C covariance: an SVD of all positions would need (hw)^2 numbers.
    """
    num_channels, height, width = activations_Chw.shape
    rows_XC = activations_Chw.reshape(num_channels, -1).T.astype(np.float64)
    centred_XC = rows_XC - rows_XC.mean(axis=0)
    _, directions = np.linalg.eigh(centred_XC.T @ centred_XC)
    along_X = centred_XC @ directions[:, -1]
    magnitude_X = np.linalg.norm(rows_XC, axis=1)
    if along_X @ (magnitude_X - magnitude_X.mean()) < 0:
        along_X = -along_X
    map_hw: NDArray[np.float32] = np.maximum(along_X, 0).reshape(height, width).astype(np.float32)
    return map_hw


class _Batched(nn.Module):
    """The detector as the library calls models: one tensor in."""

    def __init__(self, detector: nn.Module, call: Call) -> None:
        super().__init__()
        self.detector = detector
        self.call = call

    def forward(self, images_BCHW: Tensor) -> list[dict[str, Tensor]]:
        return self.call(self.detector, images_BCHW)


class _ScoreOf:
    """The library's target: the score of the detection of `finding` that overlaps `box_4` most."""

    def __init__(self, box_4: NDArray[np.float32], finding: int) -> None:
        self.box_4, self.finding = box_4, finding

    def __call__(self, output: dict[str, Tensor]) -> Tensor:
        boxes_D4 = output["boxes"].detach()
        iou_D = box_iou(boxes_D4, torch.as_tensor(self.box_4[None], dtype=boxes_D4.dtype, device=boxes_D4.device))[:, 0]
        iou_D = torch.where(output["findings"] == self.finding, iou_D, torch.zeros_like(iou_D))
        if not len(iou_D) or iou_D.max() < _MIN_IOU:
            raise ValueError(
                f"heat map: the detector finds nothing of finding {self.finding} at {self.box_4.tolist()} px here; "
                "give a box that it predicts here, in pixels of the image that is given"
            )
        return output["scores"][iou_D.argmax()]


def _library_class(method: Method) -> Any:
    match method:
        case "eigencam":
            return EigenCAM
        case "gradcam":
            return GradCAM
        case "gradcam++":
            return GradCAMPlusPlus
        case "layercam":
            return LayerCAM


class _OneTensor:
    """A forward hook that stops the pass, with the repair, where a layer does not give one tensor once per image."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self.num_calls += 1
        if self.num_calls > 1 or not isinstance(output, Tensor) or output.ndim != 4:
            what = "several outputs" if self.num_calls > 1 else f"a {type(output).__name__}"
            raise ValueError(
                f"heat map: the layer gave {what} for one image; it must give one tensor [1, C, h, w], as the last "
                "stage of the backbone does (`detector.backbone.body.layer4`)"
            )


def _resized(map_hw: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    large = nn.functional.interpolate(torch.from_numpy(map_hw)[None, None], size=size, mode="bilinear")[0, 0]
    result: NDArray[np.float32] = (large / large.max().clamp(min=1e-12)).numpy()
    return result


@contextmanager
def _left_as_it_was(detector: nn.Module) -> Iterator[None]:
    """Eval mode inside, and every parameter wants a gradient, so that frozen layers pass one on; undone after."""
    modes = [(module, module.training) for module in detector.modules()]
    states = [(parameter, parameter.requires_grad, parameter.grad) for parameter in detector.parameters()]
    detector.eval()
    for parameter, _, _ in states:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted, gradient in states:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
