"""`cxr demo`: the whole chain on phantoms, as a small study of two arms that differ in their initial weights alone.

phantoms -> shard sets -> Barlow Twins -> two fine-tunings -> predictions -> metrics -> report. Every stage leaves an
artifact and is not repeated once that is there, so an interrupted study goes on where it stopped.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cluster import config as configs
from cluster import door
from cluster.scale import ScaleConfig
from cluster.version import code_version
from eval import gallery, measure, predictions, prior, report
from eval.ledger import Ledger
from eval.look import pictures_of
from eval.truth import truth_from_shards
from loaders.config import DataConfig
from loaders.views import DetectViewConfig, TwoViewConfig
from sharding import build
from sharding.index import ShardSet
from sharding.nih import NihConfig
from sharding.phantom import cohort
from sharding.vindr import VindrConfig
from trainers import finetune, predict, pretrain
from trainers.checkpoint import CheckpointConfig
from trainers.finetune import FinetuneConfig
from trainers.models.barlow_twins import BarlowTwinsConfig
from trainers.models.detector import DetectorConfig
from trainers.models.encoder import EncoderConfig
from trainers.optim import OptimConfig
from trainers.pretrain import PretrainConfig
from trainers.runlog import LogConfig

ARMS = {"barlow": "Barlow Twins pretraining", "scratch": "same initial weights, no pretraining"}
TITLE = "Barlow Twins pretraining on phantoms"
ABOUT = (
    "Two cohorts of {num} drawn radiographs each, one as NIH ChestX-ray14 is written and one as VinDr-CXR, were "
    "sharded; an encoder was pretrained on both without labels, and Faster R-CNN was fine-tuned on the second's "
    "consensus boxes twice from the same initial weights: with the pretrained encoder and without. Both were measured "
    "on held-out phantoms."
)
SET_BY_STUDY = Path("set-by-the-study")


def small_pretraining() -> PretrainConfig:
    """Barlow Twins small enough for two CPU cores and a minute."""
    return PretrainConfig(
        run_dir=SET_BY_STUDY,
        data=DataConfig((SET_BY_STUDY,), ("train", "valid"), num_threads=1),
        view=TwoViewConfig(size_px=96, interpolation="linear"),
        encoder=EncoderConfig("resnet10", 1),
        model=BarlowTwinsConfig((512, 512)),
        optim=OptimConfig(name="adamw", lr=1e-3, lr_1d=0.0, lr_batch=0, weight_decay=1e-4, warmup_epochs=2),
        checkpoint=CheckpointConfig(every_steps=100),
        log=LogConfig(every_steps=2),
        scale=ScaleConfig(workers=2),
        global_batch=64,
        epochs=16,
    )


def small_finetuning() -> FinetuneConfig:
    """Faster R-CNN small enough for two CPU cores and two minutes: fewer regions, narrower layers, the same code."""
    return FinetuneConfig(
        run_dir=SET_BY_STUDY,
        data=DataConfig((SET_BY_STUDY,), num_threads=1),
        view=DetectViewConfig(size_px=192),
        encoder=EncoderConfig("resnet10", 1),
        detector=DetectorConfig(
            norm="batch",
            frozen_stages=0,
            strides_px=(8, 16, 32),
            fpn_channels=64,
            anchor_scales=(2.0, 3.0),
            num_anchors_sampled=64,
            num_before_nms_train=200,
            num_before_nms_test=200,
            num_proposals_train=150,
            num_proposals_test=100,
            num_rois=64,
            head_width=256,
            score_threshold=0.02,
        ),
        optim=OptimConfig(
            name="adamw",
            lr=1.5e-3,
            lr_1d=0.0,
            lr_batch=0,
            weight_decay=0.05,
            warmup_steps=30,
            warmup_start_ratio=0.05,
            final_ratio=0.01,
        ),
        checkpoint=CheckpointConfig(every_steps=100),
        log=LogConfig(every_steps=5),
        global_batch=8,
        epochs=10,
        valid_every_epochs=5,
        keep_empty=True,
    )


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """The whole chain on drawn radiographs: does pretraining help, and does the detector see?"""

    out: Path = Path("demo")
    """Folder for everything the study makes; the same command goes on where it stopped."""
    num_images: int = 400
    """Phantoms per cohort; there are two, one as NIH writes them and one as VinDr does."""
    seed: int = 1
    """Seed of phantoms, weights, order and augmentation."""
    side_px: int = 1024
    """Side of the NIH phantoms in pixels; VinDr's vary about it."""
    num_resamples: int = 1000
    """Bootstrap resamples for the 95 % intervals."""
    pretrain: PretrainConfig = field(default_factory=small_pretraining)
    """Pretraining; `run_dir`, `data.shards` and `seed` are set by the study."""
    finetune: FinetuneConfig = field(default_factory=small_finetuning)
    """Fine-tuning of both arms; `run_dir`, `data.shards`, `encoder` and `seed` are set by the study."""

    def __post_init__(self) -> None:
        """Refuse cohorts too small to split, and a detector on another encoder."""
        if self.num_images < 20:
            raise ValueError(f"num_images is {self.num_images}; give 20 or more, so that every split has some")
        for name, given, default in (
            ("pretrain", self.pretrain, small_pretraining()),
            ("finetune", self.finetune, small_finetuning()),
        ):
            for field_name in ("run_dir", "seed", "dry_run"):
                if getattr(given, field_name) != getattr(default, field_name):
                    raise ValueError(f"{name}.{field_name} is set by the study (--out, --seed); leave it out")
            if given.data.shards != default.data.shards or given.encoder.weights != default.encoder.weights:
                raise ValueError(f"{name}.data.shards and {name}.encoder.weights are set by the study; leave them out")
        ours, theirs = self.pretrain.encoder, self.finetune.encoder
        if (ours.name, ours.channels) != (theirs.name, theirs.channels):
            raise ValueError(f"pretrain.encoder is {ours} and finetune.encoder is {theirs}: give both the same")


