"""How far each way's pixels are from the plain filters in float64, on the same crop windows; nothing else is done.

Shapes: n images, S the side of a view, H and W of a stored image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from benchmarks.loader_arms import FILTERS, Filter
from benchmarks.loader_sets import Source
from benchmarks.report import Grid
from benchmarks.resampling import resize
from cluster.world import World
from loaders.config import DataConfig
from loaders.draws import draw_view
from loaders.loader import open_pretrain_loader
from loaders.views import TwoViewConfig

MAX_IMAGES = 48
"""Of the set."""
EDGE_PX = 2
"""Of a view, at each edge, that "largest inside" leaves out: this loader's filter sees beyond the crop's border."""
Pixels = npt.NDArray[Any]
Resize = Callable[[Pixels], Pixels]
"""A cropped image to a view."""


@dataclass(frozen=True, slots=True)
class Case:
    """An image, the window that both loaders take of it, and what they make of it."""

    image_HW: npt.NDArray[np.uint8]
    start_2: npt.NDArray[np.int64]
    size_2: npt.NDArray[np.int64]
    direct_SS: npt.NDArray[np.uint8]
    """By this loader from the full-size image."""
    levels_SS: npt.NDArray[np.uint8]
    """By this loader from the smallest level that covers the view."""

    @property
    def crop(self) -> npt.NDArray[np.uint8]:
        """The window's pixels."""
        (y, x), (height, width) = self.start_2, self.size_2
        return np.ascontiguousarray(self.image_HW[y : y + height, x : x + width])


def pixels_grid(source: Source, size_px: int, seed: int) -> Grid:
    """The table: each way against the float filter of its own kind, and this loader's levels against no levels."""
    lines: list[tuple[str, ...]] = []
    for kind in FILTERS:
        cases = list(cases_of(source, size_px, seed, kind))
        plain = [resize(case.image_HW, case.start_2, case.size_2, size_px, kind) for case in cases]
        rivals = {f"ours, {kind}": [case.direct_SS for case in cases]}
        rivals[f"ours by the half-size level, {kind}"] = [case.levels_SS for case in cases]
        for name, way in others(size_px, kind).items():
            rivals[name] = [way(case.crop) for case in cases]
        lines += [(name, kind, *told(views, plain)) for name, views in rivals.items()]
    note = (
        f"Gray levels, {len(cases)} images of {source.name}, one crop of .08 to 1 of the area each, to {size_px}: "
        "the filter beside is computed in float64 on the crop alone, antialiased, and not rounded. "
        f"Inside: {EDGE_PX} pixels from the view's edges, where DALI's filter sees what lies beyond the crop."
    )
    headings = ("way", "beside the filter", "mean", "99 % below", "largest", "largest inside", "mean signed")
    return Grid("Pixels", headings, tuple(lines), note)


def cases_of(source: Source, size_px: int, seed: int, kind: Filter) -> Iterator[Case]:
    """The set's first images of a pass, loaded with and without levels."""
    assert source.levels is not None
    view = TwoViewConfig(
        size_px=size_px, flip=0.0, jitter=0.0, blur=(0.0, 0.0), solarize=(0.0, 0.0), interpolation=kind
    )
    number = min(MAX_IMAGES, source.number)
    loaded = {shards: load(shards, view, number, seed) for shards in (source.shards, source.levels)}
    (rows, direct), (rows_levels, levels) = loaded.values()
    assert rows.keys() == rows_levels.keys(), "both sets hold the same images under the same names"
    for key, (place, digest, size_2) in rows.items():
        image = cv2.imread(str(source.files / f"{key}.{source.ending}"), cv2.IMREAD_GRAYSCALE)
        window = draw_view(view, 0, seed, np.zeros(1, np.int64), digest[None], size_2[None])
        yield Case(
            np.asarray(image, dtype=np.uint8),
            window.window_start_n2[0],
            window.window_size_n2[0],
            direct[place],
            levels[rows_levels[key][0]],
        )


def load(
    shards: Path, view: TwoViewConfig, number: int, seed: int
) -> tuple[dict[str, tuple[int, Any, Any]], npt.NDArray[np.uint8]]:
    """The first views of the images with the lowest digests: place, digest and stored size by key; and [n, S, S]."""
    data = DataConfig(shards=(shards,), max_samples=number, drop_last=False)
    with open_pretrain_loader(data, view, number, seed, World(0, 1, 0, "cpu")) as loader:
        batch = next(loader)
        selection = loader.selection
        places = np.searchsorted(selection.rows_N, batch.rows.numpy())
        keys = [selection.key_of(int(row)) for row in batch.rows]
        sizes = selection.levels[0].sizes_N2[places]
        rows = {key: (i, selection.digests_N[places[i]], sizes[i]) for i, key in enumerate(keys)}
        return rows, batch.views[0].numpy()[..., 0].copy()


def others(size_px: int, kind: Filter) -> dict[str, Resize]:
    """The peers' resizes by name; OpenCV's stand beside the linear filter."""
    size = (size_px, size_px)
    pillow = Image.Resampling.BICUBIC if kind == "cubic" else Image.Resampling.BILINEAR
    mode = InterpolationMode.BICUBIC if kind == "cubic" else InterpolationMode.BILINEAR

    def by_torchvision(crop: Pixels) -> Pixels:
        resized: torch.Tensor = functional.resize(torch.from_numpy(crop)[None], list(size), mode, antialias=True)
        return resized[0].numpy()

    def by_opencv(way: int) -> Resize:
        return lambda crop: np.asarray(cv2.resize(crop, size, interpolation=way))

    found: dict[str, Resize] = {
        f"torchvision v2, {kind}": by_torchvision,
        f"Pillow, {kind}": lambda crop: np.asarray(Image.fromarray(crop).resize(size, pillow)),
    }
    if kind == "linear":
        found["OpenCV, INTER_LINEAR (the foil's)"] = by_opencv(cv2.INTER_LINEAR)
        found["OpenCV, INTER_AREA"] = by_opencv(cv2.INTER_AREA)
    else:
        found["OpenCV, INTER_CUBIC"] = by_opencv(cv2.INTER_CUBIC)
    return found


def told(views: list[npt.NDArray[np.uint8]], plain: list[npt.NDArray[np.float64]]) -> tuple[str, ...]:
    """Mean, 99th percentile and largest of the absolute differences, the largest apart from the view's edge, and the
    mean of the signed ones."""
    signed = np.stack([view.astype(np.float64) - wanted for view, wanted in zip(views, plain, strict=True)])
    off = np.abs(signed)
    return (
        f"{off.mean():.2f}",
        f"{np.quantile(off, 0.99):.1f}",
        f"{off.max():.1f}",
        f"{off[:, EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX].max():.1f}",
        f"{signed.mean():+.3f}",
    )
