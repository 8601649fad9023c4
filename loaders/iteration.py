"""A loader: a stream of batches with a position, and what was given up on the way.

Shapes: n samples of this rank's share, B samples of a global batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from cluster.world import World
from loaders.agreement import GivenUp, TooManyGivenUp, agree
from loaders.ahead import Ahead
from loaders.meter import Mark, Totals, between
from loaders.plan import next_position
from loaders.selection import Selection
from loaders.share import Share
from loaders.stream import Made

B = TypeVar("B")
Finish = Callable[[Share, tuple[torch.Tensor, ...]], B]
Begin = Callable[[tuple[int, int], set[int], Totals], Iterator[Made[B]]]
"""Gives the batches from (epoch, step) on, without the samples at these positions, which may grow meanwhile."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """How a loader goes through its batches."""

    num_steps: int
    """Batches per epoch."""
    num_samples: int
    """Images per epoch over all ranks."""
    global_batch: int
    """Images per step over all ranks."""
    smallest_batch: int
    """Of them in the smallest batch of an epoch."""
    depth: int
    """Finished batches kept ready."""
    skip: bool
    """Agree with the other ranks, step by step, on what is given up."""
    max_skipped: int
    """Samples that may be given up."""
    plan: str
    """A digest of what decides which samples a step holds: a position means nothing in another plan."""


class Loader(Generic[B]):
    """Batches from a position on. A training loader goes on through the epochs without end and without a restart
    between them; a predict loader ends. Work runs ahead in a thread that starts with the first batch asked for.

    `num_steps`: batches per epoch. `num_samples`: images per epoch over all ranks, those of a dropped last batch
    included. `num_bytes`: all samples encoded, at full size. `global_batch`: images per step over all ranks,
    `smallest_batch` of them in the smallest batch. `findings`: names of the findings. `selection`: what rows mean.
    `last_wait_seconds`: how long the last next() waited for data. `given_up`: samples left out so far, in the order in
    which they were found; on every rank the same.

    next() raises BadSampleError (unless told to skip) or MissingShardError (`loaders.store`) where an image cannot be
    had, TooManyGivenUp where more than `max_skipped` cannot.
    """

    def __init__(self, begin: Begin[B], finish: Finish[B], selection: Selection, rules: Rules, world: World) -> None:
        self.num_steps = rules.num_steps
        self.num_samples = rules.num_samples
        self.num_bytes = int(selection.levels[0].length_N.sum())
        self.global_batch = rules.global_batch
        self.smallest_batch = rules.smallest_batch
        self.findings = selection.findings
        self.selection = selection
        self.last_wait_seconds = 0.0
        self.given_up: list[GivenUp] = []
        self._begin = begin
        self._finish = finish
        self._rules = rules
        self._world = world
        self._position = (0, 0)
        self._left_out: set[int] = set()
        self._failed: TooManyGivenUp | None = None
        self._ahead: Ahead[Made[B]] | None = None
        self._totals = Totals()
        self._wait_seconds = 0.0
        self._num_batches = 0
        self._told = self._mark()

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        if self._failed is not None:
            raise self._failed
        if self._ahead is None:
            self._ahead = Ahead(partial(self._begin, self._position, self._left_out, self._totals), self._rules.depth)
        start = time.perf_counter()
        made = next(self._ahead)
        self.last_wait_seconds = time.perf_counter() - start
        self._wait_seconds += self.last_wait_seconds
        self._num_batches += 1
        for tensor in made.tensors:
            if tensor.is_cuda:  # made on another stream: its memory may be reused only when this one is done with it
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        epoch, step = made.share.picked.epoch, made.share.picked.step
        try:
            batch = self._settle(made)
        except TooManyGivenUp as error:
            self._failed = error
            raise
        self._position = next_position(epoch, step, self.num_steps)
        return batch

    def _settle(self, made: Made[B]) -> B:
        """The batch without what was given up, by whichever rank."""
        if self._rules.skip:
            epoch, step = made.share.picked.epoch, made.share.picked.step
            new = {position: error for position, error in made.lost if position not in self._left_out}
            mine = [GivenUp(self._digest(position), epoch, step, str(error)) for position, error in new.items()]
            for one in agree(mine, self._world):
                if not self._positions([one.digest]) <= self._left_out:  # two ranks may find the same one
                    self._give_up(one)
        if not self._left_out:
            return made.batch
        left_out = np.fromiter(self._left_out, np.int64)
        num = int(np.isin(made.share.picked.batch_positions_B, left_out).sum())
        if not num:
            return made.batch
        if num == len(made.share.picked.batch_positions_B):
            raise TooManyGivenUp(
                f"none of the {num} images of epoch {made.share.picked.epoch}, step {made.share.picked.step} can be "
                f"used; repair the shard set (`cxr verify`). The last one found: {self.given_up[-1].reason}"
            )
        kept = np.flatnonzero(~np.isin(made.share.picked.positions_n, left_out)).tolist()
        left = made.share.take(kept, made.share.global_size - num)
        return self._finish(left, made.tensors if len(kept) == len(made.share) else _rows(made.tensors, kept))

    def _digest(self, position: int) -> str:
        return f"{int(self.selection.digests_N[position]):016x}"

    def _give_up(self, one: GivenUp) -> None:
        self.given_up.append(one)
        self._left_out |= self._positions([one.digest])
        if self._world.is_main:
            log.warning("left out from now on (%d so far): %s", len(self.given_up), one.reason)
        if len(self.given_up) > self._rules.max_skipped:
            raise TooManyGivenUp(
                f"{len(self.given_up)} image(s) cannot be used, more than max_skipped = {self._rules.max_skipped}; the "
                f"last: {one.reason}. Look after the disk, or give a higher max_skipped"
            )

    def _positions(self, digests: list[str]) -> set[int]:
        words = np.array([int(digest, 16) for digest in digests], np.uint64)
        return set(np.flatnonzero(np.isin(self.selection.digests_N, words)).tolist())

    def epoch(self) -> Iterator[B]:
        """The batches up to the end of the epoch that the next batch is of."""
        for _ in range(self.num_steps - self._position[1]):
            yield next(self)

    def metrics(self) -> dict[str, float]:
        """What this rank's loader did since this was last asked, for the run's log: see `loaders.meter.between`."""
        before, self._told = self._told, self._mark()
        return {**between(before, self._told), "num_given_up": float(len(self.given_up))}

    def _mark(self) -> Mark:
        totals = self._totals
        return Mark(self._num_batches, self._wait_seconds, totals.images, totals.work_seconds, totals.counts())

    def state_dict(self) -> dict[str, Any]:
        """Position of the next batch that will be handed out, in which plan, and what is left out: {"epoch", "step",
        "plan", "given_up"}."""
        given_up = [[one.digest, one.epoch, one.step, one.reason] for one in self.given_up]
        return {
            "epoch": self._position[0],
            "step": self._position[1],
            "plan": self._rules.plan,
            "given_up": given_up,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a position, without what was left out there. Raises ValueError for a state of another plan."""
        missing = [name for name in ("epoch", "step") if not isinstance(state.get(name), int)]
        if missing:
            raise ValueError(f"a loader's state has no whole number {' and '.join(missing)}: {state!r}")
        epoch, step = state["epoch"], state["step"]
        if state.get("plan", self._rules.plan) != self._rules.plan:
            raise ValueError(
                "cannot go on from this state: it is of other shards, splits, weights, seed or global batch, where "
                f"epoch {epoch}, step {step} holds other images; resume with those that the run began with"
            )
        if epoch < 0 or not 0 <= step < max(self.num_steps, 1):  # a predict loader's rank may have no image
            raise ValueError(
                f"cannot go on at epoch {epoch}, step {step}: an epoch has {self.num_steps} steps here; "
                "resume with the global batch, shards and splits that the run began with"
            )
        self.close()
        self._failed = None
        self._position = (epoch, step)
        self.given_up = [GivenUp(*one) for one in state.get("given_up", [])]
        self._left_out = self._positions([one.digest for one in self.given_up])

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


def _rows(tensors: tuple[torch.Tensor, ...], numbers: list[int]) -> tuple[torch.Tensor, ...]:
    return tuple(tensor[torch.tensor(numbers, dtype=torch.int64, device=tensor.device)] for tensor in tensors)
