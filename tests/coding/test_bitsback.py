"""Bits-back: round trips over lanes, code length, initial bits, and no invented ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osoa_pl.arith import functions
from osoa_pl.coding.bitsback import (
    BernoulliPixels,
    BitsBack,
    PosteriorBins,
    PriorBins,
    TabulatedPixels,
    cumulative_bins,
    drop_unused,
    initial_message,
    is_initial,
    lane_groups,
    pop_chain,
    push_chain,
)
from osoa_pl.coding.codecs import Codec, tabulate
from osoa_pl.coding.rans import (
    base_message,
    content_bits,
    copy_message,
    flatten,
    message_equal,
    unflatten,
)
from osoa_pl.errors import CoderError
from osoa_pl.models import latents

BITS, PRECISION, LATENT, DIMS = 6, 20, 3, 8
WORDS = np.random.default_rng(0).integers(0, 1 << 32, 4096, dtype=np.uint32)
TABLES = {
    "gaussian": functions.normal_table().numpy(),
    "logistic": functions.logistic_table().numpy(),
}
quick = settings(derandomize=True, deadline=None, max_examples=25)


def toy_parts(likelihood: str = "bernoulli", posterior: str = "gaussian") -> tuple[Any, Any, Any]:
    """Prior, likelihood and posterior of small images: any functions that both sides know."""
    centres = latents.centres(BITS).astype(np.int64)
    weights = np.random.default_rng(1).integers(-400, 400, (LATENT, DIMS))

    def pixels(z: np.ndarray) -> Codec:
        logits = centres[z] @ weights / 2.0**15
        if likelihood == "bernoulli":
            ones = np.rint((1 << PRECISION) / (1 + np.exp(-logits))).astype(np.int64)
            return BernoulliPixels(ones, PRECISION)
        levels = np.exp(-((np.arange(5) - 2 - np.clip(logits, -2, 2)[..., None]) ** 2))
        freq = tabulate(levels / levels.sum(-1, keepdims=True), PRECISION)
        return TabulatedPixels(np.pad(freq.cumsum(-1), [(0, 0)] * (freq.ndim - 1) + [(1, 0)]),
                               PRECISION)  # fmt: skip

    def latent(x: np.ndarray) -> Codec:
        mean, slope = posterior_of(x)
        return PosteriorBins(mean, slope, latents.edges(BITS), TABLES[posterior], PRECISION)

    return PriorBins(LATENT, BITS), pixels, latent


def posterior_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer means and slopes (lanes, latents) of images (lanes, dims)."""
    mean = (x.sum(-1, keepdims=True) - np.arange(LATENT)) << 13
    return mean, np.full_like(mean, 3 << 12) + x[..., :LATENT]


def toy(lanes: int, likelihood: str = "bernoulli", posterior: str = "gaussian") -> Codec:
    """The latent model as one codec; it serves any number of lanes."""
    return BitsBack(*toy_parts(likelihood, posterior))


def images(count: int, levels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, (count, DIMS))


@quick
@given(
    count=st.integers(1, 40), lanes=st.integers(1, 9), seed=st.integers(0, 1 << 30),
    kind=st.sampled_from(["bernoulli", "tabulated"]),
    posterior=st.sampled_from(["gaussian", "logistic"]),
)  # fmt: skip
def test_chains_come_back(count: int, lanes: int, seed: int, kind: str, posterior: str) -> None:
    data = images(count, 2 if kind == "bernoulli" else 5, seed)
    groups = lane_groups(count, lanes)
    message = initial_message(WORDS, lanes)
    message = push_chain(message, data, lambda n: toy(n, kind, posterior), groups)
    words = flatten(drop_unused(message))
    restored, found = pop_chain(unflatten(words, lanes), lambda n: toy(n, kind, posterior), groups)
    np.testing.assert_array_equal(found, data)
    assert is_initial(restored, WORDS)


def test_one_codec_takes_all_lanes_at_once() -> None:
    data = images(6, 2)
    message = initial_message(WORDS, 6, "numba")
    before = copy_message(message)
    message, = toy(6).push(message, data)  # fmt: skip
    message, found = toy(6).pop(message)
    np.testing.assert_array_equal(found, data)
    assert message_equal(message, before)


def test_engines_write_the_same_words() -> None:
    found = [
        flatten(
            push_chain(initial_message(WORDS, 4, engine), images(30, 2), toy, lane_groups(30, 4))
        )
        for engine in ("numpy", "numba")
    ]
    np.testing.assert_array_equal(*found)


def test_an_empty_stack_is_an_error_and_no_bit_is_invented() -> None:
    with pytest.raises(CoderError, match="exhausted"):
        toy(3).push(base_message(3), images(3, 2))


