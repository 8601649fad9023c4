"""Pictures of what a detector finds and where it looks: a few images of a split, with boxes and heat maps."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster.world import World
from eval import gallery, predictions
from eval.cam import heat_map
from eval.truth import Truth, align, truth_from_shards
from loaders.config import DataConfig
from loaders.loader import open_predict_loader
from loaders.views import PlainViewConfig
from sharding.index import ShardSet
from trainers.predict import Trained, load_trained

HEAT_LAYER = "layer3"
"""Stage of the encoder that heat maps are taken from, as in the reference."""


def pictures_of(
    run: Path, directory: Path, predicted: Path, split: str, num_pictures: int = 8
) -> list[gallery.GalleryItem]:
    """Gallery items of a split of a shard set, always the same images: every fourth one without a true box."""
    trained = load_trained(run)
    truth = truth_from_shards(ShardSet.open(directory), split)
    found = align(truth, predictions.read(predicted))
    view = PlainViewConfig(trained.config.view.size_px, trained.config.view.interpolation)
    chosen = with_boxes_first(truth)[:num_pictures]
    number_of = {truth.keys[number]: number for number in chosen}
    items = {}
    with open_predict_loader(DataConfig((directory,), (split,)), view, 1, World(0, 1, 0, "cpu")) as loader:
        for batch in loader.epoch():
            number = number_of.get(loader.selection.key_of(int(batch.rows[0])))
            if number is not None:
                items[number] = picture(trained, truth, found, number, batch.images, batch.sizes)
            if len(items) == len(chosen):
                break
    return [items[number] for number in chosen]


def with_boxes_first(truth: Truth) -> list[int]:
    """Image numbers in a fixed order, those with a true box first; every fourth is one without."""
    counts = truth.num_boxes_NF.sum(axis=1)
    some, none = [list(np.flatnonzero(mask)) for mask in (counts > 0, counts == 0)]
    order: list[int] = []
    while some or none:
        take = none if (len(order) % 4 == 3 and none) or not some else some
        order.append(int(take.pop(0)))
    return order


def picture(
    trained: Trained,
    truth: Truth,
    found: predictions.Predictions,
    number: int,
    images_1HW1: Tensor,
    sizes_12: Tensor,
) -> gallery.GalleryItem:
    """One image of the gallery, with a heat map of the best detection where the detector finds anything on it."""
    height, width = sizes_12[0].tolist()
    image_HW: NDArray[np.uint8] = images_1HW1[0, :height, :width, 0].cpu().numpy()

    def call(module: nn.Module, images_BCHW: Tensor) -> list[dict[str, Tensor]]:
        result: list[dict[str, Tensor]] = module(images_BCHW.permute(0, 2, 3, 1), sizes_12)
        return result

    image_1HW = images_1HW1[0].permute(2, 0, 1)
    with torch.no_grad():
        here = call(trained.detector, image_1HW[None])[0]
    heat, caption = None, ""
    if len(here["scores"]):
        best = int(here["scores"].argmax())
        finding, layer = int(here["findings"][best]), getattr(trained.detector.backbone.body, HEAT_LAYER)
        box_4 = here["boxes"][best].numpy()
        heat = heat_map(trained.detector, layer, image_1HW, box_4, finding, "gradcam", call)[:height, :width]
        caption = f"Grad-CAM at {HEAT_LAYER} for {found.findings[finding]}, score {float(here['scores'][best]):.2f}"
    return gallery.item(truth, found, number, image_HW, heat_HW=heat, heat_caption=caption)
