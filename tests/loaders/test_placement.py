import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.placement import Placement, boxes_to_canvas, boxes_to_original, place


def placement(height: int, width: int, size: int, scale: float, corner: tuple[float, float], flip: bool) -> Placement:
    return place(np.array([[height, width]]), size, np.array([scale]), np.array([corner]), np.array([flip]))


PLACEMENTS = st.builds(
    placement,
    st.integers(20, 4000),
    st.integers(20, 4000),
    st.integers(64, 1024),
    st.floats(0.3, 3.0),
    st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    st.booleans(),
)


@settings(deadline=None)
@given(PLACEMENTS, st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5))
def test_boxes_come_back(placed: Placement, shares: list[tuple[float, float, float, float]]) -> None:
    """Inside the window they come back; elsewhere what comes back is the part inside."""
    height, width = placed.originals_n2[0]
    xs = np.sort(np.array([[a, c] for a, _, c, _ in shares]) * width, axis=1)
    ys = np.sort(np.array([[b, d] for _, b, _, d in shares]) * height, axis=1)
    boxes = np.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], axis=1).astype(np.float32)
    sample = np.zeros(len(boxes), np.int64)
    canvas, keep = boxes_to_canvas(boxes, sample, placed)
    content_h, content_w = placed.sizes_n2[0]
    assert (canvas >= 0).all()
    assert (canvas[:, [0, 2]] <= content_w).all()
    assert (canvas[:, [1, 3]] <= content_h).all()
    assert (canvas[:, 2:] >= canvas[:, :2]).all()
    low = placed.window_start_n2[0][::-1]
    high = low + placed.window_size_n2[0][::-1]
    inside = np.concatenate([np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)], axis=1)
    back = boxes_to_original(canvas, sample, placed)
    assert np.abs(back - inside).max() <= 1e-4 * max(height, width)
    sides = (canvas[:, 2:] - canvas[:, :2]).min(axis=1)
    assert keep[sides > 1.001].all()
    assert not keep[sides < 0.999].any()


def test_a_flip_mirrors_within_the_content() -> None:
    placed = placement(100, 200, 100, 1.0, (0, 0), True)
    assert placed.sizes_n2.tolist() == [[50, 100]]
    canvas, keep = boxes_to_canvas(np.array([[0, 0, 20, 10]], np.float32), np.array([0]), placed)
    assert canvas.tolist() == [[90, 0, 100, 5]]
    assert keep.tolist() == [True]


def test_no_boxes_are_no_trouble() -> None:
    placed = placement(100, 200, 100, 1.0, (0, 0), True)
    canvas, keep = boxes_to_canvas(np.empty((0, 4), np.float32), np.empty(0, np.int64), placed)
    assert canvas.shape == (0, 4)
    assert keep.shape == (0,)
