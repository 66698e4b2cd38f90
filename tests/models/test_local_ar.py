"""The compiled model against the eager one, and the head against autograd and integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import picture, small_model
from sampling import check_sampled_gradients

from osoa_pl.arith.checker import OperationChecker
from osoa_pl.arith.engines import use_engine
from osoa_pl.errors import UsageError
from osoa_pl.models import compiled_head, features, mixture_head, wavefront
from osoa_pl.models.features import fill_tile, make_batch
from osoa_pl.models.local_ar import LocalAutoregressive, LocalConfig
from osoa_pl.models.local_ar_eager import EagerLocalAutoregressive

SHAPES = [(1, 1), (1, 9), (7, 1), (12, 15), (30, 5), (3, 3)]


def batch_of(channels, shapes=SHAPES, seed=0):
    batch = make_batch(shapes, channels, [None] * len(shapes))
    for index, (height, width) in enumerate(shapes):
        fill_tile(batch, index, picture(height, width, channels, seed + index))
    return batch


def model(kind, channels, threads=1):
    config, parameters, maxima, _ = small_model(channels)
    if kind is LocalAutoregressive:
        return kind(config, parameters.clone(), maxima.clone(), threads=threads)
    return kind(config, parameters.clone(), maxima.clone())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_equals_eager(channels, threads):
    batch = batch_of(channels)
    fast, slow = (
        model(LocalAutoregressive, channels, threads),
        model(EagerLocalAutoregressive, channels),
    )
    for counter in range(3):
        for ours, theirs in zip(fast.intervals(batch), slow.intervals(batch)):
            np.testing.assert_array_equal(ours, theirs)
        ours, theirs = (m.gradient(batch, 7, counter) for m in (fast, slow))
        assert torch.equal(ours, theirs)
        for m in (fast, slow):
            m.parameters.sub_(ours * 0.5)
            m.stepped()
            m.advance()
        assert torch.equal(fast.activation_max, slow.activation_max)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stride", [2, 7, 64])
def test_sampled_gradients(channels, stride):
    """Compiled equals eager; a batch of fewer pixels than the stride has one."""
    fast, slow = model(LocalAutoregressive, channels), model(EagerLocalAutoregressive, channels)
    batches = [batch_of(channels, seed=n) for n in range(5)]
    batches[2] = batch_of(channels, [(2, 1)])
    check_sampled_gradients(fast, slow, batches, stride)


@pytest.mark.parametrize("channels", [1, 3])
def test_engines_agree(channels):
    batch = batch_of(channels)
    results = []
    for engine in ("float32", "float64", "int8"):
        with use_engine(engine):
            fast = model(LocalAutoregressive, channels)
            start, frequency = fast.intervals(batch)
            results.append((start, frequency, fast.gradient(batch, 1, 2).numpy()))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other):
            np.testing.assert_array_equal(ours, theirs)


def test_exact_step_uses_allowed_operations_only():
    batch = batch_of(3, [(9, 8)])
    slow = model(EagerLocalAutoregressive, 3)
    with OperationChecker() as checker:
        slow.intervals(batch)
        slow.gradient(batch, 0, 0)
        slow.advance()
    assert checker.seen


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_bounded_integers(channels):
    batch = batch_of(channels)
    x = model(LocalAutoregressive, channels)._features(batch).numpy()
    assert x.shape == (batch.pixels, features.feature_count(channels))
    np.testing.assert_array_equal(x, np.rint(x))
    assert np.abs(x).max() <= 255


@pytest.mark.parametrize("channels", [1, 3])
def test_features_see_only_what_is_decoded(channels):
    """Changing a pixel leaves the features of every pixel before it in coding order alone."""
    shape = (9, 11)
    batch = batch_of(channels, [shape])
    before = model(LocalAutoregressive, channels)._features(batch).numpy().copy()
    order = wavefront.stream_order(batch.table, np.arange(1))
    for place in (0, 17, 40, 98):
        changed = make_batch([shape], channels, [None])
        pixels = batch.tile(0).copy()
        pixels.reshape(-1, channels)[order[place]] ^= 85
        fill_tile(changed, 0, pixels)
        after = model(LocalAutoregressive, channels)._features(changed).numpy()
        np.testing.assert_array_equal(before[order[: place + 1]], after[order[: place + 1]])


def head_inputs(channels, mixtures, seed, spread):
    rng = np.random.default_rng(seed)
    count = 200
    outputs = 3 * mixtures * channels + channels * (channels - 1) // 2 + 7
    o = torch.from_numpy(rng.normal(0, spread, (count, outputs)).astype(np.float32))
    pixels = rng.integers(0, 256, (count, channels))
    pixels[::5] = 0
    pixels[1::5] = 255
    predictors = rng.integers(0, 256, (count, channels))
    copies = rng.integers(0, 256, (count, 6, channels))
    copies[::3, 2] = pixels[::3]
    return o, *(torch.from_numpy(a) for a in (pixels, predictors, copies))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spread", [0.3, 3.0, 40.0])
def test_head_intervals_are_valid_and_invertible(channels, spread):
    o, pixels, predictors, copies = head_inputs(channels, 4, 1, spread)
    start, frequency = mixture_head.intervals(o, pixels, predictors, copies, 4)
    assert int(frequency.min()) >= 1
    assert int(start.min()) >= 0 and int((start + frequency).max()) <= 1 << 20
    shape = (len(o), channels)
    s, f = np.empty(shape, np.uint32), np.empty(shape, np.uint32)
    compiled_head.interval_rows(
        0, len(o), o.numpy(), pixels.numpy().astype(np.uint8), predictors.numpy(), copies.numpy(),
        channels, 4, s, f,
    )  # fmt: skip
    np.testing.assert_array_equal(s, start.numpy())
    np.testing.assert_array_equal(f, frequency.numpy())
    head = mixture_head.Pixels(o, predictors, copies, 4)
    for c in range(channels):
        slot = start[:, c] + frequency[:, c] - 1
        assert torch.equal(head.find(slot), pixels[:, c])
        assert torch.equal(head.find(start[:, c]), pixels[:, c])
        head.take(pixels[:, c])


def test_head_frequencies_sum_to_the_total():
    o, pixels, predictors, copies = head_inputs(1, 3, 2, 2.0)
    total = torch.zeros(len(o), dtype=torch.long)
    for value in range(256):
        total += mixture_head.intervals(o, torch.full_like(pixels, value), predictors, copies, 3)[
            1
        ][:, 0]
    assert bool((total == 1 << 20).all())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_head_gradient(channels, spread):
    """Compiled equals eager bit for bit; both are the derivative of the coded length."""
    o, pixels, predictors, copies = head_inputs(channels, 4, 3, spread)
    eager = mixture_head.gradient(o, pixels, predictors, copies, 4)
    compiled = np.zeros(o.shape, np.float32)
    compiled_head.gradient_rows(
        0, len(o), o.numpy(), pixels.numpy().astype(np.uint8), predictors.numpy(), copies.numpy(),
        channels, 4, compiled,
    )  # fmt: skip
    np.testing.assert_array_equal(compiled, eager.numpy())
    wide = o.double().requires_grad_()
    loss = mixture_head.negative_log_likelihood(wide, pixels, predictors, copies, 4)
    loss.sum().backward()
    error = (wide.grad - eager.double()).norm() / wide.grad.norm()
    assert float(error) < 2e-2


def test_head_length_matches_the_likelihood():
    o, pixels, predictors, copies = head_inputs(3, 4, 4, 0.5)
    pixels = predictors.clone()
    _, frequency = mixture_head.intervals(o, pixels, predictors, copies, 4)
    coded = float((20 - torch.log2(frequency.double())).sum())
    nats = mixture_head.negative_log_likelihood(o.double(), pixels, predictors, copies, 4)
    assert coded == pytest.approx(float(nats.sum()) / np.log(2), rel=5e-3)


def test_sizes_are_checked():
    with pytest.raises(UsageError, match="channels"):
        LocalConfig(2, 16, 1, 2)
    with pytest.raises(UsageError, match="128"):
        LocalConfig(3, 256, 1, 2).network()
    config, parameters, maxima, _ = small_model(1)
    with pytest.raises(UsageError, match="expected"):
        LocalAutoregressive(config, parameters[:-1], maxima)
