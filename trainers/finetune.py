"""Fine-tuning of Faster R-CNN on boxes: `cxr finetune configs/finetune/....toml`, `python -m trainers.finetune ...`."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cluster import config as configs
from cluster import door
from cluster.scale import ScaleConfig
from cluster.workers import report, run_on_workers
from cluster.world import World, close_process_group, current_world, is_launched, open_process_group
from eval.predictions import Origin
from loaders.batches import DetectBatch
from loaders.config import DataConfig
from loaders.loader import DetectLoader, open_detect_loader, open_predict_loader
from loaders.views import DetectViewConfig, PlainViewConfig
from trainers.checkpoint import (
    BEST_BY,
    Checkpoint,
    CheckpointConfig,
    agreed_checkpoint,
    newest_checkpoint,
    retain,
    same_run,
    write_checkpoint,
)
from trainers.detections import annotated, find, gather, map50, to_predictions, validation_truth
from trainers.engine import Engine, EngineConfig, open_engine
from trainers.estimate import measure_step
from trainers.models.detector import Detector, DetectorConfig
from trainers.models.encoder import EncoderConfig, build_encoder
from trainers.models.global_norm import use_global_norm
from trainers.optim import OptimConfig, build_optimizer, rate_factor, set_rates
from trainers.runlog import LogConfig, RunLog

REFERENCE_OPTIM = OptimConfig(
    name="sgd",
    lr=0.005,
    lr_1d=0.0,
    lr_batch=32,
    weight_decay=1e-4,
    decay_1d=True,
    warmup_epochs=0.0,
    warmup_steps=500,
    warmup_start_ratio=0.001,
    final_ratio=0.02,
)


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """Train a detector on radiographs with boxes."""

    run_dir: Path
    """Folder of the run: config, log, checkpoints. The same command goes on where it stopped."""
    data: DataConfig
    view: DetectViewConfig = field(default_factory=DetectViewConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    optim: OptimConfig = field(default_factory=lambda: REFERENCE_OPTIM)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    global_batch: int = 32
    """Images per step over all ranks."""
    epochs: int = 50
    """Passes over the images."""
    seed: int = 42
    """Seed of new weights, order, augmentation and sampling."""
    keep_empty: bool = False
    """Train also on images in which the annotators found nothing; the reference drops them."""
    valid_split: str = "valid"
    """Split that the best checkpoint is chosen on, by mAP50; empty: no validation."""
    valid_every_epochs: int = 1
    """Epochs between validations; the last epoch is always validated."""
    valid_batch: int = 32
    """Images per step and rank of a validation."""
    dry_run: bool = False
    """Print the resolved config, steps, samples, bytes and an estimate of time and memory; start nothing."""

    def __post_init__(self) -> None:
        """Refuse numbers below one, and random layers that are never trained."""
        for name in ("global_batch", "epochs", "valid_every_epochs", "valid_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        frozen = self.detector.norm == "frozen" or self.detector.frozen_stages > 0
        if self.encoder.weights == "none" and frozen:
            raise ValueError(
                "encoder.weights is none, but detector.norm frozen or detector.frozen_stages > 0 would keep random "
                "layers as they are; give encoder.weights, or --detector.norm batch --detector.frozen_stages 0"
            )


def build_detector(config: FinetuneConfig, num_findings: int) -> Detector:
    """The detector of `config` with the encoder's initial weights; random ones follow torch's global generator."""
    return Detector(build_encoder(config.encoder), config.detector, num_findings)


def train(config: FinetuneConfig) -> None:
    """One rank of the run, from its newest whole checkpoint to the end."""
    world = current_world()
    open_process_group(world)
    torch.manual_seed(config.seed)
    loader = open_detect_loader(config.data, config.view, config.global_batch, config.seed, world, config.keep_empty)
    model = build_detector(config, len(loader.findings)).to(world.device)
    if config.detector.norm == "batch":
        use_global_norm(model)
    optimizer = build_optimizer(model, config.optim, config.global_batch)
    engine = open_engine(model, optimizer, config.engine, world, config.global_batch)
    newest = agreed_checkpoint(config.run_dir)
    start, best = restore(newest, engine, loader) if newest else (0, -1.0)
    num_steps = config.epochs * loader.num_steps
    valid_every = config.valid_every_epochs * loader.num_steps
    engine.train()
    with loader, RunLog(config.run_dir, config.log, world, start, num_steps, "finetune", loader.given_up) as log:
        for step in range(start, num_steps):
            rates = set_rates(optimizer, rate_factor(config.optim, step, num_steps, loader.num_steps))
            began = time.perf_counter()
            batch = next(loader)
            losses = train_step(engine, batch, config.seed, world)
            if not math.isfinite(losses["loss"]):
                raise FloatingPointError(
                    f"the loss is {losses['loss']} at step {step} (epoch {batch.epoch}); start anew in another "
                    "run_dir with a lower optim.lr, a longer warm-up or engine.gradient_clipping"
                )
            done = step + 1
            last = done == num_steps
            if step == start or done % config.log.every_steps == 0 or last:
                rate = config.global_batch / (time.perf_counter() - began)
                told = {**losses, **rates, "images_per_second": rate, **loader.metrics()}
                log.write("train", done, epoch=batch.epoch, **told)
            log.given_up(done, loader.given_up)
            log.advance()
            value = None
            if config.valid_split and (done % valid_every == 0 or last):
                value = validate(config, engine, world)
                log.write("valid", done, epoch=batch.epoch, map50=value)
            better = value is not None and value > best
            if better or done % config.checkpoint.every_steps == 0 or last:
                metrics = losses if value is None else {**losses, BEST_BY: value}
                best = best if value is None else max(best, value)
                path = save(config, world, engine, loader, done, metrics, best)
                report({"step": float(done), **metrics}, path)
    close_process_group()


def train_step(engine: Engine, batch: DetectBatch, seed: int, world: World) -> dict[str, float]:
    """One update on one global batch; gives the losses as means over its images, equal on every rank.

    A rank's mean is weighted by its share, so that any shares add up to the mean over all images.
    """
    device = batch.images.device
    losses: dict[str, Tensor] = engine(
        batch.images,
        batch.sizes.to(device),
        [boxes.to(device) for boxes in batch.boxes],
        [findings.to(device) for findings in batch.findings],
        sampling_seeds(seed, batch.epoch, batch.rows).to(device),
    )
    share = len(batch.rows) / batch.global_size
    parts = torch.stack(list(losses.values())) * share
    engine.backward(parts.sum() * world.size)
    engine.step()
    parts = parts.detach().double()
    dist.all_reduce(parts)
    means = dict(zip(losses, parts.tolist(), strict=True))
    return {"loss": sum(means.values()), **means}


def sampling_seeds(seed: int, epoch: int, rows: Tensor) -> Tensor:
    """For each image what decides which anchors and regions it is learned from, int64 [n]: the same on any rank."""
    digests = [hashlib.blake2b(f"{seed} {epoch} {row}".encode(), digest_size=8).digest() for row in rows.tolist()]
    return torch.from_numpy(np.frombuffer(b"".join(digests), np.int64).copy())


def validate(config: FinetuneConfig, engine: Engine, world: World) -> float:
    """mAP50 on the validation split, 0..1, equal on every rank."""
    data = replace(config.data, splits=(config.valid_split,), max_samples=0)
    view = PlainViewConfig(config.view.size_px, config.view.interpolation)
    with open_predict_loader(data, view, config.valid_batch, world) as loader:
        found = annotated(gather(find(engine.module, loader, config.engine.precision)), loader)
        predictions = to_predictions(found, loader, Origin(split=config.valid_split))
    return map50(predictions, validation_truth(data, config.valid_split))


def save(
    config: FinetuneConfig,
    world: World,
    engine: Engine,
    loader: DetectLoader,
    step: int,
    metrics: dict[str, float],
    best: float,
) -> Path | None:
    """Rank 0 writes the checkpoint after `step` updates and gives its folder; the others give None.

    `best`: the highest validation so far. It is part of the state, for a better one is always saved.
    """
    if not world.is_main:
        return None
    state = {"optimizer": engine.optimizer.state_dict(), "loader": loader.state_dict(), "step": step, "best": best}
    kept = kept_config(config, loader)
    path = write_checkpoint(config.run_dir, step, "finetune", dict(engine.module.state_dict()), state, kept, metrics)
    retain(config.run_dir, config.checkpoint.keep_last)
    return path


def kept_config(config: FinetuneConfig, loader: DetectLoader) -> dict[str, Any]:
    """The config as the run and its checkpoints keep it: with the findings and the shard sets' digests."""
    found = {"findings": list(loader.findings), "shard_digests": [one.digest for one in loader.selection.sets]}
    return {**configs.to_dict(config), **found}


