import math

import pytest

from sharding.sample import Box, age_band, check_boxes


@pytest.mark.parametrize(
    ("years", "band"),
    [(0, "0-9"), (9.9, "0-9"), (10, "10-19"), (89, "80-89"), (90, "90+"), (130, "90+"), (414, None), (-1, None)],
)
def test_age_bands(years: float, band: str | None) -> None:
    assert age_band(years) == band


@pytest.mark.parametrize(
    "corners",
    [(5, 5, 5, 9), (9, 5, 5, 9), (-1, 0, 3, 3), (0, 0, 11, 3), (0, 0, 3, 21), (math.nan, 0, 3, 3), (0, 0, math.inf, 3)],
)
def test_boxes_that_are_no_rectangle_inside_the_image_are_told(corners: tuple[float, float, float, float]) -> None:
    assert "10 wide and 20 high" in str(check_boxes((Box(0, *corners),), 20, 10))


def test_boxes_may_touch_the_border() -> None:
    assert check_boxes((Box(0, 0, 0, 10, 20),), 20, 10) is None
    assert check_boxes(None, 20, 10) is None
