"""The report page: data in, one self-contained HTML file out. Pure; `eval.report` reads the data from disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from eval import pictures
from eval.gallery import GalleryItem
from eval.measure import METRICS, shown
from eval.pictures import Panel

PHANTOM_NOTE = (
    "The images of this report are phantoms: drawn by a program, not taken of people. Its numbers show that the chain "
    "works and compare one method with another on drawings. They say nothing about patients."
)
_DEFINITIONS = {
    "AP": "Average precision of one finding: predicted boxes by falling score, each matched to the free true box that "
    "it overlaps most; precision averaged over the recalls 0, .01, ... 1, as COCO defines it (at most 100 boxes per "
    "image and finding).",
    "AP50, mAP50": "A match needs an overlap (intersection over union) of .5. mAP50 is the mean over the findings that "
    "have a true box in this split.",
    "mAP": "Mean over the findings and over the overlaps .5, .55, ... .95; mAP75 at .75 alone.",
    "mAP50 without Nodule/Mass": "Mean over the other findings. The published reference lost that one to a spelling, "
    "so its own mean may be over these.",
    "AR100": "Share of the true boxes that are found with all boxes kept, mean over findings and overlaps.",
    "sensitivity at 1 FP per image": "Share of the true boxes found (overlap .5) at the lowest score that lets through "
    "at most one false box of the finding per image on average; mean over findings.",
    "image-level AUC": "Chance that an image with the finding scores higher than one without it; an image's score is "
    "its highest box of the finding, 0 without one. Mean over findings.",
    "location prior": "A predictor that never looks at the image: it puts each finding's mean box of the training "
    "images on every image, with the finding's frequency as score. A detector that does not beat it has not shown that "
    "it learned from pixels.",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """A measured detector."""

    title: str
    metrics: dict[str, Any]
    """Content of its metrics.json, see `eval.measure`."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired differences of two arms."""

    a: str
    """Title of the arm that is compared."""
    b: str
    """Title of the arm that it is compared with."""
    metrics: dict[str, dict[str, Any]]
    """a - b: {metric: {value, low, high, p}}, from `eval.measure.compare`."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the page shows."""

    title: str
    arms: tuple[Arm, ...]
    """At least one."""
    about: str = ""
    """What was done, in a sentence or two."""
    phantom: bool = False
    """The images are drawn: say so."""
    comparison: Comparison | None = None
    panels: tuple[Panel, ...] = ()
    gallery: tuple[GalleryItem, ...] = ()
    stages: tuple[tuple[str, float], ...] = ()
    """Name and seconds of each stage, in order."""
    config: str = ""
    """Resolved config as text."""
    versions: tuple[tuple[str, str], ...] = ()
    """Package and version."""
    machine: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def build(data: ReportData) -> str:
    """The page: HTML without script and without anything from elsewhere, for light and dark screens."""
    first = data.arms[0].metrics
    predictors = [(arm.title, arm.metrics) for arm in data.arms]
    colours = [pictures.COLOURS[i % len(pictures.COLOURS)] for i in range(len(data.arms))]
    if first.get("prior"):
        predictors.append(("Location prior", first["prior"]))
        colours.append(pictures.PRIOR_COLOUR)
    names = [name for name in METRICS if name in first["metrics"]]
    pairs = _pairs(data)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        data=data,
        first=first,
        phantom_note=PHANTOM_NOTE,
        truth_colour=pictures.TRUTH_COLOUR,
        prediction_colour=pictures.PREDICTION_COLOUR,
        cards=[_card(title, numbers["metrics"], c) for (title, numbers), c in zip(predictors, colours, strict=True)],
        verdicts=_verdicts(data),
        predictors=[title for title, _ in predictors],
        means=[(METRICS[name], [_cell(numbers["metrics"][name]) for _, numbers in predictors]) for name in names],
        pairs=[title for title, _ in pairs],
        differences_by_metric=[
            (METRICS[name], [_signed(metrics[name]) for _, metrics in pairs]) for name in names if pairs
        ],
        findings=_findings(predictors),
        findings_svg=Markup(_findings_svg(predictors, colours)),
        panels=[(panel.title, Markup(pictures.curves_svg(panel))) for panel in data.panels],
        gallery=[(item, Markup(pictures.boxes_svg(item)), Markup(pictures.heat_svg(item))) for item in data.gallery],
        total=duration(sum(seconds for _, seconds in data.stages)),
        longest=max([seconds for _, seconds in data.stages], default=1.0) or 1.0,
        duration=duration,
        definitions={
            word: meaning
            for word, meaning in _DEFINITIONS.items()
            if (word != METRICS["map50_13"] or "map50_13" in names) and (word != "location prior" or first.get("prior"))
        },
        sources=[(arm.title, _source(arm.metrics)) for arm in data.arms],
    )


