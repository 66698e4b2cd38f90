"""The compiled twins repeat the eager functions bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit

from osoa_pl.arith import compiled, compiled_int8, functions, quantize
from osoa_pl.arith.threads import RowPool


@njit
def _exp_all(x):
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = compiled.exp64(x[i])
    return out


def test_exp_is_the_eager_one():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-800, 800, 100001), -np.abs(rng.normal(0, 5, 100000))])
    np.testing.assert_array_equal(_exp_all(x), functions.exp(torch.from_numpy(x)).numpy())
    _exp_all(np.array([np.nan, np.inf, -np.inf]))  # reads no memory outside its table


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(1, 4), (2100, 7), (2300, 96)])
def test_stochastic_rounding_is_the_eager_one(threads, size):
    pool = RowPool(threads)
    values = torch.randn(size, generator=torch.Generator().manual_seed(3)) * 1e-3
    largest = pool.run_with_max(compiled.absolute_max_rows, size[0], size[1], values.numpy())
    assert float(largest) == float(values.abs().max())
    step = quantize.power_of_two_step(torch.tensor(float(largest)), 7)
    expected = quantize.quantize_stochastic(values, step, 7, 12345)
    out = np.empty(size, np.float32)
    pool.run(
        compiled.round_stochastic_rows, size[0], values.numpy(), np.float32(1.0 / float(step)),
        np.uint32(12345), np.float32(127.0), out,
    )  # fmt: skip
    np.testing.assert_array_equal(out, expected.numpy())
    small, sums = np.empty(size, np.int8), np.zeros(size[1], np.int64)
    compiled_int8.round_stochastic_rows(
        0, size[0], values.numpy(), np.float32(1.0 / float(step)), np.uint32(12345),
        np.float32(127.0), small, sums,
    )  # fmt: skip
    np.testing.assert_array_equal(small, expected.numpy())
    np.testing.assert_array_equal(sums, expected.double().sum(0).numpy())


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_matrix_product_is_exact_at_its_bound(rows):
    x = np.full((rows, 128), 255, np.float32)
    weights = np.full((128, 12), 511, np.float32)
    weights[:, ::2] *= -1
    out = np.empty((rows, 12), np.float32)
    compiled.matmul_rows(0, rows, x, weights, out)
    np.testing.assert_array_equal(out, x.astype(np.float64) @ weights.astype(np.float64))


@njit
def _integers(x, a, b):
    nearest, quotients = np.empty(len(x), np.int64), np.empty(len(a), np.int64)
    for i in range(len(x)):
        nearest[i] = compiled.nearest64(x[i])
    for i in range(len(a)):
        quotients[i] = compiled.quotient64(a[i], b[i])
    return nearest, quotients


def test_integers_from_floats():
    rng = np.random.default_rng(1)
    x = np.concatenate([np.arange(-9, 9) + 0.5, rng.normal(0, 1e9, 10000), [2.0**50, -(2.0**50)]])
    b = np.concatenate([rng.integers(1, 1 << 30, 20000), [1, 1, 3, (1 << 52) - 1]])
    a = np.concatenate(
        [b[:10000] * rng.integers(0, 1 << 22, 10000), rng.integers(0, 1 << 52, 10000)]
    )
    a[:5000] -= a[:5000] > 0  # just below a multiple
    a = np.concatenate([a, [0, (1 << 53) - 2, (1 << 53) - 4, (1 << 52) - 1]])
    nearest, quotients = _integers(x, a, b)
    np.testing.assert_array_equal(nearest, np.rint(x).astype(np.int64))
    np.testing.assert_array_equal(quotients, a // b)


@pytest.mark.parametrize("bits", [7, 9, 13])
def test_matrices_are_rounded_as_the_eager_ones(bits):
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(3, 50, generator=generator) * torch.tensor([[1e-3], [7.0], [1e-30]])
    x[1, 4] = -100.0
    flat = torch.cat([torch.zeros(3, 2), x], 1).view(-1)
    factors = np.array([1.0, 0.25, 8.0], np.float32)
    out, steps = np.empty((3, 50), np.float32), np.empty(3, np.float32)
    assert compiled.round_matrices(flat.numpy(), 2, 52, factors, bits, out, steps)
    scaled = x * torch.from_numpy(factors).view(3, 1)
    expected = quantize.power_of_two_step(scaled.abs().amax(1, keepdim=True), bits)
    np.testing.assert_array_equal(steps, expected.view(-1).numpy())
    found = quantize.quantize_nearest(scaled, expected, bits)
    np.testing.assert_array_equal(out, found.numpy())
    scaled_back = np.zeros(3 * 52, np.float32)
    compiled.scale_matrices(out, steps, scaled_back, 2, 52)
    np.testing.assert_array_equal(scaled_back.reshape(3, 52)[:, 2:], (found * expected).numpy())
    for wrong in (np.inf, -np.inf, np.nan):
        flat[70] = wrong
        assert not compiled.round_matrices(flat.numpy(), 2, 52, factors, bits, out, steps)


def test_step_of_one_number():
    numbers = [0.0, 1e-30, 2.0**-40, 0.3, 0.5, 1.0, 255.0, 2.0**60, float("inf")]
    for bits in (1, 7, 20):
        found = [quantize.step_of(number, bits) for number in numbers]
        assert found == quantize.power_of_two_step(torch.tensor(numbers), bits).tolist()


def test_features_are_split_where_they_fit():
    features = np.arange(-256, 256, dtype=np.float32).reshape(64, 8)
    out = np.empty((64, 16), np.int8)
    assert compiled_int8.split_features(features, out)
    np.testing.assert_array_equal(2.0 * out[:, :8] + out[:, 8:], features)
    for wrong in (-257.0, 256.0):
        features[5, 5] = wrong
        assert not compiled_int8.split_features(features, out)
