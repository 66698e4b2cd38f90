"""The latent space of a VAE: bins of equal prior mass, the posterior over them, its integers."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from osoa_pl.arith import functions
from osoa_pl.coding.bitsback import FRACTION_BITS, SLOPE_BITS, cumulative_bins

PRECISION = 24
VALUE_BITS = 10  # a latent is at most 1023 steps of 2^-8 to the generative network
VALUE_STEP = 2.0**-8
MEAN_LIMIT = 16.0
LOG_SCALE_LIMITS = (-7.0, 2.0)


@cache
def edges(bits: int) -> np.ndarray:
    """Inner edges of the bins of a standard normal prior, int64 (2^bits - 1,), times 2^16."""
    inner = torch.arange(1, 1 << bits, dtype=torch.float64) * 2.0**-bits
    fixed = functions.inverse_normal_cdf(inner) * float(1 << FRACTION_BITS)
    return np.asarray(fixed.round().long().numpy())


@cache
def centres(bits: int) -> np.ndarray:
    """Medians of the bins, int32 (2^bits,), in steps of 2^-8: what the generative network sees."""
    middle = (torch.arange(1 << bits, dtype=torch.float64) + 0.5) * 2.0**-bits
    fixed = (functions.inverse_normal_cdf(middle) * (1.0 / VALUE_STEP)).round()
    limit = float((1 << VALUE_BITS) - 1)
    return np.asarray(fixed.clamp(-limit, limit).to(torch.int32).numpy())


@cache
def table() -> np.ndarray:
    """The standard normal distribution function for `bitsback.cumulative_bins`."""
    return np.asarray(functions.normal_table().numpy())


def posterior_integers(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, slope) int64 (n, latent) from the recognition outputs float32 (n, 2 latent)."""
    mean, log_scale = split(outputs)
    fixed = (mean.clamp(-MEAN_LIMIT, MEAN_LIMIT) * float(1 << FRACTION_BITS)).round().long()
    slope = functions.exp(log_scale.clamp(*LOG_SCALE_LIMITS).neg()) * float(1 << SLOPE_BITS)
    return fixed, slope.round().long()


def split(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unclamped log-scale, float64 (n, latent) each."""
    raw = outputs.double()
    return raw[:, : raw.shape[1] // 2], raw[:, raw.shape[1] // 2 :]


def sampled_values(values: Tensor) -> Tensor:
    """Latents float64 as integer-valued float32, in steps of 2^-8, saturating at +-1023."""
    limit = float((1 << VALUE_BITS) - 1)
    return (values * (1.0 / VALUE_STEP)).round().clamp(-limit, limit).float()


def find_bins(
    slots: np.ndarray, mean: np.ndarray, slope: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """(bins, frequencies) int64 whose posterior intervals hold slots of [0, 2^24), one a latent."""
    low, high = np.zeros_like(slots), np.full_like(slots, 1 << bits)

    def below(bins: np.ndarray) -> np.ndarray:
        return cumulative_bins(bins, mean, slope, edges(bits), table(), PRECISION)

    for _ in range(bits):
        middle = (low + high) >> 1
        inside = below(middle) <= slots
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low, below(low + 1) - below(low)