def run(config: StudyConfig) -> None:
    """Goes through the stages, skipping finished ones, and writes `out/report.html`."""
    ledger = Ledger.open(config.out, configs.to_dict(config))
    shards = config.out / "shards"
    stages: list[tuple[str, Path, Callable[[], object]]] = [
        ("draw phantoms", config.out / "phantoms/vindr/cohort.json", lambda: draw(config)),
        ("shard NIH", shards / "nih/manifest.json", lambda: shard(config, "nih")),
        ("shard VinDr", shards / "vindr/manifest.json", lambda: shard(config, "vindr")),
        ("pretrain", config.out / "pretrain/config.json", lambda: pretrain.run(pretraining(config))),
    ]
    for arm, title in ARMS.items():
        folder = config.out / arm
        stages += [
            (f"fine-tune: {title}", folder / "run/config.json", partial(finetune_arm, config, arm)),
            (f"predict: {title}", folder / "predictions.parquet", partial(predict_arm, config, arm)),
        ]
    metrics = config.out / ARM_A / "metrics.json"
    stages.append(("evaluate", metrics, lambda: evaluate(config, ledger)))
    stages.append(("look", config.out / "gallery/gallery.json", lambda: look(config)))
    for number, (name, artifact, work) in enumerate(stages, 1):
        if ledger.has(name) and artifact.is_file():
            print(f"[{number}/{len(stages)}] {name}: done before", flush=True)
            continue
        print(f"[{number}/{len(stages)}] {name}", flush=True)
        began = time.perf_counter()
        work()
        ledger.add(name, time.perf_counter() - began)
    ledger.close(TITLE, ABOUT.format(num=config.num_images), ARMS, "pretrain", resolved(config))
    report.run(report.ReportConfig(study=config.out.resolve()))


ARM_A, ARM_B = ARMS


