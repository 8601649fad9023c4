"""Small shard sets for tests of detection: bright and dim squares on noise, read and written by the project itself."""

from pathlib import Path

import cv2
import numpy as np

from sharding import build

SIDE_PX = 80
COUNTS = {"train": 24, "valid": 7, "test": 9}


def make_shards(folder: Path, names: tuple[str, str] = ("bright", "dim"), counts: dict[str, int] | None = None) -> Path:
    """A shard set of PNG images of 96 x 80 px; every fifth image has no box. Gives its folder."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = ["path,split,findings,x_min,y_min,x_max,y_max"]
    for split, count in (counts or COUNTS).items():
        for i in range(count):
            path = f"{split}{i:03d}.png"
            pixels = rng.integers(0, 60, (96, SIDE_PX), dtype=np.uint8)
            if i % 5 == 4:
                lines.append(f"{path},{split},No finding,,,,")
            else:
                x, y, side = (int(v) for v in rng.integers((4, 4, 20), (40, 50, 32)))
                kind = int(rng.integers(2))
                pixels[y : y + side, x : x + side] = (250, 130)[kind]
                lines.append(f"{path},{split},{names[kind]},{x},{y},{x + side},{y + side}")
            cv2.imwrite(str(folder / "images" / path), pixels)
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    words = [
        "folder",
        "--root",
        str(folder / "images"),
        "--csv",
        str(folder / "images.csv"),
        "--out",
        str(folder / "set"),
    ]
    assert build.main([*words, "--findings", *names, "--processes", "1", "--keep_names"]) == 0
    return folder / "set"
