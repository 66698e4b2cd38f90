"""The output head, compiled: network outputs to integer intervals, and the loss gradient.

A pixel's probability is a mixture: with weight u_m the whole pixel equals causal neighbour m, with
weight u_0 its channels follow one after the other, each a mixture of K logistics whose means are
shifted by the channels before it (PixelCNN++, Salimans et al. 2017, eq. 2-3). After each channel
the weights u are updated by Bayes' rule, so the channels stay coded one after the other.

Everything that decides an interval is an integer computed from portable float64 values; the
eager twin with the same bits is `mixture_head.py`.

Precisions: mixture weights 14 bits, logistic CDF 18 bits, copy weights 16 bits, intervals 20 bits
with every frequency at least 1.

Pixels whose outputs are known are worked on LANES at a time, each in its lane of the arrays that
`make_lanes` makes; logistic k of channel c is in row c*K + k. Loops over lanes have no branches, so
they compile to vector instructions; LLVM would unroll loops of a fixed number instead.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from osoa_pl.arith.compiled import exp64, nearest64, quotient64
from osoa_pl.arith.functions import sigmoid_table

PRECISION = 20
LANES = 64
_TABLE = np.append(sigmoid_table(), sigmoid_table()[-1]).astype(np.int64)
_ENTRIES = np.append(_TABLE[:-1] | np.diff(_TABLE) << 32, _TABLE[-1])  # value, step to the next
_LAST_BITS = (1 << 32) - 1
_EDGE = 204800  # 12.5 * 2^14: the sigmoid table's range
_FLOOR = 2.0**-20
_FREE = (1 << PRECISION) - 256
_COPIES = 6
_WEIGHT, _MEAN, _INVERSE, _FIXED = range(4)  # integers of a logistic
_SHARE, _RAW_MEAN, _CLAMPED_MEAN, _SCALE, _MASS, _TO_MEAN, _TO_SCALE, _TERMS = range(8)  # floats
# rows of a pixel's floats and integers; those of three channels follow one another
_TOP, _FACTOR, _SHIFT, MIXED, RESIDUAL, _FLOATS = 0, 1, 2, 3, 6, 9
TOTAL, BEST, VALUE, PREDICTOR, LOW, HIGH, _INTEGERS = 0, 1, 2, 5, 8, 11, 14


@njit(inline="always")
def make_lanes(outputs, channels, mixtures):  # type: ignore[no-untyped-def]
    """(columns, fixed, terms, floats, integers), with lanes as the last axis of each.

    columns float64 [outputs]: the network's; fixed int64 [c*K, 3], terms float64 [c*K, 7]: of each
    logistic; floats, integers: of each pixel.
    """
    rows = channels * mixtures
    return (
        np.zeros((outputs, LANES)), np.zeros((rows, _FIXED, LANES), np.int64),
        np.zeros((rows, _TERMS, LANES)), np.zeros((_FLOATS, LANES)),
        np.zeros((_INTEGERS, LANES), np.int64),
    )  # fmt: skip


@njit(inline="always")
def load_outputs(outputs, p, lane, columns):  # type: ignore[no-untyped-def]
    """Put the outputs of pixel p in a lane."""
    for j in range(columns.shape[0]):
        columns[j, lane] = np.float64(outputs[p, j])


@njit(inline="always")
def load_pixel(pixels, predictors, p, lane, floats, integers):  # type: ignore[no-untyped-def]
    """Put the values, predictors and residuals of pixel p in a lane."""
    for c in range(pixels.shape[1]):
        value, predictor = np.int64(pixels[p, c]), predictors[p, c]
        integers[VALUE + c, lane] = value
        integers[PREDICTOR + c, lane] = predictor
        floats[RESIDUAL + c, lane] = np.float64(value - predictor)


@njit(inline="always")
def lane_softmax(lanes, columns, at, count, fixed, first, floats, integers):  # type: ignore[no-untyped-def]
    """q = rne(2^16 e^(v - max)) + 1 of `count` columns, as weights; their TOTAL, the BEST."""
    for i in range(lanes):
        floats[_TOP, i] = columns[at, i]
        integers[BEST, i] = 0
        integers[TOTAL, i] = 0
    for k in range(1, count):
        for i in range(lanes):
            value, top = columns[at + k, i], floats[_TOP, i]
            integers[BEST, i] = k if value > top else integers[BEST, i]
            floats[_TOP, i] = value if value > top else top
    for k in range(count):
        for i in range(lanes):
            q = nearest64(exp64(columns[at + k, i] - floats[_TOP, i]) * 65536.0) + 1
            fixed[first + k, _WEIGHT, i] = q
            integers[TOTAL, i] += q


@njit(inline="always")
def lane_weights(lanes, count, bits, fixed, first, integers):  # type: ignore[no-untyped-def]
    """From q to weights of sum 2^bits, after `lane_softmax`."""
    for k in range(count):
        for i in range(lanes):
            q = fixed[first + k, _WEIGHT, i]
            fixed[first + k, _WEIGHT, i] = quotient64(q << bits, integers[TOTAL, i])
    for i in range(lanes):
        integers[TOTAL, i] = 1 << bits
    for k in range(count):
        for i in range(lanes):
            integers[TOTAL, i] -= fixed[first + k, _WEIGHT, i]
    for k in range(count):
        for i in range(lanes):
            rest = integers[TOTAL, i] if integers[BEST, i] == k else 0
            fixed[first + k, _WEIGHT, i] += rest


@njit(inline="always")
def lane_scales(lanes, columns, channel, mixtures, fixed, terms):  # type: ignore[no-untyped-def]
    """Inverse scales of one channel's logistics."""
    at = 3 * mixtures * channel + 2 * mixtures
    for k in range(mixtures):
        j = channel * mixtures + k
        for i in range(lanes):
            inverse = exp64(-min(max(columns[at + k, i], -4.0), 6.0))
            terms[j, _SCALE, i] = inverse
            fixed[j, _INVERSE, i] = nearest64(inverse * 65536.0)


