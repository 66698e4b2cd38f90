"""Rounding to integers and counter-based noise, against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from osoa_pl.arith import noise, quantize
from osoa_pl.errors import UsageError


def hashed(i: int, key: int) -> int:
    h = (i * 0x9E3779B1 + key) % 2**32
    h ^= h >> 16
    h = h * 0x21F0AAAD % 2**32
    h ^= h >> 15
    h = h * 0x735A2D97 % 2**32
    return h ^ (h >> 15)


@pytest.mark.parametrize("key", [0, 1, 2**32 - 1, 123456789])
def test_noise_is_the_hash_of_its_counter(key):
    n = 70001  # more than two blocks
    found = noise.bits(key, n)
    for i in (0, 1, 2, 1000, 32767, 32768, 65535, 65536, n - 1):
        assert int(found[i]) == hashed(i, key) == noise.mix(i, key)
    u = noise.uniform(key, n)
    assert torch.equal(u.double(), ((found >> 12).double() + 0.5) * 2.0**-20)
    assert float(u.min()) > 0 and float(u.max()) < 1
    assert abs(float(u.double().mean()) - 0.5) < 0.005
    assert torch.equal(noise.uniform(key, 100), u[:100])


def test_keys_chain_and_differ():
    assert noise.derive_key(5) == 5 and noise.derive_key(-1) == 2**32 - 1
    assert noise.derive_key(5, 3, 9) == hashed(9, hashed(3, 5))
    assert noise.derive_key(2**32 + 5, 3) == noise.derive_key(5, 3)
    assert len({noise.derive_key(1, a, b) for a in range(30) for b in range(30)}) == 900


def test_normal_noise_has_the_moments_of_a_normal():
    x = noise.normal(3, 100_000)
    assert x.dtype == torch.float32 and bool(torch.isfinite(x).all())
    assert abs(float(x.mean())) < 0.02 and abs(float(x.var()) - 1) < 0.02


@pytest.mark.parametrize("amax", [0.0, 1e-20, 2.0**-40, 0.3, 1.0, 1.999, 2.0, 3e7, 3e37])
@pytest.mark.parametrize("bits", [1, 7, 8, 11])
def test_the_step_is_the_power_of_two(amax, bits):
    raised = max(float(np.float32(amax)), 2.0**-40)
    expected = 2.0 ** (math.floor(math.log2(raised)) + 1 - bits)
    step = quantize.power_of_two_step(torch.tensor(amax), bits)
    assert step.item() == expected and step.shape == ()
    assert quantize.inverse_power_of_two(step).item() == 1 / expected


def test_rounding_is_that_of_plain_numbers():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=500) * 3, np.arange(-20, 20) / 16]).astype(np.float32)
    step = quantize.power_of_two_step(torch.tensor(1.9), 4)
    assert step.item() == 0.125
    nearest = quantize.quantize_nearest(torch.from_numpy(x), step, 4)
    assert nearest.tolist() == [min(max(round(float(v) / 0.125), -15), 15) for v in x]
    u = noise.uniform(77, x.size).numpy()
    floors = [
        min(max(math.floor(np.float32(v * 8) + w), -15), 15) for v, w in zip(x, u, strict=True)
    ]
    assert quantize.quantize_stochastic(torch.from_numpy(x), step, 4, 77).tolist() == floors


def test_stochastic_rounding_counts_in_c_order_and_has_no_bias():
    x = torch.linspace(-1, 1, 24).view(4, 6)
    step = quantize.power_of_two_step(torch.tensor(1.0), 3)
    rounded = quantize.quantize_stochastic(x, step, 3, 9)
    strided = x.t().contiguous().t()
    assert torch.equal(rounded, quantize.quantize_stochastic(strided, step, 3, 9))
    mean = sum(quantize.quantize_stochastic(x[1:3] / 2, step, 3, k) for k in range(2000)) / 2000
    assert float((mean * step - x[1:3] / 2).abs().max()) < 0.02


def test_non_finite_input_stays_visible():
    x = torch.tensor([1.0, float("nan")])
    step = quantize.power_of_two_step(quantize.largest_magnitude(x), 7)
    result = quantize.quantize_stochastic(x, step, 7, 1) * step
    assert not bool(torch.isfinite(result).any())


def test_misuse_is_named():
    with pytest.raises(UsageError, match="float64"):
        quantize.quantize_nearest(torch.zeros(2).double(), torch.ones(()), 8)
    with pytest.raises(UsageError, match="bits"):
        quantize.power_of_two_step(torch.ones(()), 0)
    with pytest.raises(UsageError, match="asked for"):
        noise.uniform(1, -1)
