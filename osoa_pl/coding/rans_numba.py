"""The compiled engine of `rans`, and scalar primitives for other compiled kernels.

Same words as `rans`, by its definition; nothing here is a float sum. `push_scalar`, `peek_scalar`
and `advance_scalar` are one lane's verbs; call them inside an njit kernel, where they are inlined.
They check nothing but the end of the stack: the caller's intervals must be valid.

    head, size = push_scalar(head, tail, size, start, freq, precision)     # room for 1 word
    slot = peek_scalar(head, precision)                                    # message unchanged
    head, size = advance_scalar(head, tail, size, start, freq, precision)  # size -1: exhausted

with head uint64, tail uint32[:] whose tail[:size] is the stack (bottom first), all else int64.

Division: below 2^(63-precision) a quotient's float64 estimate is off by less than one from
precision 12 on, also by a rounded reciprocal (3 roundings: 3 * 2^(10-precision)); the integer
remainder then corrects it exactly. Coarser precisions divide integers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from osoa_pl.coding import rans
from osoa_pl.coding.intervals import (
    IntegerLike,
    UInt64Array,
    check_advance,
    check_intervals,
    check_precision,
)
from osoa_pl.coding.stack import UInt32Array, WordStack
from osoa_pl.errors import CoderError, PortabilityError

_LOWER = np.uint64(rans.LOWER_BOUND)
_WORD = np.uint64(rans.WORD_BITS)
_ONE = np.uint64(1)
_FLOAT_PRECISION = 12  # from here on the estimated quotient is off by at most one


@njit(cache=True, nogil=True, error_model="numpy")
def _encode(head, start, freq, precision):  # type: ignore[no-untyped-def]
    """The state after a push that needs no more room: (s div f) 2^r + s mod f + start."""
    state, width = np.int64(head), np.int64(freq)
    if precision >= _FLOAT_PRECISION:
        quotient = np.int64(np.float64(state) * (1.0 / np.float64(width)))
        rest = state - quotient * width
        quotient += np.int64(rest >= width) - np.int64(rest < 0)
    else:
        quotient = state // width
    return np.uint64(state + quotient * ((np.int64(1) << precision) - width) + np.int64(start))


@njit(cache=True, nogil=True, error_model="numpy")
def push_scalar(head, tail, size, start, freq, precision):  # type: ignore[no-untyped-def]
    """Push one interval: (head, size) after it. tail must have room for a word at `size`."""
    full = head >= np.uint64(freq) << np.uint64(63 - precision)
    tail[size] = np.uint32(head)  # without a branch: kept only if the size grows
    head = head >> (_WORD * np.uint64(full))
    return _encode(head, start, freq, precision), size + np.int64(full)


@njit(cache=True, nogil=True, error_model="numpy")
def peek_scalar(head, precision):  # type: ignore[no-untyped-def]
    """The slot on top, int64 in [0, 2^precision)."""
    return np.int64(head & ((_ONE << np.uint64(precision)) - _ONE))


@njit(cache=True, nogil=True, error_model="numpy")
def _decode(head, start, freq, precision):  # type: ignore[no-untyped-def]
    """The state without the interval that holds its slot, before a word is taken."""
    rest = np.uint64(peek_scalar(head, precision) - np.int64(start))
    return np.uint64(freq) * (head >> np.uint64(precision)) + rest


@njit(cache=True, nogil=True, error_model="numpy")
def advance_scalar(head, tail, size, start, freq, precision):  # type: ignore[no-untyped-def]
    """Remove the interval that holds the slot: (head, size); size -1, for good, on underflow."""
    head = _decode(head, start, freq, precision)
    if head < _LOWER:
        if size > 0:
            size -= 1
            head = head << _WORD | np.uint64(tail[size])
        else:
            size, head = np.int64(-1), _LOWER
    return head, size


@njit(cache=True, nogil=True, error_model="numpy")
def _intervals_hold(start, freq, precision):  # type: ignore[no-untyped-def]
    total = _ONE << np.uint64(precision)
    held = True
    for lane in range(start.size):
        held &= (freq[lane] - _ONE < total) & (start[lane] <= total - freq[lane])
    return held


@njit(cache=True, nogil=True, error_model="numpy")
def _push_lanes(state, tail, size, start, freq, precision):  # type: ignore[no-untyped-def]
    for lane in range(state.size - 1, -1, -1):
        state[lane], size = push_scalar(state[lane], tail, size, start[lane], freq[lane], precision)
    return size


@njit(cache=True, nogil=True, error_model="numpy")
def _decode_lanes(state, start, freq, precision, decoded):  # type: ignore[no-untyped-def]
    """Fill `decoded`; the number of words it needs, or -1 where an interval misses its slot."""
    needed, missed = np.int64(0), False
    for lane in range(state.size):
        slot = np.uint64(peek_scalar(state[lane], precision))
        missed |= slot - start[lane] >= freq[lane]  # unsigned: a slot below start is huge
        decoded[lane] = _decode(state[lane], start[lane], freq[lane], precision)
        needed += np.int64(decoded[lane] < _LOWER)
    return np.int64(-1) if missed else needed


@njit(cache=True, nogil=True, error_model="numpy")
def _refill_lanes(state, decoded, tail, size):  # type: ignore[no-untyped-def]
    """`advance_scalar`'s second half where enough words are known to be there: no branch."""
    for lane in range(state.size):
        low = np.uint64(decoded[lane] < _LOWER)
        size -= np.int64(low)
        state[lane] = decoded[lane] << (_WORD * low) | np.uint64(tail[size]) * low
    return size


