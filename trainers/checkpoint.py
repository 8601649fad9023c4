"""Checkpoints: write, find, verify, restore, retain.

A checkpoint is a folder `checkpoints/step-00000123/` with `model.safetensors`, `state.pt` (loadable with
`weights_only=True`), `config.json` and `manifest.json`, which holds the others' digests and is written last: a folder
without it, or whose digests do not hold, is no checkpoint. It is named, passed over and never deleted.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cluster.files import sha256_file, write_atomic

SCHEMA_VERSION = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """When to write checkpoints and which to keep."""

    every_steps: int = 1000
    """Steps between checkpoints; the last step always writes one."""
    keep_last: int = 2
    """How many of the newest to keep; the best one is kept beside them."""

    def __post_init__(self) -> None:
        """Refuse an interval or a count below one."""
        for name in ("every_steps", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"checkpoint.{name} is {getattr(self, name)}; it must be 1 or more")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint: its folder and what its manifest says."""

    path: Path
    step: int
    kind: str
    """What was trained: pretrain or finetune."""
    metrics: dict[str, float]
    digest: str
    """sha256 of the weights file."""

    def weights(self) -> dict[str, Tensor]:
        """The module's state, on the CPU."""
        return load_file(self.path / "model.safetensors")

    def state(self) -> dict[str, Any]:
        """Everything else needed to go on: optimizer and loader state."""
        state: dict[str, Any] = torch.load(self.path / "state.pt", map_location="cpu", weights_only=True)
        return state

    def config(self) -> dict[str, Any]:
        """The run's resolved config."""
        config: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return config


def write_checkpoint(
    run: Path,
    step: int,
    kind: str,
    weights: dict[str, Tensor],
    state: dict[str, Any],
    config: dict[str, Any],
    metrics: dict[str, float],
) -> Path:
    """Writes `run/checkpoints/step-<step>`, manifest last, and returns it. Rank 0 alone calls it.

    A process killed at any moment leaves a folder without a manifest, which the next write of that step replaces.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    write_atomic(folder / "model.safetensors", save({k: v.detach().cpu().contiguous() for k, v in weights.items()}))
    temporary = folder / "state.pt.tmp"
    torch.save(state, temporary)
    write_atomic(folder / "state.pt", temporary.read_bytes())
    temporary.unlink()
    write_atomic(folder / "config.json", json.dumps(config, indent=2))
    names = ("model.safetensors", "state.pt", "config.json")
    files = {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256_file(folder / n)} for n in names}
    manifest = {"schema_version": SCHEMA_VERSION, "kind": kind, "step": step, "metrics": metrics, "files": files}
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=2))
    return folder


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its digests checked.

    Raises ValueError that names the file where it is not a whole checkpoint.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a checkpoint: it has no manifest.json (an unfinished write?)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder}/manifest.json is damaged ({error}); use another checkpoint") from None
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{folder} has checkpoint schema {version}, this version reads {SCHEMA_VERSION}: update barlow-cxr"
        )
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            raise ValueError(f"{path} is damaged: it is not what its manifest says; use another checkpoint")
    digest = manifest["files"]["model.safetensors"]["sha256"]
    return Checkpoint(folder, manifest["step"], manifest["kind"], manifest["metrics"], digest)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run; damaged ones are named in the log and passed over."""
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        try:
            return open_checkpoint(folder)
        except (ValueError, SafetensorError) as error:
            log.warning("passed over: %s", error)
    return None


def find_checkpoint(path: Path, kind: str | None = None) -> Checkpoint:
    """The checkpoint a user means: a checkpoint folder, or a run (its best one where marked, else its newest).

    Raises ValueError where there is none or it is of another kind.
    """
    if (path / "manifest.json").is_file() and (path / "model.safetensors").is_file():
        found = open_checkpoint(path)
    else:
        best = best_step(path)
        candidate = path / "checkpoints" / f"step-{best:08d}" if best is not None else None
        newest = open_checkpoint(candidate) if candidate and candidate.is_dir() else newest_checkpoint(path)
        if newest is None:
            raise ValueError(
                f"{path} is neither a checkpoint nor a run with one; give a run folder of pretrain or finetune"
            )
        found = newest
    if kind is not None and found.kind != kind:
        raise ValueError(f"{found.path} is a checkpoint of {found.kind}, not of {kind}; give a run of cxr {kind}")
    return found


def mark_best(run: Path, step: int, value: float) -> None:
    """Notes the best step so far, in `checkpoints/best.json`."""
    write_atomic(run / "checkpoints" / "best.json", json.dumps({"step": step, "value": value}))


def best_step(run: Path) -> int | None:
    """The step noted as best, if any."""
    path = run / "checkpoints" / "best.json"
    return int(json.loads(path.read_text())["step"]) if path.is_file() else None


def retain(run: Path, keep_last: int) -> None:
    """Deletes whole checkpoints older than the newest `keep_last`, but never the best; damaged ones are left alone."""
    whole = [f for f in sorted((run / "checkpoints").glob("step-*")) if (f / "manifest.json").is_file()]
    best = best_step(run)
    for folder in whole[: max(0, len(whole) - keep_last)]:
        if best is None or folder.name != f"step-{best:08d}":
            (folder / "manifest.json").unlink()
            shutil.rmtree(folder)


def same_run(run: Path, config: dict[str, Any], may_differ: tuple[str, ...]) -> None:
    """Writes `run/config.json`, or checks that the one there is the same but for the top-level fields `may_differ`.

    Raises ValueError that names the fields that differ: a run folder belongs to one config.
    """
    path = run / "config.json"
    if path.is_file():
        there = json.loads(path.read_text())
        wrong = [k for k in sorted({*there, *config} - set(may_differ)) if there.get(k) != config.get(k)]
        if wrong:
            shown = "; ".join(f"{k}: {there.get(k)!r} there, {config.get(k)!r} now" for k in wrong[:4])
            raise ValueError(
                f"{run} holds a run of another config ({shown}); give another --run_dir, or the same config"
            )
    run.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(config, indent=2))


def weights_digest(weights: dict[str, Tensor]) -> str:
    """sha256 over names and bytes, in the order of names: equal for equal weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
