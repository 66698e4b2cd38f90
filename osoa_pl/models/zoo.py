"""From a checkpoint to a model and back: its family and the kind of pixel lead to a constructor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

from osoa_pl.errors import CheckpointError, CoderError, UsageError
from osoa_pl.models import family as families
from osoa_pl.models.base import Engine, Model
from osoa_pl.models.checkpoint import CHECKPOINT_FORMAT, METADATA_KEY, Checkpoint, metadata
from osoa_pl.models.family import Config, Family

KINDS = {1: "grey", 3: "rgb"}
_OF_WEIGHTS = ("parameters", "activation_max")
"""Tensors that each starting weights have their own of; all else is common to a kind."""


def build(
    checkpoint: Checkpoint,
    channels: int,
    *,
    engine: Engine | None = None,
    device: str = "cpu",
    threads: int | None = None,
    weights: str = "",
) -> tuple[Model, Tensor]:
    """A new model at theta_0 for pixels of `channels` samples, and its second moments.

    weights: which theta_0, a name of `weights_of`.
    engine: `compiled` on the CPU and `eager` elsewhere unless given; both have the same bits.
    The compiled kernels pass a known-answer test first, once per process.
    Raises PortabilityError where they fail it, CheckpointError where the file is no checkpoint
    or has no model for such pixels, or no such weights.
    """
    kind = KINDS[channels]
    family, config, tensors = _parse(checkpoint, kind, weights)
    place = _place(kind, weights)
    parameters = torch.from_numpy(tensors[f"{place}.parameters"].copy()).to(device)
    maxima = torch.from_numpy(tensors[f"{place}.activation_max"].copy()).to(device)
    moment = torch.from_numpy(tensors[f"{kind}.second_moment"].copy()).to(device)
    constants = {
        name: torch.from_numpy(tensors[f"{kind}.{name}"].copy()).to(device)
        for name in family.constants(config)
    }
    try:
        model = family.build(config, parameters, maxima, engine, threads, **constants)
        model.prepare()
    except (UsageError, CoderError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.name}: {error}") from None
    return model, moment


def weights_of(checkpoint: Checkpoint, channels: int) -> tuple[str, ...]:
    """Names of the starting weights for such pixels; the first, general ones have the name ''."""
    return ("", *metadata(checkpoint).get("weights", {}).get(KINDS[channels], ()))


def check_sizes(checkpoint: Checkpoint, channels: int, shapes: Iterable[tuple[int, int]]) -> None:
    """Raises UsageError where the model cannot code an image of one of these (height, width)."""
    _, config, _ = _parse(checkpoint, KINDS[channels])
    for height, width in dict.fromkeys(shapes):
        if problem := config.problem(height, width):
            raise UsageError(f"checkpoint {checkpoint.name}: {problem}")


def family_of(checkpoint: Checkpoint) -> Family:
    """The family that a checkpoint names. Raises CheckpointError."""
    return families.find(metadata(checkpoint)["family"])


def pack(
    models: Mapping[str, tuple[Config, Tensor, Tensor, Tensor]],
    family: str = "local_ar",
    constants: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
    further: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]] = MappingProxyType({}),
) -> bytes:
    """A checkpoint's bytes from kind -> (config, parameters, activation_max, second_moment).

    constants: kind -> name -> int8, what the family names in `Family.constants`. further: kind ->
    name -> (parameters, activation_max) of other starting weights.
    """
    tensors: dict[str, np.ndarray] = {}
    configs: dict[str, dict[str, Any]] = {}
    for kind, (config, parameters, maxima, moment) in models.items():
        configs[kind] = config.to_dict()
        tensors[f"{kind}.second_moment"] = moment.numpy()
        starts = {"": (parameters, maxima), **further.get(kind, {})}
        for weights, of_weights in starts.items():
            for name, tensor in zip(_OF_WEIGHTS, of_weights, strict=True):
                tensors[f"{_place(kind, weights)}.{name}"] = tensor.numpy()
        for name, constant in constants.get(kind, {}).items():
            tensors[f"{kind}.{name}"] = constant.numpy()
    about = {"format": CHECKPOINT_FORMAT, "family": family, "models": configs}
    if further:
        about["weights"] = {kind: [*names] for kind, names in further.items()}
    return save_tensors(tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)})


def _place(kind: str, weights: str) -> str:
    return f"{kind}.{weights}" if weights else kind


def _parse(
    checkpoint: Checkpoint, kind: str, weights: str = ""
) -> tuple[Family, Any, dict[str, np.ndarray]]:
    where = f"checkpoint {checkpoint.name}"
    about = metadata(checkpoint)
    models = about["models"]
    if kind not in models:
        raise CheckpointError(f"{where}: has no model for {kind} pixels ({', '.join(models)})")
    named = about.get("weights", {}).get(kind, [])
    if weights and weights not in named:
        raise CheckpointError(f"{where}: has no weights {weights!r} for {kind} pixels")
    family, place = families.find(about["family"]), _place(kind, weights)
    try:
        config = family.config(**models[kind])
        expected = {
            f"{place}.parameters": config.parameter_count(),
            f"{kind}.second_moment": config.parameter_count(),
            f"{place}.activation_max": config.maxima_count(),
        }
        constants = {f"{kind}.{name}": n for name, n in family.constants(config).items()}
        tensors = load_tensors(checkpoint.data)
    except (SafetensorError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{where}: {error}") from None
    for name, count in (expected | constants).items():
        tensor = tensors.get(name)
        dtype = np.int8 if name in constants else np.float32
        if tensor is None or tensor.dtype != dtype or tensor.shape != (count,):
            raise CheckpointError(f"{where}: tensor {name!r} is missing or of the wrong shape")
        if name in constants:
            continue
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{where}: tensor {name!r} has values that are not finite")
        if not name.endswith("parameters") and (tensor < 0).any():
            raise CheckpointError(f"{where}: tensor {name!r} has negative values")
    if config.channels != {v: k for k, v in KINDS.items()}[kind]:
        raise CheckpointError(f"{where}: model {kind!r} has {config.channels} channels")
    return family, config, tensors
