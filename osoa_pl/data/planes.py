"""Pictures to planes of bytes and back: what a model or a plain codec takes one at a time.

A plane is uint8 (h, w, c) with c in 1, 3: the colours, then alpha; of 16-bit samples the high
bytes and then the low ones (`osoa_pl.types.Mode`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from osoa_pl.types import Mode

Raster = NDArray[np.uint8] | NDArray[np.uint16]


def split(raster: Raster, mode: Mode) -> list[NDArray[np.uint8]]:
    """Planes uint8 (h, w, c) of a picture (h, w, samples)."""
    colours = 1 if mode.samples <= 2 else 3
    parts = [raster[:, :, :colours]]
    if mode.samples > colours:
        parts.append(raster[:, :, colours:])
    if mode.depth < 16:
        return [np.ascontiguousarray(part, np.uint8) for part in parts]
    planes = []
    for part in parts:
        planes += [(part >> 8).astype(np.uint8), (part & 0xFF).astype(np.uint8)]
    return planes


def join(planes: Sequence[NDArray[np.uint8]], mode: Mode) -> Raster:
    """The picture (h, w, samples) of its `split`."""
    if mode.depth < 16:
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
    parts = [
        (high.astype(np.uint16) << 8) | low
        for high, low in zip(planes[::2], planes[1::2], strict=True)
    ]
    return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2), np.uint16)