@njit(inline="always")
def lane_logistics(lanes, columns, channels, mixtures, fixed, terms, floats, integers):  # type: ignore[no-untyped-def]
    """Weights and inverse scales of all channels' logistics: what waits for no value."""
    for c in range(channels):
        first = mixtures * c
        lane_softmax(lanes, columns, 3 * first, mixtures, fixed, first, floats, integers)
        lane_weights(lanes, mixtures, 14, fixed, first, integers)
        lane_scales(lanes, columns, c, mixtures, fixed, terms)


@njit(inline="always")
def lane_means(lanes, columns, channel, channels, mixtures, fixed, terms, floats):  # type: ignore[no-untyped-def]
    """Means of one channel's logistics, relative to the predictor, where residuals are known."""
    at = 3 * mixtures * channel + mixtures
    coupling = 3 * mixtures * channels + channel * (channel - 1) // 2
    for k in range(mixtures):
        j = channel * mixtures + k
        for i in range(lanes):
            terms[j, _RAW_MEAN, i] = columns[at + k, i] * 16.0
        for e in range(channel):
            for i in range(lanes):
                shift = columns[coupling + e, i] * floats[RESIDUAL + e, i]
                terms[j, _RAW_MEAN, i] = terms[j, _RAW_MEAN, i] + shift
        for i in range(lanes):
            mean = min(max(terms[j, _RAW_MEAN, i], -1024.0), 1024.0)
            terms[j, _CLAMPED_MEAN, i] = mean
            fixed[j, _MEAN, i] = nearest64(mean * 1024.0)


@njit(inline="always")
def pixel_means(columns, channel, channels, mixtures, lane, fixed, floats):  # type: ignore[no-untyped-def]
    """As `lane_means`, for one lane, whose residuals of the channels before are known."""
    at = 3 * mixtures * channel + mixtures
    coupling = 3 * mixtures * channels + channel * (channel - 1) // 2
    for k in range(mixtures):
        mean = columns[at + k, lane] * 16.0
        for e in range(channel):
            mean = mean + columns[coupling + e, lane] * floats[RESIDUAL + e, lane]
        mean = min(max(mean, -1024.0), 1024.0)
        fixed[channel * mixtures + k, _MEAN, lane] = nearest64(mean * 1024.0)