def restore(checkpoint: Checkpoint, engine: Engine, loader: DetectLoader) -> tuple[int, float]:
    """Puts weights, optimizer and loader where the checkpoint has them; gives updates done, best validation."""
    engine.module.load_state_dict(checkpoint.weights())
    state = checkpoint.state()
    engine.optimizer.load_state_dict(state["optimizer"])
    loader.load_state_dict(state["loader"])
    return int(state["step"]), float(state["best"])


def run(config: FinetuneConfig) -> None:
    """Checks what can be checked here, then trains on the configured workers."""
    world = World(0, max(1, config.scale.workers), 0, "cpu")
    with open_detect_loader(
        config.data, config.view, config.global_batch, config.seed, world, config.keep_empty
    ) as loader:
        num_steps = config.epochs * loader.num_steps
        if config.dry_run:
            print(describe(config, loader, num_steps, world))
            return
        kept = kept_config(config, loader)
    if config.valid_split:
        validation_truth(config.data, config.valid_split)
    newest = newest_checkpoint(config.run_dir)
    if newest is None:
        build_encoder(config.encoder)  # refuse weights that do not fit before anything is started
    same_run(config.run_dir, kept, current_world().is_main)
    if newest is not None and newest.step >= num_steps and not is_launched():  # launched ranks decide as one, in train
        print(f"{config.run_dir} is finished: {newest.path}")
        return
    run_on_workers(train, config, config.scale, config.run_dir)
    print(f"fine-tuned: {config.run_dir}")


def describe(config: FinetuneConfig, loader: DetectLoader, num_steps: int, world: World) -> str:
    """The resolved config and what the run will take, measured on two images here."""
    unloaded = replace(config.encoder, weights="none")  # no download for an estimate
    model = Detector(build_encoder(unloaded), config.detector, len(loader.findings))
    size = config.view.size_px
    images = torch.randint(0, 256, (2, size, size, 1), dtype=torch.uint8)
    sizes = torch.full((2, 2), size)
    boxes = [torch.tensor([[size / 4, size / 4, size / 2, size / 2]])] * 2
    findings = [torch.zeros(1, dtype=torch.int64)] * 2
    copies = 4 if config.optim.name == "adamw" else 3
    cost = measure_step(
        model, lambda: torch.stack(list(model(images, sizes, boxes, findings).values())).sum(), 2, copies
    )
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
    """The verb `cxr finetune`."""
    return door.enter("cxr finetune", FinetuneConfig, run, argv)


if __name__ == "__main__":
    import sys

    from trainers.finetune import main

    sys.exit(main())
