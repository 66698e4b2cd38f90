"""What is known of a picture file from its headers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Raster = NDArray[np.uint8] | NDArray[np.uint16]
"""Samples of a picture (h, w, samples)."""


@dataclass(frozen=True)
class Picture:
    """A picture that a PNG of this mode, with these chunks, holds without loss."""

    source: str
    """png, webp, tiff, bmp, ppm (PBM, PGM and PAM as well), tga or jxl."""
    mode: str
    """Name in `osoa_pl.types.MODES`."""
    height: int
    width: int
    before: bytes = b""
    """Metadata and palette as PNG chunks, before and after the pixels."""
    after: bytes = b""
