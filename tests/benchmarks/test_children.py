"""Programs that stand still between their turns."""

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.children import Child, ChildFailed, Program
from benchmarks.loader_arms import Means, decoder
from benchmarks.loader_sets import Source


def test_a_program_works_in_its_turn_alone_and_its_time_is_counted(
    sources: list[Source], means: Means, tmp_path: Path
) -> None:
    child = Child(decoder(sources[1], means).program, tmp_path / "log")
    try:
        before = child.cpu_seconds()
        items, ends = child.take(seconds=0.3)
        assert sum(items) > 0
        assert ends[-1] >= 0.3
        after = child.cpu_seconds()
        assert after > before
        assert child.memory_bytes() > 20e6
        time.sleep(0.3)
        assert child.cpu_seconds() - after <= 0.03, "it stands still"
        assert child.take(steps=2)[0] == [4, 4]
    finally:
        child.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(child._process.pid, 0)


def test_a_program_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"benchmarks.peers.dali_native ended: .*KeyError"):
        Child(Program("benchmarks.peers.dali_native", {}), tmp_path / "log")


def test_a_program_that_ends_in_its_turn_is_named(sources: list[Source], means: Means, tmp_path: Path) -> None:
    child = Child(decoder(sources[1], means).program, tmp_path / "log")
    os.killpg(child._process.pid, signal.SIGKILL)
    with pytest.raises(ChildFailed, match="dali_native ended"):
        child.take(steps=1)
    child.close()
