"""`cxr report`: one self-contained HTML page from the artifacts of a study, or of one evaluation.

A study folder (paths in study.json are relative to it):

    study.json          written last
    gallery/            see `eval.gallery`; optional
    <arm>/metrics.json  see `eval.measure`; wherever study.json says
    <run>/metrics.jsonl the log of each run, from which the loss curves are drawn

    study.json = {
        "schema_version": 1,
        "title": str,
        "about": str,                        what was done, in a sentence or two; "" for none
        "phantom": bool,                     the images are drawn: the page says so
        "seed": int,
        "stages": [{"name": str, "seconds": float}],
        "arms": [{"name": str, "title": str, "run": path of the run folder or null, "metrics": path of metrics.json,
                  "predictions": path of predictions.parquet}],
        "pretrain_run": path or null,
        "comparison": null or {"a": name of an arm, "b": name of an arm,
                               "metrics": {metric: {value, low, high, p}}},   a - b, from `eval.measure.compare`
        "versions": {package: version}, "machine": {what: str},
        "config": {...},                     the resolved config
        "notes": [str]
    }

A folder without study.json but with metrics.json (what `cxr evaluate` writes) gives the same page with one arm.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster import door
from cluster.files import write_atomic
from eval import measure
from eval.gallery import load_gallery
from eval.page import Arm, Comparison, ReportData, build
from eval.pictures import Curve, Panel

SCHEMA_VERSION = 1
_FIELDS = ("title", "about", "phantom", "seed", "stages", "arms", "pretrain_run", "comparison")
_MORE_FIELDS = ("versions", "machine", "config", "notes")
_PACKAGES = ("barlow-cxr", "torch", "torchvision", "numpy", "pyarrow")


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """Write the page of a study, or of one evaluation."""

    study: Path
    """Study folder (with study.json), or the folder of one evaluation (with metrics.json)."""
    out: Path | None = None
    """HTML file to write; default: report.html in the study folder."""
    run: Path | None = None
    """For one evaluation: the run folder whose loss curves are shown."""


def run(config: ReportConfig) -> None:
    """Writes the page and prints where it is."""
    page = build(load(config.study, config.run))
    out = config.out or config.study / "report.html"
    if out.is_dir():
        raise ValueError(f"out {out} is a folder; give the file, such as {out / 'report.html'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)
    print(f"report: {out}")


def load(folder: Path, run: Path | None = None) -> ReportData:
    """What the page shows, read from `folder`. Raises ValueError naming the file and field that is wrong."""
    if (folder / "study.json").is_file():
        if run is not None:
            raise ValueError(f"run {run}: {folder} is a study, whose runs study.json names; leave --run out")
        return _load_study(folder)
    if (folder / "metrics.json").is_file():
        return _load_evaluation(folder, run)
    raise ValueError(
        f"study {folder}: has neither study.json (a whole study, `cxr demo`) nor metrics.json (`cxr evaluate`); "
        "give the folder that holds one of them"
    )


def read_log(run: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """The log of a run: kind -> step -> its numbers. Of a step that stands twice (a resumed run) the later line counts;
    a line cut short by a kill is passed over. {} where there is no log.
    """
    path = run / "metrics.jsonl"
    log: dict[str, dict[int, dict[str, Any]]] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        log.setdefault(entry["kind"], {})[entry["step"]] = entry
    return log


def curve(name: str, log: dict[str, dict[int, dict[str, Any]]], kind: str, field: str) -> Curve | None:
    """One number of a log over the steps, or None where the log does not hold it."""
    points = [(step, entry[field]) for step, entry in sorted(log.get(kind, {}).items()) if entry.get(field) is not None]
    return Curve(name, *zip(*points, strict=True)) if points else None


def panels(pretraining: Path | None, runs: Sequence[tuple[str, Path]]) -> tuple[Panel, ...]:
    """The diagrams that the logs give: pretraining loss, detection loss, validation mAP50."""
    logs = [(title, read_log(path)) for title, path in runs]
    plans = [("Detection loss", "sum of the four losses", logs, "train", "loss")]
    plans += [("Validation split", "mAP50", logs, "valid", "map50")]
    if pretraining is not None:
        pretrained = [("Barlow Twins", read_log(pretraining))]
        plans.insert(0, ("Pretraining loss", "Barlow Twins loss", pretrained, "train", "loss"))
    drawn = []
    for title, y_label, of_logs, kind, field in plans:
        curves = [curve(name, log, kind, field) for name, log in of_logs]
        found = tuple(one for one in curves if one is not None)
        if found:
            log_y = all(value > 0 for one in found for value in one.values) and title == "Pretraining loss"
            drawn.append(Panel(title, "step", y_label, found, log_y))
    return tuple(drawn)


def _load_study(folder: Path) -> ReportData:
    path = folder / "study.json"
    try:
        study: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); run the study again, finished steps are kept") from error
    if study.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version {study.get('schema_version')!r}; this version reads {SCHEMA_VERSION}: "
            "run the study again"
        )
    missing = [name for name in (*_FIELDS, *_MORE_FIELDS) if name not in study]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} is missing; run the study again, finished steps are kept")
    if not study["arms"]:
        raise ValueError(f"{path}: arms is empty; a report needs at least one measured detector")
    titles = {arm["name"]: arm["title"] for arm in study["arms"]}
    comparison = None
    if study["comparison"]:
        a, b = study["comparison"]["a"], study["comparison"]["b"]
        if a not in titles or b not in titles:
            raise ValueError(f"{path}: comparison of {a!r} and {b!r}: the arms are {', '.join(titles)}")
        comparison = Comparison(titles[a], titles[b], study["comparison"]["metrics"])
    runs = [(arm["title"], folder / arm["run"]) for arm in study["arms"] if arm["run"]]
    return ReportData(
        title=study["title"],
        about=study["about"],
        phantom=study["phantom"],
        arms=tuple(Arm(arm["title"], measure.read(folder / arm["metrics"])) for arm in study["arms"]),
        comparison=comparison,
        panels=panels(folder / study["pretrain_run"] if study["pretrain_run"] else None, runs),
        gallery=load_gallery(folder / "gallery"),
        stages=tuple((stage["name"], float(stage["seconds"])) for stage in study["stages"]),
        config=json.dumps(study["config"], indent=2, ensure_ascii=False),
        versions=tuple(sorted(study["versions"].items())),
        machine=tuple((name, str(value)) for name, value in study["machine"].items()),
        notes=(f"Seed of the study: {study['seed']}.", *study["notes"]),
    )


def _load_evaluation(folder: Path, run: Path | None) -> ReportData:
    metrics = measure.read(folder / "metrics.json")
    name = Path(str(metrics["checkpoint"].get("run", ""))).name or "Detector"
    return ReportData(
        title=f"Evaluation of {name}",
        about=f"Split {metrics['split'] or 'all'} of "
        + ", ".join(shard["directory"] for shard in metrics["shards"])
        + ".",
        arms=(Arm(name, metrics),),
        panels=panels(None, [(name, run)] if run else []),
        gallery=load_gallery(folder / "gallery"),
        config=json.dumps(metrics["config"], indent=2, ensure_ascii=False),
        versions=tuple((package, version(package)) for package in _PACKAGES),
        machine=(("Python", platform.python_version()),),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `cxr report`."""
    return door.enter("cxr report", ReportConfig, run, argv)


if __name__ == "__main__":
    import sys

    from eval.report import main

    sys.exit(main())
