"""The output head, compiled: network outputs to integer intervals, and the loss gradient.

A pixel's probability is a mixture: with weight u_m the whole pixel equals causal neighbour m, with
weight u_0 its channels follow one after the other, each a mixture of K logistics whose means are
shifted by the channels before it (PixelCNN++, Salimans et al. 2017, eq. 2-3). After each channel
the weights u are updated by Bayes' rule, so the channels stay coded one after the other.

Everything that decides an interval is an integer computed from portable float64 values; the
eager twin with the same bits is `mixture_head.py`.

Precisions: mixture weights 14 bits, logistic CDF 18 bits, copy weights 16 bits, intervals 20 bits
with every frequency at least 1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from osoa_pl.arith.compiled import exp64, round64
from osoa_pl.arith.functions import sigmoid_table

PRECISION = 20
_TABLE = np.append(sigmoid_table(), sigmoid_table()[-1]).astype(np.int64)
_EDGE = 204800  # 12.5 * 2^14: the sigmoid table's range
_FLOOR = 2.0**-20
_FREE = (1 << PRECISION) - 256
_COPIES = 6


@njit(inline="always")
def softmax_integers(values, at, count, bits, q, weights):  # type: ignore[no-untyped-def]
    """weights[i] of sum 2^bits and q[i] = rne(2^16 e^(v_i - max)) + 1, returns the sum of q."""
    best = 0
    for i in range(1, count):
        if values[at + i] > values[at + best]:
            best = i
    top = np.float64(values[at + best])
    total = 0
    for i in range(count):
        q[i] = int(round64(exp64(np.float64(values[at + i]) - top) * 65536.0)) + 1
        total += q[i]
    rest = 1 << bits
    for i in range(count):
        weights[i] = (q[i] << bits) // total
        rest -= weights[i]
    weights[best] += rest
    return total


@njit(inline="always")
def channel_parameters(  # type: ignore[no-untyped-def]
    outputs, channel, channels, mixtures, residuals, mean, scale, mean_fixed, inverse_fixed
):
    """Means (relative to the predictor, pixels) and inverse scales of one channel's logistics."""
    at = 3 * mixtures * channel
    coupling = 3 * mixtures * channels + channel * (channel - 1) // 2
    for k in range(mixtures):
        # np.float64, not float: numba's float() of a float32 stays float32
        mu = np.float64(outputs[at + mixtures + k]) * 16.0
        for e in range(channel):
            mu = mu + np.float64(outputs[coupling + e]) * np.float64(residuals[e])
        mean[k] = min(max(mu, -1024.0), 1024.0)
        log_scale = min(max(np.float64(outputs[at + 2 * mixtures + k]), -4.0), 6.0)
        inverse = exp64(-log_scale)
        scale[k] = inverse
        mean_fixed[k] = int(round64(mean[k] * 1024.0))
        inverse_fixed[k] = int(round64(inverse * 65536.0))


@njit(inline="always")
def mixture_cumulative(  # type: ignore[no-untyped-def]
    value, predictor, mixtures, weights, mean_fixed, inverse_fixed
):
    """Mass of values below `value` in units of 2^-32: 0 at 0, 2^32 at 256, monotone between."""
    if value <= 0:
        return 0
    if value >= 256:
        return 1 << 32
    edge = (2 * value - 1) * 512 - predictor * 1024
    total = 0
    for k in range(mixtures):
        z = ((edge - mean_fixed[k]) * inverse_fixed[k]) >> 12
        z = min(max(z, -_EDGE), _EDGE) + _EDGE
        i = z >> 8
        low = _TABLE[i]
        total += weights[k] * (low + (((_TABLE[i + 1] - low) * (z & 255)) >> 8))
    return total


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
            weight = (copy_weights[m + 1] << 32) // total
        copy_weights[m + 1] = weight
        rest -= weight
    copy_weights[0] = rest


@njit(cache=True, nogil=True)
def interval_rows(  # type: ignore[no-untyped-def]
    begin, end, outputs, pixels, predictors, copies, channels, mixtures, start, frequency
):
    """Intervals of pixels [begin, end): start, frequency uint32 [P, c] at 2^-20."""
    q = np.empty(max(mixtures, _COPIES + 1), np.int64)
    weights = np.empty(mixtures, np.int64)
    mean, scale = np.empty(mixtures), np.empty(mixtures)
    mean_fixed, inverse_fixed = np.empty(mixtures, np.int64), np.empty(mixtures, np.int64)
    copy_weights = np.empty(_COPIES + 1, np.int64)
    residuals = np.zeros(channels, np.int64)
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    for p in range(begin, end):
        row = outputs[p]
        softmax_integers(row, copy_at, _COPIES + 1, 16, q, copy_weights)
        for c in range(channels):
            value = np.int64(pixels[p, c])
            predictor = predictors[p, c]
            softmax_integers(row, 3 * mixtures * c, mixtures, 14, q, weights)
            channel_parameters(
                row, c, channels, mixtures, residuals, mean, scale, mean_fixed, inverse_fixed
            )
            low = mixture_cumulative(value, predictor, mixtures, weights, mean_fixed, inverse_fixed)
            high = mixture_cumulative(
                value + 1, predictor, mixtures, weights, mean_fixed, inverse_fixed
            )
            first = cumulative(value, low, c, copy_weights, copies[p])
            last = cumulative(value + 1, high, c, copy_weights, copies[p])
            start[p, c] = first
            frequency[p, c] = last - first
            update_copies(value, high - low, c, copy_weights, copies[p])
            residuals[c] = value - predictor


