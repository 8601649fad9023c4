"""Non-maximum suppression of equally scored boxes, written as its definition says."""

from __future__ import annotations

Row = tuple[float, ...]
"""Finding, then x_min, y_min, x_max, y_max."""


def overlap(a: Row, b: Row) -> float:
    """Intersection over union."""
    width = min(a[3], b[3]) - max(a[1], b[1])
    height = min(a[4], b[4]) - max(a[2], b[2])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(r[3] - r[1]) * (r[4] - r[2]) for r in (a, b)]
    return width * height / (sum(areas) - width * height)


def nms_slowly(rows: list[Row], iou: float) -> list[Row]:
    """Of the boxes of a finding, the last first: those that overlap no kept one by more than `iou`."""
    kept: list[Row] = []
    for row in reversed(rows):
        if all(row[0] != other[0] or overlap(row, other) <= iou for other in kept):
            kept.append(row)
    return kept
