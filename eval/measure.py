"""Predictions and truth in, `metrics.json` out: every number with its interval, split, checkpoint and config.

    {schema_version: 1, kind: "detection", split, shards, checkpoint, commit, config,
     num_images, num_groups, grouped_by, num_boxes, num_resamples, coverage, seed,
     metrics:     {name: {value, low, high[, reason]}},
     per_finding: {finding: {ap50: {...}, ap: {...}, auc: {...}, sensitivity_1fp: {...}, num_boxes, num_images}},
     prior:               null or {metrics: {...}, per_finding: {...}},
     difference_to_prior: null or {name: {value, low, high, p}}}

`value` is null where a number is not defined; `low` and `high` are null, with a `reason`, where there is no interval.

Shapes: N images, F findings, T IoU thresholds, B resamples.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.files import write_atomic
from eval import auc, detection, intervals
from eval.intervals import Estimate
from eval.predictions import Predictions
from eval.truth import Truth, align

SCHEMA_VERSION = 1
LEFT_OUT = "Nodule/Mass"
METRICS = {
    "map": "mAP",
    "map50": "mAP50",
    "map75": "mAP75",
    "map50_13": f"mAP50 without {LEFT_OUT}",
    "ar100": "AR100",
    "sensitivity_1fp": "sensitivity at 1 FP per image",
    "auc": "image-level AUC",
}
"""Names in metrics.json and their titles, in the order of tables."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The per-finding numbers of one predictor on B weightings of the images; NaN where one is not defined."""

    ap_BFT: NDArray[np.float64]
    recall_BFT: NDArray[np.float64]
    sensitivity_BF: NDArray[np.float64]
    auc_BF: NDArray[np.float64]

    def means(self, findings: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
        """Means over findings, [B] each. As in COCO, a finding without a true box takes no part."""
        ap50_BF = self.ap_BFT[:, :, 0]
        means = {
            "map": _mean(self.ap_BFT.reshape(len(self.ap_BFT), -1)),
            "map50": _mean(ap50_BF),
            "map75": _mean(self.ap_BFT[:, :, 5]),
            "map50_13": _mean(ap50_BF[:, [name != LEFT_OUT for name in findings]]),
            "ar100": _mean(self.recall_BFT.reshape(len(self.recall_BFT), -1)),
            "sensitivity_1fp": _mean(self.sensitivity_BF),
            "auc": _mean(self.auc_BF),
        }
        return {name: means[name] for name in METRICS if name != "map50_13" or LEFT_OUT in findings}

    def of_finding(self, finding: int) -> dict[str, NDArray[np.float64]]:
        """The numbers of one finding, [B] each."""
        return {
            "ap50": self.ap_BFT[:, finding, 0],
            "ap": self.ap_BFT[:, finding].mean(axis=1),
            "sensitivity_1fp": self.sensitivity_BF[:, finding],
            "auc": self.auc_BF[:, finding],
        }


def evaluate(
    truth: Truth,
    predictions: Predictions,
    prior: Predictions | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    commit: str = "",
) -> dict[str, Any]:
    """The content of metrics.json.

    `prior` is another predictor on the same images (see `eval.prior`), compared by paired differences; `commit` is
    the version of the code that measures. Raises ValueError where predictions and truth do not fit together.
    """
    if num_resamples < 2:
        raise ValueError(f"num_resamples {num_resamples}: an interval needs at least 2, and 1000 to be steady")
    predictors = [align(truth, predictions)] + ([] if prior is None else [align(truth, prior, "location prior")])
    scored = _score_all(truth, predictors, num_resamples, seed)
    sections = [_section(truth, *pair) for pair in scored]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "detection",
        "split": truth.split,
        "shards": list(truth.shards),
        "checkpoint": predictions.origin.checkpoint,
        "commit": commit,
        "config": predictions.origin.config,
        "num_images": len(truth.keys),
        "num_groups": int(truth.group_N.max()) + 1,
        "grouped_by": truth.grouped_by,
        "num_boxes": len(truth.finding_K),
        "num_resamples": num_resamples,
        "coverage": intervals.COVERAGE,
        "seed": seed,
        **sections[0],
        "prior": None if prior is None else sections[1],
        "difference_to_prior": None if prior is None else _differences(truth, *scored),
    }


