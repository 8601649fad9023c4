"""A loader: a stream of batches with a position.

Shapes: n samples of this rank's share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

import torch

from loaders.ahead import Ahead
from loaders.plan import next_position
from loaders.selection import Selection

B = TypeVar("B")
Begin = Callable[[tuple[int, int]], Iterator[tuple[B, tuple[torch.Tensor, ...]]]]
"""Gives the batches from (epoch, step) on, each with the tensors in it that lie on the device."""


class Loader(Generic[B]):
    """Batches from a position on. A training loader goes on through the epochs without end and without a restart
    between them; a predict loader ends. Work runs ahead in a thread that starts with the first batch asked for.

    `num_steps`: batches per epoch. `num_samples`: images per epoch over all ranks, those of a dropped last batch
    included; `num_bytes`: of them encoded, at full size. `global_batch`: images per step over all ranks. `findings`:
    names of the findings. `selection`: what rows mean. `last_wait_seconds`: how long the last next() waited for data.

    next() raises BadSampleError or MissingShardError (`loaders.store`) where an image cannot be had.
    """

    def __init__(self, begin: Begin[B], selection: Selection, num_steps: int, global_batch: int, depth: int) -> None:
        """`depth`: finished batches kept ready."""
        self.num_steps = num_steps
        self.num_samples = len(selection.rows_N)
        self.num_bytes = int(selection.levels[0].length_N.sum())
        self.global_batch = global_batch
        self.findings = selection.sets[0].findings
        self.selection = selection
        self.last_wait_seconds = 0.0
        self._begin = begin
        self._depth = depth
        self._position = (0, 0)
        self._ahead: Ahead[tuple[B, tuple[torch.Tensor, ...]]] | None = None

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        if self._ahead is None:
            self._ahead = Ahead(partial(self._begin, self._position), self._depth)
        start = time.perf_counter()
        batch, tensors = next(self._ahead)
        self.last_wait_seconds = time.perf_counter() - start
        for tensor in tensors:
            if tensor.is_cuda:  # made on another stream: its memory may be reused only when this one is done with it
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        self._position = next_position(*self._position, self.num_steps)
        return batch

    def epoch(self) -> Iterator[B]:
        """The batches up to the end of the epoch that the next batch is of."""
        for _ in range(self.num_steps - self._position[1]):
            yield next(self)

    def state_dict(self) -> dict[str, int]:
        """Position of the next batch that will be handed out: {"epoch", "step"}."""
        return {"epoch": self._position[0], "step": self._position[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a position. Raises ValueError where an epoch has no such step."""
        epoch, step = state["epoch"], state["step"]
        if epoch < 0 or not 0 <= step < self.num_steps:
            raise ValueError(
                f"cannot go on at epoch {epoch}, step {step}: an epoch has {self.num_steps} steps here; "
                "resume with the global batch, shards and splits that the run began with"
            )
        self.close()
        self._position = (epoch, step)

    def close(self) -> None:
        """Ends the work ahead. Asking for another batch starts it again."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def __enter__(self) -> Loader[B]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
