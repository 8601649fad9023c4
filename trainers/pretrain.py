"""Barlow Twins pretraining: `cxr pretrain configs/pretrain/....toml`, `python -m trainers.pretrain ...`."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cluster import config as configs
from cluster import door
from cluster.scale import ScaleConfig
from cluster.workers import report, run_on_workers
from cluster.world import World, close_process_group, current_world, is_launched, open_process_group
from loaders.agreement import TooManyGivenUp
from loaders.batches import PretrainBatch
from loaders.config import DataConfig
from loaders.loader import PretrainLoader, open_pretrain_loader
from loaders.views import TwoViewConfig
from trainers.checkpoint import (
    Checkpoint,
    CheckpointConfig,
    agreed_checkpoint,
    newest_checkpoint,
    retain,
    same_run,
    write_checkpoint,
)
from trainers.engine import Engine, EngineConfig, open_engine
from trainers.estimate import measure_step
from trainers.models.barlow_twins import BarlowTwins, BarlowTwinsConfig
from trainers.models.encoder import EncoderConfig, build_encoder
from trainers.models.global_norm import use_global_norm
from trainers.optim import OptimConfig, build_optimizer, rate_factor, set_rates
from trainers.runlog import LogConfig, RunLog


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Pretrain an encoder on radiographs without labels."""

    run_dir: Path
    """Folder of the run: config, log, checkpoints. The same command goes on where it stopped."""
    data: DataConfig
    view: TwoViewConfig = field(default_factory=TwoViewConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    model: BarlowTwinsConfig = field(default_factory=BarlowTwinsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    global_batch: int = 768
    """Images per step over all ranks; the loss and its statistics cover all of them."""
    epochs: int = 800
    """Passes over the images."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    dry_run: bool = False
    """Print the resolved config, steps, samples, bytes and an estimate of time and memory; start nothing."""

    def __post_init__(self) -> None:
        """Refuse what Barlow Twins cannot use."""
        if self.global_batch < 2:
            raise ValueError(f"global_batch is {self.global_batch}; a correlation over the batch needs 2 or more")
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; give 1 or more")


def train(config: PretrainConfig) -> None:
    """One rank of the run, from its newest whole checkpoint to the end."""
    world = current_world()
    open_process_group(world)
    torch.manual_seed(config.seed)
    loader = open_pretrain_loader(config.data, config.view, config.global_batch, config.seed, world)
    model = use_global_norm(BarlowTwins(config.encoder, config.model).to(world.device))
    optimizer = build_optimizer(model, config.optim, config.global_batch)
    engine = open_engine(model, optimizer, config.engine, world, config.global_batch)
    newest = agreed_checkpoint(config.run_dir)
    start = restore(newest, engine, loader) if newest else 0
    num_steps = config.epochs * loader.num_steps
    engine.train()
    with loader, RunLog(config.run_dir, config.log, world, start, num_steps, "pretrain", loader.given_up) as log:
        for step in range(start, num_steps):
            rates = set_rates(optimizer, rate_factor(config.optim, step, num_steps, loader.num_steps))
            began = time.perf_counter()
            batch = next(loader)
            losses = train_step(engine, batch)
            refuse_non_finite(losses["loss"], step, batch)
            done = step + 1
            if step == start or done % config.log.every_steps == 0 or done == num_steps:
                rate = config.global_batch / (time.perf_counter() - began)
                told = {**losses, **rates, "images_per_second": rate, **loader.metrics()}
                log.write("train", done, epoch=batch.epoch, **told)
            log.given_up(done, loader.given_up)
            log.advance()
            if done % config.checkpoint.every_steps == 0 or done == num_steps:
                path = save(config, world, engine, loader, done, losses)
                report({"step": float(done), **losses}, path)
    close_process_group()


def train_step(engine: Engine, batch: PretrainBatch) -> dict[str, float]:
    """One update on one global batch; gives the loss and its two parts, equal on every rank."""
    if batch.global_size < 2:
        raise TooManyGivenUp(
            f"epoch {batch.epoch}, step {batch.step} has one image left, and a correlation needs 2 or more: repair the "
            "shard set (`cxr verify`), or take a larger global_batch"
        )
    result = engine(*batch.views, batch.global_size)
    engine.backward(result.loss)
    engine.step()
    return {name: float(value.detach()) for name, value in result._asdict().items()}


def refuse_non_finite(loss: float, step: int, batch: PretrainBatch) -> None:
    """Raises FloatingPointError where the loss, which is the same on every rank, is not finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at step {step} (epoch {batch.epoch}); rows of this rank's share: "
            f"{batch.rows[:8].tolist()} ...; start anew in another run_dir with a lower optim.lr or a longer warm-up"
        )


def save(
    config: PretrainConfig, world: World, engine: Engine, loader: PretrainLoader, step: int, metrics: dict[str, float]
) -> Path | None:
    """Rank 0 writes the checkpoint after `step` updates and gives its folder; the others give None."""
    if not world.is_main:
        return None
    state = {"optimizer": engine.optimizer.state_dict(), "loader": loader.state_dict(), "step": step}
    weights = dict(engine.module.state_dict())
    path = write_checkpoint(config.run_dir, step, "pretrain", weights, state, kept_config(config, loader), metrics)
    retain(config.run_dir, config.checkpoint.keep_last)
    return path


def kept_config(config: PretrainConfig, loader: PretrainLoader) -> dict[str, Any]:
    """The config as the run and its checkpoints keep it: with the shard sets' digests."""
    return {**configs.to_dict(config), "shard_digests": [one.digest for one in loader.selection.sets]}


def restore(checkpoint: Checkpoint, engine: Engine, loader: PretrainLoader) -> int:
    """Puts weights, optimizer and loader where the checkpoint has them; gives the number of updates done."""
    engine.module.load_state_dict(checkpoint.weights())
    state = checkpoint.state()
    engine.optimizer.load_state_dict(state["optimizer"])
    loader.load_state_dict(state["loader"])
    return int(state["step"])


def run(config: PretrainConfig) -> None:
    """Checks what can be checked here, then trains on the configured workers."""
    world = World(0, max(1, config.scale.workers), 0, "cpu")
    loader = open_pretrain_loader(config.data, config.view, config.global_batch, config.seed, world)
    num_steps = config.epochs * loader.num_steps
    if loader.smallest_batch < 2:
        raise ValueError(
            "data.drop_last is false, and the last batch of an epoch has one image; a correlation needs 2 or more: "
            "take another global_batch, or drop_last"
        )
    if config.dry_run:
        print(describe(config, loader, num_steps, world))
        return
    loader.close()
    newest = newest_checkpoint(config.run_dir)
    if newest is None:
        build_encoder(config.encoder)  # refuse weights that do not fit before anything is started
    same_run(config.run_dir, kept_config(config, loader), current_world().is_main)
    if newest is not None and newest.step >= num_steps and not is_launched():  # launched ranks decide as one, in train
        print(f"{config.run_dir} is finished: {newest.path}")
        return
    run_on_workers(train, config, config.scale, config.run_dir)
    print(f"pretrained: {config.run_dir}")


def describe(config: PretrainConfig, loader: PretrainLoader, num_steps: int, world: World) -> str:
    """The resolved config and what the run will take, measured on two images here."""
    model = BarlowTwins(replace(config.encoder, weights="none"), config.model)  # no download for an estimate
    size = config.view.size_px
    views = [torch.randint(0, 256, (2, size, size, 1), dtype=torch.uint8) for _ in range(2)]
    cost = measure_step(model, lambda: model(*views, 2).loss, 2, 4 if config.optim.name == "adamw" else 3)
    return "\n".join(
        [
            configs.describe(config),
            "",
            f"samples            {loader.num_samples:,} ({loader.num_bytes / 2**30:,.2f} GiB encoded) per epoch",
            f"steps              {num_steps:,} ({loader.num_steps:,} per epoch, {config.global_batch} images each)",
            cost.describe(num_steps, config.global_batch, world, "machine's CPU"),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `cxr pretrain`."""
    return door.enter("cxr pretrain", PretrainConfig, run, argv)


if __name__ == "__main__":
    import sys

    from trainers.pretrain import main

    sys.exit(main())
