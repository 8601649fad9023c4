"""`cxr evaluate`: a predictions file or a checkpoint against a shard set -> metrics.json and a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster import door
from cluster.scale import ScaleConfig
from cluster.version import code_version
from eval import measure, prior
from eval import predictions as predictions_file
from eval.truth import Truth, truth_from_shards
from sharding.index import ShardSet
from trainers import predict


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """Measure predictions against the consensus boxes of a shard set."""

    shards: str | Path
    """Shard set with the true boxes: a folder, or a URL (s3://, gs://)."""
    out: Path
    """Folder for metrics.json (and predictions.parquet where a checkpoint is given)."""
    predictions: Path | None = None
    """Predictions file of `cxr predict`; give this or `checkpoint`."""
    checkpoint: Path | None = None
    """Run or checkpoint folder of `cxr finetune`: it predicts first."""
    split: str = "test"
    """Split to measure on."""
    prior_split: str = "train"
    """Split from which the location prior, the opponent to beat, learns its mean boxes; empty: no prior."""
    num_resamples: int = 1000
    """Bootstrap resamples (by patient where known, else by image) for the 95 % intervals."""
    seed: int = 0
    """Seed of the resampling."""
    scale: ScaleConfig = field(default_factory=ScaleConfig)

    def __post_init__(self) -> None:
        """Refuse none or two sources of predictions."""
        if (self.predictions is None) == (self.checkpoint is None):
            raise ValueError("give either --predictions FILE or --checkpoint RUN, not both or neither")


def run(config: EvaluateConfig) -> None:
    """Writes `out/metrics.json` and prints its table."""
    shard_set = ShardSet.open(config.shards)
    truth = truth_from_shards(shard_set, config.split)
    opponent = None
    if config.prior_split:
        opponent = prior.predict(prior.fit(prior_truth(shard_set, config.prior_split)), truth)
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.predictions
    if config.checkpoint is not None:
        path = config.out / "predictions.parquet"
        predict.run(
            predict.PredictConfig(
                checkpoint=config.checkpoint, shards=config.shards, split=config.split, out=path, scale=config.scale
            )
        )
    assert path is not None
    found = predictions_file.read(path)
    metrics = measure.evaluate(truth, found, opponent, config.num_resamples, config.seed, code_version())
    measure.write(config.out / "metrics.json", metrics)
    print(measure.table(metrics))
    print(f"metrics: {config.out / 'metrics.json'}")


def prior_truth(shard_set: ShardSet, split: str) -> Truth:
    """What the location prior learns from. Raises ValueError, with the repair, where that split has no boxes."""
    try:
        return truth_from_shards(shard_set, split)
    except ValueError as error:
        raise ValueError(f'prior_split: {error}; give another one, or --prior_split "" for no prior') from error


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `cxr evaluate`."""
    return door.enter("cxr evaluate", EvaluateConfig, run, argv)


if __name__ == "__main__":
    import sys

    from eval.run import main

    sys.exit(main())
