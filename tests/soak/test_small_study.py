"""The demo as `make demo` runs it: the detector has learned from pixels."""

from pathlib import Path

import pytest

from eval import measure
from tests.conftest import Cxr

pytestmark = pytest.mark.soak


def test_both_detectors_beat_the_location_prior_with_an_interval(cxr: Cxr, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    ended = cxr("demo", "--out", out, timeout=1500)
    assert ended.returncode == 0, ended.stderr
    for arm in ("barlow", "scratch"):
        difference = measure.read(out / arm / "metrics.json")["difference_to_prior"]["map50"]
        assert difference["low"] > 0
        assert difference["value"] > 0.05
