"""Optimizers against scalar references in numpy, bit for bit; clipping; digests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from osoa_pl.arith import (
    SGD,
    Adam,
    clip_by_exact_norm,
    exact_norm,
    flat_gradient,
    flatten_parameters,
    state_digest,
)
from osoa_pl.errors import UsageError

f32 = np.float32


def gradients(n: int, steps: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    scales = np.exp(rng.uniform(-25, 5, (steps, n)))
    return (rng.normal(size=(steps, n)) * scales).astype(f32)


@pytest.mark.parametrize("warm", [False, True])
def test_adam_is_its_scalar_definition(warm):
    n, lr, b1, b2, eps = 203, 1.3e-3, 0.9, 0.99, 1e-8
    g = gradients(n, 9)
    p = gradients(n, 1)[0]
    m, v = np.zeros(n, f32), (g[0] * g[0] if warm else np.zeros(n, f32))
    flat = torch.from_numpy(p.copy())
    adam = Adam(
        flat,
        lr=lr,
        betas=(b1, b2),
        eps=eps,
        second_moment=torch.from_numpy(v.copy()),
        bias_correct_second=not warm,
    )
    c1 = c2 = 1.0
    for row in g:
        assert adam.step(torch.from_numpy(row))
        c1, c2 = c1 * b1, c2 * b2
        for i in range(n):
            m[i] = m[i] * f32(b1) + row[i] * f32(1 - b1)
            v[i] = v[i] * f32(b2) + (row[i] * row[i]) * f32(1 - b2)
            den = np.sqrt(v[i] * f32(1.0 if warm else 1 / (1 - c2))) + f32(eps)
            p[i] = p[i] - (m[i] * f32(lr / (1 - c1))) / den
    assert np.array_equal(flat.numpy(), p)
    assert np.array_equal(adam.first_moment.numpy(), m)
    assert np.array_equal(adam.second_moment.numpy(), v)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_its_scalar_definition(momentum):
    g = gradients(50, 5)
    p, b = np.zeros(50, f32), np.zeros(50, f32)
    flat = torch.zeros(50)
    sgd = SGD(flat, lr=0.1, momentum=momentum)
    for row in g:
        assert sgd.step(torch.from_numpy(row))
        b = b * f32(momentum) + row
        p = p - b * f32(0.1)
    assert np.array_equal(flat.numpy(), p)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_gradient_changes_nothing(bad):
    g = torch.from_numpy(gradients(20, 2))
    flat = g[0].clone()
    for optimizer in (Adam(flat), SGD(flat, lr=0.1, momentum=0.5)):
        optimizer.step(g[1])
        before = (state_digest(flat, *optimizer.state_tensors()), optimizer.counters())
        broken = g[1].clone()
        broken[3] = bad
        assert optimizer.step(clip_by_exact_norm(broken, 1.0)) is False
        assert (state_digest(flat, *optimizer.state_tensors()), optimizer.counters()) == before


def test_saved_state_continues_the_run():
    g = torch.from_numpy(gradients(30, 6))
    whole, first = torch.zeros(30), torch.zeros(30)
    a, b = Adam(whole), Adam(first)
    for row in g:
        a.step(row)
    for row in g[:3]:
        b.step(row)
    second = first.clone()
    c = Adam(second)
    c.load([t.clone() for t in b.state_tensors()], b.counters())
    for row in g[3:]:
        c.step(row)
    assert torch.equal(whole, second)


def test_exact_norm_is_an_integer_sum():
    g = torch.from_numpy(gradients(1000, 1)[0])
    fixed = [int(v) for v in np.clip(np.rint(g.numpy() * f32(2**20)), -(2**22), 2**22)]
    norm = float(np.sqrt(np.float64(sum(v * v for v in fixed)))) * 2.0**-20
    assert exact_norm(g) == norm == exact_norm(g.flip(0))
    assert clip_by_exact_norm(g, norm) is g
    clipped = clip_by_exact_norm(g, norm / 3)
    assert torch.equal(clipped, g * float(f32((norm / 3) / norm)))
    # 2^20 saturated elements: the sum of squares does not fit in 63 bits
    assert exact_norm(torch.full((1 << 20,), 100.0)) == 4.0 * 1024
    with pytest.raises(UsageError, match="positive"):
        clip_by_exact_norm(g, 0.0)


def test_parameters_become_views_of_one_vector():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    before = [p.detach().clone() for p in net.parameters()]
    flat = flatten_parameters(net.parameters())
    assert torch.equal(flat, torch.cat([p.reshape(-1) for p in before]))
    flat.add_(1.0)
    for p, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(p.detach(), old + 1.0)
    net[0].weight.grad = torch.ones(2, 3)
    assert flat_gradient(net.parameters()).tolist() == [1.0] * 6 + [0.0] * 5
    with pytest.raises(UsageError, match="twice"):
        flatten_parameters([net[0].weight, net[0].weight])


def test_digests_ignore_the_sign_of_zero_and_see_everything_else():
    x = torch.tensor([0.0, 1.5, -2.0])
    assert len(state_digest(x)) == 16
    assert state_digest(x) == state_digest(x * torch.tensor([-1.0, 1.0, 1.0]))
    assert state_digest(x) != state_digest(x + 2.0**-20)
    assert state_digest(x, x) == state_digest(torch.cat([x, x]))
    assert state_digest(torch.tensor([1, 2])) != state_digest(torch.tensor([1, 3]))


def test_misuse_is_named():
    with pytest.raises(UsageError, match="betas"):
        Adam(torch.zeros(3), betas=(0.9, 1.0))
    with pytest.raises(UsageError, match="eps"):
        Adam(torch.zeros(3), eps=1e-60)
    with pytest.raises(UsageError, match="gradient"):
        Adam(torch.zeros(3)).step(torch.zeros(4))
    with pytest.raises(UsageError, match="parameters"):
        Adam(torch.zeros(3, 1))
