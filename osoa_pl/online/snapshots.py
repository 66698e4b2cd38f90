"""Snapshots of a run as bytes: safetensors for the arrays, JSON for the numbers; no pickles."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor

_KEY = "osoa_pl"


def pack(snapshot: Mapping[str, Any]) -> bytes:
    """Bytes of nested dicts and lists of tensors, uint8 arrays, numbers, words and None."""
    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray):
            name, is_tensor = str(len(arrays)), isinstance(value, Tensor)
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
            arrays[name] = np.ascontiguousarray(array)
            return {"tensor" if is_tensor else "array": name}
        if isinstance(value, Mapping):
            return {"dict": {key: plain(inner) for key, inner in value.items()}}
        if isinstance(value, list | tuple):
            return {"list": [plain(inner) for inner in value]}
        return value

    text = json.dumps(plain(snapshot))
    body = save({**arrays, "": np.zeros(0, np.uint8)}, {_KEY: text})
    return zlib.crc32(body).to_bytes(4, "little") + body


def unpack(data: bytes) -> dict[str, Any]:
    """What `pack` was given (tensors on the CPU). Raises ValueError where it fails its checksum."""
    checksum, data = int.from_bytes(data[:4], "little"), data[4:]
    if zlib.crc32(data) != checksum:
        raise ValueError("checksum")
    arrays = load(data)
    size = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + size])["__metadata__"][_KEY]

    def value(plain: Any) -> Any:
        if not isinstance(plain, dict):
            return plain
        ((kind, inner),) = plain.items()
        if kind == "tensor":
            return torch.from_numpy(arrays[inner].copy())
        if kind == "array":
            return arrays[inner].copy()
        if kind == "dict":
            return {key: value(part) for key, part in inner.items()}
        return [value(part) for part in inner]

    found: dict[str, Any] = value(json.loads(text))
    return found
