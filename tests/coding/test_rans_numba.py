"""The compiled engine: the same words as numpy's, the scalar primitives, and one-lane messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osoa_pl.coding import rans
from osoa_pl.errors import CoderError, PortabilityError

numba = pytest.importorskip("numba")
rans_numba = pytest.importorskip("osoa_pl.coding.rans_numba")

quick = settings(derandomize=True, deadline=None, max_examples=40)
push_scalar, peek_scalar = rans_numba.push_scalar, rans_numba.peek_scalar
advance_scalar = rans_numba.advance_scalar


@numba.njit  # type: ignore[untyped-decorator]
def pop_all(head: Any, tail: Any, size: Any, starts: Any, freqs: Any, precision: Any) -> Any:
    """A kernel as others write it: slots of a sequence whose intervals are known."""
    slots = np.empty(starts.size, np.int64)
    for index in range(starts.size):
        slots[index] = peek_scalar(head, precision)
        head, size = advance_scalar(head, tail, size, starts[index], freqs[index], precision)
    return head, size, slots


def intervals(seed: int, shape: Any, bits: int) -> tuple[np.ndarray, np.ndarray]:
    generator, total = np.random.default_rng(seed), 1 << bits
    freq = np.clip((1.5 * total ** generator.random(shape)).astype(np.int64), 1, total)
    return generator.integers(0, total - freq + 1), freq


@quick
@given(
    lanes=st.integers(1, 50),
    bits=st.integers(0, 28),
    steps=st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_same_words_as_numpy(lanes: int, bits: int, steps: int, seed: int) -> None:
    start, freq = intervals(seed, (steps, lanes), bits)
    numpy_message, compiled = rans.base_message(lanes), rans.base_message(lanes, "numba")
    for step in range(steps):
        leading = lanes if step % 3 else 1 + lanes // 2
        for message in (numpy_message, compiled):
            rans.push_intervals(message, start[step][:leading], freq[step][:leading], bits, leading)
        assert rans.message_equal(numpy_message, compiled)
    assert rans.flatten(numpy_message).tobytes() == rans.flatten(compiled).tobytes()
    for step in reversed(range(steps)):
        leading = lanes if step % 3 else 1 + lanes // 2
        for message in (numpy_message, compiled):
            rans.advance(message, start[step][:leading], freq[step][:leading], bits, leading)
        assert rans.message_equal(numpy_message, compiled)
    assert rans.is_empty(compiled)


@quick
@given(bits=st.integers(0, 28), freq=st.integers(1, 1 << 28), seed=st.integers(0, 2**32))
def test_division_is_exact_on_extreme_states(bits: int, freq: int, seed: int) -> None:
    freq = min(freq, 1 << bits)
    limit = freq << 63 - bits  # states below it are not shifted: the largest quotients
    multiples = np.random.default_rng(seed).integers(1, min(limit // freq, 2**62 // freq), 50)
    multiples *= freq
    ends = np.array([limit - 1, limit, limit + 1, 2**63 - 1, 2**63 - freq], np.uint64)
    states = np.concatenate([multiples - 1, multiples, multiples + 1]).astype(np.uint64)
    head = np.concatenate([states, ends])
    head = np.unique(head[(head >= 1 << 31) & (head < 1 << 63)])
    tail = np.zeros(1, np.uint32)
    for state in head:
        expected = int(state) >> 32 * (int(state) >= limit)
        expected = (expected // freq << bits) + expected % freq
        found, _ = push_scalar(state, tail, 0, 0, freq, bits)
        assert int(found) == expected


def sequence(start: Any, freq: Any, bits: int) -> rans.Message:
    """A one-lane message of a sequence."""
    message = rans.base_message(1)
    rans_numba.push_sequence(message, start, freq, bits)
    return message


@quick
@given(count=st.integers(0, 100), bits=st.integers(0, 28), seed=st.integers(0, 2**32))
def test_one_lane_sequence(count: int, bits: int, seed: int) -> None:
    start, freq = intervals(seed, count, bits)
    found = sequence(start, freq.astype(np.uint32), bits)
    message = rans.base_message(1)
    for index in reversed(range(count)):
        rans.push_intervals(message, start[index : index + 1], freq[index : index + 1], bits)
    flat = rans.flatten(found)
    assert flat.dtype == np.uint32 and flat.tolist() == rans.flatten(message).tolist()
    head, tail, size = rans_numba.unflatten_lane(flat)
    head, size, slots = pop_all(head, tail, size, start, freq, bits)
    assert ((start <= slots) & (slots < start + freq)).all()
    assert (int(head), size) == (1 << 31, 0)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.int32, np.uint64])
def test_sequence_takes_any_integers(dtype: Any) -> None:
    start, freq = np.arange(50).astype(dtype), np.full(50, 3).astype(dtype)
    found = sequence(start, freq, 6)
    assert rans.message_equal(found, sequence(np.arange(50), np.full(50, 3), 6))


def test_sequences_add_up() -> None:
    start, freq = np.arange(50), np.full(50, 3)
    message = rans.base_message(1)
    for part in (slice(30, 50), slice(0, 30)):  # what is pushed first is popped last
        rans_numba.push_sequence(message, start[part], freq[part], 6)
    assert rans.message_equal(message, sequence(start, freq, 6))


def test_no_symbols_take_no_words() -> None:
    empty = np.empty(0, np.int64)
    flat = rans.flatten(sequence(empty, empty, 16))
    assert len(flat) == 0
    assert rans_numba.unflatten_lane(flat)[0] == 1 << 31


@pytest.mark.parametrize(
    ("start", "freq", "bits", "message"),
    [
        ([0, 0], [1, 0], 8, "symbol 1: start 0, freq 0"),
        ([0, 250], [1, 7], 8, "symbol 1: start 250, freq 7"),
        ([0, -1], [1, 7], 8, "start -1"),
        ([0, 2**62], [1, 2**62], 8, "symbol 1"),
        ([0.0, 1.0], [1, 7], 8, "start must be integers"),
        ([0, 1], [1], 8, r"freq must be integers of shape \(n,\)"),
        ([0, 1], [1, 1], 29, "found 29"),
    ],
)
def test_sequence_refuses(start: Any, freq: Any, bits: int, message: str) -> None:
    with pytest.raises(CoderError, match=message):
        sequence(np.array(start), np.array(freq), bits)


def test_underflow_is_sticky() -> None:
    head, tail, size = np.uint64(1 << 31), np.array([7], np.uint32), 1
    zero, one = np.zeros(9, np.int64), np.ones(9, np.int64)
    _, size, slots = pop_all(head, tail, size, zero, one, 16)
    assert size == -1 and ((slots >= 0) & (slots < 1 << 16)).all()
    head, size = push_scalar(np.uint64(1 << 40), tail, 0, 0, 5, 8)
    assert advance_scalar(head, tail, -1, 0, 5, 8)[1] == -1


def test_known_answers_refuse_a_wrong_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    rans_numba.check_engine()
    right = rans_numba.push_lanes

    def wrong(state: Any, *arguments: Any) -> None:
        right(state, *arguments)
        state[5] += np.uint64(1)

    monkeypatch.setattr(rans_numba, "push_lanes", wrong)
    with pytest.raises(PortabilityError, match="precision 4"):
        rans_numba.check_engine()
