"""What the verbs of `rans` accept: chosen lanes, integers, precisions and intervals.

Everything that is refused is refused here, before a message changes.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from osoa_pl.coding.stack import WordStack
from osoa_pl.errors import CoderError

UInt64Array = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]
IntegerLike = npt.NDArray[np.integer[Any]] | int
Lanes = int | npt.NDArray[np.bool_] | None

MAX_PRECISION = 28


def select(head: UInt64Array, lanes: Lanes) -> UInt64Array:
    """The chosen states in one contiguous dimension; a view of the head where that is possible."""
    if lanes is None:
        return head.reshape(-1)
    if isinstance(lanes, np.ndarray):
        if lanes.dtype != np.bool_ or lanes.shape != head.shape:
            raise CoderError(
                f"lane mask must be bool {head.shape}, found {lanes.dtype} {lanes.shape}"
            )
        return head[lanes]
    if not 0 <= lanes <= head.size:
        raise CoderError(f"{lanes} lanes asked for, the message has {head.size}")
    return head.reshape(-1)[:lanes]


def store(head: UInt64Array, lanes: Lanes, state: UInt64Array) -> None:
    """Put changed states, chosen by `select`, back where they are no view of the head."""
    if isinstance(lanes, np.ndarray):
        head[lanes] = state
    elif not head.flags.c_contiguous:
        head.flat[: state.size] = state


def integers(name: str, values: object, shape: tuple[int, ...]) -> UInt64Array:
    """Integers of `shape` as uint64 in one dimension, or a scalar; negative ones become huge."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or (array.ndim and array.shape != shape):
        raise CoderError(f"{name} must be integers of shape {shape}, found {describe(array)}")
    if array.dtype.kind == "i":
        array = array.astype(np.int64, copy=False).view(np.uint64)
    return array.astype(np.uint64, copy=False).reshape(-1 if array.ndim else ())


def precisions(precision: IntegerLike, shape: tuple[int, ...]) -> int | UInt64Array:
    """One precision as an int, or one a lane in one dimension; each is 0..28."""
    if isinstance(precision, np.ndarray) and precision.ndim:
        bits = integers("precision", precision, shape)
        if (bits > MAX_PRECISION).any():
            raise CoderError(f"precision must be 0..{MAX_PRECISION} bits in every lane")
        return bits
    return check_precision(cast(int, precision))


def check_precision(precision: int) -> int:
    """`precision` as a Python integer; raises CoderError unless it is one of 0..28."""
    try:
        number = operator.index(precision)
    except TypeError:
        raise CoderError(f"precision must be an integer, found {precision!r}") from None
    if not 0 <= number <= MAX_PRECISION:
        raise CoderError(f"precision must be 0..{MAX_PRECISION} bits, found {number}")
    return number


def check_intervals(start: UInt64Array, freq: UInt64Array, bits: int | UInt64Array) -> None:
    """Refuse what is no interval of [0, 2^bits): the invariant that keeps states in range."""
    total = power(bits)
    with np.errstate(over="ignore"):  # scalars warn where arrays wrap
        wrong = ~((freq - np.uint64(1) < total) & (start <= total - freq))
    if wrong.any():
        lane = int(np.argmax(wrong))
        first_start, first_freq, first_total = (
            int(np.broadcast_to(part, wrong.shape).reshape(-1)[lane].astype(np.int64))
            for part in (start, freq, total)
        )
        raise CoderError(
            f"lane {lane}: start {first_start}, freq {first_freq} is no interval of "
            f"[0, {first_total}) with freq >= 1"
        )


def check_advance(held: bool, needed: int, tail: WordStack) -> None:
    """Refuse intervals that do not hold their slots, and more words than the stack has."""
    if not held:
        raise CoderError("interval does not hold the slot of its lane")
    if needed > tail.size:
        raise CoderError(f"message exhausted: {needed} words needed, {tail.size} left on the stack")


def describe(values: object) -> str:
    """dtype and shape, for messages."""
    array = np.asarray(values)
    return f"{array.dtype} of shape {array.shape}"


def power(bits: int | UInt64Array) -> UInt64Array:
    """2^bits as uint64, elementwise."""
    return cast(UInt64Array, np.uint64(1) << np.asarray(bits, np.uint64))
