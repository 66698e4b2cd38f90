"""The output head of a model with memory, compiled: intervals and gradient.

As `compiled_head`, with more parts to a pixel's mixture: weight 0 for the channels one after the
other, weight 1 for the colours seen (`colours`), the others for whole pixels that neighbours,
contexts, matches and the reference propose. The logit of a proposal is the network's output of its
column plus the log-odds of its trust. The eager twin is `memory_head_eager`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from osoa_pl.models.compiled_head import (
    _FLOOR,
    _FREE,
    channel_gradient,
    channel_parameters,
    channel_terms,
    mixture_cumulative,
    softmax_integers,
)
from osoa_pl.models.features import packed_sample
from osoa_pl.models.recall import COMPONENTS

PARTS = COMPONENTS + 2
"""Weights of a pixel's mixture: the network's own, colours seen, copies."""
_BITS = 16


class Scratch(NamedTuple):
    """Room for one pixel's numbers, see `make_scratch`."""

    q: NDArray[np.int64]
    logits: NDArray[np.float32]
    weights: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    mean_fixed: NDArray[np.int64]
    inverse_fixed: NDArray[np.int64]
    parts: NDArray[np.int64]
    prefix: NDArray[np.int64]
    residuals: NDArray[np.int64]


@njit(inline="always")
def make_scratch(channels, mixtures):  # type: ignore[no-untyped-def]
    """Scratch for one thread."""
    return Scratch(
        np.empty(max(mixtures, PARTS), np.int64), np.empty(PARTS, np.float32),
        np.empty(mixtures, np.int64), np.empty(mixtures), np.empty(mixtures),
        np.empty(mixtures, np.int64), np.empty(mixtures, np.int64), np.zeros(PARTS, np.int64),
        np.zeros(257, np.int64), np.zeros(channels, np.int64),
    )  # fmt: skip


@njit(inline="always")
def part_weights(  # type: ignore[no-untyped-def]
    row, at, on, count, columns, offsets, logits, q, weights
):
    """Weights of sum 2^16 and their q of a pixel's parts; returns the sum of q.

    weights[2 + k] belongs to the k-th of `count` proposals; the first weight is at least 1.
    """
    lead = 2 if on else 1
    logits[0] = row[at]
    if on:
        logits[1] = row[at + 1]
    for k in range(count):
        logits[lead + k] = row[at + 2 + np.int64(columns[k])] + offsets[k]
    total = softmax_integers(logits, 0, lead + count, _BITS, q, weights)
    if not on:
        for k in range(count, 0, -1):
            q[1 + k] = q[k]
            weights[1 + k] = weights[k]
        q[1] = 0
        weights[1] = 0
    if weights[0] == 0:
        best = 1
        for k in range(2, count + 2):
            if weights[k] > weights[best]:
                best = k
        weights[best] -= 1
        weights[0] = 1
    return total


@njit(inline="always")
def seen_prefix(  # type: ignore[no-untyped-def]
    values, shares, low, high, predictor, mixtures, weights, mean_fixed, inverse_fixed, prefix
):
    """prefix int64 [257]: mass of the children low .. high - 1 before each, the last: of all."""
    prefix[0] = 0
    last = np.int64(-1)
    edge = 0
    for k in range(low, high):
        value = values[k]
        if value != last:
            edge = mixture_cumulative(
                value, predictor, mixtures, weights, mean_fixed, inverse_fixed
            )
        above = mixture_cumulative(
            value + 1, predictor, mixtures, weights, mean_fixed, inverse_fixed
        )
        prefix[k - low + 1] = prefix[k - low] + (((above - edge) >> 12) + 1) * shares[k]
        edge, last = above, value + 1


