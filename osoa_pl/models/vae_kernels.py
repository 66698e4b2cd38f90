"""Compiled kernels of the VAE: chains of images in bits-back coding, and gradients of likelihoods.

A chain is sequential: the latents of an image come from bits that the image before has left. So
each image runs through the generative network (and, decoding, the recognition network) alone, as
products of a vector of integers with a matrix of integers in int32. Everything repeats the eager
path (`likelihoods.py`, `latents.py`, `coding.bitsback`) operation by operation; tests compare both.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from osoa_pl.arith.compiled import _ROUND_32, _ZERO, exp64, round64
from osoa_pl.coding.bitsback import FRACTION_BITS, SLOPE_BITS
from osoa_pl.coding.rans_numba import advance_scalar, peek_scalar, push_scalar
from osoa_pl.models.latents import LOG_SCALE_LIMITS, MEAN_LIMIT
from osoa_pl.models.latents import PRECISION as LATENT_PRECISION
from osoa_pl.models.likelihoods import HIGHEST, LOWEST, PRECISION, RATIOS, TRIALS

_TOTAL = float(1 << PRECISION)
_FREE = float((1 << PRECISION) - TRIALS - 1)
_LOW_SCALE, _HIGH_SCALE = LOG_SCALE_LIMITS
_MEAN_UNIT = float(1 << FRACTION_BITS)
_SLOPE_UNIT = float(1 << SLOPE_BITS)


@njit(cache=True, nogil=True, error_model="numpy")
def _layer(x, weights, scale, bias, total, out):  # type: ignore[no-untyped-def]
    """out f32 [O] = f32(exact x . weights) * scale + bias; x int32 [K], weights int16 [K, O]."""
    for o in range(total.shape[0]):
        total[o] = 0
    for k in range(x.shape[0]):
        value = x[k]
        if value != 0:
            for o in range(total.shape[0]):
                total[o] += value * np.int32(weights[k, o])
    for o in range(total.shape[0]):
        out[o] = np.float32(total[o]) * scale
    for o in range(total.shape[0]):
        out[o] = out[o] + bias[o]


@njit(cache=True, nogil=True, error_model="numpy")
def _rectify(h, inverse_step, limit, out):  # type: ignore[no-untyped-def]
    """out int32 = min(rne(max(h, 0) / step), limit)."""
    for o in range(h.shape[0]):
        q = (h[o] if h[o] > _ZERO else _ZERO) * inverse_step
        q = (q + _ROUND_32) - _ROUND_32
        out[o] = np.int32(q if q < limit else limit)


@njit(cache=True, nogil=True, error_model="numpy")
def _two_layers(x, network, out):  # type: ignore[no-untyped-def]
    """The recognition or generative network on one vector int32 [K]; out f32 [O]."""
    first, bias, scale, inverse_step, limit, second, last_bias, last_scale = network
    hidden = first.shape[1]
    total, h = np.empty(hidden, np.int32), np.empty(hidden, np.float32)
    _layer(x, first, scale, bias, total, h)
    q = np.empty(hidden, np.int32)
    _rectify(h, inverse_step, limit, q)
    _layer(q, second, last_scale, last_bias, np.empty(out.shape[0], np.int32), out)


@njit(cache=True, nogil=True, error_model="numpy")
def _bin_edge(i, mean, slope, edges, table):  # type: ignore[no-untyped-def]
    """Twin of `bitsback.cumulative_bins` for one lane."""
    count = edges.shape[0] + 1
    if i <= 0:
        return np.int64(0)
    if i >= count:
        return np.int64(1) << LATENT_PRECISION
    reach = np.int64(table.shape[0] // 2 - 1) << 8
    argument = ((edges[i - 1] - mean) * slope) >> SLOPE_BITS
    shifted = min(max(argument, -reach), reach) + reach
    cell, part = shifted >> 8, shifted & 255
    value = table[cell] + (((table[cell + 1] - table[cell]) * part) >> 8)
    return i + ((value * ((np.int64(1) << LATENT_PRECISION) - count)) >> 30)


@njit(cache=True, nogil=True, error_model="numpy")
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (exp64(-x) + 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _ones(logits, frequency):  # type: ignore[no-untyped-def]
    """Frequencies of 1 at 2^-24, int64 [D]."""
    for d in range(logits.shape[0]):
        ones = np.int64(round64(_sigmoid(np.float64(logits[d])) * _TOTAL))
        frequency[d] = min(max(ones, 1), (1 << PRECISION) - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def _shapes(outputs, alpha, beta):  # type: ignore[no-untyped-def]
    dims = alpha.shape[0]
    for d in range(dims):
        alpha[d] = exp64(min(max(np.float64(outputs[d]), LOWEST), HIGHEST))
    for d in range(dims):
        beta[d] = exp64(min(max(np.float64(outputs[dims + d]), LOWEST), HIGHEST))


@njit(cache=True, nogil=True, error_model="numpy")
def _sums(alpha, beta, x, low, high, total):  # type: ignore[no-untyped-def]
    """S_x, S_{x+1} and S_256 of each pixel, float64 [D]; x float64 [D], -1 for none."""
    dims = alpha.shape[0]
    mass = np.ones(dims)
    for d in range(dims):
        total[d] = 0.0
    for k in range(TRIALS + 1):
        at, ratio, rest = np.float64(k), 0.0, 0.0
        if k < TRIALS:
            ratio, rest = RATIOS[k], np.float64(TRIALS - 1 - k)
        for d in range(dims):
            here = x[d] == at
            low[d] = total[d] if here else low[d]
            total[d] = total[d] + mass[d]
            high[d] = total[d] if here else high[d]
            mass[d] = ((mass[d] * ratio) * (alpha[d] + at)) / (beta[d] + rest)


@njit(cache=True, nogil=True, error_model="numpy")
def _find(slot, alpha, beta, total):  # type: ignore[no-untyped-def]
    """(value, start, frequency) of the beta-binomial interval that holds `slot`."""
    mass, below = 1.0, 0.0
    start = np.int64(0)
    for k in range(TRIALS + 1):
        below = below + mass
        end = np.int64(np.floor((below / total) * _FREE)) + k + 1
        if slot < end or k == TRIALS:
            return np.int64(k), start, end - start
        start = end
        mass = ((mass * RATIOS[k]) * (alpha + np.float64(k))) / (beta + np.float64(TRIALS - 1 - k))
    return np.int64(TRIALS), start, np.int64(1)


@njit(cache=True, nogil=True, error_model="numpy")
def push_images(  # type: ignore[no-untyped-def]
    head, tail, size, images, means, slopes, generative, binary, edges, table, centres, prior_bits
):
    """Push images uint8 [n, D], the last first: (head, size, lowest size); size -1: exhausted.

    means, slopes int64 [n, Z]; `tail` must have room for (D + Z) n + 1 words above `size`.
    """
    dims, latent = images.shape[1], means.shape[1]
    outputs = np.empty(generative[5].shape[1], np.float32)
    z, values = np.empty(latent, np.int64), np.empty(latent, np.int32)
    frequency = np.empty(dims, np.int64)
    alpha, beta, x = np.empty(dims), np.empty(dims), np.empty(dims)
    low, high, total = np.zeros(dims), np.zeros(dims), np.empty(dims)
    lowest = size
    for n in range(images.shape[0] - 1, -1, -1):
        for j in range(latent):
            slot = peek_scalar(head, LATENT_PRECISION)
            below, above = np.int64(0), np.int64(edges.shape[0] + 1)
            start, end = np.int64(0), np.int64(1) << LATENT_PRECISION
            while above - below > 1:
                middle = (below + above) >> 1
                edge = _bin_edge(middle, means[n, j], slopes[n, j], edges, table)
                if edge <= slot:
                    below, start = middle, edge
                else:
                    above, end = middle, edge
            head, size = advance_scalar(head, tail, size, start, end - start, LATENT_PRECISION)
            if size < 0:
                return head, size, lowest
            lowest = min(lowest, size)
            z[j] = below
            values[j] = centres[below]
        _two_layers(values, generative, outputs)
        if binary:
            _ones(outputs, frequency)
            for d in range(dims - 1, -1, -1):
                zero = (np.int64(1) << PRECISION) - frequency[d]
                if images[n, d]:
                    head, size = push_scalar(head, tail, size, zero, frequency[d], PRECISION)
                else:
                    head, size = push_scalar(head, tail, size, np.int64(0), zero, PRECISION)
        else:
            _shapes(outputs, alpha, beta)
            for d in range(dims):
                x[d] = np.float64(images[n, d])
            _sums(alpha, beta, x, low, high, total)
            for d in range(dims - 1, -1, -1):
                k = np.int64(images[n, d])
                start = k + np.int64(np.floor((low[d] / total[d]) * _FREE))
                end = k + 1 + np.int64(np.floor((high[d] / total[d]) * _FREE))
                head, size = push_scalar(head, tail, size, start, end - start, PRECISION)
        for j in range(latent - 1, -1, -1):
            head, size = push_scalar(head, tail, size, z[j], np.int64(1), prior_bits)
    return head, size, lowest


@njit(cache=True, nogil=True, error_model="numpy")
def pop_images(  # type: ignore[no-untyped-def]
    head, tail, size, images, recognition, generative, binary, edges, table, centres, prior_bits
):
    """Pop images into uint8 [n, D], first to last: (head, size); size -1: exhausted."""
    dims, latent = images.shape[1], generative[0].shape[0]
    outputs = np.empty(generative[5].shape[1], np.float32)
    posterior = np.empty(2 * latent, np.float32)
    z, values = np.empty(latent, np.int64), np.empty(latent, np.int32)
    frequency, pixels = np.empty(dims, np.int64), np.empty(dims, np.int32)
    alpha, beta, none = np.empty(dims), np.empty(dims), np.full(dims, -1.0)
    low, high, total = np.zeros(dims), np.zeros(dims), np.empty(dims)
    for n in range(images.shape[0]):
        for j in range(latent):
            z[j] = peek_scalar(head, prior_bits)
            head, size = advance_scalar(head, tail, size, z[j], np.int64(1), prior_bits)
            if size < 0:
                return head, size
            values[j] = centres[z[j]]
        _two_layers(values, generative, outputs)
        if binary:
            _ones(outputs, frequency)
        else:
            _shapes(outputs, alpha, beta)
            _sums(alpha, beta, none, low, high, total)
        for d in range(dims):
            slot = peek_scalar(head, PRECISION)
            if binary:
                zero = (np.int64(1) << PRECISION) - frequency[d]
                one = slot >= zero
                value = np.int64(one)
                start = zero if one else np.int64(0)
                width = frequency[d] if one else zero
            else:
                value, start, width = _find(slot, alpha[d], beta[d], total[d])
            head, size = advance_scalar(head, tail, size, start, width, PRECISION)
            if size < 0:
                return head, size
            images[n, d] = np.uint8(value)
            pixels[d] = np.int32(value)
        _two_layers(pixels, recognition, posterior)
        for j in range(latent - 1, -1, -1):
            mean, slope = _posterior(posterior[j], posterior[latent + j])
            start = _bin_edge(z[j], mean, slope, edges, table)
            end = _bin_edge(z[j] + 1, mean, slope, edges, table)
            head, size = push_scalar(head, tail, size, start, end - start, LATENT_PRECISION)
    return head, size


@njit(cache=True, nogil=True, error_model="numpy")
def _posterior(mean, log_scale):  # type: ignore[no-untyped-def]
    """Twin of `latents.posterior_integers` for one latent."""
    m = min(max(np.float64(mean), -MEAN_LIMIT), MEAN_LIMIT)
    s = min(max(np.float64(log_scale), _LOW_SCALE), _HIGH_SCALE)
    return np.int64(round64(m * _MEAN_UNIT)), np.int64(round64(exp64(-s) * _SLOPE_UNIT))


@njit(cache=True, nogil=True, error_model="numpy")
def bernoulli_gradient_rows(begin, end, outputs, pixels, gradient):  # type: ignore[no-untyped-def]
    """Twin of `likelihoods.Bernoulli.gradient`, rows [begin, end)."""
    for n in range(begin, end):
        for d in range(pixels.shape[1]):
            p = _sigmoid(np.float64(outputs[n, d]))
            gradient[n, d] = np.float32(p - np.float64(pixels[n, d]))


@njit(cache=True, nogil=True, error_model="numpy")
def beta_binomial_gradient_rows(begin, end, outputs, pixels, gradient):  # type: ignore[no-untyped-def]
    """Twin of `likelihoods.BetaBinomial.gradient`, rows [begin, end)."""
    dims = pixels.shape[1]
    alpha, beta, x = np.empty(dims), np.empty(dims), np.empty(dims)
    up, down, both = np.empty(dims), np.empty(dims), np.empty(dims)
    for n in range(begin, end):
        _shapes(outputs[n], alpha, beta)
        for d in range(dims):
            x[d] = np.float64(pixels[n, d])
            up[d] = down[d] = both[d] = 0.0
        for i in range(TRIALS):
            at = np.float64(i)
            for d in range(dims):
                part = 1.0 / (alpha[d] + at)
                up[d] = up[d] + (part if x[d] > at else 0.0)
                part = 1.0 / (beta[d] + at)
                down[d] = down[d] + (part if np.float64(TRIALS) - x[d] > at else 0.0)
                both[d] = both[d] + 1.0 / ((alpha[d] + beta[d]) + at)
        for d in range(dims):
            raw = np.float64(outputs[n, d])
            inside = raw > LOWEST and raw < HIGHEST
            gradient[n, d] = np.float32((both[d] - up[d]) * alpha[d]) if inside else _ZERO
            raw = np.float64(outputs[n, dims + d])
            inside = raw > LOWEST and raw < HIGHEST
            gradient[n, dims + d] = np.float32((both[d] - down[d]) * beta[d]) if inside else _ZERO
