"""Parameters of views, drawn: pure functions of (seed, visit, digest, view), the same in whatever batch a sample is.

Shapes: n samples, m draws (the samples once for each view), k of them, T attempts. Positions are (y, x), sizes (height,
width), in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loaders.placement import Placement, place
from loaders.rng import Stream, states, uniforms
from loaders.views import ClassifyViewConfig, DetectViewConfig, PlainViewConfig, TwoViewConfig, ViewParameters

_CROP_ROUNDS = (range(0, 1), range(1, 2), range(2, 10))
"""Ten attempts at a crop. Few samples need a third, and for them all the others at once cost less than one by one."""
# Numbers of the draws of a view. They are part of the meaning of a seed: append, never renumber.
_CROP = 0  # of 32 bits, four a try: area, aspect, y, x
_LOOK = 80  # of 16 bits, in the words after the crop's: flip, jitter, brightness, contrast, blur, sigma, solarize
_AFFINE = 44  # of 32 bits, in the words after those: whether, rotation, shear
_PLACEMENT = 0  # of 32 bits: scale, y, x, flip


def draw_view(
    config: TwoViewConfig,
    view: int,
    seed: int,
    visits_n: npt.NDArray[np.int64],
    digests_n: npt.NDArray[np.uint64],
    sizes_n2: npt.NDArray[np.integer[Any]],
) -> ViewParameters:
    """Parameters of view 0 or 1 of samples with these digests and these sizes (height, width) of the stored image."""
    return draw_views(config, (view,), seed, visits_n, digests_n, sizes_n2)[0]


def draw_views(
    config: TwoViewConfig,
    views: Sequence[int],
    seed: int,
    visits_n: npt.NDArray[np.int64],
    digests_n: npt.NDArray[np.uint64],
    sizes_n2: npt.NDArray[np.integer[Any]],
) -> tuple[ViewParameters, ...]:
    """The same of several views at once, in this order."""
    n = len(digests_n)
    state_m = np.concatenate([states(seed, visits_n, digests_n, Stream.VIEW + view) for view in views])
    sizes_2m = np.concatenate([sizes_n2.T.astype(np.float32)] * len(views), axis=1)
    start_m2, size_m2 = _crops(config.area, config.aspect, state_m, *sizes_2m)
    flip, jitter, brightness, contrast, blur, sigma, solarize = uniforms(state_m, _LOOK, 7, bits=16)
    # Products by 0 and 1 instead of np.where, which is ten times as slow here.
    jittered_m = jitter < np.float32(config.jitter)
    brightness_m = 1 + jittered_m * _between(1 - config.brightness, 1 + config.brightness, brightness, 1)
    contrast_m = 1 + jittered_m * _between(1 - config.contrast, 1 + config.contrast, contrast, 1)
    sigma_m = _between(*config.blur_sigma_px, sigma)
    rotate_m, shear_m = _affine(config, state_m)
    drawn = []
    for number, view in enumerate(views):
        mine = slice(number * n, (number + 1) * n)
        drawn.append(
            ViewParameters(
                window_start_n2=start_m2[mine],
                window_size_n2=size_m2[mine],
                flip_n=flip[mine] < np.float32(config.flip),
                rotate_n=rotate_m[mine],
                shear_n=shear_m[mine],
                brightness_n=brightness_m[mine],
                contrast_n=contrast_m[mine],
                blur_sigma_n=(blur[mine] < np.float32(config.blur[view])) * sigma_m[mine],
                solarize_n=solarize[mine] < np.float32(config.solarize[view]),
            )
        )
    return tuple(drawn)


def draw_classify_view(
    config: ClassifyViewConfig,
    seed: int,
    visits_n: npt.NDArray[np.int64],
    digests_n: npt.NDArray[np.uint64],
    sizes_n2: npt.NDArray[np.integer[Any]],
) -> ViewParameters:
    """Parameters of the view of samples with these digests and these sizes (height, width) of the stored image."""
    state_n = states(seed, visits_n, digests_n, Stream.VIEW)
    start_n2, size_n2 = _crops(config.area, config.aspect, state_n, *sizes_n2.T.astype(np.float32))
    (flip,) = uniforms(state_n, _LOOK, 1, bits=16)
    return _unchanged(start_n2, size_n2, flip < np.float32(config.flip))


def whole_view(sizes_n2: npt.NDArray[np.integer[Any]]) -> ViewParameters:
    """Parameters of the view that is the whole image, of images of these sizes (height, width)."""
    return _unchanged(np.zeros(sizes_n2.shape, np.int32), sizes_n2.astype(np.int32), np.zeros(len(sizes_n2), bool))


def draw_placement(
    config: DetectViewConfig,
    seed: int,
    visits_n: npt.NDArray[np.int64],
    digests_n: npt.NDArray[np.uint64],
    originals_n2: npt.NDArray[np.integer[Any]],
) -> Placement:
    """Where images with these digests and original sizes (height, width) lie on the canvas at this visit."""
    scale, y, x, flip = uniforms(states(seed, visits_n, digests_n, Stream.VIEW), _PLACEMENT, 4)
    scale_n = config.scale[0] + (config.scale[1] - config.scale[0]) * scale
    return place(originals_n2, config.size_px, scale_n, np.stack([y, x], axis=1), flip < config.flip)


def plain_placement(config: PlainViewConfig, originals_n2: npt.NDArray[np.integer[Any]]) -> Placement:
    """Where images of these original sizes (height, width) lie on the canvas without augmentation."""
    n = len(originals_n2)
    return place(originals_n2, config.size_px, np.ones(n), np.zeros((n, 2)), np.zeros(n, bool))


def _affine(
    config: TwoViewConfig, state_m: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rotations and shears, degrees, float32 [m] each."""
    if config.affine == 0:  # nobody pays for what nobody asked for
        nothing_m = np.zeros(len(state_m), np.float32)
        return nothing_m, nothing_m
    chance, rotate, shear = uniforms(state_m, _AFFINE, 3)
    done_m = chance < config.affine
    rotate_m = done_m * (config.rotate_degrees * (2 * rotate - 1))
    return rotate_m.astype(np.float32), (done_m * (config.shear_degrees * (2 * shear - 1))).astype(np.float32)


