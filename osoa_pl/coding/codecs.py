"""Codecs: pairs of `push` and `pop` over a message, and how they compose.

`push(message, x) -> (message,)` (a composed codec may append context), `pop(message) ->
(message, x)`; pop undoes push. Messages are consumed (see `rans`). `x` has the head's shape unless
a codec says otherwise; integer symbols come back as int64. Only integers decide an interval:
probabilities become frequencies once, by `tabulate`, wherever the caller can repeat it.

>>> import numpy as np
>>> from osoa_pl.coding.rans import base_message
>>> dice = Categorical(tabulate(np.full(6, 1 / 6), precision=12), precision=12)
>>> push, pop = repeat(dice, 2)
>>> message, = push(base_message(3), np.array([[0, 5, 2], [1, 1, 4]]))
>>> pop(message)[1]
[array([0, 5, 2]), array([1, 1, 4])]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from osoa_pl.coding.intervals import Int64Array, check_precision, describe
from osoa_pl.coding.rans import Message, advance, pop_slots, push_intervals
from osoa_pl.errors import CoderError

Integers = npt.NDArray[np.integer[Any]]
CumulativeLike = Integers | Callable[[Int64Array], Integers]


class Codec(NamedTuple):
    """What can be pushed on a message and popped off it again."""

    push: Callable[..., tuple[Any, ...]]
    pop: Callable[..., tuple[Any, ...]]


def Intervals(
    interval: Callable[[Any], tuple[Any, Any]],
    symbol: Callable[[Int64Array], Any],
    precision: int,
) -> Codec:
    """Any distribution given as integer intervals of [0, 2^precision).

    `interval(x) -> (start, freq)`, freq >= 1; `symbol(slots) -> x`, its inverse: the x whose
    interval holds the slot. Raises CoderError where they contradict each other.
    """
    bits = check_precision(precision)

    def push(message: Message, x: Any) -> tuple[Message]:
        start, freq = interval(x)
        return (push_intervals(Message(*message), start, freq, bits),)

    def pop(message: Message) -> tuple[Message, Any]:
        x = symbol(pop_slots(Message(*message), bits))
        start, freq = interval(x)
        return advance(Message(*message), start, freq, bits), x

    return Codec(push, pop)


def Uniform(precision: int) -> Codec:
    """Symbols 0 .. 2^precision - 1, `precision` bits each (0..28)."""
    return Intervals(lambda x: (_integers("symbols", x), 1), lambda slots: slots, precision)


def Bernoulli(ones: Integers | int, precision: int) -> Codec:
    """Symbols 0 and 1; `ones` in [1, 2^precision - 1], scalar or one a lane, is the freq of 1.

    The 0 has the lower interval.
    """
    freq = _integers("ones", ones)
    total = 1 << check_precision(precision)
    _require((freq > 0) & (freq < total), f"ones must be within [1, {total - 1}]")

    def interval(x: Integers) -> tuple[Int64Array, Int64Array]:
        bit = _symbols(x, 2)
        return bit * (total - freq), np.where(bit == 1, freq, total - freq)

    return Intervals(interval, lambda slots: (slots >= total - freq).astype(np.int64), precision)


def Categorical(frequencies: Integers, precision: int) -> Codec:
    """Symbols 0 .. K-1 with integer frequencies, each >= 1, whose sum is 2^precision.

    `frequencies`: shape (K,) for all lanes, or (*lanes, K). See `tabulate` for probabilities.
    """
    freq = _integers("frequencies", frequencies)
    if not freq.ndim or not freq.shape[-1]:
        raise CoderError(f"frequencies need an axis of symbols, found {describe(freq)}")
    _require(freq > 0, "frequencies must be at least 1")
    return Cumulative(_running_total(freq), freq.shape[-1], precision)


def tabulate(probabilities: npt.ArrayLike, precision: int) -> Int64Array:
    """Integer frequencies for probabilities: shape (..., K) of floats, sum 2^precision, each >= 1.

    rint(p * (2^precision - K)) + 1, and what is then missing or too much goes to the (first)
    largest. The probabilities must sum to 1 within rounding, and decide bits: both sides need the
    same ones. Raises CoderError for negative or non-finite ones, or more symbols than slots.
    """
    p = np.asarray(probabilities, np.float64)
    total = 1 << check_precision(precision)
    if not p.ndim or not 1 <= p.shape[-1] <= total:
        raise CoderError(f"expected (..., K) probabilities, 1 <= K <= {total}, found {p.shape}")
    _require(np.isfinite(p) & (p >= 0), "probabilities must be finite and not negative")
    _require(abs(p.sum(-1) - 1) < 1e-3, "probabilities must sum to 1")
    freq: Int64Array = np.rint(p * (total - p.shape[-1])).astype(np.int64) + 1
    largest = freq.argmax(-1)[..., None]
    rest = total - freq.sum(-1, keepdims=True)
    repaired = np.take_along_axis(freq, largest, -1) + rest
    _require(repaired > 0, "probabilities do not sum to 1 closely enough for this precision")
    np.put_along_axis(freq, largest, repaired, -1)
    return freq


def Cumulative(cumulative: CumulativeLike, count: int, precision: int) -> Codec:
    """Symbols 0 .. count-1 by integer cumulative values: x has [c(x), c(x+1)).

    `cumulative`: an array of shape (count+1,) or (*lanes, count+1), or a function of int64 edges
    0..count in the head's shape that returns integers of this shape. It must rise strictly from 0
    to 2^precision. Popping bisects: ceil(log2 count) evaluations, no table of all symbols.
    """
    total = 1 << check_precision(precision)
    if not 1 <= count <= total:
        raise CoderError(f"expected 1..{total} symbols, found {count}")
    at = _edges(cumulative, count)

    def interval(x: Integers) -> tuple[Int64Array, Int64Array]:
        symbols = _symbols(x, count)
        start = at(symbols)
        end = at(symbols + 1)
        _require((symbols > 0) | (start == 0), "cumulative values must begin at 0")
        _require((symbols < count - 1) | (end == total), f"cumulative values must end at {total}")
        return start, end - start

    def symbol(slots: Int64Array) -> Int64Array:
        low, high = np.zeros_like(slots), np.full_like(slots, count)
        for _ in range((count - 1).bit_length()):  # c(low) <= slot < c(high) holds throughout
            middle = (low + high) >> 1
            above = at(middle) > slots
            high = np.where(above, middle, high)
            low = np.where(above, low, middle)
        return low

    return Intervals(interval, symbol, precision)


def Mixture(
    weights: Integers,
    cumulative: Callable[[Int64Array], Integers],
    count: int,
    precision: int,
    *,
    cumulative_bits: int,
) -> Codec:
    """Symbols 0 .. count-1 from a mixture of M integer distributions; no frequency can be zero.

    c(k) = floor(sum_m w_m C_m(k) (2^precision - count) / (W 2^cumulative_bits)) + k, where W is
    the sum of the weights. `weights`: integers >= 0, shape (M,) or (*lanes, M), W a power of two
    and the same in all lanes; `cumulative(k) -> (*lanes, M)`: integers that do not fall as k rises
    from 0 to count, C_m(0) = 0, C_m(count) = 2^cumulative_bits. All products stay below 2^62.
    """
    weight = _integers("weights", weights)
    totals = np.unique(weight.sum(-1))
    if len(totals) != 1 or totals[0] < 1 or int(totals[0]).bit_count() != 1:
        raise CoderError(f"weights must sum to one power of two, found sums {totals[:4]}")
    _require(weight >= 0, "weights must not be negative")
    free = (1 << check_precision(precision)) - count
    shift = int(totals[0]).bit_length() - 1 + cumulative_bits
    if shift + precision > 62:
        raise CoderError(f"weights, cumulative and precision take {shift + precision} bits of 62")

    def mixed(edges: Int64Array) -> Int64Array:
        sums = (weight * _integers("cumulative values", cumulative(edges))).sum(-1)
        mixture: Int64Array = (sums * free >> shift) + edges
        return mixture

    return Cumulative(mixed, count, precision)


def LogisticMixture(
    weights: Integers,
    means: Integers,
    slopes: Integers,
    sigmoid: Integers,
    count: int,
    precision: int,
    *,
    fraction_bits: int,
) -> Codec:
    """Symbols 0 .. count-1 from a mixture of logistics in fixed point; see `Mixture`.

    `means`: in symbols times 2^fraction_bits; `slopes`: >= 0, steps of the table per symbol (that
    is, steps per unit of the logistic's argument / scale) times 2^fraction_bits; both (M,) or
    (*lanes, M). `sigmoid`: an odd-length table that does not fall, whose middle entry belongs to
    argument 0 and whose last entry is 2^b (b then is the cumulative's bits). The edge below symbol
    k lies at k - 1/2; the lowest and the highest symbol take the tails.
    """
    mean, slope, table = (
        _integers(name, values)
        for name, values in (("means", means), ("slopes", slopes), ("sigmoid", sigmoid))
    )
    top = int(table[-1]) if table.ndim == 1 and table.size % 2 else 0
    if top.bit_count() != 1 or (np.diff(table) < 0).any() or table[0] < 0:
        raise CoderError("sigmoid must be a rising table of odd length that ends in a power of two")
    reach = (count << fraction_bits) + int(abs(mean).max(initial=0))
    _require(slope >= 0, "slopes must not be negative")
    if reach * int(slope.max(initial=0)) >= 1 << 62:
        raise CoderError("means and slopes are too large for 62 bits")
    half = (1 << fraction_bits) >> 1

    def cumulative(edges: Int64Array) -> Int64Array:
        edge = edges[..., None]
        steps = ((edge << fraction_bits) - half - mean) * slope >> 2 * fraction_bits
        values = table[np.clip(steps + table.size // 2, 0, table.size - 1)]
        return np.where(edge <= 0, 0, np.where(edge >= count, top, values))

    return Mixture(weights, cumulative, count, precision, cumulative_bits=top.bit_length() - 1)


def serial(codecs: Iterable[Codec]) -> Codec:
    """One codec after the other; `x` is a sequence with a symbol for each, popped in this order."""
    parts = tuple(codecs)

    def push(message: Message, x: Sequence[Any]) -> tuple[Message]:
        if len(x) != len(parts):
            raise CoderError(f"expected {len(parts)} symbols, found {len(x)}")
        for codec, symbol in zip(reversed(parts), reversed(x), strict=True):
            (message,) = codec.push(message, symbol)
        return (message,)

    def pop(message: Message) -> tuple[Message, list[Any]]:
        symbols = []
        for codec in parts:
            message, symbol = codec.pop(message)
            symbols.append(symbol)
        return message, symbols

    return Codec(push, pop)


def repeat(codec: Codec, n: int) -> Codec:
    """The same codec n times; `x` is a sequence of n, popped as a list, first to last."""
    return serial([codec] * n)


def substack(codec: Codec, lanes: int | slice | npt.NDArray[np.bool_]) -> Codec:
    """A codec that sees only some lanes: the leading n, a slice, or a mask of the head's shape.

    `n` and the slice count along the head's first axis. Other lanes keep their states; the words
    of all share one tail.
    """
    index = slice(lanes) if isinstance(lanes, int) else lanes

    def narrow(message: Message) -> Message:
        head, tail = message
        if isinstance(lanes, int) and not 1 <= lanes <= len(head):
            raise CoderError(f"{lanes} lanes asked for, the message has {len(head)}")
        if isinstance(index, np.ndarray) and (index.dtype != np.bool_ or index.shape != head.shape):
            raise CoderError(f"lane mask must be bool {head.shape}, found {describe(index)}")
        return Message(head[index], tail)

    def widen(message: Message, part: Message) -> Message:
        message.head[index] = part.head
        return Message(message.head, part.tail)

    def push(message: Message, x: Any, *context: Any) -> tuple[Any, ...]:
        part, *rest = codec.push(narrow(message), x, *context)
        return (widen(message, part), *rest)

    def pop(message: Message, *context: Any) -> tuple[Any, ...]:
        part, x, *rest = codec.pop(narrow(message), *context)
        return (widen(message, part), x, *rest)

    return Codec(push, pop)


def _edges(cumulative: CumulativeLike, count: int) -> Callable[[Int64Array], Int64Array]:
    """The cumulative values at int64 edges, from a function, a shared row or a row a lane."""
    if callable(cumulative):
        return lambda edges: _integers("cumulative values", cumulative(edges))
    table = _integers("cumulative values", cumulative)
    if not table.ndim or table.shape[-1] != count + 1:
        raise CoderError(f"expected {count + 1} cumulative values, found {describe(table)}")
    _require(np.diff(table, axis=-1) > 0, "cumulative values must rise strictly")
    if table.ndim == 1:
        return lambda edges: table[edges]

    def at(edges: Int64Array) -> Int64Array:
        if edges.shape != table.shape[:-1]:
            raise CoderError(f"symbols must have shape {table.shape[:-1]}, found {edges.shape}")
        return np.take_along_axis(table, edges[..., None], -1)[..., 0]

    return at


def _running_total(freq: Int64Array) -> Int64Array:
    total = np.zeros((*freq.shape[:-1], freq.shape[-1] + 1), np.int64)
    np.cumsum(freq, -1, out=total[..., 1:])
    return total


def _integers(name: str, values: object) -> Int64Array:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise CoderError(f"{name} must be integers, found {describe(array)}")
    return array.astype(np.int64, copy=False)


def _symbols(x: object, count: int) -> Int64Array:
    symbols = _integers("symbols", x)
    _require((symbols >= 0) & (symbols < count), f"symbols must be within [0, {count - 1}]")
    return symbols


def _require(condition: npt.NDArray[np.bool_], message: str) -> None:
    if not condition.all():
        raise CoderError(message)