def compare(
    truth: Truth, predictions_a: Predictions, predictions_b: Predictions, num_resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Paired differences a - b: {metric: {value, low, high, p}} for every name in METRICS."""
    pair = [align(truth, predictions_a, "predictions a"), align(truth, predictions_b, "predictions b")]
    return _differences(truth, *_score_all(truth, pair, num_resamples, seed))


def write(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json, whole or not at all."""
    write_atomic(path, json.dumps(metrics, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """metrics.json as `evaluate` gave it. Raises ValueError where it is absent, damaged or of another version."""
    try:
        metrics: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file; `cxr evaluate` writes it") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); evaluate again") from error
    if not isinstance(metrics, dict) or metrics.get("schema_version") != SCHEMA_VERSION or "metrics" not in metrics:
        raise ValueError(f"{path}: not a metrics file of schema version {SCHEMA_VERSION}; evaluate again")
    return metrics


def table(metrics: dict[str, Any]) -> str:
    """Plain text for a terminal: the means, then a row per finding. A number without an interval is shown as a dash."""
    prior = metrics["prior"]
    head = [f"{metrics['coverage']:.0%} interval"] + (["location prior", "difference"] if prior else [])
    rows = [["", *head]]
    for name, title in METRICS.items():
        if name in metrics["metrics"]:
            row = [title, shown(metrics["metrics"][name])]
            if prior:
                row += [shown(prior["metrics"][name]), shown(metrics["difference_to_prior"][name])]
            rows.append(row)
    rows += [[], ["AP50", "", *([""] * (len(head) - 1)), "boxes", "images"]]
    for finding, numbers in metrics["per_finding"].items():
        row = [finding, shown(numbers["ap50"])]
        if prior:
            row += [shown(prior["per_finding"][finding]["ap50"]), ""]
        rows.append([*row, str(numbers["num_boxes"]), str(numbers["num_images"])])
    widths = [max(len(row[i]) for row in rows if len(row) > i) for i in range(max(map(len, rows)))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    about = (
        f"split {metrics['split'] or 'all'}: {metrics['num_images']} images, {metrics['num_boxes']} boxes; "
        f"{metrics['num_resamples']} resamples by {metrics['grouped_by']}"
    )
    return "\n".join([about, "", *lines]) + "\n"


def shown(estimate: dict[str, Any]) -> str:
    """`0.412 [0.350, 0.471]`, differences with sign and p; `-` and the reason where there is no interval."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return f"- ({estimate.get('reason', 'no interval')})"
    if "p" not in estimate:
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"
    p = estimate["p"]
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}] p {'< .001' if p < 0.001 else f'= {p:.3f}'}"


def _score_all(
    truth: Truth, predictors: list[Predictions], num_resamples: int, seed: int
) -> list[tuple[Scores, Scores]]:
    """Per predictor its numbers on all images (B = 1) and on the resamples, which are the same for all predictors."""
    prepared = [(detection.match(truth, p), auc.image_scores(p)) for p in predictors]
    positive_NF = truth.num_boxes_NF > 0
    whole = np.ones((1, len(truth.keys)), np.int32)
    resampled: list[list[Scores]] = [[] for _ in predictors]
    for weights_BN in intervals.resample_weights(truth.group_N, num_resamples, seed):
        for blocks, (matches, score_NF) in zip(resampled, prepared, strict=True):
            blocks.append(_score(matches, score_NF, positive_NF, weights_BN))
    return [
        (_score(matches, score_NF, positive_NF, whole), _stack(blocks))
        for blocks, (matches, score_NF) in zip(resampled, prepared, strict=True)
    ]


def _score(
    matches: detection.Matches,
    score_NF: NDArray[np.float32],
    positive_NF: NDArray[np.bool_],
    weights_BN: NDArray[np.int32],
) -> Scores:
    each = matches.per_finding
    return Scores(
        ap_BFT=np.stack([detection.average_precision(m, weights_BN) for m in each], axis=1),
        recall_BFT=np.stack([detection.recall(m, weights_BN) for m in each], axis=1),
        sensitivity_BF=np.stack([detection.sensitivity_at(m, weights_BN) for m in each], axis=1),
        auc_BF=np.stack(
            [auc.area_under_roc(score_NF[:, f], positive_NF[:, f], weights_BN) for f in range(len(each))], axis=1
        ),
    )


def _stack(blocks: list[Scores]) -> Scores:
    return Scores(*(np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(Scores)))


def _section(truth: Truth, point: Scores, resampled: Scores) -> dict[str, Any]:
    """`metrics` and `per_finding` of one predictor."""
    num_boxes_NF = truth.num_boxes_NF
    kind, any_box = _groups(truth)
    values, samples = point.means(truth.findings), resampled.means(truth.findings)
    means = {name: intervals.interval(values[name][0], samples[name], any_box, kind).to_dict() for name in values}
    per_finding: dict[str, dict[str, Any]] = {}
    for f, finding in enumerate(truth.findings):
        positive_N = num_boxes_NF[:, f] > 0
        with_it, without = (len(np.unique(truth.group_N[chosen])) for chosen in (positive_N, ~positive_N))
        numbers, drawn = point.of_finding(f), resampled.of_finding(f)
        enough = {name: min(with_it, without) if name == "auc" else with_it for name in numbers}
        per_finding[finding] = {
            name: intervals.interval(numbers[name][0], drawn[name], enough[name], kind).to_dict() for name in numbers
        }
        per_finding[finding] |= {"num_boxes": int(num_boxes_NF[:, f].sum()), "num_images": int(positive_N.sum())}
    return {"metrics": means, "per_finding": per_finding}


def _differences(truth: Truth, a: tuple[Scores, Scores], b: tuple[Scores, Scores]) -> dict[str, dict[str, Any]]:
    kind, any_box = _groups(truth)
    points, samples = ([side[i].means(truth.findings) for side in (a, b)] for i in (0, 1))
    result: dict[str, Estimate] = {
        name: intervals.difference(
            points[0][name][0] - points[1][name][0], samples[0][name], samples[1][name], any_box, kind
        )
        for name in points[0]
    }
    return {name: estimate.to_dict() for name, estimate in result.items()}


def _groups(truth: Truth) -> tuple[str, int]:
    """What a group is called, and how many hold a true box."""
    positive_N = truth.num_boxes_NF.any(axis=1)
    return "image" if truth.grouped_by == "image" else "patient", len(np.unique(truth.group_N[positive_N]))


def _mean(values_BX: NDArray[np.float64]) -> NDArray[np.float64]:
    defined_BX = np.isfinite(values_BX)
    num_B = defined_BX.sum(axis=1)
    total_B = np.where(defined_BX, values_BX, 0.0).sum(axis=1)
    mean_B: NDArray[np.float64] = np.divide(total_B, num_B, out=np.full(len(values_BX), np.nan), where=num_B > 0)
    return mean_B
