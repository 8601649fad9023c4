"""Who broke the pipeline: told for many samples as for each alone, and never a good image."""

import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from loaders import culprits
from loaders.culprits import decode_failures, probe
from tests.conftest import ROOT

Gray = npt.NDArray[np.uint8]
Size = tuple[int, int]
GARBAGE = np.frombuffer(b"this is no picture at all", np.uint8)
EMPTY = np.empty(0, np.uint8)


def failure(encoded: Gray, size: Size | None = None) -> str | None:
    return decode_failures([encoded], "cpu", [size])[0]


def with_header_of(encoded: Gray, side: int) -> Gray:
    """The same JPEG, whose header says another height and width."""
    changed = encoded.copy()
    frame = changed.tobytes().index(b"\xff\xc0")  # marker, length, precision, then height and width
    changed[frame + 5 : frame + 9] = np.frombuffer(side.to_bytes(2, "big") * 2, np.uint8)
    return changed


def test_a_sample_that_does_not_decode_is_told(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    images, encoded = radiographs
    height, width = images[0].shape
    assert failure(encoded[0], (height, width)) is None
    for damaged, told in (
        (GARBAGE, "header cannot be read"),
        (EMPTY, "empty"),
        (encoded[0][:40], "header cannot be read"),
        (encoded[0][: len(encoded[0]) // 2], "cannot be decoded (Failed to decode"),
    ):
        reason = failure(damaged, (height, width))
        assert reason is not None
        assert told in reason
        assert "\n" not in reason
    assert "the index" in str(failure(encoded[0], (height, width + 1)))


@pytest.mark.parametrize("group_pixels", [1, 1 << 20, culprits.GROUP_PIXELS])
def test_many_are_told_as_each_alone(
    radiographs: tuple[list[Gray], list[Gray]], group_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(culprits, "GROUP_PIXELS", group_pixels)
    images, encoded = radiographs
    size = images[0].shape[:2]
    png = np.asarray(cv2.imencode(".png", images[0])[1]).reshape(-1)
    cut = encoded[0][: len(encoded[0]) // 2]
    some: list[tuple[Gray, Size | None]] = [
        *((one, image.shape) for one, image in zip(encoded, images, strict=True)),
        (GARBAGE, size),
        (cut, size),
        (EMPTY, None),
        (encoded[0], None),
        (encoded[0], (size[0] + 1, size[1])),
        (with_header_of(encoded[0], 30_000), None),
        (png[: len(png) // 2], size),
        (png, size),
        (cut, size),
    ]
    reasons = decode_failures([one for one, _ in some], "cpu", [size for _, size in some])
    assert reasons == [failure(*one) for one in some]
    assert [i for i, reason in enumerate(reasons) if reason is None] == [*range(len(images)), 11, 15]
    assert decode_failures([], "cpu", []) == []


def test_a_huge_header_is_refused_before_memory_is_taken(radiographs: tuple[list[Gray], list[Gray]]) -> None:
    huge = with_header_of(radiographs[1][0], 30_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "30000 x 30000" in str(failure(huge))
    assert "30000 x 30000" in str(failure(huge, (512, 512)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; the image would take 900,000


WITHOUT_MEMORY = """
import resource, sys
import numpy as np
from loaders.culprits import decode_failures

small, large = (np.fromfile(path, np.uint8) for path in sys.argv[1:])
assert decode_failures([small, small[:-40]], "cpu", [None, None])[0] is None  # what is loaded once is there
most = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 60_000_000
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    print("told:", decode_failures([small, large], "cpu", [None, (12_000, 12_000)]))
except RuntimeError as error:
    print("raised:", type(error).__name__, error)
"""


def test_the_end_of_memory_is_no_image_s_fault(tmp_path: Path) -> None:
    """A good image of 144 MB where 60 are left."""
    for name, side in (("small", 100), ("large", 12_000)):
        (tmp_path / name).write_bytes(cv2.imencode(".jpg", np.zeros((side, side), np.uint8))[1].tobytes())
    words = [sys.executable, "-c", WITHOUT_MEMORY, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("raised: RuntimeError"), done.stdout
    assert "fn.decoders.image" in done.stdout, "DALI's own error"


def test_probe_answers_for_every_device() -> None:
    answers = probe()
    assert answers[0] == ("cpu", None)
    assert len(answers) == 1 + torch.cuda.device_count()
