"""How far, how fast, how long still."""

import io

import pytest

from cluster.progress import Progress, format_progress, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (7620, "2h07m")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_lines() -> None:
    line = format_progress(500, 2000, 50.0, "sharding", "images")
    assert line == "sharding: 500/2,000 images (25 %), 10.0/s, 2m30s left"
    assert format_progress(2000, 2000, 200.0, "sharding", "images").endswith("took 3m20s")
    assert format_progress(0, 2000, 0.0, "sharding", "images") == "sharding: 0/2,000 images (0 %), 0.0/s"
    assert format_progress(7, None, 2.0, "reading", "files") == "reading: 7 files, 3.5/s, 2s"
    assert format_progress(0, 0, 1.0, "reading", "files") == "reading: 0 files, 0.0/s, 1s"


def test_elsewhere_a_last_line_and_no_control_characters() -> None:
    stream = io.StringIO()
    with Progress(3, "reading", "files", stream) as progress:
        for _ in range(3):
            progress.update()
        progress.close()
    assert stream.getvalue().startswith("reading: 3/3 files (100 %)")
    assert stream.getvalue().count("\n") == 1
    assert "\r" not in stream.getvalue()
