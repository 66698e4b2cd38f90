"""From checkpoints to models and back: the name of a kind of pixel leads to a constructor."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

from osoa_pl.errors import CheckpointError, CoderError, UsageError
from osoa_pl.models.checkpoint import CHECKPOINT_FORMAT, METADATA_KEY, Checkpoint, metadata
from osoa_pl.models.known_answers import check_compiled
from osoa_pl.models.local_ar import LocalAutoregressive, LocalConfig
from osoa_pl.models.local_ar_eager import EagerLocalAutoregressive

Engine = Literal["compiled", "eager"]
KINDS = {1: "grey", 3: "rgb"}


def build(
    checkpoint: Checkpoint,
    channels: int,
    *,
    engine: Engine | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> tuple[LocalAutoregressive, Tensor]:
    """A new model at theta_0 for pixels of `channels` samples, and its second moments.

    engine: `compiled` on the CPU and `eager` elsewhere unless given; both have the same bits.
    The compiled kernels pass a known-answer test first, once per process.
    Raises PortabilityError where they fail it, CheckpointError where the file is no checkpoint
    or has no model for such pixels.
    """
    kind = KINDS[channels]
    config, tensors = _parse(checkpoint, kind)
    parameters = torch.from_numpy(tensors[f"{kind}.parameters"].copy()).to(device)
    maxima = torch.from_numpy(tensors[f"{kind}.activation_max"].copy()).to(device)
    moment = torch.from_numpy(tensors[f"{kind}.second_moment"].copy()).to(device)
    try:
        if engine == "eager" or device != "cpu":
            model: LocalAutoregressive = EagerLocalAutoregressive(config, parameters, maxima)
        else:
            check_compiled(channels)
            model = LocalAutoregressive(config, parameters, maxima, threads=threads)
        model.prepare()
    except (UsageError, CoderError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.name}: {error}") from None
    return model, moment


def pack(models: dict[str, tuple[LocalConfig, Tensor, Tensor, Tensor]]) -> bytes:
    """A checkpoint's bytes from kind -> (config, parameters, activation_max, second_moment)."""
    tensors: dict[str, np.ndarray] = {}
    configs: dict[str, dict[str, int]] = {}
    for kind, (config, parameters, maxima, moment) in models.items():
        configs[kind] = config.to_dict()
        tensors[f"{kind}.parameters"] = parameters.numpy()
        tensors[f"{kind}.activation_max"] = maxima.numpy()
        tensors[f"{kind}.second_moment"] = moment.numpy()
    about = {"format": CHECKPOINT_FORMAT, "family": "local_ar", "models": configs}
    return save_tensors(tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)})


def _parse(checkpoint: Checkpoint, kind: str) -> tuple[LocalConfig, dict[str, np.ndarray]]:
    where = f"checkpoint {checkpoint.name}"
    models = metadata(checkpoint)["models"]
    if kind not in models:
        raise CheckpointError(f"{where}: has no model for {kind} pixels ({', '.join(models)})")
    try:
        config = LocalConfig(**models[kind])
        expected = {
            f"{kind}.parameters": config.network().parameter_count(),
            f"{kind}.second_moment": config.network().parameter_count(),
            f"{kind}.activation_max": 2 * config.depth + 1,
        }
        tensors = load_tensors(checkpoint.data)
    except (SafetensorError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{where}: {error}") from None
    for name, count in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != np.float32 or tensor.shape != (count,):
            raise CheckpointError(f"{where}: tensor {name!r} is missing or of the wrong shape")
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{where}: tensor {name!r} has values that are not finite")
        if not name.endswith("parameters") and (tensor < 0).any():
            raise CheckpointError(f"{where}: tensor {name!r} has negative values")
    if config.channels != {v: k for k, v in KINDS.items()}[kind]:
        raise CheckpointError(f"{where}: model {kind!r} has {config.channels} channels")
    return config, tensors
