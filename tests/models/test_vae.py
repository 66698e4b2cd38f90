"""The VAE: compiled against eager, exact gradients against autograd, likelihoods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import small_vae
from mpmath import beta as beta_function
from mpmath import binomial

from osoa_pl.arith.checker import OperationChecker
from osoa_pl.arith.engines import use_engine
from osoa_pl.coding.bitsback import initial_message, is_initial
from osoa_pl.coding.rans import base_message, content_bits, copy_message, message_equal
from osoa_pl.errors import CoderError, InputError, UsageError
from osoa_pl.models import latents, vae_kernels
from osoa_pl.models.density import tiles
from osoa_pl.models.likelihoods import PRECISION, Bernoulli, BetaBinomial
from osoa_pl.models.vae import VAEConfig, VariationalAutoencoder
from osoa_pl.models.vae_density import VAE
from osoa_pl.models.vae_eager import EagerVariationalAutoencoder
from osoa_pl.online.latent import initial_words

KINDS = ("bernoulli", "beta_binomial")
WORDS = initial_words(0)


def images(count, likelihood, seed=0):
    config = small_vae(likelihood)[0]
    levels = 2 if likelihood == "bernoulli" else 256
    shape = (count, config.height, config.width, 1)
    return np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)


def batch_of(count, likelihood, seed=0):
    return tiles(torch.from_numpy(images(count, likelihood, seed)))


def model(kind, likelihood, **options):
    config, parameters, maxima, _ = small_vae(likelihood)
    return kind(config, parameters.clone(), maxima.clone(), **options)


@pytest.mark.parametrize("likelihood", KINDS)
@pytest.mark.parametrize("streams", [1, 3])
def test_compiled_and_eager_push_the_same_words_and_pop_each_others(likelihood, streams):
    batches = [batch_of(5, likelihood, seed) for seed in range(3)]
    made = []
    for kind in (VariationalAutoencoder, EagerVariationalAutoencoder):
        coder = model(kind, likelihood)
        messages = [initial_message(initial_words(s)) for s in range(streams)]
        for stream, message in enumerate(messages):
            coder.push([coder.record(b) for b in batches], message, stream, streams)
        made.append(messages)
    for fast, slow in zip(*made):
        assert message_equal(fast, slow) and fast.tail.lowest == slow.tail.lowest
    for kind in (VariationalAutoencoder, EagerVariationalAutoencoder):
        coder, messages = model(kind, likelihood), [copy_message(m) for m in made[0]]
        for expected in batches:
            found = tiles(torch.zeros(5, 6, 7, 1, dtype=torch.uint8))
            coder.pop(found, messages)
            np.testing.assert_array_equal(found.buffer, expected.buffer)
        assert all(is_initial(m, initial_words(s)) for s, m in enumerate(messages))


@pytest.mark.parametrize("likelihood", KINDS)
@pytest.mark.parametrize("engine", ["float32", "float64", "int8"])
def test_gradients_are_equal_to_the_bit(likelihood, engine):
    batch = batch_of(4, likelihood)
    expected = model(EagerVariationalAutoencoder, likelihood).gradient(batch, 3, 5)
    with use_engine(engine):
        for threads in (1, 2):
            found = model(VariationalAutoencoder, likelihood, threads=threads)
            assert torch.equal(found.gradient(batch, 3, 5), expected)
    assert not torch.equal(expected, found.gradient(batch, 3, 6))


@pytest.mark.parametrize("likelihood", KINDS)
def test_only_portable_operations_decide_bits(likelihood):
    coder = model(EagerVariationalAutoencoder, likelihood)
    batch = batch_of(2, likelihood)
    message = initial_message(WORDS)
    with OperationChecker() as checker:
        coder.push([coder.record(batch)], message, 0, 1)
        coder.gradient(batch, 1, 2)
        coder.advance()
        coder.pop(tiles(torch.zeros(2, 6, 7, 1, dtype=torch.uint8)), [message])
    assert checker.seen


@pytest.mark.parametrize("likelihood", KINDS)
def test_the_exact_gradient_is_that_of_the_native_loss(likelihood):
    config, parameters, maxima, _ = small_vae(likelihood)
    density = VAE(**config.to_dict())
    density.flat.data.copy_(parameters)
    density.activation_max.copy_(maxima)
    data = torch.from_numpy(images(64, likelihood))
    grads, losses = {}, {}
    for form in ("native", "exact"):
        density.form, density.flat.grad = form, None
        total = torch.zeros_like(density.flat)
        for key in range(32):  # rounding noise and latents differ: their means agree
            loss = density(data, key)
            (grad,) = torch.autograd.grad(loss, density.flat)
            total += grad
            losses.setdefault(form, []).append(loss.item())
        grads[form] = total
    similarity = torch.nn.functional.cosine_similarity(grads["native"], grads["exact"], dim=0)
    assert similarity > 0.995
    assert np.mean(losses["exact"]) == pytest.approx(np.mean(losses["native"]), rel=0.01)


@pytest.mark.parametrize("likelihood", KINDS)
def test_code_length_is_the_negative_elbo(likelihood):
    coder = model(VariationalAutoencoder, likelihood)
    batches = [batch_of(16, likelihood, seed) for seed in range(12)]
    message = initial_message(WORDS)
    before = content_bits(message)
    records = [coder.record(b) for b in batches]
    for _ in range(8):  # the latents that are popped differ each time
        coder.push(records, message, 0, 1)
    spent = (content_bits(message) - before) / 8
    theory = np.mean([sum(coder.bits(b, 1, c) for b in batches) for c in range(8)])
    assert spent == pytest.approx(theory, rel=0.004)


def test_beta_binomial_tables_are_exact_distributions():
    outputs = torch.tensor([[-20.0, -3.0, 0.0, 3.0, 20.0, 20.0, -20.0, 1.0, -1.0, 2.5]])
    table = BetaBinomial().cumulative(outputs)[0]
    assert (table[:, 0] == 0).all() and (table[:, -1] == 1 << PRECISION).all()
    assert (table.diff(dim=1) >= 1).all()
    alpha, beta = outputs[0, :5].clamp(-10, 6).exp(), outputs[0, 5:].clamp(-10, 6).exp()
    for row, a, b in zip(table, alpha.tolist(), beta.tolist()):
        expected = [
            float(binomial(255, k) * beta_function(k + a, 255 - k + b) / beta_function(a, b))
            for k in range(256)
        ]
        np.testing.assert_allclose(row.diff() / 2**PRECISION, expected, atol=2e-5)


def test_gradients_of_likelihoods_are_autograd_s():
    generator = torch.Generator().manual_seed(0)
    for likelihood, width in ((Bernoulli(), 9), (BetaBinomial(), 18)):
        outputs = torch.randn(3, width, generator=generator).mul(2).requires_grad_()
        pixels = torch.randint(0, likelihood.levels, (3, 9), generator=generator)
        (expected,) = torch.autograd.grad(
            likelihood.native_loss(outputs.double(), pixels).sum(), outputs
        )
        found = likelihood.gradient(outputs.detach(), pixels)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_clamped_outputs_have_no_gradient():
    outputs = torch.tensor([[-11.0, 7.0, 0.0, 7.0, 0.0, -11.0]])
    pixels = torch.tensor([[0, 255, 3]])
    expected = BetaBinomial().gradient(outputs, pixels)
    found = torch.empty_like(outputs)
    vae_kernels.beta_binomial_gradient_rows(0, 1, outputs.numpy(), pixels.numpy(), found.numpy())
    assert torch.equal(found, expected)
    assert (expected[0] == 0).tolist() == [True, True, False, True, False, True]


def test_binary_models_refuse_other_pixels():
    coder = model(VariationalAutoencoder, "bernoulli")
    with pytest.raises(InputError, match="pixel value 255.*0 and 1"):
        coder.record(tiles(torch.full((2, 6, 7, 1), 255, dtype=torch.uint8)))


def test_other_sizes_are_refused():
    coder = model(VariationalAutoencoder, "bernoulli")
    with pytest.raises(UsageError, match="6x7"):
        coder.record(tiles(torch.zeros(2, 5, 7, 1, dtype=torch.uint8)))
    assert "found 5x7" in (coder.config.problem(5, 7) or "")
    assert coder.config.problem(6, 7) is None


def test_an_exhausted_message_is_an_error():
    coder = model(VariationalAutoencoder, "bernoulli")
    batch = batch_of(3, "bernoulli")
    with pytest.raises(CoderError, match="exhausted"):
        coder.push([coder.record(batch)], base_message(1), 0, 1)
    with pytest.raises(CoderError, match="exhausted"):
        coder.pop(batch, [base_message(1)])


@pytest.mark.parametrize(
    "options",
    [{"height": 0}, {"latent": 2.0}, {"channels": 2}, {"likelihood": "gauss"}, {"latent_bits": 13},
     {"height": 1000, "width": 1000}],
)  # fmt: skip
def test_configurations_are_checked(options):
    with pytest.raises(UsageError):
        VAEConfig(**options)


def test_posterior_integers_stay_in_range():
    wild = torch.tensor([[1e30, -1e30, 0.5, 1e30, -1e30, 0.0]])
    mean, slope = latents.posterior_integers(wild)
    assert mean.tolist() == [[16 << 16, -(16 << 16), 1 << 15]]
    assert slope.tolist() == [[554, 4491809, 4096]]


def test_pictures_are_images():
    density = VAE(6, 7, hidden=8, latent=4)
    shown = density.pictures(torch.from_numpy(images(5, "bernoulli")), 1)
    assert set(shown) == {"originals", "reconstructions", "samples"}
    assert all(p.shape == (5, 6, 7, 1) and p.dtype == torch.uint8 for p in shown.values())
