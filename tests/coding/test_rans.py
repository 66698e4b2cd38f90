"""The stack: round trips, lengths, the definition against big integers, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osoa_pl.coding import rans
from osoa_pl.coding.intervals import MAX_PRECISION
from osoa_pl.coding.stack import WordStack
from osoa_pl.errors import CoderError

ENGINES = ("numpy", "numba")
quick = settings(derandomize=True, deadline=None, max_examples=40)


class Reference:
    """The definition in Python integers: lists of states and words."""

    def __init__(self, lanes: int) -> None:
        self.head: list[int] = [1 << 31] * lanes
        self.tail: list[int] = []

    def push(self, lane: int, start: int, freq: int, bits: int) -> None:
        state = self.head[lane]
        if state >= freq << 63 - bits:
            self.tail.append(state & 0xFFFFFFFF)
            state >>= 32
        self.head[lane] = (state // freq << bits) + state % freq + start

    def advance(self, lane: int, start: int, freq: int, bits: int) -> None:
        state = self.head[lane]
        state = freq * (state >> bits) + state % (1 << bits) - start
        self.head[lane] = state if state >= 1 << 31 else state << 32 | self.tail.pop()

    def flatten(self) -> list[int]:
        if not self.tail and set(self.head) == {1 << 31}:
            return []
        while len(self.head) > 1:
            kept = (len(self.head) + 1) // 2
            upper, self.head = self.head[kept:], self.head[:kept]
            for low in (0, 16, 32, 48):
                for lane in reversed(range(len(upper))):
                    bits = max(0, min(16, upper[lane].bit_length() - 1 - low))
                    self.push(lane, upper[lane] >> low & (1 << bits) - 1, 1, bits)
            for lane in reversed(range(len(upper))):
                self.push(lane, upper[lane].bit_length() - 32, 1, 5)
        return [*self.tail, self.head[0] & 0xFFFFFFFF, self.head[0] >> 32]


def random_intervals(
    generator: np.random.Generator, shape: Any, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals with widths from 1 to all of [0, 2^bits), narrow ones as often as wide ones."""
    total = 1 << bits
    freq = np.minimum((total ** generator.random(shape) * 1.5).astype(np.int64), total)
    freq = np.maximum(freq, 1)
    return generator.integers(0, total - freq + 1), freq


