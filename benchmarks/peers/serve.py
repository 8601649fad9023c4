"""A stream of batches as a program: it takes from the stream when it is told to, and says how long that took.

The first argument is a JSON object: what the stream is opened with. One JSON object a line goes back: first
{"ready": ..., "one_pass": images of one whole pass}, then for each line that comes in ({"seconds": s}, or {"steps": n}
and perhaps {"pace": seconds that the user of a batch takes}) {"items": [images of each batch], "ends": [seconds since
the command, at each batch]}. It ends with its input.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

About = dict[str, Any]
Batch = Sequence[Any]
"""Two arrays or tensors, views of the same images; or one, of decoded images."""
Open = Callable[[About, int], Iterator[Batch]]
"""Opens a stream of so many passes over the images, 0 without end."""


def serve(open_stream: Open) -> None:
    """Runs the program: `open_stream(about, passes)` is called with what the first argument says.

    The images of one whole pass are counted first, unless `about` says "count": false.
    """
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    about: About = json.loads(sys.argv[1])
    one_pass = sum(len(batch[0]) for batch in open_stream(about, 1)) if about.get("count", True) else 0
    stream = open_stream(about, 0)
    answers.write(json.dumps({"ready": describe(next(stream)), "one_pass": one_pass}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(take(stream, **json.loads(line))) + "\n")
    os._exit(0)  # worker processes and threads of libraries would be waited for


def take(stream: Iterator[Batch], seconds: float = 0.0, steps: int = 0, pace: float = 0.0) -> dict[str, list[Any]]:
    """Batches for at least so many seconds, or so many steps: images of each, and when it was there.

    `pace`: seconds that pass after each batch before the next is asked for.
    """
    items: list[int] = []
    ends: list[float] = []
    start = time.perf_counter()
    while (len(items) < steps) if steps else (not ends or ends[-1] < seconds):
        batch = next(stream)
        items.append(len(batch[0]))
        ends.append(time.perf_counter() - start)
        time.sleep(pace)
    return {"items": items, "ends": ends}


def end_with_parent() -> None:
    """Has the system end this process when its parent ends: one that stands still would not notice."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def describe(batch: Batch) -> About:
    """What a batch is made of; the views of an image must differ from each other, and most of them from a constant."""
    views = [np.asarray(view) for view in batch]
    for view in views:
        assert view.shape == views[0].shape, (view.shape, views[0].shape)
        spans = view.reshape(len(view), -1)
        assert np.isfinite(spans).all()
        # A small crop of a bright place may be all white once it is brightened.
        assert (spans.max(axis=1) > spans.min(axis=1)).mean() > 0.8, "views are constant"
    assert len(views) == 1 or not np.array_equal(views[0], views[1]), "both views are the same"
    return {"views": len(views), "shape": list(views[0].shape), "dtype": str(views[0].dtype)}
