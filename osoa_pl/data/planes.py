"""Pictures to planes of bytes and back: what a model or a plain codec takes one at a time.

A plane is uint8 (h, w, c) with c in 1, 3: the colours, then alpha; of 16-bit samples the high
bytes and then the low ones (`osoa_pl.types.Mode`). The steps of a transform come before that
(`osoa_pl.data.transforms`); those to luma and chroma make the planes (`osoa_pl.data.yuv`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import transforms, yuv
from osoa_pl.data.picture import Raster
from osoa_pl.types import Form, Mode

Planes = list[NDArray[np.uint8]]


def split(raster: Raster, mode: Mode) -> Planes:
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


def planes_of(raster: Raster, form: Form) -> Planes:
    """Planes of a picture (h, w, samples) after the steps of a transform.

    Raises ValueError where they do not fit the picture.
    """
    steps = form.steps[:-1] if form.luma else form.steps
    for step in steps:
        raster = transforms.apply(raster, step)
    if form.luma:
        return yuv.split(np.asarray(raster, np.uint8), form.steps[-1])
    return split(raster, form.mode)


def picture_of(planes: Sequence[NDArray[np.uint8]], form: Form) -> Raster:
    """The picture (h, w, samples) of its `planes_of`."""
    steps = form.steps
    if form.luma:
        raster: Raster = yuv.join(planes, steps[-1])
        steps = steps[:-1]
    else:
        raster = join(planes, form.mode)
    for step in reversed(steps):
        raster = transforms.undo(raster, step)
    return raster


def interleave(planes: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Planes of one size side by side: uint8 (h, w, sum of c)."""
    return np.concatenate(planes, axis=2)


def deinterleave(samples: NDArray[np.uint8], channels: Sequence[int]) -> Planes:
    """The planes of an `interleave`."""
    return np.split(samples, np.cumsum(channels)[:-1], axis=2)
