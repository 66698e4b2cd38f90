"""The eigenbasis: exact products, the gradient of what is stored, what a basis may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from osoa_pl.arith.engines import use_engine
from osoa_pl.errors import UsageError
from osoa_pl.models import eigenbasis
from osoa_pl.models.eigenbasis import Eigenbasis, entries, from_gradients, near_identity
from osoa_pl.models.network import layer_views

LAYERS = [(96, 136), (96, 96), (96, 96), (79, 96)]
COUNT = sum(o * i + o for o, i in LAYERS)


def drawn(seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(COUNT, generator=generator) * scale


def learnt() -> Tensor:
    return from_gradients(LAYERS, [drawn(n) for n in range(3)])


def rounded(x: np.ndarray) -> tuple[np.ndarray, float]:
    """13 bits, the definition in float64 and integers."""
    step = 2.0 ** (np.floor(np.log2(max(np.abs(x).max(), 2.0**-40))) - 12)
    return np.clip(np.rint(x / step), -8191, 8191).astype(np.int64), step


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
@pytest.mark.parametrize("engine", ["auto", "float64"])
@pytest.mark.parametrize("compiled", [True, False])
def test_products_are_exact(scale: float, engine: str, compiled: bool) -> None:
    basis, flat = learnt(), drawn(9, scale)
    with use_engine(engine):
        made = Eigenbasis(LAYERS, basis, compiled=compiled)
        weights, gradient = made.weights(flat), made.gradient(flat)
    at = 0
    views = zip(*(layer_views(LAYERS, x) for x in (flat, weights, gradient)), LAYERS, strict=True)
    for (x, bias), (w, bias_w), (g, bias_g), (o, i) in views:
        u = basis[at : at + o * o].view(o, o).numpy().astype(np.int64)
        v = basis[at + o * o : at + o * o + i * i].view(i, i).numpy().astype(np.int64)
        at += o * o + i * i
        for left, right, found in ((u, v.T, w), (u.T, v, g)):
            q, step = rounded(x.numpy().astype(np.float64))
            inner = (q @ right).astype(np.float32) * np.float32(step / 128)
            q, step = rounded(inner.astype(np.float64))
            expected = (left @ q).astype(np.float32) * np.float32(step / 128)
            np.testing.assert_array_equal(found.numpy(), expected)
        assert torch.equal(bias, bias_w) and torch.equal(bias, bias_g)


def test_the_gradient_is_that_of_what_is_stored() -> None:
    """<dL/dTheta, D> = <dL/dW, W(D)>, as the weights are linear in what is stored."""
    made = Eigenbasis(LAYERS, learnt())
    outer, direction = drawn(1), drawn(2)
    ours = (made.gradient(outer).double() * direction).sum()
    theirs = (outer.double() * made.weights(direction)).sum()
    assert abs(ours - theirs) < 1e-3 * outer.norm() * direction.norm() / COUNT**0.5


def test_what_is_stored_gives_the_weights_back() -> None:
    weights, basis = drawn(5), learnt()
    made = Eigenbasis(LAYERS, basis)
    again = made.weights(made.stored(weights))
    assert (again - weights).abs().max() < 2e-3


def test_gradients_vary_along_the_basis() -> None:
    """One direction in which all gradients lie is one number of each row."""
    direction = torch.zeros(COUNT)
    for index, (weight, _) in enumerate(layer_views(LAYERS, direction)):
        o, i = weight.shape
        weight.copy_(torch.outer(drawn(index)[:o], drawn(50 + index)[:i]))
    gradients = [direction * f + drawn(n, 1e-3) for n, f in enumerate((1.0, -2.0, 0.5))]
    found = Eigenbasis(LAYERS, from_gradients(LAYERS, gradients)).gradient(direction)
    for weight, _ in layer_views(LAYERS, found):
        assert weight.abs().amax() ** 2 > 0.98 * weight.square().sum()


def test_a_gradient_that_is_not_finite_stays_so() -> None:
    for compiled in (True, False):
        made = Eigenbasis(LAYERS, learnt(), compiled=compiled)
        for value in (float("nan"), float("inf")):
            flat = drawn(1)
            flat[5] = value
            assert not made.gradient(flat).isfinite().all()


def test_products_that_might_not_be_exact_are_refused() -> None:
    basis = near_identity(LAYERS)
    assert len(basis) == entries(LAYERS)
    basis[: eigenbasis.MOST_SUM // 127 + 1] = 127
    with pytest.raises(UsageError, match="sums to more than 2048"):
        Eigenbasis(LAYERS, basis)