def resolved(config: StudyConfig) -> dict[str, Any]:
    """The config of the study and of every run in it, as they ran."""
    own = {k: v for k, v in configs.to_dict(config).items() if k not in ("pretrain", "finetune")}
    arms = {f"finetune {arm}": configs.to_dict(finetuning(config, arm)) for arm in ARMS}
    return {"study": own, "pretrain": configs.to_dict(pretraining(config)), **arms}


def draw(config: StudyConfig) -> None:
    """Both cohorts."""
    cohort.run(cohort.PhantomConfig(config.out / "phantoms", config.num_images, config.seed, config.side_px))


def shard(config: StudyConfig, source: str) -> None:
    """One cohort as a shard set, read by the reader of the originals."""
    kind = {"nih": NihConfig, "vindr": VindrConfig}[source]
    root, out = config.out / "phantoms" / source, config.out / "shards" / source
    build.run(kind(root=root, out=out, max_side_px=512, samples_per_shard=64))


def pretraining(config: StudyConfig) -> PretrainConfig:
    """The pretraining's config, on the training images of both cohorts."""
    shards = tuple(config.out / "shards" / source for source in ("nih", "vindr"))
    data = replace(config.pretrain.data, shards=shards)
    return replace(config.pretrain, run_dir=config.out / "pretrain", data=data, seed=config.seed)


def finetuning(config: StudyConfig, arm: str) -> FinetuneConfig:
    """An arm's config: both begin with the same random weights, then one takes the pretrained encoder."""
    weights = str(config.out / "pretrain") if arm == ARM_A else "none"
    return replace(
        config.finetune,
        run_dir=config.out / arm / "run",
        data=replace(config.finetune.data, shards=(config.out / "shards/vindr",)),
        encoder=replace(config.finetune.encoder, weights=weights),
        seed=config.seed,
    )


def finetune_arm(config: StudyConfig, arm: str) -> None:
    """The arm's run."""
    finetune.run(finetuning(config, arm))


def predict_arm(config: StudyConfig, arm: str) -> None:
    """The arm's detector on the test split."""
    folder = config.out / arm
    predict.run(
        predict.PredictConfig(
            checkpoint=folder / "run",
            shards=config.out / "shards/vindr",
            out=folder / "predictions.parquet",
            precision=config.finetune.engine.precision,
        )
    )


def evaluate(config: StudyConfig, ledger: Ledger) -> None:
    """Both arms and the location prior on the same test images, and the arms' paired difference."""
    shard_set = ShardSet.open(config.out / "shards/vindr")
    truth = truth_from_shards(shard_set, "test")
    opponent = prior.predict(prior.fit(truth_from_shards(shard_set, "train")), truth)
    found = {arm: predictions.read(config.out / arm / "predictions.parquet") for arm in ARMS}
    for arm, title in reversed(ARMS.items()):
        numbers = measure.evaluate(truth, found[arm], opponent, config.num_resamples, config.seed, code_version())
        measure.write(config.out / arm / "metrics.json", numbers)
        print(f"\n{title}\n{measure.table(numbers)}")
    difference = measure.compare(truth, found[ARM_A], found[ARM_B], config.num_resamples, config.seed)
    ledger.compared(ARM_A, ARM_B, difference)
    print(f"mAP50, {ARMS[ARM_A]} - {ARMS[ARM_B]}: {measure.shown(difference['map50'])}\n")


def look(config: StudyConfig) -> None:
    """A gallery of test images with what the pretrained arm's detector found, and where it looked."""
    folder = config.out / ARM_A
    items = pictures_of(folder / "run", config.out / "shards/vindr", folder / "predictions.parquet", "test")
    gallery.save_gallery(config.out / "gallery", items)


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `cxr demo`."""
    return door.enter("cxr demo", StudyConfig, run, argv)


if __name__ == "__main__":
    import sys

    from eval.study import main

    sys.exit(main())
