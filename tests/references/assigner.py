"""mmdetection 2.28's MaxIoUAssigner in plain loops, for one image."""

from collections.abc import Sequence

Box = Sequence[float]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def assign(
    boxes: Sequence[Box], candidates: Sequence[Box], positive: float, negative: float, rescue: float | None
) -> tuple[list[int], list[int]]:
    """Per candidate the true box (the first best one) and its state: 1 positive, 0 negative, -1 neither."""
    owners, states = [], []
    for candidate in candidates:
        values = [overlap(box, candidate) for box in boxes]
        best = max(values, default=-1.0)
        owners.append(values.index(best) if values else 0)
        states.append(1 if best >= positive else 0 if best < negative else -1)
    if rescue is not None:
        for i, box in enumerate(boxes):
            values = [overlap(box, candidate) for candidate in candidates]
            if max(values) >= rescue:
                for j, value in enumerate(values):
                    if value == max(values):
                        owners[j], states[j] = i, 1
    return owners, states
