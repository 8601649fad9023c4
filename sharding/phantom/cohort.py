"""`cxr phantom`: draws cohorts of radiographs and writes them as NIH and VinDr do.

Every image leaves a small record in `.parts/` when it is on disk, so an interrupted cohort goes on where it was;
`cohort.json`, written last, says that a cohort is complete.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2

from cluster import door
from cluster.files import write_atomic
from cluster.progress import Progress
from cluster.tasks import map_tasks
from sharding.phantom.nih_files import nih_tables, write_nih_image
from sharding.phantom.plan import PHANTOM_VERSION, Case, CohortName, plan_cohort
from sharding.phantom.vindr_files import vindr_tables, write_vindr_image

_PARTS, _STARTED, _FINISHED = ".parts", ".started.json", "cohort.json"


@dataclass(frozen=True, slots=True)
class PhantomConfig:
    """Draw phantom radiographs."""

    out: Path
    """Folder to write into: `nih/` and `vindr/` below it."""
    num_images: int
    """Images per cohort."""
    seed: int = 0
    """Everything drawn follows from it. A larger cohort of the same seed begins with the same images."""
    side_px: int = 1024
    """Side of an NIH image, px (the original has 1024). VinDr's sizes vary about it, .8 to 1.9 times."""
    cohort: Literal["nih", "vindr", "both"] = "both"
    """Which hospital's cohort."""
    processes: int = 0
    """Processes that draw; 0 takes every core. The files do not depend on it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console's door; gives the exit status."""
    return door.enter("cxr phantom", PhantomConfig, run, argv)


def run(config: PhantomConfig) -> None:
    """Draws what is missing. Raises ValueError for a bad config and for a folder that holds something else."""
    if config.num_images < 1:
        raise ValueError(f"num_images is {config.num_images}: give 1 or more")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed is {config.seed}: give 0 to {2**32 - 1}")
    if not 128 <= config.side_px <= 4096:
        raise ValueError(f"side_px is {config.side_px}: give 128 to 4096 (NIH has 1024)")
    names: tuple[CohortName, ...] = ("nih", "vindr") if config.cohort == "both" else (config.cohort,)
    states = {name: _state_of(config.out / name, _identity(config, name)) for name in names}
    for name in names:
        _draw_cohort(config, name, states[name])


def _identity(config: PhantomConfig, name: CohortName) -> dict[str, Any]:
    """What the files of a cohort depend on."""
    return {
        "version": PHANTOM_VERSION,
        "cohort": name,
        "seed": config.seed,
        "config": {"num_images": config.num_images, "side_px": config.side_px},
    }


def _state_of(folder: Path, identity: dict[str, Any]) -> Literal["new", "started", "finished"]:
    """How far the folder is with this very cohort; ValueError if it holds anything else."""
    for state, name in (("finished", _FINISHED), ("started", _STARTED)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): remove {folder} or give another --out") from error
        other = [key for key, value in identity.items() if found.get(key) != value]
        if other:
            told = ", ".join(f"{key} {found.get(key)} (asked: {identity[key]})" for key in other)
            raise ValueError(f"{folder} holds another phantom cohort: {told}. Give another --out, or remove it")
        return "finished" if state == "finished" else "started"
    if folder.exists() and not (folder.is_dir() and all(map(_is_nothing, folder.rglob("*")))):
        raise ValueError(f"{folder} exists and is no phantom cohort: give another --out, or an empty folder")
    return "new"


def _is_nothing(path: Path) -> bool:
    """True for what a process killed before its mark was written may leave: folders, and the mark half written."""
    half_written = re.fullmatch(rf"\.{re.escape(_STARTED)}\.[0-9a-f]+\.tmp", path.name) is not None
    return half_written or (path.is_dir() and not path.is_symlink())


def _draw_one(folder: Path, case: Case) -> None:
    """Draws one image and then leaves its record: this order makes the record the commit point."""
    cv2.setNumThreads(1)
    record = write_nih_image(folder, case) if case.cohort == "nih" else write_vindr_image(folder, case)
    write_atomic(folder / _PARTS / f"{case.key}.json", json.dumps(record))


def _draw_cohort(config: PhantomConfig, name: CohortName, state: Literal["new", "started", "finished"]) -> None:
    folder = config.out / name
    cases = plan_cohort(name, config.seed, config.num_images, config.side_px)
    absent = [case for case in cases if not (folder / case.path).is_file()]
    if state == "finished" and not absent:
        _sweep(folder)
        print(f"{folder}: complete already ({len(cases):,} images)")
        return
    parts = folder / _PARTS
    folder.mkdir(parents=True, exist_ok=True)
    if state == "new":
        write_atomic(folder / _STARTED, json.dumps(_identity(config, name)))
    for place in sorted({(folder / case.path).parent for case in cases} | {parts}):
        place.mkdir(parents=True, exist_ok=True)
    gone = {case.key for case in absent}
    done = {path.stem for path in parts.glob("*.json")} - gone
    missing = absent if state == "finished" else [case for case in cases if case.key not in done]
    if len(missing) < len(cases):
        print(f"{folder}: {len(cases) - len(missing):,} of {len(cases):,} images are there, drawing the rest")
    with Progress(len(missing), f"phantom {name}") as progress:
        for _ in map_tasks(partial(_draw_one, folder), missing, config.processes):
            progress.update(1)
    if state != "finished":
        records = [json.loads((parts / f"{case.key}.json").read_text()) for case in cases]
        _finish(folder, _identity(config, name), cases, records)
    _sweep(folder)
    print(f"{folder}: {len(cases):,} images")


def _finish(folder: Path, identity: dict[str, Any], cases: tuple[Case, ...], records: list[dict[str, Any]]) -> None:
    """Writes the tables, the truth and, last, cohort.json with the digest over pixels and tables."""
    tables = nih_tables(cases, records) if identity["cohort"] == "nih" else vindr_tables(cases, records)
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record['key']} {record['pixels']}\n".encode())
    for table, text in sorted(tables.items()):
        digest.update(f"{table}\n{text}\n".encode())
        write_atomic(folder / table, text)
    findings = Counter(name for record in records for name in {f["finding"] for f in record["findings"]})
    write_atomic(folder / "truth.json", json.dumps({**identity, "images": records}, indent=1))
    summary = {**identity, "digest": digest.hexdigest(), "images_with": dict(sorted(findings.items()))}
    write_atomic(folder / _FINISHED, json.dumps(summary, indent=1) + "\n")


def _sweep(folder: Path) -> None:
    """Removes what only an unfinished cohort needs, and what a killed process left half written."""
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    (folder / _STARTED).unlink(missing_ok=True)
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    import sys

    from sharding.phantom.cohort import main as enter

    sys.exit(enter())
