"""Two hospitals: how each turns attenuation into an image.

Hospital A digitises films and windows them hard; hospital B keeps the detector's range, collimates, and processes
less. Exposure: Beer-Lambert transmission, scattered light added, a logarithm, quantum noise of a Poisson's size.
All per-pixel work is integer (tables carry exp and log); B is -log of the light in 1/UNIT. H, W is the final size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sharding.phantom.raster import UNIT, Ints, Shape, bell, enlarge, look_up, shrink, smooth

_LIGHT_BITS = 20
_LOG_SHIFT = 2
_TOP = 9 * UNIT


@dataclass(frozen=True, slots=True)
class Exposure:
    """One hospital's way with one image."""

    scatter: float
    photons: float
    flatten: float
    blur_px: int


@cache
def _light_table() -> Ints:
    """Attenuation in 1/UNIT, 0 to _TOP, to transmitted light, 0 to 2**_LIGHT_BITS."""
    return np.round((1 << _LIGHT_BITS) * np.exp(-np.arange(_TOP + 1) / UNIT)).astype(np.int32)


@cache
def _log_table() -> Ints:
    """Light >> _LOG_SHIFT to -log in 1/UNIT."""
    light = np.maximum(np.arange((1 << (_LIGHT_BITS - _LOG_SHIFT)) + 1), 0.5) * (1 << _LOG_SHIFT)
    return np.round(-UNIT * np.log(light / (1 << _LIGHT_BITS))).astype(np.int32)


def expose(attenuation_HW: Ints, shape: Shape, exposure: Exposure, rng: np.random.Generator) -> tuple[Ints, int, int]:
    """The film at `shape`, in 1/UNIT of -log light, and two levels: lung (3rd percentile of the body), bone (97th).

    The canvas may be smaller than the film: body is drawn coarse, noise at full size.
    """
    coarse = look_up(_light_table(), np.clip(shrink(attenuation_HW, 4), 0, _TOP))
    glow = smooth(coarse, 0.06 * coarse.shape[1]) * round(exposure.scatter * 256) >> 13
    fine = enlarge(np.clip(attenuation_HW, 0, _TOP), shape)
    light = look_up(_light_table(), fine) * round((1 - exposure.scatter) * 256) // 256 + (enlarge(glow, shape) << 5)
    film = look_up(_log_table(), light >> _LOG_SHIFT)

    broad = shrink(film, 8)
    low_pass = smooth(broad, 0.11 * broad.shape[1])
    film = film - enlarge(low_pass, shape) * round(exposure.flatten * 256) // 256
    broad = shrink(film, 8)
    inside = np.sort(broad[shrink(fine, 8) > UNIT * 6 // 10], axis=None)
    if not len(inside):
        inside = np.sort(broad, axis=None)
    lung, bone = int(inside[len(inside) * 3 // 100]), int(inside[len(inside) * 97 // 100])

    grain = bell(rng, shape)
    if exposure.blur_px:
        size = exposure.blur_px + 1
        grain = cv2.boxFilter(grain, -1, (size, size), normalize=False, borderType=cv2.BORDER_REFLECT) // size
    # sigma of log light is 1 / sqrt(photons); bell() has sigma 147.8
    levels = np.arange(len(_log_table()))
    sigma = UNIT / np.sqrt(exposure.photons * np.maximum(levels, 32) / len(levels)) / 147.8
    table = np.round(sigma * 4096).astype(np.int32)
    return film + ((grain * look_up(table, light >> _LOG_SHIFT)) >> 12), lung, bone


@cache
def _film_curve(toe: float, contrast: float) -> NDArray[np.uint8]:
    """A film's S curve over 4096 steps, 0 to 255."""
    x = np.arange(4096) / 4095.0
    curve = 1 / (1 + np.exp(-contrast * (x - toe)))
    curve = (curve - curve[0]) / (curve[-1] - curve[0])
    return np.asarray(np.round(255 * curve), dtype=np.uint8)


def window_hard(film_HW: Ints, lung: int, bone: int, toe: float, contrast: float) -> NDArray[np.uint8]:
    """Hospital A: between lung and bone (a little beyond both) on an S curve to 8 bits."""
    low, high = lung - (bone - lung) // 10, bone + (bone - lung) // 8
    step = np.clip((film_HW - low) * 4095 // max(1, high - low), 0, 4095)
    return np.take(_film_curve(toe, contrast), step)


def keep_range(film_HW: Ints, lung: int, bone: int, bits: int) -> NDArray[np.uint16]:
    """Hospital B: linear, with room on both sides, over `bits` bits (MONOCHROME2 sense)."""
    low, high = lung - (bone - lung) * 45 // 100, bone + (bone - lung) * 30 // 100
    top = (1 << bits) - 1
    wide = np.clip((film_HW - low).astype(np.int64) * top // max(1, high - low), 0, top)
    return wide.astype(np.uint16)
