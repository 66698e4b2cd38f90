"""The output head of a model with memory, compiled: intervals and gradient.

As `compiled_head`, with more parts to a pixel's mixture: weight 0 for the channels one after the
other, weight 1 for the colours seen (`colours`), the others for whole pixels that neighbours,
contexts, matches and the reference propose. The logit of a proposal is the network's output of its
column plus the log-odds of its trust. The eager twin is `memory_head_eager`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from osoa_pl.arith.compiled import exp64, nearest64, quotient64
from osoa_pl.models.compiled_head import (
    _FLOOR,
    _FREE,
    _INVERSE,
    _MEAN,
    _WEIGHT,
    HIGH,
    LANES,
    LOW,
    MIXED,
    PREDICTOR,
    VALUE,
    lane_gradients,
    lane_intervals,
    lane_terms,
    lane_weights,
    load_outputs,
    load_pixel,
    logistic_mass,
    make_lanes,
)
from osoa_pl.models.features import packed_sample
from osoa_pl.models.recall import COMPONENTS

PARTS = COMPONENTS + 2
"""Weights of a pixel's mixture: the network's own, colours seen, copies."""
_BITS = 16


_FIRST, _BEST = 0, 1


@njit(inline="always")
def make_parts():  # type: ignore[no-untyped-def]
    """(exponents, q, places, weights) of the parts of LANES pixels.

    exponents, q [LANES * PARTS]: one pixel's after another's; places [2, LANES]: where those of a
    lane begin, which of them is largest; weights [LANES, PARTS].
    """
    return (
        np.zeros(LANES * PARTS), np.zeros(LANES * PARTS, np.int64), np.zeros((2, LANES), np.int64),
        np.zeros((LANES, PARTS), np.int64),
    )  # fmt: skip


@njit(inline="always")
def load_parts(  # type: ignore[no-untyped-def]
    row, at, on, count, columns, offsets, lane, end, exponents, places
):
    """Put the exponents of a pixel's parts at `end`, after the lane before; returns the new end.

    Part 0: the network's, 1: the colours seen, 2 + k: the k-th of `count` proposals.
    """
    best, top = 0, row[at]
    exponents[end] = np.float64(row[at])
    exponents[end + 1] = np.float64(row[at + 1])
    if on and row[at + 1] > top:
        best, top = 1, row[at + 1]
    for k in range(count):
        logit = row[at + 2 + np.int64(columns[k])] + offsets[k]
        exponents[end + 2 + k] = np.float64(logit)
        best = 2 + k if logit > top else best
        top = logit if logit > top else top
    for k in range(end, end + count + 2):
        exponents[k] = exponents[k] - np.float64(top)
    places[_FIRST, lane], places[_BEST, lane] = end, best
    return end + count + 2


@njit(inline="always")
def part_exponentials(end, exponents, q):  # type: ignore[no-untyped-def]
    """q = rne(2^16 e^(v - max)) + 1 of all parts that were loaded."""
    for k in range(end):
        q[k] = nearest64(exp64(exponents[k]) * 65536.0) + 1


@njit(inline="always")
def load_known(  # type: ignore[no-untyped-def]
    first, lanes, outputs, pixels, predictors, counts, part_columns, offsets, on, columns, floats,
    integers, exponents, q, places,
):  # fmt: skip
    """Put pixels first .. first + lanes - 1, whose values are known, in lanes, and their parts."""
    used = 0
    for i in range(lanes):
        p = first + i
        load_outputs(outputs, p, i, columns)
        load_pixel(pixels, predictors, p, i, floats, integers)
        used = load_parts(
            outputs[p], columns.shape[0], on, counts[p], part_columns[p], offsets[p], i, used,
            exponents, places,
        )  # fmt: skip
    part_exponentials(used, exponents, q)


@njit(inline="always")
def part_total(lane, on, count, q, places):  # type: ignore[no-untyped-def]
    """Sum of a lane's q, of which that of the colours is 0 while they are off."""
    first = places[_FIRST, lane]
    if not on:
        q[first + 1] = 0
    total = 0
    for k in range(first, first + count + 2):
        total += q[k]
    return total


@njit(inline="always")
def part_weights(lane, on, count, q, places, weights):  # type: ignore[no-untyped-def]
    """Weights of sum 2^16 of a lane's parts, of which the first is at least 1."""
    total = part_total(lane, on, count, q, places)
    first = places[_FIRST, lane]
    rest = 1 << _BITS
    for k in range(count + 2):
        weight = quotient64(q[first + k] << _BITS, total)
        weights[lane, k] = weight
        rest -= weight
    weights[lane, places[_BEST, lane]] += rest
    if weights[lane, 0] == 0:
        best = 1
        for k in range(2, count + 2):
            if weights[lane, k] > weights[lane, best]:
                best = k
        weights[lane, best] -= 1
        weights[lane, 0] = 1


