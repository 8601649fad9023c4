"""The loader on a GPU: how fast it decodes and makes two views, and what it leaves of a training step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.gpu_config import GpuBenchConfig
from benchmarks.gpu_use import DecoderUse
from benchmarks.loader_sets import Images, Source, make_sources
from benchmarks.report import Grid, figure
from cluster.world import World
from loaders.batches import PretrainBatch
from loaders.config import DataConfig
from loaders.iteration import Loader
from loaders.loader import open_pretrain_loader
from loaders.views import TwoViewConfig
from trainers.models.barlow_twins import BarlowTwins
from trainers.optim import OptimConfig, build_optimizer

WARM_STEPS = 4
"""Batches before a turn's clock starts: what was finished ahead is used up."""
MOST_READY = 64
"""Batches taken, at most, until one has to be waited for: a loader with more of them ready is no hindrance."""
PYTHON_SHARE, STEP_RATIO = 0.01, 1.02
"""Asked: the loader's Python in the training thread, as a share of a step; a step with real data over one without."""


def decode_rates(config: GpuBenchConfig, work: Path) -> Iterator[Grid]:
    """Images/s of decoding and two views, for each form and each share that the hardware decoder is given."""
    sources = _sources(config, work)
    rates: dict[tuple[str, float], list[float]] = {}
    busy: dict[tuple[str, float], list[float]] = {}
    for number in range(config.rounds + 1):
        for source in sources:
            for load in config.loads:
                rate, use = _turn(config, source, load)
                if number:
                    rates.setdefault((source.name, load), []).append(rate)
                    busy.setdefault((source.name, load), []).extend([] if use is None else [use])
    lines = []
    for (name, load), found in rates.items():
        none = rates[name, config.loads[0]]
        ratio = median(one / other for one, other in zip(found, none, strict=True))
        used = busy[name, load]
        lines.append(
            (
                name,
                f"{load:g}",
                figure(median(found)),
                f"{figure(min(found))} .. {figure(max(found))}",
                f"{ratio:.2f}",
                f"{median(used):.0f} %" if used else "unknown",
            )
        )
    note = (
        f"Two gray views of {config.size_px}, cubic, batches of {config.batch}, on {config.device}; median and range "
        f"over {config.rounds} rounds. Beside: the same round's rate over that with the first share. Engine: how busy "
        "the driver says the JPEG engines are, at the end of a turn."
    )
    headings = ("source", "hw_decoder_load", "images/s", "range", f"x {config.loads[0]:g}", "JPEG engine")
    yield Grid("Decoding and two views", headings, tuple(lines), note)


def training_steps(config: GpuBenchConfig, work: Path) -> Iterator[Grid]:
    """A Barlow Twins step in bf16 with the loader's batches and with one batch that stays, and the loader's Python."""
    lines: list[tuple[str, ...]] = []
    told: list[str] = []
    for source in _sources(config, work):
        training = Training(config)
        fixed: list[float] = []
        real: list[float] = []
        python: list[float] = []
        with _open(config, source, {}) as loader:
            still = next(loader)
            for number in range(config.rounds + 1):
                same = training.run(partial(_again, still), partial(_again, still), config.steps)
                use_up = partial(take_ready, loader, same.step_seconds / 10)
                fresh = training.run(use_up, partial(next, loader), config.steps)
                if number:
                    fixed.append(same.step_seconds)
                    real.append(fresh.step_seconds)
                    python.append(fresh.python_seconds / fresh.step_seconds)
        ratios = [one / other for one, other in zip(real, fixed, strict=True)]
        lines.append(
            (
                source.name,
                figure(config.batch / median(real)),
                f"{1000 * median(fixed):.1f}",
                f"{1000 * median(real):.1f}",
                f"{median(ratios):.3f}",
                f"{min(ratios):.3f} .. {max(ratios):.3f}",
                f"{100 * median(python):.2f} %",
            )
        )
        share = median(python)
        told.append(
            f"{source.name}: a step with real data is {median(ratios):.3f} of one without, {STEP_RATIO} at most is "
            f"asked: {_met(median(ratios) <= STEP_RATIO)}; the loader's Python takes {100 * share:.2f} % of the "
            f"training thread, below {100 * PYTHON_SHARE:g} % is asked: {_met(share < PYTHON_SHARE)}."
        )
    note = (
        f"{config.encoder.name}, {config.batch} images of two views of {config.size_px}, bf16 autocast, channels_last, "
        f"LARS, {config.steps} steps a turn; median over {config.rounds} rounds. Before a turn with real data the "
        "batches that were made meanwhile are taken, until one has to be waited for. Python: CPU time of the training "
        "thread inside the loader's next()."
    )
    headings = ("source", "images/s", "synthetic, ms", "real, ms", "real over synthetic", "range", "loader's Python")
    yield Grid("Training steps", headings, tuple(lines), "\n\n".join([note, *told]))