def push_lanes(
    state: UInt64Array, tail: WordStack, start: UInt64Array, freq: UInt64Array, precision: int
) -> None:
    """`rans.push_intervals` on a contiguous row of states; same checks, same words."""
    start, freq = _rows(state, start, freq)
    if not _intervals_hold(start, freq, precision):
        check_intervals(start, freq, precision)
    words = tail.reserve(state.size + 1)  # one more: a push may write a word that it drops
    tail.size = int(_push_lanes(state, words, tail.size, start, freq, precision))


def advance_lanes(
    state: UInt64Array, tail: WordStack, start: UInt64Array, freq: UInt64Array, precision: int
) -> None:
    """`rans.advance` on a contiguous row of states; same checks, same words."""
    start, freq = _rows(state, start, freq)
    if not _intervals_hold(start, freq, precision):
        check_intervals(start, freq, precision)
    decoded = np.empty_like(state)
    needed = int(_decode_lanes(state, start, freq, precision, decoded))
    check_advance(needed >= 0, needed, tail)
    words = tail.reserve(1)  # one more: the word at `size` is read and dropped
    tail.size = int(_refill_lanes(state, decoded, words, tail.size))
    tail.lowest = min(tail.lowest, tail.size)


def _rows(
    state: UInt64Array, start: UInt64Array, freq: UInt64Array
) -> tuple[UInt64Array, UInt64Array]:
    if start.shape != state.shape:
        start = np.broadcast_to(start, state.shape)
    if freq.shape != state.shape:
        freq = np.broadcast_to(freq, state.shape)
    return np.ascontiguousarray(start), np.ascontiguousarray(freq)


@njit(cache=True, nogil=True, error_model="numpy")
def _push_sequence(head, words, size, start, freq, precision):  # type: ignore[no-untyped-def]
    total = np.int64(1) << precision
    for index in range(start.size - 1, -1, -1):
        first, width = np.int64(start[index]), np.int64(freq[index])
        if width < 1 or first < 0 or width > total - first:
            return head, size, index
        head, size = push_scalar(head, words, size, first, width, precision)
    return head, size, np.int64(-1)


def push_sequence(
    message: rans.Message, start: IntegerLike, freq: IntegerLike, precision: int
) -> None:
    """Push a sequence on the first lane of a message, in place, the last symbol first.

    So popping yields the symbols first to last. `start`, `freq`: integers, shape (n,), one
    interval of [0, 2^precision) a symbol. Raises CoderError as `rans.push_intervals` does, naming
    the symbol; the message is then spoilt.
    """
    starts, freqs = np.asarray(start), np.asarray(freq)
    for name, values in (("start", starts), ("freq", freqs)):
        if values.dtype.kind not in "iu" or values.ndim != 1 or values.shape != starts.shape:
            raise CoderError(
                f"{name} must be integers of shape (n,), the same for both, found "
                f"{values.dtype} of shape {values.shape}"
            )
    bits = check_precision(precision)
    head, tail = message
    words = tail.reserve(len(starts) + 1)  # a symbol of at most 28 bits moves at most one word
    head[0], tail.size, wrong = _push_sequence(
        head[0], words, tail.size, np.ascontiguousarray(starts), np.ascontiguousarray(freqs), bits
    )
    if wrong >= 0:
        raise CoderError(
            f"symbol {wrong}: start {starts[wrong]}, freq {freqs[wrong]} is no interval of "
            f"[0, {1 << bits}) with freq >= 1"
        )


def unflatten_lane(words: UInt32Array) -> tuple[np.uint64, UInt32Array, int]:
    """(head, tail, size) for `advance_scalar`; raises CoderError for what is no message."""
    head, tail = rans.split_words(words)
    return np.uint64(head), tail, len(tail)


def check_engine() -> None:
    """Known-answer test against the numpy engine; raises PortabilityError on a difference."""
    for precision in (4, 11, 12, 16, 28):
        total = 1 << precision
        # extreme widths and all residues of a fixed multiplicative sequence
        freq = 1 + (np.arange(1, 65, dtype=np.int64) * 2654435761 >> 7) % total
        freq[:3] = 1, total, max(total - 1, 1)
        start = total - freq
        states = [rans.LOWER_BOUND, (1 << 63) - 1, (1 << 62) + 12345, (1 << 53) + 1]
        head = np.resize(np.array(states, np.uint64), 64)
        numpy_message = rans.Message(head.copy(), WordStack())
        compiled = rans.Message(head.copy(), WordStack())
        for _ in range(4):
            rans.push_intervals(numpy_message, start, freq, precision)
            push_lanes(*compiled, start.view(np.uint64), freq.view(np.uint64), precision)
        same = rans.message_equal(numpy_message, compiled)
        for _ in range(4 * same):
            advance_lanes(*compiled, start.view(np.uint64), freq.view(np.uint64), precision)
        if not same or len(compiled.tail) or (compiled.head != head).any():
            raise PortabilityError(
                f"the compiled coder differs from the numpy one at precision {precision}",
                hint="use engine 'numpy'; the archive is the same",
            )
