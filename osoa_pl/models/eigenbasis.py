"""Weights stored in the eigenbasis of their gradients, so that Adam's step sizes fit directions.

A layer's weight W is stored as Theta with W = U Theta V^T, where U and V are frozen matrices that a
checkpoint carries: the eigenvectors of E[G G^T] and E[G^T G] over the gradients G of pretraining.
Adam on Theta is then SOAP with a basis that stays (Vyas et al. 2024, arXiv:2409.11321; Shampoo:
Gupta et al. 2018, arXiv:1802.09568): one adaptive step size for each direction in which gradients
vary independently, instead of one for each weight. Biases stay as they are.

U and V are int8 at 2^-7 and need not be orthogonal: any matrices give a right gradient. Before each
of the two products the other operand is rounded to 13 bits; as no row or column of U or V sums to
more than 2^11, the products are exact in float32 in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from osoa_pl.arith import compiled, contract, engines, quantize
from osoa_pl.errors import UsageError
from osoa_pl.models.network import layer_views

OPERAND_BITS = 13
UNIT_BITS = 7
_LIMIT = np.float32(2**OPERAND_BITS - 1)
_NOT_FINITE = 0x7F800000  # the bits of float32 infinity; NaN's are above
MOST_SUM = engines.FLOAT32_EXACT >> OPERAND_BITS
"""Of the absolute values of a row or column of U or V; orthogonal ones have sqrt(n) * 2^7."""


def entries(layers: list[tuple[int, int]]) -> int:
    """Numbers in the basis of layers (out, in): U [out, out] and V [in, in] of each."""
    return sum(o * o + i * i for o, i in layers)


@dataclass(frozen=True)
class _Run:
    """`count` layers of one shape (out, in) that lie one after another from `at` in a vector."""

    at: int
    count: int
    out: int
    inputs: int

    def weights(self, flat: Tensor) -> Tensor:
        """Their weights in a flat vector, as a view [count, out, in]."""
        size = self.out * self.inputs + self.out
        layers = flat[self.at : self.at + self.count * size].view(self.count, size)
        weights = layers[:, : self.out * self.inputs]
        return weights.view(self.count, self.out, self.inputs)


class Eigenbasis:
    """The frozen matrices of some layers (out, in), from their int8 form.

    flat int8 [entries(layers)]: for each layer U [out, out], then V [in, in], row by row.
    """

    def __init__(
        self, layers: list[tuple[int, int]], flat: Tensor, *, compiled: bool = False
    ) -> None:
        """compiled: round by compiled kernels, on the CPU; the same bits.

        Raises UsageError for a basis whose products might not be exact.
        """
        self._compiled = compiled
        self._kept: dict[_Run, tuple[Tensor, ...]] = {}
        self._runs: list[tuple[_Run, Tensor, Tensor]] = []
        at = begin = 0
        for (o, i), group in groupby(layers):
            count = len(list(group))
            pairs = flat[begin : begin + count * (o * o + i * i)].view(count, -1).float()
            left = pairs[:, : o * o].reshape(count, o, o)
            right = pairs[:, o * o :].reshape(count, i, i)
            for sides in (left, right):
                if max(sides.abs().sum(axis).amax().item() for axis in (1, 2)) > MOST_SUM:
                    raise UsageError(f"eigenbasis: a row or column sums to more than {MOST_SUM}")
            self._runs.append((_Run(at, count, o, i), left, right))
            at += count * (o * i + o)
            begin += pairs.numel()

    def weights(self, stored: Tensor) -> Tensor:
        """Theta of all layers, flat float32 -> W: U Theta V^T of each, biases as they are."""
        return self._apply(stored, [(u, v.mT) for _, u, v in self._runs])

    def gradient(self, gradient: Tensor) -> Tensor:
        """dL/dW of all layers, flat float32 -> dL/dTheta: U^T G V of each, biases as they are."""
        return self._apply(gradient, [(u.mT, v) for _, u, v in self._runs])

    def stored(self, weights: Tensor) -> Tensor:
        """The flat Theta whose `weights` are these, but for rounding."""
        out = weights.clone()
        for run, u, v in self._runs:
            unit = 2.0**-UNIT_BITS
            inner = torch.linalg.solve(u.double() * unit, run.weights(out).double())
            run.weights(out).copy_(torch.linalg.solve(v.double() * unit, inner.mT).mT)
        return out

    def _apply(self, flat: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        out = flat.clone()
        for (run, _, _), (left, right) in zip(self._runs, pairs, strict=True):
            weights = run.weights(out)
            rounded, inner = self._buffers(run, flat.device)
            scale = self._round(weights, rounded)
            _multiply(rounded, right, inner).mul_(scale)
            scale = self._round(inner, rounded)
            torch.mul(_multiply(left, rounded, inner), scale, out=weights)
        return out

    def _buffers(self, run: _Run, device: torch.device) -> tuple[Tensor, ...]:
        """Two f32 [n, out, in], kept between calls (contents undefined)."""
        if run not in self._kept:
            shape = (2, run.count, run.out, run.inputs)
            self._kept[run] = torch.empty(shape, device=device).unbind()
        return self._kept[run]

    def _round(self, x: Tensor, out: Tensor) -> Tensor:
        """x f32 [n, r, c] as integers of 13 bits into `out`; f32 [n, 1, 1]: their step / 2^7."""
        if self._compiled:
            values = x.numpy()
            found = np.empty(len(values), np.int32)
            compiled.largest_bits(values.view(np.int32), found)
            largest = torch.from_numpy(found).view(torch.float32).view(-1, 1, 1)
        else:
            largest = x.abs().amax((1, 2), keepdim=True)
        step = quantize.power_of_two_step(largest, OPERAND_BITS)
        if self._compiled and found.max() < _NOT_FINITE:
            inverse = quantize.inverse_power_of_two(step).view(-1).numpy()
            compiled.round_nearest(values, inverse, _LIMIT, out.numpy())
        else:
            out.copy_(quantize.quantize_nearest(x, step, OPERAND_BITS))
        return step * 2.0**-UNIT_BITS


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a @ b f32 [n, r, c] into `out`, exact by `MOST_SUM`."""
    with engines.exact_kernels():
        if contract.single_is_exact("linear", a.device):
            return torch.bmm(a, b, out=out)
        return out.copy_(torch.bmm(a.double(), b.double()))


def from_gradients(layers: list[tuple[int, int]], gradients: list[Tensor]) -> Tensor:
    """The int8 basis, flat [entries(layers)], of the eigenvectors over flat gradients."""
    parts = []
    views = [layer_views(layers, gradient) for gradient in gradients]
    for layer in range(len(layers)):
        stacked = torch.stack([view[layer][0] for view in views]).double()
        for covariance in (
            torch.einsum("noi,npi->op", stacked, stacked),
            torch.einsum("noi,noj->ij", stacked, stacked),
        ):
            vectors = torch.linalg.eigh(covariance)[1]
            limit = 2.0**UNIT_BITS
            parts.append((vectors * limit).round().clamp(-limit, limit - 1).reshape(-1))
    return torch.cat(parts).to(torch.int8)


def near_identity(layers: list[tuple[int, int]]) -> Tensor:
    """A basis for tests, flat int8 [entries(layers)]: the identity and a little of everything."""
    parts = []
    for size in (size for layer in layers for size in layer):
        spread = torch.arange(size * size).mul(37).remainder(11).sub(5).view(size, size)
        parts.append((spread + 100 * torch.eye(size).long()).reshape(-1))
    return torch.cat(parts).to(torch.int8)