@njit(inline="always")
def seen_prefix(  # type: ignore[no-untyped-def]
    values, shares, low, high, predictor, channel, mixtures, lane, fixed, masses, prefix
):
    """prefix int64 [257]: mass of the children low .. high - 1 before each, the last: of all.

    masses int64 [2, 256]: scratch.
    """
    count = high - low
    for n in range(count):
        masses[0, n] = 0
        masses[1, n] = 0
    for j in range(channel * mixtures, (channel + 1) * mixtures):
        weight, mean = fixed[j, _WEIGHT, lane], fixed[j, _MEAN, lane]
        inverse = fixed[j, _INVERSE, lane]
        for n in range(count):
            edge = (2 * values[low + n] - 1) * 512 - predictor * 1024
            masses[0, n] += weight * logistic_mass(edge, mean, inverse)
            masses[1, n] += weight * logistic_mass(edge + 1024, mean, inverse)
    prefix[0] = 0
    for n in range(count):
        below = masses[0, n] if values[low + n] > 0 else 0
        above = masses[1, n] if values[low + n] < 255 else 1 << 32
        prefix[n + 1] = prefix[n] + (((above - below) >> 12) + 1) * shares[low + n]


@njit(inline="always")
def first_child(value, values, low, high):  # type: ignore[no-untyped-def]
    """The first of the nodes low .. high - 1 whose value is not below `value`, or high."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(inline="always")
def seen_cumulative(value, values, low, high, prefix):  # type: ignore[no-untyped-def]
    """Mass in 2^-32 of the children below `value`: 0 at 0, 2^32 at 256."""
    child = first_child(value, values, low, high)
    return ((prefix[child - low] << 23) // prefix[high - low]) << 9


@njit(inline="always")
def find_child(value, values, low, high):  # type: ignore[no-untyped-def]
    """Node of the child `value` among low .. high - 1, or -1."""
    child = first_child(value, values, low, high)
    return child if child < high and values[child] == value else -1


@njit(inline="always")
def copies_below(value, channel, channels, count, values, weights):  # type: ignore[no-untyped-def]
    """Sum of the weights of the copies that propose less than `value` in one channel."""
    total = 0
    for k in range(count):
        weight = weights[2 + k]
        total += weight if packed_sample(values[k], channel, channels) < value else 0
    return total


@njit(inline="always")
def cumulative(value, mixture, seen, below, weights):  # type: ignore[no-untyped-def]
    """Integer CDF at 2^20 of one channel from those of its mixture, the colours and the copies."""
    total = weights[0] * mixture + weights[1] * seen + (below << 32)
    return value + (((total >> 16) * _FREE) >> 32)


@njit(inline="always")
def update_weights(  # type: ignore[no-untyped-def]
    value, mass, seen_mass, hits, channel, channels, count, weights, values
):
    """Bayes' rule after a channel took `value`, to which the mixture gave `mass` of 2^32.

    hits: the sum of the weights of the copies that propose it.
    """
    seen = (weights[1] * seen_mass) >> 16
    total = ((weights[0] * mass) >> 16) + 1 + seen + (hits << 16)
    rest = 1 << 16
    for k in range(count):
        weight = quotient64(weights[2 + k] << 32, total)
        weight = weight if packed_sample(values[k], channel, channels) == value else 0
        weights[2 + k] = weight
        rest -= weight
    weights[1] = quotient64(seen << 16, total)
    weights[0] = rest - weights[1]


@njit(cache=True, nogil=True, error_model="numpy")
def interval_rows(  # type: ignore[no-untyped-def]
    begin, end, outputs, pixels, work, colours, channels, mixtures, start, frequency
):
    """Intervals of pixels [begin, end): start, frequency uint32 [P, c] at 2^-20."""
    at = 3 * mixtures * channels + channels * (channels - 1) // 2
    columns, fixed, terms, floats, integers = make_lanes(at, channels, mixtures)
    exponents, q, places, weights = make_parts()
    masses, prefix = np.zeros((2, 256), np.int64), np.zeros(257, np.int64)
    on = colours.values[0].shape[0] > 0
    for first in range(begin, end, LANES):
        lanes = min(LANES, end - first)
        load_known(
            first, lanes, outputs, pixels, work.predictors, work.counts, work.columns, work.offsets,
            on, columns, floats, integers, exponents, q, places,
        )  # fmt: skip
        lane_intervals(lanes, columns, channels, mixtures, fixed, terms, floats, integers)
        for i in range(lanes):
            p = first + i
            count, values, parts = work.counts[p], work.values[p], weights[i]
            part_weights(i, on, count, q, places, weights)
            node_low, node_high = 0, colours.values[0].shape[0]
            for c in range(channels):
                value = integers[VALUE + c, i]
                low, high = integers[LOW + c, i], integers[HIGH + c, i]
                seen_low, seen_high = 0, 0
                if parts[1]:
                    level = colours.values[c]
                    seen_prefix(
                        level, colours.weights[c], node_low, node_high, integers[PREDICTOR + c, i],
                        c, mixtures, i, fixed, masses, prefix,
                    )  # fmt: skip
                    seen_low = seen_cumulative(value, level, node_low, node_high, prefix)
                    seen_high = seen_cumulative(value + 1, level, node_low, node_high, prefix)
                    node = find_child(value, level, node_low, node_high)
                    if node >= 0 and c + 1 < channels:
                        node_low, node_high = colours.first[c][node], colours.first[c][node + 1]
                below = copies_below(value, c, channels, count, values, parts)
                below_next = copies_below(value + 1, c, channels, count, values, parts)
                lowest = cumulative(value, low, seen_low, below, parts)
                start[p, c] = lowest
                frequency[p, c] = cumulative(value + 1, high, seen_high, below_next, parts) - lowest
                update_weights(
                    value, high - low, seen_high - seen_low, below_next - below, c, channels,
                    count, parts, values,
                )  # fmt: skip


@njit(inline="always")
def share_of_colours(  # type: ignore[no-untyped-def]
    lane, colours, channels, mixtures, fixed, integers, masses, prefix
):
    """Probability that the colours seen give to a lane's pixel."""
    share = 1.0
    low, high = 0, colours.values[0].shape[0]
    for c in range(channels):
        node = find_child(integers[VALUE + c, lane], colours.values[c], low, high)
        if node < 0:
            return 0.0
        seen_prefix(
            colours.values[c], colours.weights[c], low, high, integers[PREDICTOR + c, lane], c,
            mixtures, lane, fixed, masses, prefix,
        )  # fmt: skip
        k = node - low
        part = np.float64(prefix[k + 1] - prefix[k])
        share = share * (part / np.float64(prefix[high - low]))
        if c + 1 < channels:
            low, high = colours.first[c][node], colours.first[c][node + 1]
    return share