def _unchanged(
    start_n2: npt.NDArray[np.int32], size_n2: npt.NDArray[np.int32], flip_n: npt.NDArray[np.bool_]
) -> ViewParameters:
    """Windows, flipped or not, of which nothing else is changed."""
    zero_n, one_n = np.zeros(len(flip_n), np.float32), np.ones(len(flip_n), np.float32)
    return ViewParameters(start_n2, size_n2, flip_n, zero_n, zero_n, one_n, one_n, zero_n, np.zeros(len(flip_n), bool))


def _crops(
    area: tuple[float, float],
    aspect: tuple[float, float],
    state_m: npt.NDArray[np.uint64],
    height_m: npt.NDArray[np.float32],
    width_m: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """As draw_crop, one crop a state; results lie column by column in memory."""
    crop_4m = np.empty((4, len(state_m)), np.float32)
    left = np.arange(len(state_m))  # those without a crop yet
    for attempts in _CROP_ROUNDS:
        if len(left) == len(state_m):
            crop_4m, fits_m = _try_crops(area, aspect, attempts, state_m, height_m, width_m)
            left = np.flatnonzero(~fits_m)
        elif len(left):
            tried, fits_m = _try_crops(area, aspect, attempts, state_m[left], height_m[left], width_m[left])
            _put(crop_4m, left, tried)
            left = left[~fits_m]
    if len(left):
        _put(crop_4m, left, _central_crop(aspect, height_m[left], width_m[left]))
    corners_4m = crop_4m.astype(np.int32)
    return corners_4m[:2].T, corners_4m[2:].T


def _put(line_4m: npt.NDArray[np.float32], place_k: npt.NDArray[np.int64], line_4k: npt.NDArray[np.float32]) -> None:
    for line_m, line_k in zip(line_4m, line_4k, strict=True):  # a fifth of the time of all lines at once
        line_m[place_k] = line_k


def _try_crops(
    area: tuple[float, float],
    aspect: tuple[float, float],
    attempts: range,
    state_m: npt.NDArray[np.uint64],
    height_m: npt.NDArray[np.float32],
    width_m: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The first of these attempts that fits into the image: y, x, height, width, float32 [4, m], to be truncated to
    whole pixels; and whether one does, bool [m]."""
    drawn_T4m = uniforms(state_m, _CROP + 4 * attempts.start, 4 * len(attempts)).reshape(len(attempts), 4, -1)
    u_area, u_aspect, u_y, u_x = drawn_T4m.transpose(1, 0, 2)
    side_Tm = np.sqrt(height_m * width_m * _between(*area, u_area))
    # The root of width over height.
    stretch_Tm = np.exp(_between(0.5 * math.log(aspect[0]), 0.5 * math.log(aspect[1]), u_aspect))
    crop_4Tm = np.empty((4, *side_Tm.shape), np.float32)
    _, _, crop_height, crop_width = crop_4Tm
    np.rint(side_Tm / stretch_Tm, out=crop_height)
    np.rint(side_Tm * stretch_Tm, out=crop_width)
    room_y, room_x = height_m - crop_height, width_m - crop_width
    np.minimum(u_y * (room_y + 1), room_y, out=crop_4Tm[0])  # float32 may round the product up to room + 1
    np.minimum(u_x * (room_x + 1), room_x, out=crop_4Tm[1])
    fits_Tm = (np.minimum(room_y, room_x) >= 0) & (np.minimum(crop_height, crop_width) >= 1)
    if len(attempts) == 1:
        return crop_4Tm[:, 0], fits_Tm[0]
    first_m = fits_Tm.argmax(axis=0)
    return crop_4Tm[:, first_m, np.arange(len(state_m))], fits_Tm.any(axis=0)


def _between(low: float, high: float, uniform_m: npt.NDArray[np.float32], less: float = 0) -> npt.NDArray[np.float32]:
    """Uniform from `low` to `high`, less a number."""
    return uniform_m * np.float32(high - low) + np.float32(low - less)


def _central_crop(
    aspect: tuple[float, float], height_m: npt.NDArray[np.float32], width_m: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """y, x, height, width, float32 [4, m]."""
    too_tall, too_wide = width_m / height_m < aspect[0], width_m / height_m > aspect[1]
    crop_height = np.where(too_tall, np.minimum(np.rint(width_m / aspect[0]), height_m), height_m)
    crop_width = np.where(too_wide, np.minimum(np.rint(height_m * aspect[1]), width_m), width_m)
    size_2m = np.maximum(np.stack([crop_height, crop_width]), 1)
    return np.concatenate([(np.stack([height_m, width_m]) - size_2m) // 2, size_2m])
