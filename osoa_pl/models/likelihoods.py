"""What a latent model says of each pixel, in eager torch: the reference of `vae_kernels`.

Bernoulli: one logit a pixel, pixels 0 and 1. Beta-binomial: log alpha and log beta a pixel, pixels
0 to 255, by ratios of neighbouring probabilities, so that no gamma function is needed; its gradient
is finite sums of reciprocals. Everything that decides a bit is float64 in separate operations, sums
of non-integers run in a fixed order.

Source: Townsend, Bird, Barber, arXiv:1901.04866, section 3.1.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from osoa_pl.arith import functions
from osoa_pl.coding.bitsback import BernoulliPixels, TabulatedPixels
from osoa_pl.coding.codecs import Codec
from osoa_pl.errors import UsageError

PRECISION = 24
TRIALS = 255
LOWEST, HIGHEST = -10.0, 6.0  # of log alpha and log beta: no probability overflows a double
# (n - k) / (k + 1): what the binomial coefficient grows by from k to k + 1
RATIOS = np.array([(TRIALS - k) / (k + 1) for k in range(TRIALS)])

Name = Literal["bernoulli", "beta_binomial"]


class Likelihood(Protocol):
    """Distribution of pixels given the generative network's outputs float32 (n, outputs)."""

    per_pixel: ClassVar[int]
    """Outputs a pixel; they lie group after group, (n, per_pixel * dims)."""
    levels: ClassVar[int]
    """Values a pixel may take: 0 to levels - 1."""
    input_step: ClassVar[float]
    """What one grey level is to the recognition network: a power of two."""

    def codec(self, outputs: Tensor) -> Codec:
        """Codec of pixels (n, dims) on n lanes."""

    def log_loss(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """-ln of the pixels' shares of 2^24, float64 (n,), for reports; pixels int64 (n, dims).

        A share is never below 2^-24: no pixel costs more than 24 bits, whatever the model says.
        """

    def gradient(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """d(-ln P(pixels))/d(outputs), float32 (n, outputs)."""

    def native_loss(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """-ln P(pixels) of each image, (n,), differentiable; native, not portable."""

    def mean(self, outputs: Tensor) -> Tensor:
        """Expected pixels, float (n, dims), in grey levels 0 to 255."""


class Bernoulli:
    """Pixels 0 and 1 from one logit each."""

    per_pixel: ClassVar[int] = 1
    levels: ClassVar[int] = 2
    input_step: ClassVar[float] = 1.0

    def codec(self, outputs: Tensor) -> Codec:
        """Codec of pixels 0 and 1; frequencies of 1 at 2^-24."""
        ones = (_sigmoid(outputs.double()) * float(1 << PRECISION)).round().long()
        return BernoulliPixels(ones.cpu().numpy(), PRECISION)

    def log_loss(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """-ln of the pixels' shares of 2^24, float64 (n,)."""
        signed = torch.where(pixels == 1, outputs, -outputs).double()
        least = 2.0**-PRECISION
        return -torch.sigmoid(signed).clamp(least, 1.0 - least).log().sum(1)

    def gradient(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """sigmoid(logit) - pixel, float32 (n, dims)."""
        return (_sigmoid(outputs.double()) - pixels.double()).float()

    def native_loss(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """-ln P(pixels) of each image, (n,), differentiable."""
        target = pixels.to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, target, reduction="none").sum(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """255 times the probability of 1."""
        return 255.0 * torch.sigmoid(outputs)


class BetaBinomial:
    """Pixels 0 to 255 from log alpha and log beta each."""

    per_pixel: ClassVar[int] = 2
    levels: ClassVar[int] = TRIALS + 1
    input_step: ClassVar[float] = 2.0**-8

    def codec(self, outputs: Tensor) -> Codec:
        """Codec of pixels 0 to 255 from a table of cumulative frequencies at 2^-24."""
        return TabulatedPixels(self.cumulative(outputs).cpu().numpy(), PRECISION)

    def cumulative(self, outputs: Tensor) -> Tensor:
        """c(k) = k + floor(S_k / S_256 * (2^24 - 256)), int64 (n, dims, 257).

        S_k = p_0 + ... + p_{k-1} with p_0 = 1, p_{k+1} = p_k (n-k)/(k+1) (k+alpha)/(n-1-k+beta).
        """
        alpha, beta = self._shapes(outputs)
        mass, total = torch.ones_like(alpha), torch.zeros_like(alpha)
        sums = [total]
        for k in range(TRIALS + 1):
            total = total + mass
            sums.append(total)
            if k < TRIALS:
                mass = (mass * float(RATIOS[k]) * (alpha + float(k))) / (
                    beta + float(TRIALS - 1 - k)
                )
        free = float((1 << PRECISION) - TRIALS - 1)
        table = torch.stack(sums, -1)
        whole = (table / total.unsqueeze(-1) * free).floor().long()
        return whole + torch.arange(TRIALS + 2, device=whole.device)

    def log_loss(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """-ln of the pixels' shares of 2^24, float64 (n,)."""
        least = 2.0**-PRECISION
        share = self._log_p(outputs.double(), pixels).exp() * (1.0 - (TRIALS + 1) * least) + least
        return -share.log().sum(1)

    def gradient(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """Finite sums of reciprocals in the order of i, float32 (n, 2 dims); 0 where clamped."""
        alpha, beta = self._shapes(outputs)
        both, x = alpha + beta, pixels.double()
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        up, down, all_ = zero, zero, zero
        for i in range(TRIALS):
            up = up + torch.where(x > i, one / (alpha + float(i)), zero)
            down = down + torch.where(TRIALS - x > i, one / (beta + float(i)), zero)
            all_ = all_ + one / (both + float(i))
        by_alpha, by_beta = (all_ - up) * alpha, (all_ - down) * beta
        raw = outputs.double()
        inside = (raw > LOWEST) & (raw < HIGHEST)
        both_parts = torch.cat([by_alpha, by_beta], 1)
        return torch.where(inside, both_parts, torch.zeros_like(both_parts)).float()

    def native_loss(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        """-ln P(pixels) of each image, (n,), differentiable, by log-gamma functions."""
        return -self._log_p(outputs, pixels).sum(1)

    def _log_p(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        alpha, beta = (part.clamp(LOWEST, HIGHEST).exp() for part in outputs.chunk(2, 1))
        x, lg, n = pixels.to(outputs.dtype), torch.lgamma, float(TRIALS)
        log_p = lg(x + alpha) + lg(n - x + beta) - lg(n + alpha + beta)
        log_p = log_p + lg(alpha + beta) - lg(alpha) - lg(beta)
        return log_p - lg(x + 1.0) - lg(n - x + 1.0) + lg(torch.full_like(x, n + 1.0))

    def mean(self, outputs: Tensor) -> Tensor:
        """255 alpha / (alpha + beta)."""
        return 255.0 * torch.sigmoid(outputs[:, : outputs.shape[1] // 2]
                                     - outputs[:, outputs.shape[1] // 2 :])  # fmt: skip

    def _shapes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        raw = functions.exp(outputs.double().clamp(LOWEST, HIGHEST))
        return raw[:, : raw.shape[1] // 2], raw[:, raw.shape[1] // 2 :]


LIKELIHOODS: dict[str, Likelihood] = {"bernoulli": Bernoulli(), "beta_binomial": BetaBinomial()}


def find(name: str) -> Likelihood:
    """The likelihood of this name. Raises UsageError."""
    if name not in LIKELIHOODS:
        raise UsageError(f"likelihood {name!r} (expected {', '.join(LIKELIHOODS)})")
    return LIKELIHOODS[name]


def _sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x) in two operations more than `functions.exp`."""
    return torch.ones_like(x) / (functions.exp(x.neg()) + 1.0)
