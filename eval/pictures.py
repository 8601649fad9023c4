"""Drawings for a page: curves and intervals as inline SVG in the page's text colour, images with boxes over them.

Nothing here touches matplotlib's global state; the same input gives the same bytes.

Shapes: H x W a picture in pixels.
"""

import base64
import io
import re
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray
from PIL import Image

from eval.gallery import GalleryItem, Mark

COLOURS = ("#2f81c7", "#e07b39", "#9a63c9", "#3a9d6e", "#c9528b")
PRIOR_COLOUR = "#7d8590"
TRUTH_COLOUR = "#3ddc84"
PREDICTION_COLOUR = "#ffa62b"
_INK = "#010203"  # stands for the page's own text colour until the SVG is written
_MAX_POINTS = 400
_LETTERS = 10.5
_VIEW_WIDTH = 360.0
_FONT = 12.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram of curves."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an interval diagram: per predictor (value, low, high), or None where there is no interval."""

    name: str
    ranges: tuple[tuple[float, float, float] | None, ...]


def curves_svg(panel: Panel) -> str:
    """A panel as inline SVG. More than 400 points of a curve are drawn as means of equal stretches."""
    figure = Figure(figsize=(4.1, 3.1), layout="constrained")
    axes = figure.add_subplot()
    for number, curve in enumerate(panel.curves):
        steps, values = _thinned(np.array(curve.steps, float), np.array(curve.values, float))
        marker = "o" if len(steps) <= 12 else None
        axes.plot(steps, values, label=curve.name, color=COLOURS[number % len(COLOURS)], lw=1.6, marker=marker, ms=4)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    figure.legend(frameon=False, fontsize=_LETTERS, labelcolor=_INK, loc="outside lower left")
    return _svg(figure, panel.title)


def intervals_svg(title: str, predictors: dict[str, str], rows: tuple[Row, ...], x_label: str) -> str:
    """Values with their intervals as inline SVG, a row each; `predictors` gives names and their colours."""
    figure = Figure(figsize=(11.5, 1.0 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    offsets = (np.arange(len(predictors)) - (len(predictors) - 1) / 2) * 0.24
    for number, ((name, colour), offset) in enumerate(zip(predictors.items(), offsets, strict=True)):
        drawn = [(y + offset, row.ranges[number]) for y, row in enumerate(rows)]
        places = [place for place, entry in drawn if entry is not None]
        value, low, high = np.array([e for _, e in drawn if e is not None], float).reshape(-1, 3).T
        axes.hlines(places, low, high, color=colour, lw=2.2, alpha=0.6)
        axes.plot(value, places, "o", color=colour, ms=5, label=name)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(x_label)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    figure.legend(frameon=False, fontsize=_LETTERS, labelcolor=_INK, loc="outside upper right", ncols=len(predictors))
    return _svg(figure, title)


def boxes_svg(shown: GalleryItem) -> str:
    """The picture with true boxes (green, solid) and predicted ones (orange, dashed, with score) as inline SVG."""
    height, width = shown.image_HW.shape
    scale = _VIEW_WIDTH / width
    taken: list[tuple[float, float, float, float]] = []
    drawn = [_mark(mark, scale, height * scale, TRUTH_COLOUR, "", taken) for mark in shown.truth]
    drawn += [_mark(mark, scale, height * scale, PREDICTION_COLOUR, "5 3", taken) for mark in shown.predictions]
    parts = [lines for lines, _ in drawn] + [words for _, words in drawn]
    return _over(_data_uri(Image.fromarray(shown.image_HW)), width, height, parts, f"image {shown.key} with boxes")


def heat_svg(shown: GalleryItem) -> str:
    """The picture under its heat map as inline SVG; "" where the item has none."""
    if shown.heat_HW is None:
        return ""
    height, width = shown.image_HW.shape
    picture = Image.fromarray(blend(shown.image_HW, shown.heat_HW))
    return _over(_data_uri(picture), width, height, [], f"image {shown.key} with its heat map")


def blend(image_HW: NDArray[np.uint8], heat_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: the gray picture, coloured (inferno) where the map is high and left as it is where it is 0."""
    colour_HW3 = mpl.colormaps["inferno"](heat_HW)[..., :3] * 255
    strength_HW1 = 0.6 * np.clip(heat_HW, 0, 1)[..., None] ** 0.7
    mixed = image_HW[..., None] * (1 - strength_HW1) + colour_HW3 * strength_HW1
    picture: NDArray[np.uint8] = np.round(mixed).astype(np.uint8)
    return picture


def _mark(
    mark: Mark, scale: float, bottom: float, colour: str, dashes: str, taken: list[tuple[float, float, float, float]]
) -> tuple[str, str]:
    """SVG of a box and, apart, of its words, which move away from words that stand there already."""
    x_min, y_min, x_max, y_max = (value * scale for value in mark.box)
    words = mark.finding if mark.score is None else f"{mark.finding} {mark.score:.2f}"
    long, tall = 0.54 * _FONT * len(words) + 6, _FONT + 4
    x = min(max(x_min, 1), max(_VIEW_WIDTH - long, 1))
    inside_top = max(y_min - tall, 0)
    choices = [inside_top + tall * k for k in range(6)] + [inside_top - tall * k for k in range(1, 4)]
    if mark.score is not None:
        choices = [min(y_max + 1, bottom - tall) + tall * k for k in (0, -1, 1, -2, 2, -3, 3)]
    fits = (
        y for y in choices if 0 <= y <= bottom - tall and not any(_touch((x, y, x + long, y + tall), t) for t in taken)
    )
    y = next(fits, choices[0])
    taken.append((x, y, x + long, y + tall))
    box = (
        f'<rect x="{x_min:.1f}" y="{y_min:.1f}" width="{x_max - x_min:.1f}" height="{y_max - y_min:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dashes or "none"}"/>'
    )
    text = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{long:.1f}" height="{tall:.1f}" rx="2" fill="#000" fill-opacity=".62"/>'
        f'<text x="{x + 3:.1f}" y="{y + _FONT:.1f}" font-size="{_FONT:g}" textLength="{long - 6:.1f}" '
        f'lengthAdjust="spacingAndGlyphs" fill="{colour}">{escape(words)}</text>'
    )
    return box, text


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _over(uri: str, width: int, height: int, parts: list[str], alt: str) -> str:
    view_height = height * _VIEW_WIDTH / width
    image = f'<image href="{uri}" width="{_VIEW_WIDTH:g}" height="{view_height:.1f}" preserveAspectRatio="none"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_VIEW_WIDTH:g} {view_height:.1f}" role="img"'
    return f'{head} aria-label="{escape(alt)}">{image}{"".join(parts)}</svg>'


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    kept = np.isfinite(y)
    x, y = x[kept], y[kept]
    if len(x) <= _MAX_POINTS:
        return x, y
    starts = np.linspace(0, len(x), _MAX_POINTS, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _svg(figure: Figure, title: str) -> str:
    """Inline SVG of a figure: transparent, in the page's text colour and font, its ids unlike other figures'."""
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.grid(True, color=_INK, alpha=0.12, lw=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=_INK, labelsize=_LETTERS, width=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set(color=_INK, alpha=0.4, linewidth=0.8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=_INK, fontsize=_LETTERS)
    figure.patch.set_alpha(0)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1, flags=re.DOTALL)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}" style="stroke-linejoin: round"', 1)