@njit(inline="always")
def logistic_mass(edge, mean, inverse):  # type: ignore[no-untyped-def]
    """Mass of one logistic below `edge`, in units of 2^-18."""
    z = ((edge - mean) * inverse) >> 12
    z = min(max(z, -_EDGE), _EDGE) + _EDGE
    entry = _ENTRIES[z >> 8]
    return (entry & _LAST_BITS) + (((entry >> 32) * (z & 255)) >> 8)


@njit(inline="always")
def lane_masses(lanes, channel, mixtures, fixed, integers):  # type: ignore[no-untyped-def]
    """`mixture_cumulative` of one channel at all lanes' values and the ones above: LOW, HIGH."""
    for i in range(lanes):
        integers[LOW + channel, i] = 0
        integers[HIGH + channel, i] = 0
    for k in range(mixtures):
        j = channel * mixtures + k
        for i in range(lanes):
            value, predictor = integers[VALUE + channel, i], integers[PREDICTOR + channel, i]
            edge = (2 * value - 1) * 512 - predictor * 1024
            weight, mean, inverse = fixed[j, _WEIGHT, i], fixed[j, _MEAN, i], fixed[j, _INVERSE, i]
            integers[LOW + channel, i] += weight * logistic_mass(edge, mean, inverse)
            integers[HIGH + channel, i] += weight * logistic_mass(edge + 1024, mean, inverse)
    for i in range(lanes):
        value = integers[VALUE + channel, i]
        integers[LOW + channel, i] = integers[LOW + channel, i] if value > 0 else 0
        integers[HIGH + channel, i] = integers[HIGH + channel, i] if value < 255 else 1 << 32


@njit(inline="always")
def mixture_cumulative(value, predictor, channel, mixtures, lane, fixed):  # type: ignore[no-untyped-def]
    """Mass of values below `value` in units of 2^-32: 0 at 0, 2^32 at 256, monotone between."""
    if value <= 0:
        return 0
    if value >= 256:
        return 1 << 32
    edge = (2 * value - 1) * 512 - predictor * 1024
    total = 0
    for j in range(channel * mixtures, (channel + 1) * mixtures):
        mass = logistic_mass(edge, fixed[j, _MEAN, lane], fixed[j, _INVERSE, lane])
        total += fixed[j, _WEIGHT, lane] * mass
    return total


@njit(inline="always")
def likely_value(predictor, channel, mixtures, lane, fixed):  # type: ignore[no-untyped-def]
    """Where to begin the search for a value: at the mean of the heaviest logistic."""
    best = channel * mixtures
    for j in range(best + 1, best + mixtures):
        best = j if fixed[j, _WEIGHT, lane] > fixed[best, _WEIGHT, lane] else best
    return predictor + ((fixed[best, _MEAN, lane] + 512) >> 10)


@njit(inline="always")
def next_value(low, high, last, step):  # type: ignore[no-untyped-def]
    """Which edge to try between low and high: a step from `last`, or else the middle."""
    value = last + step if last == low else last - step
    return value if low < value and value < high else (low + high) >> 1


@njit(inline="always")
def cumulative(value, mixture, channel, copy_weights, copies):  # type: ignore[no-untyped-def]
    """Integer CDF at 2^20 of one channel given its mixture's CDF `mixture` at the same value."""
    total = copy_weights[0] * mixture
    for m in range(_COPIES):
        if copies[m, channel] < value:
            total += copy_weights[m + 1] << 32
    return value + (((total >> 16) * _FREE) >> 32)


@njit(inline="always")
def update_copies(value, mass, channel, copy_weights, copies):  # type: ignore[no-untyped-def]
    """Bayes' rule after a channel took `value`, to which the mixture gave `mass` of 2^32."""
    total = ((copy_weights[0] * mass) >> 16) + 1
    for m in range(_COPIES):
        if copies[m, channel] == value:
            total += copy_weights[m + 1] << 16
    rest = 1 << 16
    for m in range(_COPIES):
        weight = 0
        if copies[m, channel] == value:
            weight = quotient64(copy_weights[m + 1] << 32, total)
        copy_weights[m + 1] = weight
        rest -= weight
    copy_weights[0] = rest


