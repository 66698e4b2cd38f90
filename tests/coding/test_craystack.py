"""craystack's codecs on our messages, ours on craystack's, and the same words from both."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from osoa_pl.coding import codecs, rans
from osoa_pl.coding import craystack as adapters
from osoa_pl.errors import CoderError, UsageError


@pytest.fixture
def foreign() -> Any:
    return pytest.importorskip("craystack")


def test_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "craystack", None)
    with pytest.raises(UsageError) as caught:
        adapters.export_codec(codecs.Uniform(4))
    assert "pip install -e" in str(caught.value.hint)


def test_messages_convert_both_ways() -> None:
    message = rans.base_message((3, 2))
    for step in range(9):
        message = rans.push_intervals(message, step, 1, 16)
    exported = adapters.export_message(message)
    assert rans.message_equal(adapters.import_message(exported), message)
    assert adapters.export_message(rans.base_message(2))[1] == ()


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_their_codecs_on_our_messages(foreign: Any, engine: Any) -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 2, (40, 25))
    theirs = foreign.repeat(foreign.Bernoulli(generator.random(25) * 0.98 + 0.01, 14), 40)
    below = rans.push_intervals(rans.base_message(25, engine), 77, 1, 28)
    push, pop = adapters.import_codec(theirs)
    message = rans.push_intervals(rans.copy_message(below), 99, 1, 28)
    expected = theirs.push(adapters.export_message(message), x)[0]
    (message,) = push(message, x)
    assert rans.message_equal(message, adapters.import_message(expected))
    message, symbols = pop(
        rans.push_intervals(
            rans.advance(rans.push_intervals(message, 5, 1, 20), 5, 1, 20), 0, 1 << 9, 9
        )
    )
    np.testing.assert_array_equal(symbols, x)
    assert rans.message_equal(rans.advance(message, 99, 1, 28), below)


def test_our_codecs_on_their_messages(foreign: Any) -> None:
    generator = np.random.default_rng(1)
    freq = codecs.tabulate(generator.dirichlet(np.ones(7), 30), 12)
    ours = adapters.export_codec(codecs.repeat(codecs.Categorical(freq, 12), 20))
    x = generator.integers(0, 7, (20, 30))
    base = foreign.base_message(30)
    both = foreign.serial if hasattr(foreign, "serial") else foreign.from_iterable
    codec = both([ours, foreign.Uniform(8)])
    (message,) = codec.push(base, [x, np.full(30, 9)])
    message, (symbols, nines) = codec.pop(message)
    np.testing.assert_array_equal(symbols, x)
    assert (nines == 9).all()
    assert (message[0] == base[0]).all() and not message[1]


def test_same_words_from_both(foreign: Any) -> None:
    generator = np.random.default_rng(2)
    their_message, our_message = foreign.base_message(17), rans.base_message(17)
    for _ in range(50):
        x = generator.integers(0, 1 << 11, 17)
        (their_message,) = foreign.Uniform(11).push(their_message, x.astype(np.uint64))
        (our_message,) = codecs.Uniform(11).push(our_message, x)
    assert rans.message_equal(our_message, adapters.import_message(their_message))


def test_their_codecs_invent_nothing_here(foreign: Any) -> None:
    message = rans.push_intervals(rans.base_message(4), 3, 1, 28)
    before = rans.copy_message(message)
    with pytest.raises(CoderError, match="exhausted"):
        adapters.import_codec(foreign.repeat(foreign.Uniform(16), 9)).pop(message)
    assert rans.message_equal(message, before)
