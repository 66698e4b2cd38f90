"""Bits-back coding with rANS (BB-ANS): a latent-variable model as a codec, and its initial bits.

To push an image, pop its latents with the posterior, push the image given the latents, push the
latents with the prior; popping is the mirror image. The net cost of an image is its negative
evidence lower bound, but the first pops of a chain need bits that are not there yet:
the *initial bits*. They are explicit words that both sides know, they are counted, and a chain that
runs out of them is an error: no bit is ever invented. Only the first images pushed need them, and a
chain over several lanes shares one stack, so it starts on one lane and doubles (`lane_groups`):
what the first images push is what the others pop.

Latents live in bins of equal prior mass: bin i of 2^b is [F^-1(i / 2^b), F^-1((i + 1) / 2^b)),
its prior costs exactly b bits, and a posterior is a distribution over the same bins. Everything
that decides an interval is an integer; the tables come from the caller, who can repeat them.

Source: Townsend, Bird, Barber, arXiv:1901.04866, section 2 and algorithm 1; starting on few lanes
is in the spirit of Kingma, Abbeel, Ho (Bit-Swap), arXiv:1905.06845.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from osoa_pl.coding.codecs import Codec, Cumulative, Intervals, Uniform
from osoa_pl.coding.intervals import Int64Array
from osoa_pl.coding.rans import LOWER_BOUND, Message, Shape, base_message
from osoa_pl.coding.stack import Engine, UInt32Array, WordStack
from osoa_pl.errors import CoderError

FRACTION_BITS = 16  # latents, their means and edges are multiples of 2^-16
SLOPE_BITS = 12  # inverse scales are multiples of 2^-12
_TABLE_STEP_BITS = 8  # table entries are 2^8 apart, in units of 2^-16


def BitsBack(
    prior: Codec, likelihood: Callable[[Any], Codec], posterior: Callable[[Any], Codec]
) -> Codec:
    """Images x by latents z: `prior` codes z, `likelihood(z)` codes x, `posterior(x)` codes z.

    Source: arXiv:1901.04866, section 2.2. Pushing pops from the message, so it can exhaust it
    (CoderError); push onto a message with initial words.
    """

    def push(message: Message, x: Any) -> tuple[Message]:
        message, z = posterior(x).pop(message)
        (message,) = likelihood(z).push(message, x)
        (message,) = prior.push(message, z)
        return (message,)

    def pop(message: Message) -> tuple[Message, Any]:
        message, z = prior.pop(message)
        message, x = likelihood(z).pop(message)
        (message,) = posterior(x).push(message, z)
        return message, x

    return Codec(push, pop)


def Vector(codec_at: Callable[[int], Codec], count: int) -> Codec:
    """`count` symbols a lane, each with its own codec; x: (*lanes, count), popped 0 to count-1."""

    def push(message: Message, x: Any) -> tuple[Message]:
        symbols = np.asarray(x)
        if symbols.ndim < 1 or symbols.shape[-1] != count:
            raise CoderError(f"expected {count} symbols a lane, found shape {symbols.shape}")
        for index in range(count - 1, -1, -1):
            (message,) = codec_at(index).push(message, symbols[..., index])
        return (message,)

    def pop(message: Message) -> tuple[Message, Any]:
        symbols = []
        for index in range(count):
            message, symbol = codec_at(index).pop(message)
            symbols.append(symbol)
        return message, np.stack(symbols, -1)

    return Codec(push, pop)


def PriorBins(count: int, bits: int) -> Codec:
    """`count` latents a lane under the prior: `bits` bits each, whatever the prior is."""
    return Vector(lambda _: Uniform(bits), count)


def PosteriorBins(
    mean: Int64Array, slope: Int64Array, edges: Int64Array, table: Int64Array, precision: int
) -> Codec:
    """Latents a lane under a location-scale posterior, over bins of equal prior mass.

    mean, slope: int64 (*lanes, count), the means times 2^16 and the inverse scales times 2^12,
    slope >= 1. edges: int64 (2^b - 1,), the inner edges of the bins times 2^16, rising. table: see
    `cumulative_bins`: a Gaussian's or a logistic's. precision: at least b, 24 in archives.
    Source: arXiv:1901.04866, section 2.5; every bin keeps a frequency of 1 at least.
    """
    means, slopes = np.asarray(mean), np.asarray(slope)
    if (slopes < 1).any() or means.shape != slopes.shape:
        raise CoderError("slopes must be at least 1, and of the shape of the means")

    def codec_at(index: int) -> Codec:
        def cumulative(bins: Int64Array) -> Int64Array:
            return cumulative_bins(
                bins, means[..., index], slopes[..., index], edges, table, precision
            )

        return Cumulative(cumulative, len(edges) + 1, precision)

    return Vector(codec_at, means.shape[-1])


def cumulative_bins(
    bins: Int64Array,
    mean: Int64Array,
    slope: Int64Array,
    edges: Int64Array,
    table: Int64Array,
    precision: int,
) -> Int64Array:
    """Integer cumulative values at the lower edges of `bins` (0 to 2^b), one a lane.

        c(i) = i + floor(F((edge_i - mean) * slope) (2^precision - 2^b)),   c(0) = 0

    with F by linear interpolation in `table`: int64 (2 m + 2,), entry j the distribution function
    at (j - m) * 2^-8 in units of 2^-30, not falling. Arguments are clamped to +-m * 2^-8.
    """
    count = len(edges) + 1
    reach = (len(table) // 2 - 1) << _TABLE_STEP_BITS
    inner = np.clip(bins, 1, count - 1) - 1
    argument = (edges[inner] - mean) * slope >> SLOPE_BITS
    shifted = np.clip(argument, -reach, reach) + reach
    cell, part = shifted >> _TABLE_STEP_BITS, shifted & (1 << _TABLE_STEP_BITS) - 1
    value = table[cell] + ((table[cell + 1] - table[cell]) * part >> _TABLE_STEP_BITS)
    free = (1 << precision) - count
    inside = bins + (value * free >> 30)
    return np.where(bins <= 0, 0, np.where(bins >= count, 1 << precision, inside))


def BernoulliPixels(ones: Int64Array, precision: int) -> Codec:
    """Pixels 0 and 1: `ones` int64 (*lanes, count), the frequencies of 1; the 0 lies lower."""
    frequency = np.clip(np.asarray(ones), 1, (1 << precision) - 1)

    def codec_at(index: int) -> Codec:
        zero = (1 << precision) - frequency[..., index]

        def interval(x: Int64Array) -> tuple[Int64Array, Int64Array]:
            one = np.asarray(x) == 1
            return np.where(one, zero, 0), np.where(one, frequency[..., index], zero)

        return Intervals(interval, lambda slots: (slots >= zero).astype(np.int64), precision)

    return Vector(codec_at, frequency.shape[-1])


def TabulatedPixels(cumulative: Int64Array, precision: int) -> Codec:
    """Pixels 0..K-1 by cumulative values int64 (*lanes, count, K + 1), strictly rising."""
    rows = np.asarray(cumulative)
    return Vector(
        lambda index: Cumulative(rows[..., index, :], rows.shape[-1] - 1, precision),
        rows.shape[-2],
    )


def initial_message(words: UInt32Array, lanes: Shape = 1, engine: Engine = "numpy") -> Message:
    """A message of base states over initial words; `words[0]` lies on top. Copies them."""
    message = base_message(lanes, engine)
    message.tail.push(np.asarray(words, np.uint32))
    message.tail.lowest = message.tail.size
    return message


def drop_unused(message: Message) -> Message:
    """The message without the bottom words that no pop has touched since `initial_message`."""
    head, tail = message
    return Message(head, WordStack(tail.content()[tail.lowest :], tail.engine))


def is_initial(message: Message, words: UInt32Array) -> bool:
    """Whether the message is back at the first few of the initial `words` and base states."""
    head, tail = message
    count = len(tail)
    same = count <= len(words) and np.array_equal(tail.content()[::-1], words[:count])
    return same and bool((head == LOWER_BOUND).all())


def lane_groups(images: int, lanes: int) -> list[int]:
    """Sizes of the groups in which `lanes` lanes code a chain of images, in decoding order.

    Full groups first; the last group, which is pushed first, has one image on one lane, the one
    before it two, and so on: each fills the shared stack for the next.

    >>> lane_groups(30, 8)
    [8, 8, 7, 4, 2, 1]
    """
    if images < 0 or lanes < 1:
        raise CoderError(f"{images} images on {lanes} lanes: expected at least 0 and 1")
    sizes, left, size = [], images, 1
    while left and size < lanes:
        sizes.append(min(size, left))
        left -= sizes[-1]
        size *= 2
    while left:
        sizes.append(min(lanes, left))
        left -= sizes[-1]
    return sorted(sizes, reverse=True)


def push_chain(
    message: Message, images: Sequence[Any], codec: Callable[[int], Codec], groups: Iterable[int]
) -> Message:
    """Push `images` (one array, images first) in groups, the last group first.

    codec: lanes -> the codec of a group on that many leading lanes, images (lanes, ...).
    """
    ends = np.cumsum(list(groups))
    for end, size in zip(ends[::-1], np.diff(ends, prepend=0)[::-1], strict=True):
        part = Message(message.head[:size], message.tail)
        part, = codec(int(size)).push(part, images[end - size : end])  # fmt: skip
        message.head[:size] = part.head
    return message


def pop_chain(
    message: Message, codec: Callable[[int], Codec], groups: Iterable[int]
) -> tuple[Message, Any]:
    """Undo `push_chain`: (message, images)."""
    found = []
    for size in groups:
        part, images = codec(size).pop(Message(message.head[:size], message.tail))
        message.head[:size] = part.head
        found.append(images)
    return message, np.concatenate(found)
