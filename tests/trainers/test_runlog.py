"""The log of a run: what it refuses, and that a resumed run tells its own pace."""

from pathlib import Path

import pytest

from cluster.world import World
from trainers.runlog import LogConfig, RunLog


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"log\.every_steps is 0"):
        LogConfig(every_steps=0)


def test_progress_of_a_resumed_run_counts_its_new_steps_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of an earlier start would count into the rate and make the time left far too small."""
    with RunLog(tmp_path, LogConfig(), World(0, 1, 0, "cpu"), 90, 100, "pretrain") as log:
        log.advance(4)
    assert "from step 90: 4/10 steps (40 %)" in capsys.readouterr().err
