"""Weights for an encoder: from torchvision, from a file of ours or of others, from a run.

Names are folded to torchvision's: `module.`, `encoder.`, `backbone.`, `backbone.body.` and `model.` prefixes are taken
off. Nothing is loaded in part: what does not fit is refused, for a half-loaded encoder trains without complaint.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainers.checkpoint import find_checkpoint
from trainers.models.encoder import PLANS, Encoder

IMAGENET_VERSIONS = {"imagenet_v1": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}
PREFIXES = ("module.", "encoder.", "backbone.body.", "backbone.", "body.", "model.")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of a file's tensors: `missing` at most batch counters, `unexpected` without a place in an encoder."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_encoder_weights(encoder: Encoder, source: str) -> LoadReport:
    """Loads every parameter and buffer of `encoder` from `source` (see EncoderConfig.weights).

    Raises ValueError where `source` cannot be read, lacks anything but `fc` and batch counters, or has other shapes.
    """
    state = fold_names(read_weights(source, encoder.name))
    wanted = encoder.state_dict()
    missing = tuple(sorted(k for k in wanted if k not in state))
    unexpected = tuple(sorted(k for k in state if k not in wanted))
    reshaped = sorted(k for k in wanted if k in state and wanted[k].shape != state[k].shape)
    vital = [k for k in missing if not k.endswith("num_batches_tracked")]
    foreign = [k for k in unexpected if k.startswith(("conv1.", "bn1.", "layer"))]
    if vital or reshaped or foreign:
        raise ValueError(_misfit(encoder, source, state, vital, reshaped, foreign))
    encoder.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=False)
    return LoadReport(source, tuple(sorted(k for k in wanted if k in state)), missing, unexpected)


def _misfit(
    encoder: Encoder,
    source: str,
    state: Mapping[str, Tensor],
    missing: list[str],
    reshaped: list[str],
    foreign: list[str],
) -> str:
    found = guess_model(state)
    lines = [f"encoder.weights {source!r} is a checkpoint of another model: it holds {found}, the config asks for"]
    lines[0] += f" {encoder.name} with {encoder.channels} input channel(s)"
    for what, keys in (("missing", missing), ("of another shape", reshaped), ("without a place", foreign)):
        if keys:
            lines.append(f"  {len(keys)} tensors {what}: {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}")
    lines.append("  give weights of the same model, or set encoder.name and encoder.channels to what the file holds")
    return "\n".join(lines)


def guess_model(state: Mapping[str, Tensor]) -> str:
    """The architecture that tensors under torchvision's names belong to, in words."""
    blocks = {key.rsplit(".", 2)[0] if ".downsample." not in key else "" for key in state if key.startswith("layer")}
    blocks = {".".join(b.split(".")[:2]) for b in blocks if b}
    layers = tuple(sum(b.startswith(f"layer{i}.") for b in blocks) for i in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in state
    for name, plan in PLANS.items():
        first = state.get("layer1.0.conv1.weight")
        same_kind = (plan.block.__name__ == "Bottleneck") == bottleneck
        if layers == plan.layers and same_kind and first is not None and first.shape[0] == plan.width_per_group:
            stem = state.get("conv1.weight")
            return f"{name} with {stem.shape[1]} input channel(s)" if stem is not None else f"{name} without a stem"
    return "no ResNet that is known here"


def fold_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors under torchvision's names; `fc`, projectors, heads and other parts are left out."""
    for prefix in ("encoder.", "backbone.body.", "backbone."):
        chosen = {k: v for k, v in tensors.items() if prefix in k and _bare(k).startswith(("conv1.", "bn1.", "layer"))}
        if chosen:
            tensors = chosen
            break
    folded = {_bare(k): v for k, v in tensors.items()}
    return {k: v for k, v in folded.items() if not k.startswith("fc.")}


def _bare(key: str) -> str:
    trimmed = True
    while trimmed:
        trimmed = False
        for prefix in PREFIXES:
            if key.startswith(prefix):
                key, trimmed = key.removeprefix(prefix), True
    return key


def read_weights(source: str, name: str) -> dict[str, Tensor]:
    """Tensors of `source` as they are named there, on the CPU."""
    if source in IMAGENET_VERSIONS:
        return _imagenet(source, name)
    path = Path(source).expanduser()
    if path.is_dir():
        path = weights_file(path)
    if not path.is_file():
        choices = ", ".join(("none", *IMAGENET_VERSIONS))
        raise ValueError(f"encoder.weights {source!r}: no such file or folder; give one, or one of {choices}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, json.JSONDecodeError) as error:
        reason = (str(error) or "it is empty").splitlines()[0][:200]
        raise ValueError(
            f"encoder.weights {source!r} is not a readable file of tensors ({reason}); give a whole .safetensors or a "
            ".pth of plain tensors"
        ) from error
    return _tensors_of(loaded, source)


def _tensors_of(loaded: Any, source: str) -> dict[str, Tensor]:
    while isinstance(loaded, dict):
        inner = next(
            (loaded[k] for k in ("state_dict", "model", "model_state_dict") if isinstance(loaded.get(k), dict)), None
        )
        if inner is None:
            tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
            if tensors:
                return tensors
            break
        loaded = inner
    raise ValueError(f"encoder.weights {source!r} holds no tensors by name; give a state dict")


def weights_file(folder: Path) -> Path:
    """model.safetensors of a folder that holds one, or of the best or newest whole checkpoint of a run folder."""
    weights = folder / "model.safetensors"
    if weights.is_file() and not (folder / "manifest.json").is_file():
        return weights
    try:
        return find_checkpoint(folder).path / "model.safetensors"
    except ValueError as error:
        raise ValueError(f"encoder.weights: {error}") from error


def _imagenet(source: str, name: str) -> dict[str, Tensor]:
    try:
        weights = torchvision.models.get_model_weights(name)[IMAGENET_VERSIONS[source]]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"encoder.weights {source!r}: torchvision has none for {name}; take none, a file, or another encoder.name"
        ) from error
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise ValueError(
            f"encoder.weights {source!r}: {weights.url} could not be fetched ({error}); fetch it elsewhere and put it "
            f"at {place}, or give its path as encoder.weights"
        ) from error
