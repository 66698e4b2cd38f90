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
@pytest.mark.parametrize("size", [(1, 4), (1030, 7), (1300, 96)])
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
