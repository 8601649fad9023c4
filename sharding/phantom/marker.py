"""Lead letters and burnt-in words, in a stroke font of our own: a library's font changes with its version."""

from __future__ import annotations

import numpy as np

from sharding.phantom.raster import Mask, Shape, blank, stroke

# one polyline per string of digit pairs "xy", x 0..4 and y 0 (top) .. 6
_GLYPHS: dict[str, tuple[str, ...]] = {
    "A": ("062046", "1434"),
    "B": ("0006364544330300", "003041423303"),
    "C": ("4130100105163645",),
    "D": ("00062644422000",),
    "E": ("40000646", "0333"),
    "I": ("2026",),
    "L": ("000646",),
    "N": ("06004640",),
    "O": ("103041453616050110",),
    "P": ("06003041423303",),
    "R": ("06003041423303", "2346"),
    "S": ("4130100102134445361605",),
    "T": ("0040", "2026"),
    "U": ("000516364540",),
}


def write_text(
    shape: Shape, lines: tuple[str, ...], x: float, y: float, height_px: float, weight: float = 0.16
) -> Mask:
    """A mask with the lines, the first one's upper left corner at (x, y) as shares of width and height.

    Args:
        shape: the image's height and width.
        lines: words of the letters A B C D E I L N O P R S T U and blanks.
        x: left edge, 0 to 1.
        y: upper edge, 0 to 1.
        height_px: height of a letter.
        weight: width of a stroke as a share of the letter's height.
    """
    mask = blank(shape)
    cell = height_px / 6
    for row, line in enumerate(lines):
        for column, letter in enumerate(line):
            corner = np.array([x * shape[1] + column * 6 * cell, y * shape[0] + row * 9 * cell])
            for path in _GLYPHS.get(letter, ()):
                points = np.array([(int(path[i]), int(path[i + 1])) for i in range(0, len(path), 2)], dtype=np.float64)
                stroke(mask, corner + points * cell, weight * height_px)
    return mask
