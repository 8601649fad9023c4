"""What a run says of itself: `metrics.jsonl`, TensorBoard where it is installed, and one line of progress.

A line of metrics.jsonl is one JSON object: `kind` (train, valid or event), `step`, `seconds` since the epoch, then
numbers. A run that was killed and resumed may hold a step twice: the later line counts.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster.progress import Progress
from cluster.world import World
from loaders.agreement import GivenUp


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where a run's numbers go."""

    every_steps: int = 10
    """Steps between lines of kind train."""
    tensorboard: bool = False
    """Write TensorBoard events below the run too (needs the extra [tracking])."""

    def __post_init__(self) -> None:
        """Refuse an interval below one."""
        if self.every_steps < 1:
            raise ValueError(f"log.every_steps is {self.every_steps}; it must be 1 or more")


class RunLog:
    """The log of one run; writes on rank 0 only, is silent on the others. A context manager."""

    def __init__(
        self,
        run: Path,
        config: LogConfig,
        world: World,
        start: int,
        num_steps: int,
        what: str,
        given_up: Sequence[GivenUp] = (),
    ) -> None:
        """`start`: steps done by earlier starts of the run. `given_up`: samples that they left out, and told of."""
        self._file = None
        self._events: Any = None
        self._progress: Progress | None = None
        self._num_given_up = len(given_up)
        if not world.is_main:
            return
        run.mkdir(parents=True, exist_ok=True)
        self._file = (run / "metrics.jsonl").open("a", buffering=1)
        if self._file.tell() and not (run / "metrics.jsonl").read_bytes().endswith(b"\n"):
            self._file.write("\n")  # a line cut short by a kill
        if config.tensorboard:
            self._events = _tensorboard(run)
        self._progress = Progress(num_steps - start, what if not start else f"{what} from step {start}", unit="steps")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One line; numbers go to TensorBoard too. Non-finite numbers are written as null."""
        if self._file is None:
            return
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, "seconds": round(time.time(), 3), **clean}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(f"{kind}/{name}", value, step)

    def given_up(self, step: int, samples: Sequence[GivenUp]) -> None:
        """A line of kind event for the samples among these that it has not told of yet."""
        new, self._num_given_up = samples[self._num_given_up :], len(samples)
        if new:
            self.write("event", step, event="samples left out", num=len(samples), reasons=[one.reason for one in new])

    def advance(self, num: int = 1) -> None:
        """Moves the progress line on by `num` steps."""
        if self._progress is not None:
            self._progress.update(num)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.close()
        if self._events is not None:
            self._events.close()
        if self._file is not None:
            self._file.close()


def _tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("log.tensorboard needs the extra: pip install 'barlow-cxr[tracking]'") from None
    return SummaryWriter(run / "tensorboard")


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in order of steps, the last line of each; a line cut short by a kill is passed over."""
    path = run / "metrics.jsonl"
    last: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry.get("kind") == kind:
            last[int(entry["step"])] = entry
    return [last[step] for step in sorted(last)]