@njit(inline="always")
def edge_terms(z, out):  # type: ignore[no-untyped-def]
    """out = sigmoid(z), 1 - sigmoid(z), sigmoid'(z), each with full relative precision."""
    t = exp64(-abs(z))
    r = 1.0 / (1.0 + t)
    s = t * r
    if z > 0.0:
        out[0] = r
        out[1] = s
    else:
        out[0] = s
        out[1] = r
    out[2] = r * s


@njit(inline="always")
def channel_terms(  # type: ignore[no-untyped-def]
    value, residual, total, mixtures, mean, scale, q, upper, lower, weight, mass, to_mean, to_scale
):
    """One channel's mixture at its value: probability; of each logistic weight, mass, slopes."""
    mixed = 0.0
    for k in range(mixtures):
        d = np.float64(residual) - mean[k]
        high = (d + 0.5) * scale[k]
        low = (d - 0.5) * scale[k]
        edge_terms(high, upper)
        edge_terms(low, lower)
        if value == 255:
            upper[0], upper[1], upper[2] = 1.0, 0.0, 0.0
        if value == 0:
            lower[0], lower[1], lower[2] = 0.0, 1.0, 0.0
        inside = lower[1] - upper[1] if d > 0.0 else upper[0] - lower[0]
        weight[k] = np.float64(q[k]) / np.float64(total)
        mass[k] = inside
        to_mean[k] = (lower[2] - upper[2]) * scale[k]
        to_scale[k] = low * lower[2] - high * upper[2]
        mixed = mixed + weight[k] * inside
    return mixed


@njit(inline="always")
def channel_gradient(  # type: ignore[no-untyped-def]
    row, out, c, channels, mixtures, share, mixture, residuals, weight, mass, to_mean, to_scale
):
    """Gradient of one channel's logits, means, scales and couplings, `share` of it."""
    factor = share / (mixture + _FLOOR)
    at = 3 * mixtures * c
    coupling = 3 * mixtures * channels + c * (c - 1) // 2
    shift = 0.0
    for k in range(mixtures):
        f = factor * weight[k]
        out[at + k] = np.float32(f * (mixture - mass[k]))
        raw = np.float64(row[at + mixtures + k]) * 16.0
        for e in range(c):
            raw = raw + np.float64(row[coupling + e]) * np.float64(residuals[e])
        g = f * -to_mean[k]
        g = g if abs(raw) < 1024.0 else 0.0
        shift = shift + g
        out[at + mixtures + k] = np.float32(g * 16.0)
        log_scale = np.float64(row[at + 2 * mixtures + k])
        g = f * -to_scale[k]
        g = g if log_scale > -4.0 and log_scale < 6.0 else 0.0
        out[at + 2 * mixtures + k] = np.float32(g)
    for e in range(c):
        out[coupling + e] = np.float32(shift * np.float64(residuals[e]))


@njit(cache=True, nogil=True)
def gradient_rows(  # type: ignore[no-untyped-def]
    begin, end, outputs, pixels, predictors, copies, channels, mixtures, gradient
):
    """d(-ln P(pixel))/d(outputs), f32 [P, outputs], of pixels [begin, end)."""
    q = np.empty(max(mixtures, _COPIES + 1), np.int64)
    ignored = np.empty(max(mixtures, _COPIES + 1), np.int64)
    mean, scale = np.empty(mixtures), np.empty(mixtures)
    mean_fixed, inverse_fixed = np.empty(mixtures, np.int64), np.empty(mixtures, np.int64)
    residuals = np.zeros(channels, np.int64)
    weight = np.empty((channels, mixtures))
    mass = np.empty((channels, mixtures))
    to_mean = np.empty((channels, mixtures))
    to_scale = np.empty((channels, mixtures))
    mixture = np.empty(channels)
    copy_weight = np.empty(_COPIES + 1)
    hits = np.empty(_COPIES + 1)
    upper, lower = np.empty(3), np.empty(3)
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    for p in range(begin, end):
        row = outputs[p]
        out = gradient[p]
        total = softmax_integers(row, copy_at, _COPIES + 1, 16, q, ignored)
        for m in range(_COPIES + 1):
            copy_weight[m] = np.float64(q[m]) / np.float64(total)
        product = 1.0
        for c in range(channels):
            value = np.int64(pixels[p, c])
            total = softmax_integers(row, 3 * mixtures * c, mixtures, 14, q, ignored)
            channel_parameters(
                row, c, channels, mixtures, residuals, mean, scale, mean_fixed, inverse_fixed
            )
            residuals[c] = value - predictors[p, c]
            mixed = channel_terms(
                value, residuals[c], total, mixtures, mean, scale, q, upper, lower,
                weight[c], mass[c], to_mean[c], to_scale[c],
            )  # fmt: skip
            mixture[c] = mixed
            product = product * (mixed + _FLOOR)
        hits[0] = copy_weight[0] * product
        likelihood = hits[0]
        for m in range(_COPIES):
            hit = True
            for c in range(channels):
                hit = hit and copies[p, m, c] == np.int64(pixels[p, c])
            hits[m + 1] = copy_weight[m + 1] if hit else 0.0
            likelihood = likelihood + hits[m + 1]
        share = hits[0] / likelihood
        for m in range(_COPIES + 1):
            out[copy_at + m] = np.float32(copy_weight[m] - hits[m] / likelihood)
        for c in range(channels):
            channel_gradient(
                row, out, c, channels, mixtures, share, mixture[c], residuals,
                weight[c], mass[c], to_mean[c], to_scale[c],
            )  # fmt: skip
