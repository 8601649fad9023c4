"""What a pipeline is told about each image: arrays from placements and view parameters, and which array is what.

Shapes: n samples of a batch, V views. Positions are (y, x), sizes (height, width), along the axis of 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from loaders.placement import Placement
from loaders.views import ClassifyViewConfig, Interpolation, TwoViewConfig, ViewParameters, WholeViewConfig

ViewsConfig = TwoViewConfig | ClassifyViewConfig | WholeViewConfig
Arguments = tuple[npt.NDArray[Any], ...]

FILTER_RADIUS = {"linear": 1, "cubic": 2}
"""Pixels that a filter reaches to each side; of the image where it is enlarged, of the output where it is reduced."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done to a view after its resize; what is never done is not in the pipeline at all."""

    affine: bool = False
    """Rotation and shear."""
    color: bool = False
    """Brightness and contrast."""
    blur: bool = False
    solarize: bool = False


def works_of(config: ViewsConfig) -> tuple[Work, ...]:
    """The work of each view of a config, in order."""
    if not isinstance(config, TwoViewConfig):
        return (Work(),)
    color = config.jitter > 0 and (config.brightness > 0 or config.contrast > 0)
    chances = zip(config.blur, config.solarize, strict=True)
    return tuple(Work(config.affine > 0, color, blur > 0, solarize > 0) for blur, solarize in chances)


def view_arguments(
    config: ViewsConfig,
    views: Sequence[ViewParameters],
    sizes_n2: npt.NDArray[np.integer[Any]],
    stored_n2: npt.NDArray[np.integer[Any]],
    device: str,
) -> Arguments:
    """Batch arrays for views_pipeline. `sizes_n2`: of the images that the windows are of. `stored_n2`: of the images
    that will be decoded, the same ones or smaller copies."""
    # Column by column, as the windows come: with the two columns side by side most of this takes twice as long.
    ratio_2n = stored_n2.T / sizes_n2.T
    start_V2n, extent_V2n = np.empty((2, len(views), *ratio_2n.shape))
    for view, start_2n, extent_2n in zip(views, start_V2n, extent_V2n, strict=True):
        np.multiply(view.window_start_n2.T, ratio_2n, out=start_2n)
        np.multiply(view.window_size_n2.T, ratio_2n, out=extent_2n)
    arguments: list[npt.NDArray[Any]] = []
    if decodes_regions(device):
        first_2n, last_2n = region(start_V2n, extent_V2n, stored_n2.T, config.size_px, config.interpolation)
        size_2n = last_2n - first_2n
        arguments += [_rows(first_2n[0], first_2n[1], np.int32), _rows(size_2n[0], size_2n[1], np.int32)]
        start_V2n -= first_2n
    for number, (view, work) in enumerate(zip(views, works_of(config), strict=True)):
        arguments += corners(start_V2n[number], extent_V2n[number], view.flip_n)
        if work.affine:
            matrix_n23 = affine_matrices(view.rotate_n, view.shear_n, config.size_px)
            arguments += [(view.rotate_n != 0) | (view.shear_n != 0), matrix_n23]
        arguments += [view.brightness_n, view.contrast_n] if work.color else []
        arguments += _blur(config, view, device) if work.blur else []
        arguments += [view.solarize_n] if work.solarize else []
    return tuple(arguments)


def _blur(config: ViewsConfig, view: ViewParameters, device: str) -> list[npt.NDArray[Any]]:
    assert isinstance(config, TwoViewConfig)
    if not blurs_by_weights(device):
        return [view.blur_sigma_n]
    weights_nk = blur_weights(view.blur_sigma_n, config.blur_sigma_px[1])
    return [view.blur_sigma_n > 0, weights_nk[:, None, :], weights_nk[:, :, None]]


def canvas_arguments(placement: Placement, stored_n2: npt.NDArray[np.integer[Any]]) -> Arguments:
    """Batch arrays for canvas_pipeline. `stored_n2`: height and width of the images that will be decoded."""
    ratio_n2 = stored_n2 / placement.originals_n2
    start_n2, extent_n2 = placement.window_start_n2 * ratio_n2, placement.window_size_n2 * ratio_n2
    return (*corners(start_n2.T, extent_n2.T, placement.flip_n), placement.sizes_n2.astype(np.float32))


def decodes_regions(device: str) -> bool:
    """Whether only the part of an image that its views need is decoded there.

    On a CPU: libjpeg-turbo ends after the last row, and leaves out the inverse DCT of the rest. On a GPU the whole
    image is decoded: its decoders work on batches of whole ones.
    """
    return device == "cpu"