def sentence(a: str, b: str, estimate: dict[str, Any]) -> str:
    """What a paired difference in mAP50 says, whichever way it went."""
    if estimate["low"] is None or estimate["high"] is None:
        return f"“{a}” and “{b}” cannot be told apart here ({estimate.get('reason', 'no interval')})."
    numbers = _signed(estimate)
    if estimate["low"] > 0:
        return f"“{a}” is better than “{b}”: mAP50 {numbers}."
    if estimate["high"] < 0:
        return f"“{a}” is worse than “{b}”: mAP50 {numbers}."
    return f"No difference is shown between “{a}” and “{b}”: mAP50 {numbers}; the interval holds zero."


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _verdicts(data: ReportData) -> list[str]:
    verdicts = []
    if data.comparison:
        verdicts.append(sentence(data.comparison.a, data.comparison.b, data.comparison.metrics["map50"]))
    for arm in data.arms:
        if arm.metrics.get("difference_to_prior"):
            verdicts.append(sentence(arm.title, "Location prior", arm.metrics["difference_to_prior"]["map50"]))
    return verdicts


def _cell(estimate: dict[str, Any]) -> dict[str, str]:
    """A number with its interval, or the reason why there is none; never a number alone."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return {"value": "", "interval": "", "reason": estimate.get("reason", "no interval")}
    return {"value": f"{value:.3f}", "interval": f"{low:.3f} to {high:.3f}", "reason": ""}


def _card(title: str, metrics: dict[str, Any], colour: str) -> dict[str, Any]:
    return {
        "title": title,
        "colour": colour,
        "map50": _cell(metrics["map50"]),
        "others": [(METRICS[name], _cell(metrics[name])) for name in ("map", "auc")],
    }


def _signed(estimate: dict[str, Any]) -> str:
    return shown(estimate).replace("-", "−")


def _pairs(data: ReportData) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Every paired difference with its title."""
    pairs = []
    if data.comparison:
        pairs.append((f"{data.comparison.a} − {data.comparison.b}", data.comparison.metrics))
    for arm in data.arms:
        if arm.metrics.get("difference_to_prior"):
            pairs.append((f"{arm.title} − location prior", arm.metrics["difference_to_prior"]))
    return pairs


def _findings(predictors: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {
            "name": finding,
            "num_boxes": numbers["num_boxes"],
            "num_images": numbers["num_images"],
            "ap50": [_cell(metrics["per_finding"][finding]["ap50"]) for _, metrics in predictors],
        }
        for finding, numbers in predictors[0][1]["per_finding"].items()
    ]


def _findings_svg(predictors: list[tuple[str, dict[str, Any]]], colours: list[str]) -> str:
    """AP50 with intervals of every finding that has one, most frequent first; "" where none has."""
    per_finding = predictors[0][1]["per_finding"]
    rows = []
    for finding in sorted(per_finding, key=lambda name: -per_finding[name]["num_boxes"]):
        estimates = [metrics["per_finding"][finding]["ap50"] for _, metrics in predictors]
        ranges = tuple(None if e["low"] is None else (e["value"], e["low"], e["high"]) for e in estimates)
        if any(ranges):
            rows.append(pictures.Row(finding, ranges))
    named = dict(zip((title for title, _ in predictors), colours, strict=True))
    return pictures.intervals_svg("AP50 per finding", named, tuple(rows), "AP50 with 95 % interval") if rows else ""


def _source(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    checkpoint = metrics["checkpoint"]
    shards = ", ".join(f"{shard['directory']} ({shard['digest'][:12]})" for shard in metrics["shards"])
    trained = (
        f"{checkpoint.get('run', '?')}, step {checkpoint.get('step', '?')} ({str(checkpoint.get('digest', '?'))[:12]})"
    )
    return [
        ("checkpoint", trained if checkpoint else "none"),
        ("shard set", shards or "not recorded"),
        ("split", metrics["split"] or "all"),
        ("images", f"{metrics['num_images']}, with {metrics['num_boxes']} true boxes"),
        ("intervals", f"{metrics['num_resamples']} resamples by {metrics['grouped_by']}, seed {metrics['seed']}"),
        ("measured by", metrics["commit"] or "not recorded"),
    ]
