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

from collections.abc import Callable
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
_UNIT = np.float32(2.0**-UNIT_BITS)
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

    @property
    def size(self) -> int:
        """Numbers of one layer."""
        return self.out * self.inputs + self.out

    def weights(self, flat: Tensor) -> Tensor:
        """Their weights in a flat vector, as a view [count, out, in]."""
        layers = flat[self.at : self.at + self.count * self.size].view(self.count, self.size)
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
        with engines.exact_kernels():
            single = contract.single_is_exact("linear", flat.device)
            multiply: Callable[..., Tensor] = torch.bmm if single else _in_double
            for (run, _, _), (left, right) in zip(self._runs, pairs, strict=True):
                if self._compiled and self._apply_compiled(run, left, right, multiply, flat, out):
                    continue
                rounded, scale = _rounded(run.weights(flat))
                rounded, scale = _rounded(multiply(rounded, right).mul_(scale))
                torch.mul(multiply(left, rounded), scale, out=run.weights(out))
        return out

    def _apply_compiled(
        self, run: _Run, left: Tensor, right: Tensor, multiply: Callable[..., Tensor],
        flat: Tensor, out: Tensor,
    ) -> bool:  # fmt: skip
        """One run of `_apply`; False where a number is not finite."""
        if run not in self._kept:
            self._kept[run] = torch.empty(2, run.count, run.out, run.inputs).unbind()
        rounded, inner = self._kept[run]
        operand, products = rounded.view(run.count, -1).numpy(), inner.view(run.count, -1).numpy()
        steps = np.empty(run.count, np.float32)
        ones = np.ones(run.count, np.float32)
        if not compiled.round_matrices(
            flat.numpy(), run.at, run.size, ones, OPERAND_BITS, operand, steps
        ):
            return False
        multiply(rounded, right, out=inner)
        scale = steps * _UNIT
        if not compiled.round_matrices(
            products.reshape(-1), 0, products.shape[1], scale, OPERAND_BITS, operand, steps
        ):
            return False
        multiply(left, rounded, out=inner)
        compiled.scale_matrices(products, steps * _UNIT, out.numpy(), run.at, run.size)
        return True


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x f32 [n, r, c] as integers of 13 bits, f32 [n, 1, 1]: their step / 2^7)."""
    step = quantize.power_of_two_step(x.abs().amax((1, 2), keepdim=True), OPERAND_BITS)
    return quantize.quantize_nearest(x, step, OPERAND_BITS), step * float(_UNIT)


def _in_double(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """`torch.bmm` in float64, rounded to float32."""
    product = torch.bmm(a.double(), b.double())
    return product.float() if out is None else out.copy_(product)


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
