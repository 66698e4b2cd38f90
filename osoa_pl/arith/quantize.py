"""Operands of exact contractions: few-bit integers times a power of two.

Every tensor that enters a contraction is first rounded to integers of `bits` bits of magnitude
(the sign apart), kept as float32 values so that float32 kernels may sum them. The step is a
power of two, so division by it is exact and rounding is the only loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osoa_pl.arith.noise import uniform
from osoa_pl.errors import UsageError

#: smallest largest magnitude that sets a step; keeps products of steps far from subnormal numbers
SMALLEST_MAXIMUM = 2.0**-40
_EXPONENT_MASK = 0x7F800000
_TWICE_BIAS = 0x7F000000  # exponent field of 2^127 times two: 254 << 23


def largest_magnitude(x: Tensor) -> Tensor:
    """Largest absolute value of `x` (any shape, float32) as a 0-dim float32 tensor; 0 if empty.

    Non-finite input gives a non-finite result.
    """
    if x.numel() == 0:
        return x.new_zeros(())
    smallest, largest = torch.aminmax(x)
    return torch.maximum(largest, smallest.neg())


def power_of_two_step(amax: Tensor, bits: int) -> Tensor:
    """Step 2^(floor(log2 amax) + 1 - bits), so that |x| / step < 2^bits wherever |x| <= amax.

    Shapes: `amax` float32 of any shape, non-negative, raised to 2^-40 first; so is the result.
    A non-finite `amax` gives the step +inf: everything computed with it is non-finite, and the
    optimizer then skips its step.
    Raises UsageError for another dtype or for bits outside 1..20.
    """
    _check_float32(amax)
    _check_bits(bits)
    raised = amax.clamp(min=SMALLEST_MAXIMUM)
    floor = raised.view(torch.int32).bitwise_and(_EXPONENT_MASK).view(torch.float32)
    return floor * 2.0 ** (1 - bits)


def step_of(largest: float, bits: int) -> float:
    """`power_of_two_step` of one number."""
    if not math.isfinite(largest):
        return math.inf
    return math.ldexp(1.0, math.frexp(max(largest, SMALLEST_MAXIMUM))[1] - bits)


def inverse_power_of_two(step: Tensor) -> Tensor:
    """1 / step for a power of two between 2^-126 and 2^126, by its exponent bits alone."""
    return (_TWICE_BIAS - step.view(torch.int32)).view(torch.float32)


def quantize_nearest(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """Nearest integers to x / step, ties to even, saturating at +-(2^bits - 1).

    Shapes: `x` float32 of any shape, `step` float32 powers of two, 0-dim or to be broadcast; the
    result is float32 of the shape of `x` and integer-valued.
    Raises UsageError for another dtype or for bits outside 1..20.
    """
    _check_float32(x)
    _check_bits(bits)
    limit = float(2**bits - 1)
    return (x * inverse_power_of_two(step)).round_().clamp_(-limit, limit)


def quantize_stochastic(x: Tensor, step: Tensor, bits: int, key: int) -> Tensor:
    """Integers floor(x / step + u) with u from `noise.uniform(key, ...)`, clamped like the nearest.

    The expectation over keys is x / step (to 2^-21), which is what keeps few-bit gradients from
    biasing the update. Element i of `x` in C order takes counter i, whatever the memory layout.
    Shapes, dtypes and errors as for `quantize_nearest`.
    """
    _check_float32(x)
    _check_bits(bits)
    limit = float(2**bits - 1)
    noise = uniform(key, x.numel(), device=x.device).view(x.shape)
    return (x * inverse_power_of_two(step)).add_(noise).floor_().clamp_(-limit, limit)


def _check_float32(x: Tensor) -> None:
    if x.dtype != torch.float32:
        raise UsageError(f"exact arithmetic: found a tensor of {x.dtype} (expected torch.float32)")


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 20:
        raise UsageError(f"exact arithmetic: found {bits} bits of magnitude (expected 1 to 20)")