def test_the_net_cost_is_the_negative_elbo() -> None:
    """-log p(x|z) - log p(z) + log q(z|x) of the latents that were popped, from frequencies."""
    x = images(1, 2)
    _, likelihood, posterior = toy_parts()
    message = initial_message(WORDS)
    _, z = posterior(x).pop(copy_message(message))
    mean, slope = posterior_of(x)
    lane = [np.repeat(part[0], 2) for part in (mean, slope)]
    edges = np.stack([z[0], z[0] + 1], -1).reshape(-1)
    found = cumulative_bins(edges, *lane, latents.edges(BITS), TABLES["gaussian"], PRECISION)
    log_q = np.log2(np.diff(found.reshape(-1, 2))[:, 0] / 2.0**PRECISION).sum()
    alone = base_message(1)
    (alone,) = likelihood(z).push(alone, x)
    expected = content_bits(alone) + LATENT * BITS + log_q
    before = content_bits(message)
    (message,) = toy(1).push(message, x)
    assert content_bits(message) - before == pytest.approx(expected, abs=1e-3)


def test_starting_on_one_lane_saves_initial_bits() -> None:
    data, lanes = images(64, 2), 16
    used = {}
    for name, groups in {"all at once": [16] * 4, "doubling": lane_groups(64, lanes)}.items():
        message = push_chain(initial_message(WORDS, lanes), data, toy, groups)
        used[name] = len(WORDS) - message.tail.lowest
    assert 2 * used["doubling"] <= used["all at once"]


def test_unused_initial_words_are_dropped() -> None:
    message = push_chain(initial_message(WORDS), images(5, 2), toy, [1] * 5)
    short = drop_unused(message)
    assert len(short.tail) < 20 and len(message.tail) >= len(WORDS)
    restored, _ = pop_chain(unflatten(flatten(short), 1), toy, [1] * 5)
    assert is_initial(restored, WORDS) and len(restored.tail) == len(WORDS) - message.tail.lowest
    restored.tail.words[0] ^= np.uint32(1)
    assert not is_initial(restored, WORDS)


@pytest.mark.parametrize(("images_", "lanes"), [(0, 3), (1, 8), (7, 8), (8, 8), (100, 1), (99, 64)])
def test_groups_cover_all_images(images_: int, lanes: int) -> None:
    groups = lane_groups(images_, lanes)
    assert sum(groups) == images_ and all(0 < g <= lanes for g in groups)
    assert groups == sorted(groups, reverse=True)
    with pytest.raises(CoderError, match="lanes"):
        lane_groups(3, 0)


@quick
@given(
    mean=st.integers(-(16 << 16), 16 << 16), slope=st.integers(500, 1100 << 12),
    bits=st.integers(1, 12), kind=st.sampled_from(["gaussian", "logistic"]),
)  # fmt: skip
def test_every_bin_has_a_frequency(mean: int, slope: int, bits: int, kind: str) -> None:
    count = 1 << bits
    bins = np.arange(count + 1)
    edges = latents.edges(bits)
    found = cumulative_bins(bins, np.full(count + 1, mean), np.full(count + 1, slope), edges,
                            TABLES[kind], 24)  # fmt: skip
    assert found[0] == 0 and found[-1] == 1 << 24 and (np.diff(found) >= 1).all()


def test_bins_follow_the_distribution() -> None:
    from statistics import NormalDist

    edges = latents.edges(8)
    mean, scale = 0.3, 0.25
    bins = np.arange(257)
    lane = (np.full(257, round(mean * 65536)), np.full(257, round(4096 / scale)))
    found = cumulative_bins(bins, *lane, edges, TABLES["gaussian"], 24)
    expected = [NormalDist(mean, scale).cdf(e / 65536) for e in edges]
    np.testing.assert_allclose(found[1:-1] / 2**24, expected, atol=4e-5)


def test_wrong_symbols_are_refused() -> None:
    with pytest.raises(CoderError, match="expected 3 symbols"):
        PriorBins(3, 4).push(base_message(2), np.zeros((2, 4), np.int64))
    with pytest.raises(CoderError, match="slopes"):
        PosteriorBins(np.zeros((1, 2), np.int64), np.zeros((1, 2), np.int64), latents.edges(4),
                      TABLES["gaussian"], 16)  # fmt: skip


def test_craystack_composes_our_codecs_and_we_compose_its() -> None:
    craystack = pytest.importorskip("craystack")
    from osoa_pl.coding import craystack as adapters

    data = images(4, 2)
    prior, likelihood, posterior = toy_parts()
    theirs = pytest.importorskip("craystack.bb_ans").BBANS(
        adapters.export_codec(prior),
        lambda z: adapters.export_codec(likelihood(z)),
        lambda x: adapters.export_codec(posterior(x)),
    )
    message = adapters.export_message(initial_message(WORDS, 4))
    (message,) = theirs.push(message, data)
    (ours,) = toy(4).push(initial_message(WORDS, 4), data)
    assert message_equal(adapters.import_message(message), ours)
    foreign = adapters.import_codec(craystack.repeat(craystack.Uniform(BITS), LATENT))
    stacked = Codec(
        lambda m, z: foreign.push(m, [z[..., i] for i in range(LATENT)]),
        lambda m: (lambda m, z: (m, np.stack(z, -1)))(*foreign.pop(m)),
    )
    (mixed,) = BitsBack(stacked, likelihood, posterior).push(initial_message(WORDS, 4), data)
    assert message_equal(mixed, ours)