@njit(inline="always")
def lane_intervals(lanes, columns, channels, mixtures, fixed, terms, floats, integers):  # type: ignore[no-untyped-def]
    """LOW and HIGH of all channels and what they are made of."""
    lane_logistics(lanes, columns, channels, mixtures, fixed, terms, floats, integers)
    for c in range(channels):
        lane_means(lanes, columns, c, channels, mixtures, fixed, terms, floats)
        lane_masses(lanes, c, mixtures, fixed, integers)


@njit(cache=True, nogil=True, error_model="numpy")
def interval_rows(  # type: ignore[no-untyped-def]
    begin, end, outputs, pixels, predictors, copies, channels, mixtures, start, frequency
):
    """Intervals of pixels [begin, end): start, frequency uint32 [P, c] at 2^-20."""
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    columns, fixed, terms, floats, integers = make_lanes(copy_at + _COPIES + 1, channels, mixtures)
    lane_copies = np.zeros((_COPIES + 1, _FIXED, LANES), np.int64)
    copy_weights = np.empty(_COPIES + 1, np.int64)
    for first in range(begin, end, LANES):
        lanes = min(LANES, end - first)
        for i in range(lanes):
            load_outputs(outputs, first + i, i, columns)
            load_pixel(pixels, predictors, first + i, i, floats, integers)
        lane_softmax(lanes, columns, copy_at, _COPIES + 1, lane_copies, 0, floats, integers)
        lane_weights(lanes, _COPIES + 1, 16, lane_copies, 0, integers)
        lane_intervals(lanes, columns, channels, mixtures, fixed, terms, floats, integers)
        for i in range(lanes):
            p = first + i
            for m in range(_COPIES + 1):
                copy_weights[m] = lane_copies[m, _WEIGHT, i]
            for c in range(channels):
                value = integers[VALUE + c, i]
                low, high = integers[LOW + c, i], integers[HIGH + c, i]
                below = cumulative(value, low, c, copy_weights, copies[p])
                above = cumulative(value + 1, high, c, copy_weights, copies[p])
                start[p, c] = below
                frequency[p, c] = above - below
                update_copies(value, high - low, c, copy_weights, copies[p])


@njit(inline="always")
def edge_terms(z):  # type: ignore[no-untyped-def]
    """sigmoid(z), 1 - sigmoid(z), sigmoid'(z), each with full relative precision."""
    t = exp64(-abs(z))
    r = 1.0 / (1.0 + t)
    s = t * r
    return (r if z > 0.0 else s), (s if z > 0.0 else r), r * s


@njit(inline="always")
def lane_terms(lanes, columns, channel, channels, mixtures, fixed, terms, floats, integers):  # type: ignore[no-untyped-def]
    """One channel's mixtures at their values: MIXED; of each logistic share, mass and slopes."""
    first, mixed = mixtures * channel, MIXED + channel
    lane_softmax(lanes, columns, 3 * first, mixtures, fixed, first, floats, integers)
    lane_scales(lanes, columns, channel, mixtures, fixed, terms)
    lane_means(lanes, columns, channel, channels, mixtures, fixed, terms, floats)
    for i in range(lanes):
        floats[mixed, i] = 0.0
    for j in range(first, first + mixtures):
        for i in range(lanes):
            value = integers[VALUE + channel, i]
            scale = terms[j, _SCALE, i]
            d = floats[RESIDUAL + channel, i] - terms[j, _CLAMPED_MEAN, i]
            high = (d + 0.5) * scale
            low = (d - 0.5) * scale
            upper, over, upper_slope = edge_terms(high)
            lower, above, lower_slope = edge_terms(low)
            if value == 255:
                upper, over, upper_slope = 1.0, 0.0, 0.0
            if value == 0:
                lower, above, lower_slope = 0.0, 1.0, 0.0
            terms[j, _MASS, i] = above - over if d > 0.0 else upper - lower
            terms[j, _TO_MEAN, i] = (lower_slope - upper_slope) * scale
            terms[j, _TO_SCALE, i] = low * lower_slope - high * upper_slope
        for i in range(lanes):
            share = np.float64(fixed[j, _WEIGHT, i]) / np.float64(integers[TOTAL, i])
            terms[j, _SHARE, i] = share
            floats[mixed, i] = floats[mixed, i] + share * terms[j, _MASS, i]


