"""A checkpoint and a shard set become `predictions.parquet`: `cxr predict`, `python -m trainers.predict ...`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from cluster import config as configs
from cluster import door
from cluster.progress import Progress
from cluster.scale import ScaleConfig
from cluster.storage import name_of
from cluster.version import code_version
from cluster.workers import run_on_workers
from cluster.world import World, close_process_group, current_world, open_process_group
from eval import predictions as predictions_file
from eval.predictions import Origin
from loaders.config import DataConfig
from loaders.loader import DetectLoader, open_predict_loader
from loaders.views import PlainViewConfig
from sharding.index import ShardSet
from trainers.checkpoint import Checkpoint, find_checkpoint
from trainers.detections import annotated, find, gather, to_predictions
from trainers.finetune import FinetuneConfig
from trainers.models.detector import Detector
from trainers.models.encoder import Encoder


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """Find on every image of a split what a fine-tuned detector finds."""

    checkpoint: Path
    """Run of `cxr finetune` (its best checkpoint where it has one, else its newest), or one checkpoint folder."""
    shards: str | Path
    """Shard set to predict: a folder, or a URL (s3://, gs://)."""
    out: Path
    """Predictions file to write, as predictions.parquet; what is there is replaced."""
    split: str = "test"
    """Split to predict."""
    annotated_only: bool = True
    """Only images that were annotated with boxes, also those without one; False: all of the split."""
    batch: int = 16
    """Images per step and rank."""
    num_threads: int = 2
    """Threads that read, and again as many that decode, per rank."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Autocast of convolutions and linear layers."""
    scale: ScaleConfig = field(default_factory=ScaleConfig)

    def __post_init__(self) -> None:
        """Refuse an empty batch and a folder as the file."""
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; give 1 or more")
        if self.out.is_dir():
            raise ValueError(f"out is {self.out}, a folder; give the file, as {self.out / 'predictions.parquet'}")


@dataclass(frozen=True, slots=True)
class Trained:
    """A detector as it was trained, in evaluation mode on the CPU."""

    detector: Detector
    findings: tuple[str, ...]
    config: FinetuneConfig
    checkpoint: Checkpoint


def load_trained(path: Path) -> Trained:
    """The detector of a run or checkpoint folder. Raises ValueError where there is none that fits its config."""
    checkpoint = find_checkpoint(path, "finetune")
    kept: dict[str, Any] = checkpoint.config()
    findings = tuple(kept.pop("findings"))
    kept.pop("shard_digests", None)
    config = configs.from_dict(FinetuneConfig, kept, str(checkpoint.path / "config.json"))
    detector = Detector(Encoder(config.encoder.name, config.encoder.channels), config.detector, len(findings))
    try:
        detector.load_state_dict(checkpoint.weights())
    except RuntimeError as error:
        reason = str(error).splitlines()[1:2]
        raise ValueError(
            f"{checkpoint.path}: its weights are not those of its config ({''.join(reason).strip()})"
        ) from error
    return Trained(detector.eval(), findings, config, checkpoint)


def check_findings(trained: Trained, shard_set: ShardSet) -> None:
    """Raises ValueError where the shard set's findings are not the detector's, in name or order."""
    if shard_set.findings != trained.findings:
        pairs = list(zip(trained.findings, shard_set.findings, strict=False))
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        here, there = (x[at] if at < len(x) else "none" for x in (trained.findings, shard_set.findings))
        raise ValueError(
            f"{shard_set.place} has other findings than {trained.checkpoint.path} was trained on: number {at} is "
            f"{there!r} there and {here!r} in the checkpoint; predict a shard set with the same findings and order"
        )


def predict(config: PredictConfig) -> None:
    """One rank: finds on its images; rank 0 writes what all found."""
    world = current_world()
    open_process_group(world)
    trained = load_trained(config.checkpoint)
    detector = trained.detector.to(world.device)
    if trained.config.engine.channels_last:
        detector = detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with open_loader(config, trained, world) as loader:
        progress = Progress(-(-loader.num_samples // world.size), "predict") if world.is_main else None
        found = gather(find(detector, loader, config.precision, progress))
        if progress is not None:
            progress.close()
        if world.is_main:
            found = annotated(found, loader) if config.annotated_only else found
            predictions_file.write(config.out, to_predictions(found, loader, origin_of(config, trained)))
    close_process_group()


def open_loader(config: PredictConfig, trained: Trained, world: World) -> DetectLoader:
    """The images to predict, as the detector was trained to see them."""
    data = DataConfig((config.shards,), (config.split,), num_threads=config.num_threads)
    view = PlainViewConfig(trained.config.view.size_px, trained.config.view.interpolation)
    return open_predict_loader(data, view, config.batch, world)


def origin_of(config: PredictConfig, trained: Trained) -> Origin:
    """Where these predictions come from."""
    shard_set = ShardSet.open(config.shards)
    checkpoint = trained.checkpoint
    run = checkpoint.path.parent.parent.name
    return Origin(
        split=config.split,
        shards=({"directory": name_of(shard_set.place), "digest": shard_set.digest},),
        checkpoint={"run": run, "step": checkpoint.step, "digest": checkpoint.digest},
        config={"predict": configs.to_dict(config), "finetune": configs.to_dict(trained.config)},
        code_version=code_version(),
    )


def run(config: PredictConfig) -> None:
    """Checks what can be checked here, then predicts on the configured workers."""
    trained = load_trained(config.checkpoint)
    shard_set = ShardSet.open(config.shards)
    check_findings(trained, shard_set)
    open_loader(config, trained, World(0, 1, 0, "cpu")).close()
    if config.annotated_only and not len(shard_set.rows(config.split, has_boxes=True)):
        raise ValueError(
            f"{config.shards}: no image of split {config.split!r} was annotated with boxes; "
            "give --no_annotated_only to predict them all"
        )
    config.out.parent.mkdir(parents=True, exist_ok=True)
    run_on_workers(predict, config, config.scale, config.out.with_suffix(".workers"))
    print(f"predictions: {config.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `cxr predict`."""
    return door.enter("cxr predict", PredictConfig, run, argv)


if __name__ == "__main__":
    import sys

    from trainers.predict import main

    sys.exit(main())
