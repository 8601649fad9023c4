"""A small shard set, made by the real `cxr shard folder`, and JPEGs that look a little like radiographs."""

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from sharding import build
from sharding.folder import FolderConfig

NUM_TRAIN, NUM_VALID = 37, 9
NUM_BOXED, NUM_HEALTHY = 20, 8
"""Of the training images: those with one bright rectangle and its box; those read and found healthy. Nobody read the
others."""

Gray = npt.NDArray[np.uint8]


def draw(number: int) -> tuple[Gray, tuple[int, int, int, int] | None]:
    """A smooth dark picture, sides 150 to 330 pixels; most have a bright rectangle (x_min, y_min, x_max, y_max)."""
    random = np.random.default_rng(number)
    height, width = (int(side) for side in random.integers(150, 331, 2))
    coarse = random.integers(0, 60, (6, 6)).astype(np.float32)
    picture = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 80).astype(np.uint8)
    if NUM_BOXED <= number < NUM_TRAIN:
        return picture, None
    x, y = int(random.integers(5, width - 70)), int(random.integers(5, height - 70))
    box = (x, y, x + int(random.integers(30, 61)), y + int(random.integers(30, 61)))
    picture[box[1] : box[3], box[0] : box[2]] = 230
    return picture, box


def write_images(root: Path, numbers: range) -> None:
    """Images and the csv file that describes them, as a user would have them."""
    root.mkdir()
    with open(root / "about.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "split", "findings", "x_min", "y_min", "x_max", "y_max"])
        for number in numbers:
            picture, box = draw(number)
            cv2.imwrite(str(root / f"image{number:03d}.png"), picture)
            split = "train" if number < NUM_TRAIN else "valid"
            healthy = "No finding" if number < NUM_BOXED + NUM_HEALTHY else ""
            row = ["Nodule/Mass", *box] if box is not None else [healthy, "", "", "", ""]
            table.writerow([f"image{number:03d}.png", split, *row])


@pytest.fixture(scope="session")
def make_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, range, tuple[int, ...]], Path]:
    """Makes a shard set of some of the drawn images, eight a shard, with these smaller levels."""

    def make(name: str, numbers: range, levels: tuple[int, ...]) -> Path:
        folder = tmp_path_factory.mktemp(name)
        write_images(folder / "images", numbers)
        build.run(
            FolderConfig(
                keep_names=True,
                root=folder / "images",
                out=folder / "set",
                name=name,
                csv=folder / "images" / "about.csv",
                levels=levels,
                samples_per_shard=8,
                processes=1,
            )
        )
        return folder / "set"

    return make


@pytest.fixture(scope="session")
def shard_set(make_set: Callable[[str, range, tuple[int, ...]], Path]) -> Path:
    """37 training and 9 validation images in 7 shards, one level."""
    return make_set("small", range(NUM_TRAIN + NUM_VALID), ())


@pytest.fixture(scope="session")
def radiographs() -> tuple[list[Gray], list[Gray]]:
    """Eight images of real radiographs' kind of sizes, and their JPEGs as bytes uint8 [length]."""
    images, encoded = [], []
    for number in range(8):
        random = np.random.default_rng(number)
        height, width = (int(side) for side in random.integers(300, 700, 2))
        coarse = random.integers(0, 256, (40, 40)).astype(np.float32)
        picture = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
        data = np.asarray(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]).reshape(-1)
        encoded.append(data)
        images.append(np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)))
    return images, encoded