@njit(inline="always")
def lane_gradients(lanes, columns, channel, channels, mixtures, shares, terms, floats):  # type: ignore[no-untyped-def]
    """Turn the columns of one channel into their gradient, `shares` [LANES] of it."""
    mixed = MIXED + channel
    at = 3 * mixtures * channel
    coupling = 3 * mixtures * channels + channel * (channel - 1) // 2
    for i in range(lanes):
        floats[_FACTOR, i] = shares[i] / (floats[mixed, i] + _FLOOR)
        floats[_SHIFT, i] = 0.0
    for k in range(mixtures):
        j = channel * mixtures + k
        for i in range(lanes):
            f = floats[_FACTOR, i] * terms[j, _SHARE, i]
            columns[at + k, i] = f * (floats[mixed, i] - terms[j, _MASS, i])
            g = f * -terms[j, _TO_MEAN, i]
            g = g if abs(terms[j, _RAW_MEAN, i]) < 1024.0 else 0.0
            floats[_SHIFT, i] = floats[_SHIFT, i] + g
            columns[at + mixtures + k, i] = g * 16.0
            log_scale = columns[at + 2 * mixtures + k, i]
            g = f * -terms[j, _TO_SCALE, i]
            columns[at + 2 * mixtures + k, i] = g if log_scale > -4.0 and log_scale < 6.0 else 0.0
    for e in range(channel):
        for i in range(lanes):
            columns[coupling + e, i] = floats[_SHIFT, i] * floats[RESIDUAL + e, i]


@njit(cache=True, nogil=True, error_model="numpy")
def gradient_rows(  # type: ignore[no-untyped-def]
    begin, end, outputs, pixels, predictors, copies, channels, mixtures, gradient
):
    """d(-ln P(pixel))/d(outputs), f32 [P, outputs], of pixels [begin, end)."""
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    columns, fixed, terms, floats, integers = make_lanes(copy_at + _COPIES + 1, channels, mixtures)
    lane_copies = np.zeros((_COPIES + 1, _FIXED, LANES), np.int64)
    shares = np.zeros(LANES)
    copy_weight = np.empty(_COPIES + 1)
    hits = np.empty(_COPIES + 1)
    for first in range(begin, end, LANES):
        lanes = min(LANES, end - first)
        for i in range(lanes):
            load_outputs(outputs, first + i, i, columns)
            load_pixel(pixels, predictors, first + i, i, floats, integers)
        for c in range(channels):
            lane_terms(lanes, columns, c, channels, mixtures, fixed, terms, floats, integers)
        lane_softmax(lanes, columns, copy_at, _COPIES + 1, lane_copies, 0, floats, integers)
        for i in range(lanes):
            p = first + i
            total = np.float64(integers[TOTAL, i])
            for m in range(_COPIES + 1):
                copy_weight[m] = np.float64(lane_copies[m, _WEIGHT, i]) / total
            product = 1.0
            for c in range(channels):
                product = product * (floats[MIXED + c, i] + _FLOOR)
            hits[0] = copy_weight[0] * product
            likelihood = hits[0]
            for m in range(_COPIES):
                hit = True
                for c in range(channels):
                    hit = hit and copies[p, m, c] == integers[VALUE + c, i]
                hits[m + 1] = copy_weight[m + 1] if hit else 0.0
                likelihood = likelihood + hits[m + 1]
            shares[i] = hits[0] / likelihood
            for m in range(_COPIES + 1):
                columns[copy_at + m, i] = copy_weight[m] - hits[m] / likelihood
        for c in range(channels):
            lane_gradients(lanes, columns, c, channels, mixtures, shares, terms, floats)
        for i in range(lanes):
            for j in range(columns.shape[0]):
                gradient[first + i, j] = np.float32(columns[j, i])
