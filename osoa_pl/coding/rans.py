"""Lane-parallel rANS (range asymmetric numeral systems): a stack of symbols in whole words.

A message is `(head, tail)`: one uint64 state per lane and a stack of uint32 words shared by all
lanes. Last in, first out: what was pushed last is popped first.

The definition, for one lane with state s in [2^31, 2^63) and an interval [start, start + freq) of
[0, 2^r), 1 <= freq:

    push     if s >= freq * 2^(63-r): put the low 32 bits of s on the stack, s >>= 32
             s = (s div freq) * 2^r + (s mod freq) + start
    slot     s mod 2^r, a number in [0, 2^r); the symbol is the one whose interval holds it
    advance  s = freq * (s >> r) + slot - start
             if s < 2^31: s = s * 2^32 + the top word, taken from the stack

Order: a push on many lanes is a push on each, the last lane first; an advance is an advance of
each, the first lane first (lanes in C order of the head). So the word of the lowest lane lies on
top. All of it is exact integer arithmetic: every engine gives the same words.

A verb *consumes* the message it is given (the head is updated in place) and returns it: use only
the returned one, or `copy_message` before. A verb that raises has changed nothing.

Source: Duda, arXiv 1311.2540; Giesen, arXiv 1402.3392; word order and calling conventions agree
with craystack's, but for the empty stack, which is an error here: no bit is ever invented.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from osoa_pl.coding.intervals import (
    Int64Array,
    IntegerLike,
    Lanes,
    UInt64Array,
    check_advance,
    check_intervals,
    describe,
    integers,
    power,
    precisions,
    select,
    store,
)
from osoa_pl.coding.stack import Engine, UInt32Array, WordStack
from osoa_pl.errors import CoderError

if TYPE_CHECKING:
    from types import ModuleType

Shape = int | tuple[int, ...]

WORD_BITS = 32
LOWER_BOUND = 1 << 31  # states stay in [2^31, 2^63), so that one word always suffices

_CHUNK_BITS = 16  # the merged head is pushed in uniform chunks of at most this
_LENGTH_BITS = 5  # bit lengths 32..63 of a head


class Message(NamedTuple):
    """`head`: uint64, any shape, one state a lane; `tail`: the stack of words under it."""

    head: UInt64Array
    tail: WordStack


def base_message(lanes: Shape, engine: Engine = "numpy") -> Message:
    """An empty message of `lanes` lanes (a number or a shape): all states 2^31, no words.

    `engine`: "numpy", or "numba" for compiled code with the same result. Raises CoderError for a
    shape without lanes or an unknown engine.

    >>> import numpy as np
    >>> message = push_intervals(base_message(2), np.array([3, 0]), np.array([1, 2]), 4)
    >>> pop_slots(message, 4)
    array([3, 0])
    >>> is_empty(advance(message, np.array([3, 0]), np.array([1, 2]), 4))
    True
    """
    return Message(np.full(_lane_shape(lanes), LOWER_BOUND, np.uint64), WordStack(engine=engine))


def copy_message(message: Message) -> Message:
    """A message that later calls on the given one do not change."""
    head, tail = message
    return Message(head.copy(), WordStack(tail.content(), tail.engine))


def is_empty(message: Message) -> bool:
    """Whether the message is at its base state: everything pushed has been popped."""
    head, tail = message
    return tail.size == 0 and bool((head == LOWER_BOUND).all())


def message_equal(message: Message, other: Message) -> bool:
    """Whether both hold the same states and words; shapes of heads and engines may differ."""
    return np.array_equal(message.head.reshape(-1), other.head.reshape(-1)) and np.array_equal(
        message.tail.content(), other.tail.content()
    )


def content_bits(message: Message) -> float:
    """Information in the message, in bits: 0 for a base message, before any cost of flushing.

    A float for reports and accounts of initial bits; no bit depends on it.
    """
    head, tail = message
    return float(WORD_BITS * tail.size + (np.log2(head.astype(np.float64)) - 31).sum())


def push_intervals(
    message: Message,
    start: IntegerLike,
    freq: IntegerLike,
    precision: IntegerLike,
    lanes: Lanes = None,
) -> Message:
    """Push one symbol a lane, given as interval [start, start + freq) of [0, 2^precision).

    `start`, `freq`: integers of the head's shape (or scalars); `lanes`: None for all, n for the
    leading n lanes (then shape (n,)), or a boolean mask of the head's shape (then one dimension,
    the chosen lanes in C order). `precision`: bits, 0..28, one number or one a lane. Costs
    precision - log2(freq) bits a lane, give or take 1.45 * 2^(precision - 31).

    Raises CoderError: freq 0, an interval past 2^precision, floats, or a wrong shape.
    """
    head, tail = message
    state = select(head, lanes)
    shape = head.shape if lanes is None else state.shape
    bits = precisions(precision, shape)
    start_, freq_ = integers("start", start, shape), integers("freq", freq, shape)
    if tail.engine == "numba" and isinstance(bits, int):
        _compiled().push_lanes(state, tail, start_, freq_, bits)
    else:
        check_intervals(start_, freq_, bits)
        full = np.flatnonzero(state >= freq_ << (63 - bits))
        if full.size:
            overflowing = state[full]
            tail.push(overflowing.astype(np.uint32))
            state[full] = overflowing >> WORD_BITS
        # (s div f) 2^r + s mod f = s + (s div f) (2^r - f), with one division
        quotient = state // freq_
        quotient *= power(bits) - freq_
        quotient += start_
        state += quotient
    store(head, lanes, state)
    return message


def pop_slots(message: Message, precision: IntegerLike, lanes: Lanes = None) -> Int64Array:
    """The slot of each lane, int64 in [0, 2^precision); the message stays as it is.

    Find the symbols whose intervals hold the slots, then `advance` by these intervals. Shape: the
    head's, or one dimension for the chosen `lanes`.
    """
    head, _ = message
    state = select(head, lanes)
    bits = precisions(precision, head.shape if lanes is None else state.shape)
    slots = (state & (power(bits) - 1)).view(np.int64)
    return slots.reshape(head.shape) if lanes is None else slots


def advance(
    message: Message,
    start: IntegerLike,
    freq: IntegerLike,
    precision: IntegerLike,
    lanes: Lanes = None,
) -> Message:
    """Remove the symbols that `pop_slots` showed: undoes `push_intervals` of the same arguments.

    Raises CoderError as `push_intervals` does, and for an interval that does not hold its lane's
    slot, and when a word is needed of an empty stack.
    """
    head, tail = message
    state = select(head, lanes)
    shape = head.shape if lanes is None else state.shape
    bits = precisions(precision, shape)
    start_, freq_ = integers("start", start, shape), integers("freq", freq, shape)
    if tail.engine == "numba" and isinstance(bits, int):
        _compiled().advance_lanes(state, tail, start_, freq_, bits)
    else:
        check_intervals(start_, freq_, bits)
        offset = (state & (power(bits) - 1)) - start_
        held = bool((offset < freq_).all())  # unsigned: a slot below start is huge
        offset += freq_ * (state >> bits)
        low = np.flatnonzero(offset < LOWER_BOUND)
        check_advance(held, low.size, tail)
        if low.size:
            offset[low] = offset[low] << WORD_BITS | tail.pop(low.size)
        state[...] = offset
    store(head, lanes, state)
    return message


def flatten(message: Message) -> UInt32Array:
    """The message as words, shape (n,): the tail, bottom first, then the one remaining head.

    The lanes are merged first: of L lanes, lane ceil(L/2) + i is pushed onto lane i, until one is
    left. A state of n bits (32..63) is pushed as its n-1 low bits, low chunk first, uniform in
    chunks of 16 bits (the last one shorter), then n-32 as uniform over 32 values: at most 36 bits
    a lane. The last head is two words, low then high. A base message is 0 words. The message is
    left as it was.
    """
    if is_empty(message):  # of several lanes: merging would already cost bits
        return np.empty(0, np.uint32)
    head = message.head.reshape(-1).copy()
    merged = Message(head, WordStack(message.tail.content()))
    while len(head) > 1:
        kept = (len(head) + 1) // 2
        upper, count = head[kept:], len(head) - kept
        merged = merged._replace(head=head[:kept])
        length = _bit_length(upper)
        for chunk in range(4):
            width = np.clip(length - 1 - _CHUNK_BITS * chunk, 0, _CHUNK_BITS)
            bits = upper >> (_CHUNK_BITS * chunk) & power(width.astype(np.uint64)) - 1
            merged = push_intervals(merged, bits, 1, width, lanes=count)
        merged = push_intervals(merged, length - WORD_BITS, 1, _LENGTH_BITS, lanes=count)
        head = merged.head
    return join_words(int(head[0]), merged.tail.content())


def unflatten(words: UInt32Array, lanes: Shape, engine: Engine = "numpy") -> Message:
    """The message of which `flatten` made `words`; `lanes` and shape as they were.

    Raises CoderError when `words` is not uint32 of one dimension, or not such a message.
    """
    shape = _lane_shape(lanes)
    head, tail = split_words(words)
    if not len(words):
        return base_message(shape, engine)
    sizes = [math.prod(shape)]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    message = Message(np.array([head], np.uint64), WordStack(tail))
    for size in reversed(sizes[:-1]):
        upper = np.ones(size - len(message.head), np.uint64)
        message, length = _pop_uniform(message, _LENGTH_BITS, len(upper))
        low = np.zeros_like(upper)
        for chunk in reversed(range(4)):
            width = np.clip(length + (WORD_BITS - 1 - _CHUNK_BITS * chunk), 0, _CHUNK_BITS)
            message, bits = _pop_uniform(message, width, len(upper))
            low |= bits.view(np.uint64) << (_CHUNK_BITS * chunk)
        upper = upper << (length + WORD_BITS - 1).view(np.uint64) | low
        message = message._replace(head=np.concatenate([message.head, upper]))
    return Message(message.head.reshape(shape), WordStack(message.tail.content(), engine))


def join_words(head: int, tail: UInt32Array) -> UInt32Array:
    """The flattened message of one lane with this head and tail; undoes `split_words`."""
    if head == LOWER_BOUND and not len(tail):
        return np.empty(0, np.uint32)
    ends = np.array([head & (1 << WORD_BITS) - 1, head >> WORD_BITS], np.uint32)
    return np.concatenate([tail, ends])


def split_words(words: UInt32Array) -> tuple[int, UInt32Array]:
    """The head and the tail (a copy, bottom first) of a flattened message of one lane."""
    if not isinstance(words, np.ndarray) or words.dtype != np.uint32 or words.ndim != 1:
        raise CoderError(f"words must be uint32 in one dimension, found {describe(words)}")
    if not len(words):
        return LOWER_BOUND, words.copy()
    head = int(words[-1]) << WORD_BITS | int(words[-2]) if len(words) > 1 else 0
    if not LOWER_BOUND <= head < 1 << 63:
        raise CoderError("the words do not end in the head of a message")
    return head, words[:-2].copy()


def _pop_uniform(message: Message, width: IntegerLike, lanes: int) -> tuple[Message, Int64Array]:
    slots = pop_slots(message, width, lanes)
    return advance(message, slots, 1, width, lanes), slots


def _bit_length(state: UInt64Array) -> Int64Array:
    # the high half is below 2^31: exact as a float64, whose exponent is then its bit length
    exponent = np.frexp((state >> WORD_BITS).astype(np.float64))[1]
    return exponent.astype(np.int64) + WORD_BITS


def _lane_shape(lanes: Shape) -> tuple[int, ...]:
    try:
        shape = tuple(lanes) if isinstance(lanes, tuple) else (operator.index(lanes),)
    except TypeError:
        raise CoderError(f"lanes must be a number or a shape, found {lanes!r}") from None
    if not shape or min(shape) < 1:
        raise CoderError(f"a message needs at least one lane, found shape {shape}")
    return shape


@functools.cache
def _compiled() -> ModuleType:
    from osoa_pl.coding import rans_numba

    rans_numba.check_engine()
    return rans_numba
