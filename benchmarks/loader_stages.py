"""Where this loader's time goes: the same loader with more and more of its work, and its ends alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.children import Program
from benchmarks.harness import Table
from benchmarks.loader_arms import Filter, Means, Way, decoder, open_table, ours
from benchmarks.loader_sets import Source

CROPS, WHOLE = "read, decode, crop, resize", "the whole loader"
OFF: dict[str, Any] = {"jitter": 0.0, "blur": [0.0, 0.0], "solarize": [0.0, 0.0]}
STAGES: dict[str, dict[str, Any]] = {
    CROPS: OFF,
    "+ brightness, contrast": {name: OFF[name] for name in ("blur", "solarize")},
    "+ blur": {"solarize": OFF["solarize"]},
    WHOLE: {},
}
"""Fields of the view's config, by stage; each does the work of the one before it and some more."""


def stages_table(
    source: Source,
    means: Means,
    work: Path,
    missing: list[str],
    kind: Filter = "cubic",
    stages: Mapping[str, dict[str, Any]] = STAGES,
) -> Table:
    """Reading alone, decoding alone, then the loader with a resize, with brightness and contrast, with blur, with all.

    Each line does the work of the one before it and some more, from "read, decode, crop, resize" on. The
    difference of two lines' CPU time is what that stage costs.
    """
    read = Program(
        "benchmarks.loader_read",
        {"shards": [str(source.shards)], "batch": means.batch, "seed": means.seed, "threads": means.num_threads},
    )
    ways = [
        Way("read alone", read, None, ours=True, note="digests checked", images=source.number),
        decoder(source, means),
    ]
    for name, view in stages.items():
        ways.append(dataclasses.replace(ours(source.shards, kind, means, view=view, images=source.number), name=name))
    return open_table(f"Where the time goes, {source.name}, {kind}", ways, WHOLE, means, work, missing)