def blurs_by_weights(device: str) -> bool:
    """Whether a blur is told its weights there, for two general filters of rows and of columns, or its sigma.

    DALI's blur for a CPU takes three times as long as two of its filters. Theirs is one rounding to whole levels more,
    between rows and columns: a level at most.
    """
    return device == "cpu"


def blur_weights(sigma_n: npt.NDArray[np.floating[Any]], most: float) -> npt.NDArray[np.float32]:
    """A Gaussian's weights, cut off beyond 3 sigma rounded up, sum 1, float32 [n, k], k odd and enough for sigma
    `most`; that of sigma 0 leaves everything as it is."""
    radius = math.ceil(3 * most)
    weights_kn = np.zeros((2 * radius + 1, len(sigma_n)), np.float32)
    weights_kn[radius] = 1
    some = np.flatnonzero(sigma_n > 0)  # in most second views nothing is blurred
    sigma_s = sigma_n[some].astype(np.float32)
    offset_j1 = np.arange(radius + 1, dtype=np.float32)[:, None]  # one half: the other is its mirror image
    half_js = np.exp(-0.5 * (offset_j1 / np.maximum(sigma_s, np.float32(1e-3))) ** 2)
    half_js *= offset_j1 <= np.ceil(3 * sigma_s)
    half_js /= 2 * half_js.sum(axis=0) - half_js[0]
    for offset, line_s in enumerate(half_js):
        weights_kn[radius + offset, some] = weights_kn[radius - offset, some] = line_s
    return np.ascontiguousarray(weights_kn.T)


def region(
    start_V2n: npt.NDArray[np.float64],
    extent_V2n: npt.NDArray[np.float64],
    stored_2n: npt.NDArray[np.integer[Any]],
    size_px: int,
    interpolation: Interpolation,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The smallest part of each image, whole pixels from .. to, float64 [2, n] each, out of which all windows can be
    resized as out of the whole image: the filter reaches beyond a window into the image. Pixels are those of the whole
    image to one gray level: of 672 views 59 had single pixels that were a level off."""
    radius = FILTER_RADIUS[interpolation]
    reach_V2n = np.maximum(extent_V2n * (radius / size_px), radius)
    first_2n = reduce(np.minimum, start_V2n - reach_V2n)
    reach_V2n += extent_V2n
    last_2n = reduce(np.maximum, start_V2n + reach_V2n)
    return np.maximum(np.floor(first_2n) - 1, 0), np.minimum(np.ceil(last_2n) + 1, stored_2n)


def corners(
    start_2n: npt.NDArray[np.float64], extent_2n: npt.NDArray[np.float64], flip_n: npt.NDArray[np.bool_]
) -> list[npt.NDArray[Any]]:
    """Corners (y, x) of the region to resize, float32 [n, 2] each; a region that ends where it should start is
    mirrored."""
    (top_n, left_n), (height_n, width_n) = start_2n, extent_2n
    swap_n = flip_n * width_n  # a tenth of the time of choosing by flip_n
    first_x_n = left_n + swap_n
    last_x_n = first_x_n + (width_n - 2 * swap_n)
    return [_rows(top_n, first_x_n, np.float32), _rows(top_n + height_n, last_x_n, np.float32)]


def _rows(y_n: npt.NDArray[Any], x_n: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """[n, 2], sample by sample in memory."""
    rows_n2 = np.empty((len(y_n), 2), dtype)
    rows_n2[:, 0], rows_n2[:, 1] = y_n, x_n
    return rows_n2


def affine_matrices(
    rotate_n: npt.NDArray[np.floating[Any]], shear_n: npt.NDArray[np.floating[Any]], size_px: int
) -> npt.NDArray[np.float32]:
    """Where each pixel of a rotated and sheared view comes from: (x, y) = M (x', y', 1), float32 [n, 2, 3].

    Degrees; about the view's center; the law of torchvision's RandomAffine with a shear along x: a point is sheared by
    x - tan(s) * y, then turned clockwise. Pixel i covers i .. i + 1.
    """
    turn_n, slope_n = np.deg2rad(rotate_n.astype(np.float64)), np.tan(np.deg2rad(shear_n.astype(np.float64)))
    cos_n, sin_n = np.cos(turn_n), np.sin(turn_n)
    matrix_n23 = np.zeros((len(turn_n), 2, 3))
    matrix_n23[:, 0, 0], matrix_n23[:, 0, 1] = cos_n - sin_n * slope_n, sin_n + cos_n * slope_n
    matrix_n23[:, 1, 0], matrix_n23[:, 1, 1] = -sin_n, cos_n
    center = np.full(2, size_px / 2)
    matrix_n23[:, :, 2] = center - matrix_n23[:, :, :2] @ center
    return matrix_n23.astype(np.float32)