@dataclass(frozen=True, slots=True)
class Turn:
    """What some training steps took, each on average."""

    step_seconds: float
    python_seconds: float
    """CPU time of the calling thread while it asked for a batch."""


class Training:
    """A model in training on a device."""

    def __init__(self, config: GpuBenchConfig) -> None:
        torch.manual_seed(config.seed)
        self.device = torch.device(config.device)
        self.batch = config.batch
        self.model = BarlowTwins(config.encoder, config.model).to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.model, OptimConfig(), config.batch)

    def run(self, begin: Callable[[], PretrainBatch], give: Callable[[], PretrainBatch], steps: int) -> Turn:
        """Some steps, two at least: the first with what `begin` gives before the clock starts, the others with what
        `give` gives."""
        batch = begin()
        self._wait()
        python, began = 0.0, time.perf_counter()
        for _ in range(steps - 1):
            self._step(batch)
            inside = time.thread_time()
            batch = give()
            python += time.thread_time() - inside
        self._step(batch)
        self._wait()
        return Turn((time.perf_counter() - began) / steps, python / (steps - 1))

    def _step(self, batch: PretrainBatch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.model(*batch.views, batch.global_size).loss
        loss.backward()
        self.optimizer.step()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def take_ready(loader: Loader[PretrainBatch], patience: float) -> PretrainBatch:
    """Takes batches until one had to be waited for longer than so many seconds, and gives that one.

    Nothing is ready then: from here on a step takes as long as the loader takes for a batch, or longer.
    """
    for _ in range(MOST_READY):
        batch = next(loader)
        if loader.last_wait_seconds > patience:
            break
    return batch


def _turn(config: GpuBenchConfig, source: Source, load: float) -> tuple[float, float | None]:
    use = DecoderUse(config.device)
    with _open(config, source, {"hw_decoder_load": load}) as loader:
        for _ in range(WARM_STEPS):
            next(loader)
        number, began = 0, time.perf_counter()
        while time.perf_counter() - began < config.seconds:
            number += len(next(loader).rows)
        took = time.perf_counter() - began
        return number / took, use.percent()


def _open(config: GpuBenchConfig, source: Source, more: dict[str, float]) -> Loader[PretrainBatch]:
    data = DataConfig(shards=(source.shards,), num_threads=config.num_threads, **more)  # type: ignore[arg-type]
    view = TwoViewConfig(size_px=config.size_px)
    return open_pretrain_loader(data, view, config.batch, config.seed, World(0, 1, 0, config.device))


def _sources(config: GpuBenchConfig, work: Path) -> list[Source]:
    _, full, half, _ = make_sources(work, Images(config.num_images, config.side_px, config.seed, config.source))
    return [{"full": full, "half": half}[form] for form in config.forms]


def _again(batch: PretrainBatch) -> PretrainBatch:
    return batch


def _met(is_met: bool) -> str:
    return "met" if is_met else "NOT met"