@pytest.mark.parametrize("engine", ENGINES)
@quick
@given(
    shape=st.one_of(st.integers(1, 70), st.tuples(st.integers(1, 5), st.integers(1, 6))),
    bits=st.integers(0, MAX_PRECISION),
    steps=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_round_trip(engine: Any, shape: Any, bits: int, steps: int, seed: int) -> None:
    message = rans.base_message(shape, engine)
    start, freq = random_intervals(np.random.default_rng(seed), (steps, *message.head.shape), bits)
    for step in range(steps):
        message = rans.push_intervals(message, start[step], freq[step], bits)
    words = rans.flatten(message)
    again = rans.unflatten(words, shape, engine)
    assert again.head.shape == message.head.shape and words.dtype == np.uint32
    assert rans.message_equal(message, again)
    for step in reversed(range(steps)):
        slots = rans.pop_slots(again, bits)
        assert ((start[step] <= slots) & (slots < start[step] + freq[step])).all()
        again = rans.advance(again, start[step], freq[step], bits)
    assert rans.is_empty(again)


@pytest.mark.parametrize("engine", ENGINES)
@quick
@given(
    lanes=st.integers(1, 9),
    pushes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 28)), max_size=40),
    mask=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_equals_the_definition_with_ragged_lanes(
    engine: Any, lanes: int, pushes: list[tuple[int, int]], mask: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    message, reference, done = rans.base_message(lanes, engine), Reference(lanes), []
    for count, bits in pushes:
        chosen = np.arange(min(count, lanes))
        where: Any = len(chosen)
        if mask:
            where = generator.random(lanes) < 0.6
            chosen = np.flatnonzero(where)
        start, freq = random_intervals(generator, len(chosen), bits)
        message = rans.push_intervals(message, start, freq, bits, where)
        for lane, first, width in reversed([*zip(chosen, start, freq, strict=True)]):
            reference.push(int(lane), int(first), int(width), bits)
        done.append((start, freq, bits, where))
        assert message.head.tolist() == reference.head
        assert message.tail.content().tolist() == reference.tail
    message = rans.unflatten(rans.flatten(message), lanes, engine)
    for start, freq, bits, where in reversed(done):
        chosen = np.arange(lanes)[where if mask else slice(where)]
        message = rans.advance(message, start, freq, bits, where)
        for lane, first, width in zip(chosen, start, freq, strict=True):
            reference.advance(int(lane), int(first), int(width), bits)
        assert message.head.tolist() == reference.head
    assert rans.is_empty(message)


@quick
@given(lanes=st.integers(1, 40), steps=st.integers(0, 8), seed=st.integers(0, 2**32))
def test_flatten_equals_the_definition_and_leaves_the_message(
    lanes: int, steps: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    message, reference = rans.base_message(lanes), Reference(lanes)
    for _ in range(steps):
        start, freq = random_intervals(generator, lanes, 20)
        message = rans.push_intervals(message, start, freq, 20)
    reference.head, reference.tail = message.head.tolist(), message.tail.content().tolist()
    before = rans.copy_message(message)
    assert rans.flatten(message).tolist() == reference.flatten()
    assert rans.message_equal(message, before)


@pytest.mark.parametrize("lanes", [1, 2, 3, 64, 100, 1000])
def test_flushing_costs_at_most_36_bits_a_lane(lanes: int) -> None:
    assert len(rans.flatten(rans.base_message(lanes))) == 0
    message = rans.push_intervals(rans.base_message(lanes), 0, 1, 1, lanes=1)
    assert 32 * len(rans.flatten(message)) <= 36 * (lanes - 1) + 64 + 32
    generator = np.random.default_rng(lanes)
    for _ in range(20):
        message = rans.push_intervals(message, *random_intervals(generator, lanes, 16), 16)
        cost = 32 * len(rans.flatten(message)) - rans.content_bits(message)
        assert 0 <= cost <= 36 * lanes + 32 + 0.01 * lanes


@pytest.mark.parametrize("bits", [1, 8, 16, 24, 28])
def test_length_is_the_ideal_code_length(bits: int) -> None:
    generator = np.random.default_rng(bits)
    message, ideal = rans.base_message(16), 0.0
    for _ in range(2000):
        start, freq = random_intervals(generator, 16, bits)
        ideal += float((bits - np.log2(freq)).sum())
        message = rans.push_intervals(message, start, freq, bits)
    length = rans.content_bits(message)
    # a quotient of at least 2^(31-bits) is rounded once a symbol, up or down by less than one
    assert abs(length - ideal) <= 2000 * 16 * 2.0 ** (bits - 31) * math.log2(math.e) + 1e-6 * ideal
    assert abs(length - ideal) <= 0.002 * ideal + 1


def test_precision_may_differ_between_lanes_and_heads_may_be_views() -> None:
    bits = np.array([[0, 3, 28], [12, 1, 16]])
    start, freq = (1 << bits) - 1, np.ones_like(bits)
    for engine in ENGINES:
        message = rans.base_message((3, 2), engine)  # type: ignore[arg-type]
        turned = rans.Message(message.head.T, message.tail)
        for _ in range(5):
            turned = rans.push_intervals(turned, start, freq, bits)
            turned = rans.push_intervals(turned, np.full(4, 2), 1, 7, lanes=4)
        for _ in range(5):
            assert (rans.pop_slots(turned, 7, lanes=4) == 2).all()
            turned = rans.advance(turned, np.full(4, 2), 1, 7, lanes=4)
            np.testing.assert_array_equal(rans.pop_slots(turned, bits), start)
            turned = rans.advance(turned, start, freq, bits)
        assert rans.is_empty(message) and rans.is_empty(turned)


ones = np.ones(4, np.int64)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("verb", [rans.push_intervals, rans.advance])
@pytest.mark.parametrize(
    ("start", "freq", "bits", "lanes", "message"),
    [
        (0 * ones, np.array([1, 1, 0, 1]), 8, None, "lane 2: start 0, freq 0"),
        (0, 0, 8, None, "freq 0"),
        (0 * ones, -ones, 8, None, "freq -1"),
        (-ones, 3 * ones, 8, None, "start -1"),
        (255 * ones, 2 * ones, 8, None, r"no interval of \[0, 256\)"),
        (256 * ones, ones, 8, None, "start 256"),
        (0 * ones, 257 * ones, 8, None, "freq 257"),
        (np.full(4, 2**64 - 1, np.uint64), 2 * ones, 8, None, "no interval"),
        (0 * ones, np.ones(4), 8, None, r"freq must be integers of shape \(4,\), found float64"),
        (ones > 0, ones, 8, None, "found bool"),
        (0 * ones, np.ones(3, np.int64), 8, None, r"found int64 of shape \(3,\)"),
        (0 * ones, np.ones((4, 1), np.int64), 8, None, "shape"),
        (0 * ones, ones, 29, None, r"precision must be 0..28 bits, found 29"),
        (0 * ones, ones, -1, None, "found -1"),
        (0 * ones, ones, 8.0, None, "precision must be an integer, found 8.0"),
        (0 * ones, ones, np.array([8, 8, 8, 40]), None, "in every lane"),
        (0, 1, 8, 5, "5 lanes asked for, the message has 4"),
        (0, 1, 8, np.array([1, 0, 0, 1]), "lane mask must be bool"),
    ],
)
def test_refuses_and_changes_nothing(
    engine: Any, verb: Any, start: Any, freq: Any, bits: Any, lanes: Any, message: str
) -> None:
    stack = rans.push_intervals(rans.base_message(4, engine), 0 * ones, ones, 20)
    stack = rans.push_intervals(stack, 0 * ones, ones, 20)
    before = rans.copy_message(stack)
    with pytest.raises(CoderError, match=message):
        verb(stack, start, freq, bits, lanes)
    assert rans.message_equal(stack, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_never_invents_bits(engine: Any) -> None:
    message = rans.base_message(3, engine)
    with pytest.raises(CoderError, match="exhausted: 3 words needed, 0 left"):
        rans.advance(message, 0, 1, 8)
    assert rans.is_empty(message)
    message = rans.push_intervals(message, 7, 1, 8)
    with pytest.raises(CoderError, match="does not hold the slot"):
        rans.advance(message, 8, 1, 8)
    with pytest.raises(CoderError, match="does not hold the slot"):
        rans.advance(message, 0, 7, 8)
    assert rans.is_empty(rans.advance(message, 7, 1, 8))


@pytest.mark.parametrize(
    "words",
    [
        [1, 2],
        np.zeros(2, np.int64),
        np.zeros((2, 2), np.uint32),
        np.zeros(1, np.uint32),
        np.zeros(2, np.uint32),
        np.full(9, 2**32 - 1, np.uint32),
        np.array([0, 1], np.uint32),
        np.array([5, 0, 0x7FFFFFFF], np.uint32),  # too short for 40 lanes
    ],
)
def test_refuses_words_that_are_no_message(words: Any) -> None:
    with pytest.raises(CoderError):
        rans.unflatten(words, 40)


@pytest.mark.parametrize("lanes", [0, (), (3, 0), -1, 2.5, "x"])
def test_refuses_a_message_without_lanes(lanes: Any) -> None:
    with pytest.raises(CoderError):
        rans.base_message(lanes)


def test_refuses_an_unknown_engine_and_an_empty_stack() -> None:
    with pytest.raises(CoderError, match="known: 'numpy', 'numba'"):
        rans.base_message(1, "fortran")  # type: ignore[arg-type]
    with pytest.raises(CoderError, match="exhausted"):
        WordStack().pop(1)


def test_importing_the_coder_loads_no_compiler_and_no_torch() -> None:
    code = (
        "import osoa_pl.coding, sys; "
        "sys.exit(sum(name in sys.modules for name in ('numba', 'torch', 'craystack')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
