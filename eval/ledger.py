"""What a study has done so far: `stages.json` while it runs, then `study.json`, from which its report is made."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.files import write_atomic
from cluster.version import release
from eval.report import SCHEMA_VERSION

_PACKAGES = ("torch", "torchvision", "ray", "deepspeed", "webdataset", "pydicom", "pycocotools", "grad-cam", "numpy")


class Ledger:
    """The finished stages of the study in a folder, with the seconds each took. Belongs to one config."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self._folder = folder
        self._content = content

    @staticmethod
    def open(folder: Path, config: dict[str, Any]) -> "Ledger":
        """The ledger in `folder`, begun where there is none.

        Raises ValueError where the folder holds a study of another config, or something else.
        """
        path = folder / "stages.json"
        if path.is_file():
            content: dict[str, Any] = json.loads(path.read_text())
            there = content["config"]
            wrong = [k for k in sorted({*there, *config}) if there.get(k) != config.get(k)]
            if wrong:
                shown = "; ".join(_short(f"{k}: {there.get(k)} there, {config.get(k)} now") for k in wrong[:3])
                raise ValueError(f"{folder} holds a study of another config ({shown}); give another --out or remove it")
            return Ledger(folder, content)
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no study; give another --out")
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder, {"config": config, "stages": [], "comparison": None})
        ledger._write()
        return ledger

    def has(self, stage: str) -> bool:
        """Whether the stage was finished."""
        return any(entry["name"] == stage for entry in self._content["stages"])

    def add(self, stage: str, seconds: float) -> None:
        """Notes a finished stage; one that was repeated is noted once, with its last time."""
        kept = [entry for entry in self._content["stages"] if entry["name"] != stage]
        self._content["stages"] = [*kept, {"name": stage, "seconds": round(seconds, 1)}]
        self._write()

    def compared(self, a: str, b: str, metrics: dict[str, Any]) -> None:
        """Notes the paired differences a - b of `eval.measure.compare`."""
        self._content["comparison"] = {"a": a, "b": b, "metrics": metrics}
        self._write()

    def close(self, title: str, about: str, arms: Mapping[str, str], pretrain_run: str, config: dict[str, Any]) -> None:
        """Writes study.json: `arms` are names, which are also their folders, with titles; `config` as resolved."""
        study = {
            "schema_version": SCHEMA_VERSION,
            "title": title,
            "about": about,
            "phantom": True,
            "seed": self._content["config"]["seed"],
            "stages": self._content["stages"],
            "arms": [
                {
                    "name": arm,
                    "title": arm_title,
                    "run": f"{arm}/run",
                    "metrics": f"{arm}/metrics.json",
                    "predictions": f"{arm}/predictions.parquet",
                }
                for arm, arm_title in arms.items()
            ],
            "pretrain_run": pretrain_run,
            "comparison": self._content["comparison"],
            "versions": _versions(),
            "machine": {"system": platform.platform(), "cores": str(os.cpu_count())},
            "config": config,
            "notes": [],
        }
        write_atomic(self._folder / "study.json", json.dumps(study, indent=1) + "\n")

    def _write(self) -> None:
        write_atomic(self._folder / "stages.json", json.dumps(self._content, indent=1) + "\n")


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    for dali in ("nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        try:
            found[dali] = importlib.metadata.version(dali)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "barlow-cxr": release(), **found}


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."
