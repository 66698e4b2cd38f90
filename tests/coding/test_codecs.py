"""Every codec by one check: pop undoes push, the length is the ideal one, the engines agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osoa_pl.coding import codecs, rans
from osoa_pl.coding.stack import Engine
from osoa_pl.errors import CoderError

quick = settings(derandomize=True, deadline=None, max_examples=25)
SHAPES = st.one_of(
    st.integers(1, 20).map(lambda n: (n,)), st.tuples(st.integers(1, 4), st.integers(1, 5))
)


def check_codec(shape: Any, codec: codecs.Codec, x: Any, ideal_bits: float | None = None) -> None:
    flat = []
    engines: tuple[Engine, ...] = ("numpy", "numba")
    for engine in engines:
        message = rans.base_message(shape, engine)
        for _ in range(3):  # something below, so that a pop may take words
            message = rans.push_intervals(message, 12345, 1, 16)
        (pushed,) = codec.push(rans.copy_message(message), x)
        if ideal_bits is not None:
            cost = rans.content_bits(pushed) - rans.content_bits(message)
            assert abs(cost - ideal_bits) <= 0.001 * ideal_bits + 0.01 * message.head.size
        flat.append(rans.flatten(pushed).tobytes())
        popped, symbols = codec.pop(rans.unflatten(rans.flatten(pushed), shape, engine))
        np.testing.assert_equal(symbols, x)
        assert rans.message_equal(popped, message)
    assert flat[0] == flat[1]


@quick
@given(shape=SHAPES, bits=st.integers(0, 28), seed=st.integers(0, 2**32))
def test_uniform(shape: Any, bits: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 1 << bits, shape)
    check_codec(shape, codecs.Uniform(bits), x, bits * x.size)


@quick
@given(shape=SHAPES, bits=st.integers(1, 20), shared=st.booleans(), seed=st.integers(0, 2**32))
def test_bernoulli(shape: Any, bits: int, shared: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    ones = generator.integers(1, 1 << bits, () if shared else shape)
    x = generator.integers(0, 2, shape)
    freq = np.where(x, ones, (1 << bits) - ones)
    check_codec(shape, codecs.Bernoulli(ones, bits), x, float((bits - np.log2(freq)).sum()))


@quick
@given(
    shape=SHAPES,
    count=st.integers(1, 40),
    bits=st.integers(6, 20),
    shared=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_categorical(shape: Any, count: int, bits: int, shared: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.random((() if shared else shape) + (count,)) ** 9
    freq = codecs.tabulate(weights / weights.sum(-1, keepdims=True), bits)
    assert freq.min() >= 1 and (freq.sum(-1) == 1 << bits).all()
    x = generator.integers(0, count, shape)
    chosen = np.take_along_axis(np.broadcast_to(freq, (*shape, count)), x[..., None], -1)
    check_codec(shape, codecs.Categorical(freq, bits), x, float((bits - np.log2(chosen)).sum()))


def test_tabulate_is_the_stated_rule() -> None:
    p = np.array([[0.5, 0.25, 0.25, 0.0], [1.0, 0, 0, 0], [0.3, 0.3, 0.2, 0.2]])
    freq = codecs.tabulate(p, 4)
    # rint(12 p) + 1 = 7 4 4 1; 13 1 1 1; 5 5 3 3
    np.testing.assert_array_equal(freq, [[7, 4, 4, 1], [13, 1, 1, 1], [5, 5, 3, 3]])
    # rint(5/3) + 1 = 3 each, one too much: the first largest gives it
    np.testing.assert_array_equal(codecs.tabulate(np.full(3, 1 / 3), 3), [2, 3, 3])


def logistic_mixture(shape: Any, seed: int, count: int, bits: int) -> Any:
    generator = np.random.default_rng(seed)
    sigmoid = np.rint(2**18 / (1 + np.exp(-(np.arange(1601) - 800) / 64))).astype(np.int64)
    sigmoid[-1] = 2**18
    weights = generator.multinomial(2**12, np.full(3, 1 / 3), shape)
    means = generator.integers(-10 << 8, (count + 10) << 8, (*shape, 3))
    slopes = generator.integers(0, 200 << 8, (*shape, 3))
    return weights, means, slopes, sigmoid, count, bits


@quick
@given(
    shape=SHAPES,
    count=st.integers(1, 300),
    bits=st.integers(9, 24),
    seed=st.integers(0, 2**32),
)
def test_logistic_mixture(shape: Any, count: int, bits: int, seed: int) -> None:
    arguments = logistic_mixture(shape, seed, count, bits)
    codec = codecs.LogisticMixture(*arguments, fraction_bits=8)
    check_codec(shape, codec, np.random.default_rng(seed + 1).integers(0, count, shape))


def test_logistic_mixture_codes_its_own_samples_at_its_entropy() -> None:
    weights, means, slopes, sigmoid, count, bits = logistic_mixture((500,), 3, 256, 16)
    codec = codecs.LogisticMixture(weights, means, slopes, sigmoid, count, bits, fraction_bits=8)
    edges = np.arange(count + 1)[:, None, None]
    scale = 64 * 2**8 / np.maximum(slopes, 1)
    with np.errstate(over="ignore"):
        cdf = 1 / (1 + np.exp(-(edges - 0.5 - means / 2**8) / scale))
    cdf[0], cdf[-1] = 0, 1
    mixture = (np.diff(cdf, axis=0) * weights / 2**12).sum(-1)
    x = (np.random.default_rng(4).random(500) > np.cumsum(mixture, 0)).sum(0).clip(0, 255)
    ideal = -np.log2(mixture[x, np.arange(500)]).sum()
    (message,) = codec.push(rans.base_message(500), x)
    assert rans.content_bits(message) == pytest.approx(ideal, rel=0.01)


def test_cumulative_may_be_a_function() -> None:
    calls = []

    def square(edges: Any) -> Any:
        calls.append(edges)
        return edges * edges * 16  # 64 symbols, 64^2 * 16 = 2^16

    x = np.array([0, 63, 17, 40])
    check_codec(4, codecs.Cumulative(square, 64, 16), x, float((16 - np.log2(32 * x + 16)).sum()))
    assert len(calls) == 2 * (2 + 6 + 2)  # two engines: a push, six halvings, the interval


def test_composition_pops_in_order() -> None:
    pair = codecs.serial([codecs.Uniform(3), codecs.Bernoulli(3, 4)])
    check_codec(2, pair, [np.array([7, 1]), np.array([0, 1])])
    check_codec((2, 2), codecs.repeat(codecs.Uniform(9), 3), [np.full((2, 2), k) for k in range(3)])
    check_codec(2, codecs.repeat(codecs.Uniform(9), 0), [])
    with pytest.raises(CoderError, match="expected 2 symbols, found 1"):
        pair.push(rans.base_message(2), [np.array([7, 1])])


@pytest.mark.parametrize(
    ("lanes", "size"),
    [(3, 3), (slice(1, 7, 2), 3), (np.arange(8) % 3 == 0, 3), (slice(0, 0), 0)],
)
def test_substack_leaves_the_other_lanes(lanes: Any, size: int) -> None:
    codec = codecs.substack(codecs.repeat(codecs.Uniform(13), 4), lanes)
    x = [np.arange(size) * 7 + k for k in range(4)]
    check_codec(8, codec, x, 13.0 * 4 * size)
    message = rans.base_message(8)
    (message,) = codec.push(message, x)
    index = slice(lanes) if isinstance(lanes, int) else lanes
    others = np.ones(8, bool)
    others[index] = False
    assert (message.head[others] == rans.LOWER_BOUND).all()


def test_tuples_are_messages() -> None:
    head, tail = rans.base_message(2)
    (message,) = codecs.Uniform(4).push((head, tail), np.array([1, 2]))
    assert codecs.Uniform(4).pop(tuple(message))[1].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: codecs.Categorical(np.array([1, 0, 3]), 2), "at least 1"),
        (lambda: codecs.Categorical(np.array([0.5, 0.5]), 2), "must be integers, found float64"),
        (lambda: codecs.Categorical(np.array(4), 2), "axis of symbols"),
        (lambda: codecs.Categorical(np.ones(5, np.int64), 2), r"expected 1..4 symbols, found 5"),
        (lambda: codecs.Cumulative(np.array([0, 3, 3, 4]), 3, 2), "rise strictly"),
        (lambda: codecs.Cumulative(np.array([0, 4]), 3, 2), "expected 4 cumulative values"),
        (lambda: codecs.Bernoulli(4, 2), r"within \[1, 3\]"),
        (lambda: codecs.Uniform(29), "found 29"),
        (lambda: codecs.tabulate([0.5, 0.6], 8), "sum to 1"),
        (lambda: codecs.tabulate([1.5, -0.5], 8), "not negative"),
        (lambda: codecs.tabulate([np.nan, 1], 8), "finite"),
        (lambda: codecs.tabulate(np.full(5, 0.2), 2), "1 <= K <= 4"),
        (lambda: codecs.Mixture(np.array([3, 2]), lambda k: k, 4, 8, cumulative_bits=2), "power"),
        (lambda: codecs.Mixture(np.array([5, -1]), lambda k: k, 4, 8, cumulative_bits=2), "neg"),
        (lambda: codecs.Mixture(np.array([2**30]), lambda k: k, 4, 20, cumulative_bits=20), "70"),
    ],
)
def test_refuses_wrong_tables(make: Any, message: str) -> None:
    with pytest.raises(CoderError, match=message):
        make()


def halves(edges: Any) -> Any:
    return edges / 2


@pytest.mark.parametrize(
    ("codec", "x", "message"),
    [
        (codecs.Uniform(4), [3, 16], "no interval"),
        (codecs.Uniform(4), [0.5, 1], "must be integers"),
        (codecs.Bernoulli(3, 4), [0, 2], r"within \[0, 1\]"),
        (codecs.Categorical(np.array([1, 3]), 2), [0, 2], r"within \[0, 1\]"),
        (codecs.Categorical(np.array([1, 3]), 2), [0, -1], r"within \[0, 1\]"),
        (codecs.Categorical(np.array([1, 2]), 2), [0, 1], "must end at 4"),
        (codecs.Categorical(np.ones((3, 4), np.int64), 2), [0, 1], r"shape \(3,\), found \(2,\)"),
        (codecs.Cumulative(lambda k: k * 0, 4, 2), [0, 1], "no interval"),
        (codecs.Cumulative(lambda k: k + 1, 3, 2), [0, 1], "begin at 0"),
        (codecs.Cumulative(halves, 4, 2), [0, 1], "must be integers"),
        (codecs.substack(codecs.Uniform(4), 3), [0, 1, 2], "3 lanes asked for"),
    ],
)
def test_refuses_wrong_symbols(codec: codecs.Codec, x: Any, message: str) -> None:
    stack = rans.base_message(2)
    try:
        with pytest.raises(CoderError, match=message):
            codec.push(stack, np.array(x))
    finally:
        assert rans.is_empty(stack)


def test_refuses_codecs_that_contradict_themselves() -> None:
    shifted = codecs.Intervals(lambda x: (x, 1), lambda slots: slots ^ 1, 4)
    message = rans.push_intervals(rans.base_message(2), np.array([3, 4]), 1, 4)
    with pytest.raises(CoderError, match="does not hold the slot"):
        shifted.pop(message)
    with pytest.raises(CoderError, match="exhausted"):
        codecs.Uniform(16).pop(rans.base_message(2))
