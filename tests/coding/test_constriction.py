"""An independent coder: constriction's ANS needs as many bits for the same symbols."""

from __future__ import annotations

import numpy as np
import pytest

from osoa_pl.coding import codecs, rans

constriction = pytest.importorskip("constriction")


def test_categorical_lengths_agree() -> None:
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.full(50, 0.3))
    x = generator.choice(50, 5_000, p=p)
    freq = codecs.tabulate(p, 24)
    coder = constriction.stream.stack.AnsCoder()
    model = constriction.stream.model.Categorical(freq / 2**24, perfect=True)
    coder.encode_reverse(x.astype(np.int32), model)
    theirs = 32 * len(coder.get_compressed())
    np.testing.assert_array_equal(coder.decode(model, len(x)), x)

    codec = codecs.repeat(codecs.Categorical(freq, 24), len(x))
    (message,) = codec.push(rans.base_message(1), x[:, None])
    words = rans.flatten(message)
    ideal = float((24 - np.log2(freq[x])).sum())
    assert abs(32 * len(words) - ideal) <= 0.001 * ideal + 64
    assert abs(32 * len(words) - theirs) <= 0.001 * ideal + 64
    _, symbols = codec.pop(rans.unflatten(words, 1))
    np.testing.assert_array_equal(np.ravel(symbols), x)


def test_quantised_laplace_lengths_agree() -> None:
    """One model a symbol: ours as lanes, theirs in sequence."""
    generator = np.random.default_rng(1)
    means, scales = generator.uniform(0, 256, 3000), generator.uniform(1, 30, 3000)
    x = np.clip(np.rint(generator.laplace(means, scales)), 0, 255).astype(np.int64)
    coder = constriction.stream.stack.AnsCoder()
    model = constriction.stream.model.QuantizedLaplace(0, 255)
    coder.encode_reverse(x.astype(np.int32), model, means, scales)
    theirs = 32 * len(coder.get_compressed())
    edges = np.arange(257)[:, None] - 0.5
    z = (edges - means) / scales
    cdf = np.where(z < 0, 0.5 * np.exp(-abs(z)), 1 - 0.5 * np.exp(-abs(z)))
    cdf[0], cdf[-1] = 0, 1
    freq = codecs.tabulate(np.diff(cdf, axis=0).T, 24)
    (message,) = codecs.Categorical(freq, 24).push(rans.base_message(3000), x)
    assert rans.content_bits(message) == pytest.approx(theirs, rel=0.001, abs=64)
