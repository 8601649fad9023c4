"""The gallery: pictures and boxes come back as they went in, and are drawn where they belong."""

from pathlib import Path

import numpy as np
import pytest

from eval import gallery, pictures
from eval.gallery import GalleryItem, Mark
from eval.predictions import Predictions
from eval.truth import Truth


def example() -> GalleryItem:
    image = np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.uint8)
    heat = np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)
    truth = (Mark("Nodule/Mass", (1.0, 2.0, 30.5, 20.0)),)
    found = (Mark("Pleural <effusion>", (2.0, 3.0, 31.0, 21.0), 0.875),)
    return GalleryItem("key-1", image, truth, found, "caption", heat, "EigenCAM")


def test_round_trip(tmp_path: Path) -> None:
    before = example()
    gallery.save_gallery(tmp_path / "gallery", [before, GalleryItem("key-2", before.image_HW)])
    first, second = gallery.load_gallery(tmp_path / "gallery")
    np.testing.assert_array_equal(first.image_HW, before.image_HW)
    np.testing.assert_allclose(first.heat_HW, before.heat_HW, atol=0.5 / 255 + 1e-6)
    assert (first.truth, first.predictions) == (before.truth, before.predictions)
    assert (first.key, first.caption, first.heat_caption) == ("key-1", "caption", "EigenCAM")
    assert (second.heat_HW, second.truth) == (None, ())


def test_absent_and_damaged(tmp_path: Path) -> None:
    assert gallery.load_gallery(tmp_path) == ()
    gallery.save_gallery(tmp_path, [example()])
    (tmp_path / "0000.png").unlink()
    with pytest.raises(ValueError, match=r"gallery.json: not a whole gallery"):
        gallery.load_gallery(tmp_path)
    (tmp_path / "gallery.json").write_text("{}")
    with pytest.raises(ValueError, match=r"gallery.json: not a whole gallery"):
        gallery.load_gallery(tmp_path)


def test_item_scales_boxes_and_keeps_the_best() -> None:
    truth = Truth(
        ("A", "B"),
        ("k",),
        np.array([[1000, 2000]]),
        np.array([0, 1]),
        np.array([1], np.int16),
        np.array([[200, 100, 400, 500]], np.float32),
        np.array([0]),
    )
    boxes = np.tile(np.array([[0, 0, 2000, 1000]], np.float32), (4, 1))
    scores = np.array([0.4, 0.9, 0.2, 0.6], np.float32)
    found = Predictions(truth.findings, truth.keys, np.array([0, 4]), np.array([0, 1, 0, 0], np.int16), scores, boxes)
    shown = gallery.item(
        truth,
        found,
        0,
        np.zeros((500, 1000), np.uint8),
        max_predictions=2,
        max_side_px=200,
        heat_HW=np.ones((5, 10), np.float32),
    )
    assert shown.image_HW.shape == (100, 200)
    assert shown.heat_HW is not None
    assert shown.heat_HW.shape == (100, 200)
    assert shown.truth == (Mark("B", (20.0, 10.0, 40.0, 50.0)),)
    assert [mark.score for mark in shown.predictions] == pytest.approx([0.9, 0.6])
    assert shown.predictions[0].box == (0.0, 0.0, 200.0, 100.0)
    strict = gallery.item(truth, found, 0, np.zeros((500, 1000), np.uint8), min_score=0.95)
    assert [mark.score for mark in strict.predictions] == pytest.approx([0.9])


def test_drawn_boxes_and_maps() -> None:
    drawn = pictures.boxes_svg(example())
    assert drawn == pictures.boxes_svg(example())
    assert 'x="6.0" y="12.0" width="177.0" height="108.0"' in drawn
    assert "Pleural &lt;effusion&gt; 0.88" in drawn
    assert "data:image/jpeg;base64," in pictures.heat_svg(example())
    assert pictures.heat_svg(GalleryItem("k", example().image_HW)) == ""
    image = example().image_HW
    unchanged = pictures.blend(image, np.zeros_like(image, np.float32))
    np.testing.assert_array_equal(unchanged, np.repeat(image[..., None], 3, axis=2))


def test_curves_follow_the_page() -> None:
    steps = tuple(float(i) for i in range(5000))
    panel = pictures.Panel(
        "Loss", "step", "loss", (pictures.Curve("a", steps, steps), pictures.Curve("b", (1.0,), (float("nan"),)))
    )
    drawn = pictures.curves_svg(panel)
    assert drawn == pictures.curves_svg(panel)
    assert "currentColor" in drawn
    assert pictures._INK not in drawn
    assert "<style" not in drawn
    assert len(drawn) < 60_000
