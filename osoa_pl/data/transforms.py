"""Reversible steps that leave fewer samples to code, or easier ones; each is undone exactly.

- ``grey``: three equal colours become one.
- ``key:KEY:HIDDEN``: where alpha is 0 all pixels have the colour HIDDEN; they get the colour KEY,
  which no other pixel has. Alpha then says only what the colour does not: it is lessened by 255,
  modulo 256, where the colour is not KEY. So alpha of 0 and 255 alone becomes 0.
- ``alpha:VALUE``: alpha is VALUE throughout, and goes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data.picture import Raster
from osoa_pl.types import Step


def apply(raster: Raster, step: Step) -> Raster:
    """What the step makes of a picture (h, w, samples).

    Raises ValueError where the step does not fit the picture.
    """
    if step.name == "grey":
        fits = all(np.array_equal(raster[:, :, 0], raster[:, :, i]) for i in (1, 2))
        changed: Raster = raster[:, :, 2:]
    elif step.name == "alpha":
        fits = bool((raster[:, :, -1] == _number(step.values[0])).all())
        changed = raster[:, :, :-1]
    else:
        key, hidden = (np.frombuffer(value, np.uint8) for value in step.values)
        clear = raster[:, :, -1] == 0
        fits = bool((raster[clear, :-1] == hidden).all())
        changed = raster.copy()
        changed[:, :, -1] -= 255 * (~clear).view(np.uint8)
        changed[clear, :-1] = key
        fits = fits and not _has(raster[~clear, :-1], key)
    if not fits:
        raise ValueError(f"not a picture for the transform {step}")
    return changed


def undo(raster: Raster, step: Step) -> Raster:
    """The picture (h, w, samples) of which `apply` made `raster`."""
    if step.name == "grey":
        grey = raster[:, :, :1]
        return _beside(grey, grey, raster)
    if step.name == "alpha":
        shape = (*raster.shape[:2], 1)
        return _beside(raster, np.full(shape, _number(step.values[0]), raster.dtype))
    key, hidden = (np.frombuffer(value, np.uint8) for value in step.values)
    clear = (raster[:, :, :-1] == key).all(axis=2)
    found = raster.copy()
    found[clear, :-1] = hidden
    found[:, :, -1] += 255 * (~clear).view(np.uint8)
    return found


def _beside(*rasters: Raster) -> Raster:
    found = np.concatenate(rasters, axis=2)
    if rasters[0].dtype == np.uint16:
        return np.asarray(found, np.uint16)
    return np.asarray(found, np.uint8)


def _has(colours: Raster, key: NDArray[np.uint8]) -> bool:
    """Whether one of the colours (n, samples) is `key`."""
    return bool((colours == key).all(axis=1).any())


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