@njit(cache=True, nogil=True, error_model="numpy")
def gradient_rows(  # type: ignore[no-untyped-def]
    begin, end, outputs, pixels, work, colours, channels, mixtures, gradient
):
    """d(-ln P(pixel))/d(outputs), f32 [P, outputs], of pixels [begin, end).

    The probability that the colours seen give is taken as a constant.
    """
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    columns, fixed, terms, floats, integers = make_lanes(copy_at, channels, mixtures)
    exponents, q, places, _ = make_parts()
    masses, prefix = np.zeros((2, 256), np.int64), np.zeros(257, np.int64)
    part_weight, hits, shares = np.empty(PARTS), np.empty(PARTS), np.zeros(LANES)
    on = colours.values[0].shape[0] > 0
    for first in range(begin, end, LANES):
        lanes = min(LANES, end - first)
        load_known(
            first, lanes, outputs, pixels, work.predictors, work.counts, work.columns, work.offsets,
            on, columns, floats, integers, exponents, q, places,
        )  # fmt: skip
        for c in range(channels):
            lane_terms(lanes, columns, c, channels, mixtures, fixed, terms, floats, integers)
            if on:
                lane_weights(lanes, mixtures, 14, fixed, mixtures * c, integers)
        for i in range(lanes):
            p = first + i
            out, count, values = gradient[p], work.counts[p], work.values[p]
            total = part_total(i, on, count, q, places)
            for m in range(count + 2):
                part_weight[m] = np.float64(q[places[_FIRST, i] + m]) / np.float64(total)
            product = 1.0
            truth = np.uint32(0)
            for c in range(channels):
                product = product * (floats[MIXED + c, i] + _FLOOR)
                truth = np.uint32(truth << np.uint32(8)) | np.uint32(integers[VALUE + c, i])
            seen = 0.0
            if on:
                seen = share_of_colours(
                    i, colours, channels, mixtures, fixed, integers, masses, prefix
                )
            hits[0] = part_weight[0] * product
            hits[1] = part_weight[1] * seen
            likelihood = hits[0] + hits[1]
            for m in range(count):
                hits[m + 2] = part_weight[m + 2] if values[m] == truth else 0.0
                likelihood = likelihood + hits[m + 2]
            shares[i] = hits[0] / likelihood
            for m in range(copy_at, out.shape[0]):
                out[m] = np.float32(0.0)
            for m in range(count + 2):
                column = m if m < 2 else 2 + np.int64(work.columns[p, m - 2])
                out[copy_at + column] = np.float32(part_weight[m] - hits[m] / likelihood)
        for c in range(channels):
            lane_gradients(lanes, columns, c, channels, mixtures, shares, terms, floats)
        for i in range(lanes):
            for j in range(copy_at):
                gradient[first + i, j] = np.float32(columns[j, i])
