"""The log of a run: what it refuses, and that a resumed run tells its own pace."""

from pathlib import Path

import pytest

from cluster.world import World
from loaders.agreement import GivenUp
from trainers.runlog import LogConfig, RunLog, read_metrics


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


def test_each_sample_left_out_is_told_once_over_all_starts(tmp_path: Path) -> None:
    samples = [GivenUp(f"{number:016x}", 0, number, f"image {number} is cut short") for number in range(4)]
    for start, before in ((0, 0), (5, 3)):
        with RunLog(tmp_path, LogConfig(), World(0, 1, 0, "cpu"), start, 10, "pretrain", samples[:before]) as log:
            log.given_up(start + 1, samples[:3])
            log.given_up(start + 2, samples[:3])
    with RunLog(tmp_path, LogConfig(), World(0, 1, 0, "cpu"), 8, 10, "pretrain", samples[:3]) as log:
        log.given_up(9, samples)
    events = read_metrics(tmp_path, "event")
    assert [(event["step"], event["num"]) for event in events] == [(1, 3), (9, 4)]
    assert [reason for event in events for reason in event["reasons"]] == [one.reason for one in samples]