@njit(inline="always")
def seen_cumulative(value, values, low, high, prefix):  # type: ignore[no-untyped-def]
    """Mass in 2^-32 of the children below `value`: 0 at 0, 2^32 at 256."""
    a, b = low, high
    while a < b:
        middle = (a + b) >> 1
        if values[middle] < value:
            a = middle + 1
        else:
            b = middle
    return ((prefix[a - low] << 23) // prefix[high - low]) << 9


@njit(inline="always")
def find_child(value, values, low, high):  # type: ignore[no-untyped-def]
    """Node of the child `value` among low .. high - 1, or -1."""
    a, b = low, high
    while a < b:
        middle = (a + b) >> 1
        if values[middle] < value:
            a = middle + 1
        else:
            b = middle
    return a if a < high and values[a] == value else -1


@njit(inline="always")
def cumulative(  # type: ignore[no-untyped-def]
    value, mixture, seen, channel, channels, count, weights, values
):
    """Integer CDF at 2^20 of one channel from those of its mixture and of the colours seen."""
    total = weights[0] * mixture + weights[1] * seen
    for k in range(count):
        if weights[2 + k] and packed_sample(values[k], channel, channels) < value:
            total += weights[2 + k] << 32
    return value + (((total >> 16) * _FREE) >> 32)


@njit(inline="always")
def update_weights(  # type: ignore[no-untyped-def]
    value, mass, seen_mass, channel, channels, count, weights, values
):
    """Bayes' rule after a channel took `value`, to which the mixture gave `mass` of 2^32."""
    seen = (weights[1] * seen_mass) >> 16
    total = ((weights[0] * mass) >> 16) + 1 + seen
    for k in range(count):
        if weights[2 + k] and packed_sample(values[k], channel, channels) == value:
            total += weights[2 + k] << 16
    rest = 1 << 16
    for k in range(count):
        weight = 0
        if weights[2 + k] and packed_sample(values[k], channel, channels) == value:
            weight = (weights[2 + k] << 32) // total
        weights[2 + k] = weight
        rest -= weight
    weights[1] = (seen << 16) // total
    weights[0] = rest - weights[1]


@njit(cache=True, nogil=True)
def interval_rows(  # type: ignore[no-untyped-def]
    begin, end, outputs, pixels, work, colours, channels, mixtures, start, frequency
):
    """Intervals of pixels [begin, end): start, frequency uint32 [P, c] at 2^-20."""
    q, logits, weights, mean, scale, mean_fixed, inverse_fixed, parts, prefix, residuals = (
        make_scratch(channels, mixtures)
    )
    at = 3 * mixtures * channels + channels * (channels - 1) // 2
    on = colours.values[0].shape[0] > 0
    for p in range(begin, end):
        row, count, values = outputs[p], work.counts[p], work.values[p]
        part_weights(row, at, on, count, work.columns[p], work.offsets[p], logits, q, parts)
        node_low, node_high = 0, colours.values[0].shape[0]
        for c in range(channels):
            value = np.int64(pixels[p, c])
            predictor = work.predictors[p, c]
            softmax_integers(row, 3 * mixtures * c, mixtures, 14, q, weights)
            channel_parameters(
                row, c, channels, mixtures, residuals, mean, scale, mean_fixed, inverse_fixed
            )
            low = mixture_cumulative(value, predictor, mixtures, weights, mean_fixed, inverse_fixed)
            high = mixture_cumulative(
                value + 1, predictor, mixtures, weights, mean_fixed, inverse_fixed
            )
            seen_low, seen_high = 0, 0
            if parts[1]:
                level = colours.values[c]
                seen_prefix(
                    level, colours.weights[c], node_low, node_high, predictor, mixtures, weights,
                    mean_fixed, inverse_fixed, prefix,
                )  # fmt: skip
                seen_low = seen_cumulative(value, level, node_low, node_high, prefix)
                seen_high = seen_cumulative(value + 1, level, node_low, node_high, prefix)
                node = find_child(value, level, node_low, node_high)
                if node >= 0 and c + 1 < channels:
                    node_low, node_high = colours.first[c][node], colours.first[c][node + 1]
            first = cumulative(value, low, seen_low, c, channels, count, parts, values)
            last = cumulative(value + 1, high, seen_high, c, channels, count, parts, values)
            start[p, c] = first
            frequency[p, c] = last - first
            update_weights(
                value, high - low, seen_high - seen_low, c, channels, count, parts, values
            )
            residuals[c] = value - predictor


@njit(cache=True, nogil=True)
def gradient_rows(  # type: ignore[no-untyped-def]
    begin, end, outputs, pixels, work, colours, channels, mixtures, gradient
):
    """d(-ln P(pixel))/d(outputs), f32 [P, outputs], of pixels [begin, end).

    The probability that the colours seen give is taken as a constant.
    """
    q, logits, weights, mean, scale, mean_fixed, inverse_fixed, parts, prefix, residuals = (
        make_scratch(channels, mixtures)
    )
    weight = np.empty((channels, mixtures))
    mass = np.empty((channels, mixtures))
    to_mean = np.empty((channels, mixtures))
    to_scale = np.empty((channels, mixtures))
    mixture = np.empty(channels)
    part_weight = np.empty(PARTS)
    hits = np.empty(PARTS)
    upper, lower = np.empty(3), np.empty(3)
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    on = colours.values[0].shape[0] > 0
    for p in range(begin, end):
        row, out, count = outputs[p], gradient[p], work.counts[p]
        total = part_weights(
            row, copy_at, on, count, work.columns[p], work.offsets[p], logits, q, parts
        )
        for m in range(count + 2):
            part_weight[m] = np.float64(q[m]) / np.float64(total)
        product = 1.0
        share_of_seen = 1.0 if on else 0.0
        node_low, node_high = 0, colours.values[0].shape[0]
        for c in range(channels):
            value = np.int64(pixels[p, c])
            predictor = work.predictors[p, c]
            total = softmax_integers(row, 3 * mixtures * c, mixtures, 14, q, weights)
            channel_parameters(
                row, c, channels, mixtures, residuals, mean, scale, mean_fixed, inverse_fixed
            )
            if share_of_seen > 0.0:
                level = colours.values[c]
                node = find_child(value, level, node_low, node_high)
                if node >= 0:
                    seen_prefix(
                        level, colours.weights[c], node_low, node_high, predictor, mixtures,
                        weights, mean_fixed, inverse_fixed, prefix,
                    )  # fmt: skip
                    k = node - node_low
                    part = np.float64(prefix[k + 1] - prefix[k])
                    share_of_seen = share_of_seen * (
                        part / np.float64(prefix[node_high - node_low])
                    )
                    if c + 1 < channels:
                        node_low, node_high = colours.first[c][node], colours.first[c][node + 1]
                else:
                    share_of_seen = 0.0
            residuals[c] = value - predictor
            mixed = channel_terms(
                value, residuals[c], total, mixtures, mean, scale, q, upper, lower,
                weight[c], mass[c], to_mean[c], to_scale[c],
            )  # fmt: skip
            mixture[c] = mixed
            product = product * (mixed + _FLOOR)
        hits[0] = part_weight[0] * product
        hits[1] = part_weight[1] * share_of_seen
        likelihood = hits[0] + hits[1]
        for m in range(count):
            hit = True
            for c in range(channels):
                hit = hit and packed_sample(work.values[p, m], c, channels) == np.int64(
                    pixels[p, c]
                )
            hits[m + 2] = part_weight[m + 2] if hit else 0.0
            likelihood = likelihood + hits[m + 2]
        share = hits[0] / likelihood
        for m in range(copy_at, out.shape[0]):
            out[m] = np.float32(0.0)
        out[copy_at] = np.float32(part_weight[0] - share)
        if on:
            out[copy_at + 1] = np.float32(part_weight[1] - hits[1] / likelihood)
        for m in range(count):
            out[copy_at + 2 + np.int64(work.columns[p, m])] = np.float32(
                part_weight[m + 2] - hits[m + 2] / likelihood
            )
        for c in range(channels):
            channel_gradient(
                row, out, c, channels, mixtures, share, mixture[c], residuals,
                weight[c], mass[c], to_mean[c], to_scale[c],
            )  # fmt: skip
