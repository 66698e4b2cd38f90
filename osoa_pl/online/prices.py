"""What symbols cost, in whole numbers: a choice that rests on them is the same on every machine."""

from __future__ import annotations

import math

import numpy as np

UNIT = 1 << 16
"""Prices are in bits / UNIT."""

_STEPS = 1 << 12
# log2(1 + (i + 1/2) / 2^12): no value is near a tie, so every libm rounds it alike
_LOG2 = np.array([round(UNIT * math.log2(1 + (i + 0.5) / _STEPS)) for i in range(_STEPS)], np.int64)


def prices(frequency: np.ndarray, precision: int) -> np.ndarray:
    """int64, of the shape of `frequency`: precision - log2(frequency), within 2^-13 bits."""
    mantissa, exponent = np.frexp(frequency.astype(np.float64))  # exact
    index = (mantissa * (2 * _STEPS)).astype(np.int64) - _STEPS
    return (precision + 1 - exponent.astype(np.int64)) * UNIT - _LOG2[index]
