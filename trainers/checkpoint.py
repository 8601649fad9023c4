"""Checkpoints: write, find, verify, restore, retain.

A checkpoint is a folder `checkpoints/step-00000123/` with `model.safetensors`, `state.pt` (loadable with
`weights_only=True`), `config.json` and `manifest.json`, which holds the others' digests and is written last: a folder
without it, or whose digests do not hold, is no checkpoint. It is named, passed over and never deleted. The best one is
told by the manifests themselves: there is no mark beside them that a kill could part from its checkpoint.
"""

import contextlib
import io
import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save
from torch import Tensor

from cluster.files import sha256_file, write_atomic

SCHEMA_VERSION = 1
FILES = ("model.safetensors", "state.pt", "config.json")
BEST_BY = "valid_map50"
"""The metric by which one of a run's checkpoints is its best."""
MAY_DIFFER = frozenset(
    {
        "run_dir",
        "data.shards",  # their digests count, not where they lie
        "data.num_threads",
        "data.prefetch",
        "data.check_digests",
        "data.cache",
        "data.cache_gb",
        "data.on_bad",  # so that a run that stopped at a bad image may go on without it
        "data.max_skipped",
        "data.hw_decoder_load",
        "engine.print_deepspeed",
        "checkpoint",
        "log",
        "scale",
        "valid_batch",
        "dry_run",
    }
)
"""Fields and groups of fields that do not decide a run's numbers: a later start may have others."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """When to write checkpoints and which to keep."""

    every_steps: int = 1000
    """Steps between checkpoints; the last step always writes one."""
    keep_last: int = 2
    """How many of the newest to keep; the one with the best validation is kept beside them."""

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
        weights: dict[str, Tensor] = load_file(self.path / "model.safetensors")
        return weights

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

    A process killed at any moment leaves a folder without a manifest, which the next write of that step replaces,
    with whatever temporary files were left there.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(folder / "model.safetensors", save({k: v.detach().cpu().contiguous() for k, v in weights.items()}))
    write_atomic(folder / "state.pt", buffer.getvalue())
    write_atomic(folder / "config.json", json.dumps(config, indent=2))
    files = {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256_file(folder / n)} for n in FILES}
    manifest = {"schema_version": SCHEMA_VERSION, "kind": kind, "step": step, "metrics": metrics, "files": files}
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=2))
    return folder


def open_checkpoint(folder: Path, digests: bool = True) -> Checkpoint:
    """The checkpoint in `folder`, its files compared with its manifest: their sizes and, where asked, their digests.

    Raises ValueError that names the file where it is not a whole checkpoint.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a checkpoint: it has no manifest.json (an unfinished write?)") from None
    except ValueError as error:
        raise ValueError(f"{folder}/manifest.json is damaged ({error}); use another checkpoint") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise ValueError(
            f"{folder} has checkpoint schema {version}, this version reads {SCHEMA_VERSION}: update barlow-cxr"
        )
    try:
        entries = {name: manifest["files"][name] for name in FILES}
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in entries.items()}
        metrics = {str(name): float(value) for name, value in manifest["metrics"].items()}
        found = Checkpoint(folder, int(manifest["step"]), str(manifest["kind"]), metrics, files[FILES[0]][1])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder}/manifest.json is damaged (it is not the manifest of a checkpoint: {error!r}); use another "
            "checkpoint"
        ) from None
    for name, (num_bytes, sha256) in files.items():
        path = folder / name
        whole = path.is_file() and path.stat().st_size == num_bytes
        if not whole or (digests and sha256_file(path) != sha256):
            raise ValueError(f"{path} is damaged: it is not what its manifest says; use another checkpoint")
    return found


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run; damaged ones are named in the log and passed over."""
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        try:
            return open_checkpoint(folder)
        except ValueError as error:
            log.warning("passed over: %s", error)
    return None


def agreed_checkpoint(run: Path) -> Checkpoint | None:
    """`newest_checkpoint` as rank 0 sees it, on every rank: a shared disk may show the ranks different things."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return newest_checkpoint(run)
    told = [newest_checkpoint(run) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    return told[0]


def has_checkpoint(run: Path) -> bool:
    """True where a checkpoint of the run was ever finished, whole or damaged since."""
    return any(run.glob("checkpoints/step-*/manifest.json"))


def complete_checkpoints(run: Path) -> list[Checkpoint]:
    """A run's checkpoints, oldest first, as far as manifests and sizes tell: no file is read through."""
    found = []
    for folder in sorted((run / "checkpoints").glob("step-*")):
        with contextlib.suppress(ValueError):  # named where one is opened to be used
            found.append(open_checkpoint(folder, digests=False))
    return found


def best_step(run: Path) -> int | None:
    """The step with the highest validation, of equals the first; None without one. Sizes are checked, not digests."""
    valued = [c for c in complete_checkpoints(run) if math.isfinite(c.metrics.get(BEST_BY, math.nan))]
    return max(valued, key=lambda c: c.metrics[BEST_BY]).step if valued else None


def find_checkpoint(path: Path, kind: str | None = None) -> Checkpoint:
    """The checkpoint a user means: a checkpoint folder, or a run (its best one where validated, else its newest).

    Raises ValueError where there is none or it is of another kind. A run's best one that is damaged is named in the
    log and passed over.
    """
    if (path / "manifest.json").is_file() and (path / "model.safetensors").is_file():
        found: Checkpoint | None = open_checkpoint(path)
    else:
        found = _whole_best(path) or newest_checkpoint(path)
    if found is None:
        raise ValueError(
            f"{path} is neither a checkpoint nor a run with one; give a run folder of pretrain or finetune"
        )
    if kind is not None and found.kind != kind:
        raise ValueError(f"{found.path} is a checkpoint of {found.kind}, not of {kind}; give a run of cxr {kind}")
    return found


def _whole_best(run: Path) -> Checkpoint | None:
    best = best_step(run)
    try:
        return open_checkpoint(run / "checkpoints" / f"step-{best:08d}") if best is not None else None
    except ValueError as error:
        log.warning("the best checkpoint is passed over: %s", error)
        return None


def retain(run: Path, keep_last: int) -> None:
    """Deletes complete checkpoints older than the newest `keep_last`, but never the best; damaged ones are left alone.

    Complete is what has its manifest and files of the right sizes. Digests are not computed: that would read some
    checkpoints through at every write, to find what only a failing disk does.
    """
    complete, best = complete_checkpoints(run), best_step(run)
    for old in complete[: max(0, len(complete) - keep_last)]:
        if old.step != best:
            (old.path / "manifest.json").unlink()
            shutil.rmtree(old.path)


def same_run(run: Path, config: dict[str, Any], write: bool = True) -> None:
    """Writes `run/config.json`; raises ValueError where checkpoints of another config are there, naming what differs.

    Only what decides the numbers is compared (see MAY_DIFFER). Until a checkpoint is finished, a corrected command may
    take the folder over: the log of the failed start is put aside as `metrics-before.jsonl`. `write` False: only looks,
    for ranks that are not the first.
    """
    path = run / "config.json"
    old, new = (_deciding(json.loads(path.read_text())), _deciding(config)) if path.is_file() else ({}, {})
    wrong = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    shown = "; ".join(f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in wrong[:4])
    if wrong and has_checkpoint(run):
        raise ValueError(f"{run} holds a run of another config ({shown}); give another --run_dir, or the same config")
    if not write:
        return
    if wrong and (run / "metrics.jsonl").is_file():
        log.warning("%s: begun anew with another config (%s); the earlier log is put aside", run, shown)
        (run / "metrics.jsonl").replace(run / "metrics-before.jsonl")
    run.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(config, indent=2))


def _deciding(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields by their dotted names, without those of MAY_DIFFER."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = prefix + key
        if name not in MAY_DIFFER:
            flat.update(_deciding(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
