"""Random choices as pure functions of a key (`osoa_pl.arith.noise`): no generator, no order.

Image i of epoch e sees the same draws whichever process asks for it, and when.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from osoa_pl.arith.noise import bits, uniform


class Stream(IntEnum):
    """First counter after the seed: draws for one purpose never meet those for another."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    DIVISION = 3
    CROPS = 4


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """int64 (n,): the numbers 0 to n - 1 in an order that depends on `key` and `n` alone."""
    order: NDArray[np.int64] = torch.argsort(bits(key, n), stable=True).numpy()
    return order


def below(key: int, limits: Sequence[int]) -> list[int]:
    """One number each from 0 to limit - 1; limits from 1 to 2^20, above which some are missed.

    >>> below(7, [10, 1, 28])
    [9, 0, 6]
    """
    draws: list[float] = uniform(key, len(limits)).tolist()
    return [int(draw * limit) for draw, limit in zip(draws, limits)]
