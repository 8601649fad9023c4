import pytest

from loaders.views import ClassifyViewConfig, TwoViewConfig, WholeViewConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size_px": 0}, "size_px = 0"),
        ({"area": (0.0, 1.0)}, "area"),
        ({"aspect": (2.0, 1.0)}, "aspect"),
        ({"flip": 1.5}, "flip = 1.5"),
        ({"blur": (1.0, -0.1)}, "blur = -0.1"),
        ({"brightness": 2.0}, "brightness = 2.0"),
        ({"affine": 1.1}, "affine = 1.1"),
        ({"rotate_degrees": 200.0}, "rotate_degrees = 200.0"),
        ({"shear_degrees": 90.0}, "shear_degrees = 90.0"),
    ],
)
def test_nonsense_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoViewConfig(**values)  # type: ignore[arg-type]


def test_nonsense_is_refused_for_classification() -> None:
    with pytest.raises(ValueError, match="area"):
        ClassifyViewConfig(area=(0.5, 1.2))
    with pytest.raises(ValueError, match="flip = 2"):
        ClassifyViewConfig(flip=2)
    with pytest.raises(ValueError, match="size_px = 0"):
        WholeViewConfig(size_px=0)
