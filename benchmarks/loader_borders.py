"""What the border between two epochs costs, at a user of batches that is a little slower than the loader."""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import median

from benchmarks.children import Child, Program
from benchmarks.loader_arms import Means, ours
from benchmarks.loader_sets import Source
from benchmarks.report import Grid

EPOCHS = 3
PACE_SECONDS = 0.4
"""What the user of a batch takes for it, as a training step would."""


def borders_grid(source: Source, means: Means, work: Path, pace: float = PACE_SECONDS, peers: int = 2) -> Grid:
    """Step times of three epochs, from one batch to the next: within the epochs, and over their borders.

    `peers`: how many ways stand beside this loader.
    """
    batch = min(means.batch, source.number // 4)
    steps = source.number // batch
    about = {
        "folder": str(source.files),
        "way": "reference",
        "filter": "cubic",
        "size_px": means.size_px,
        "batch": batch,
        "workers": means.cores,
        "count": False,
    }
    mine = dict(ours(source.shards, "cubic", means).program.about) | {"batch": batch, "count": False}
    programs = {
        "ours": Program("benchmarks.loader_child", mine),
        "the reference's DataLoader": Program("benchmarks.peers.loose", {**about, "persistent": False}),
        "the same with persistent_workers": Program("benchmarks.peers.loose", {**about, "persistent": True}),
    }
    lines = [(name, *_line(program, work, steps, pace)) for name, program in list(programs.items())[: 1 + peers]]
    note = (
        f"{source.name}, batches of {batch}, {EPOCHS} epochs of {steps} steps, {1000 * pace:.0f} ms of pretended "
        "training a step; milliseconds from one batch to the next. A border is the step from an epoch's last batch to "
        "the next epoch's first."
    )
    headings = ("way", "inside, median", "inside, range", "at the borders", "lost at a border")
    return Grid("Epoch borders", headings, tuple(lines), note)


def _line(program: Program, work: Path, steps: int, pace: float) -> tuple[str, str, str, str]:
    child = Child(program, work / "program.log")
    try:
        _, ends = child.take(steps=EPOCHS * steps - 1, pace=pace)  # the first batch was taken at the start
    finally:
        child.close()
    gaps = [1000 * (after - before) for before, after in itertools.pairwise(ends)]
    # gaps[i] ends with batch i + 2 of the stream, batches counted from 0
    borders = [gap for i, gap in enumerate(gaps) if (i + 2) % steps == 0]
    inside = [gap for i, gap in enumerate(gaps) if (i + 2) % steps != 0]
    return (
        f"{median(inside):.0f}",
        f"{min(inside):.0f} .. {max(inside):.0f}",
        ", ".join(f"{gap:.0f}" for gap in borders),
        f"{median(borders) - median(inside):.0f}",
    )
