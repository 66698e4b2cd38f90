"""Elementwise kernels between int8 matrix products: the same values as `compiled`, 4x less memory.

Activations q in 0..255 are kept as int8 q - 128, weights w of 9 bits and sign as two limbs
w = 4*high + low with high in -128..127 and low in 0..3, side by side. Products are int32:

    sum q*w = 4 * (q - 128).high + (q - 128).low + 128 * sum w        (all below 2^24)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from osoa_pl.arith.compiled import _ROUND_32, _ZERO, uniform32


@njit(cache=True, nogil=True)
def quantise_rectified_rows(  # type: ignore[no-untyped-def]
    begin, end, product, offset, scale, bias, stream, mode, inverse_step, limit, out, column_max
):
    """h from an int32 product; out = int8(clamp(rne(relu(h)/step), 0, limit) - 128).

    product int32 [P, 2W] (limbs), offset int32 [W]: 128 * sum of weights. mode 0: h is used and
    dropped; 1: it is added to stream f32 [P, W]; 2: stream holds the product of the first layer as
    float32 and receives h. column_max f32 [W] receives the largest relu(h).
    """
    width = bias.shape[0]
    row = np.empty(width, np.float32)
    shift = np.float32(128.0)
    for p in range(begin, end):
        if mode == 2:
            for j in range(width):
                h = stream[p, j] * scale
                row[j] = h + bias[j]
                stream[p, j] = row[j]
        else:
            for j in range(width):
                total = 4 * product[p, j] + product[p, width + j] + offset[j]
                h = np.float32(np.int32(total)) * scale
                row[j] = h + bias[j]
            if mode == 1:
                for j in range(width):
                    row[j] = stream[p, j] + row[j]
                    stream[p, j] = row[j]
        for j in range(width):
            h = row[j]
            h = h if h > _ZERO else _ZERO
            column_max[j] = h if h > column_max[j] else column_max[j]
            q = h * inverse_step
            q = (q + _ROUND_32) - _ROUND_32
            q = q if q < limit else limit
            out[p, j] = np.int8(np.int32(q - shift))


@njit(cache=True, nogil=True)
def outputs_rows(begin, end, product, offset, scale, bias, out):  # type: ignore[no-untyped-def]
    """out f32 [P, O] = exact sum * scale + bias from the int32 limbs [P, 2O]."""
    width = bias.shape[0]
    for p in range(begin, end):
        for j in range(width):
            total = 4 * product[p, j] + product[p, width + j] + offset[j]
            h = np.float32(np.int32(total)) * scale
            out[p, j] = h + bias[j]


@njit(cache=True, nogil=True)
def masked_gradient_rows(  # type: ignore[no-untyped-def]
    begin, end, product, scale, inputs, add, total, column_max
):
    """g = (int32 limbs)*scale where the input was positive, else 0; plus `total` if `add`."""
    width = inputs.shape[1]
    for p in range(begin, end):
        for j in range(width):
            g = np.float32(np.int32(4 * product[p, j] + product[p, width + j])) * scale
            g = g if inputs[p, j] > np.int8(-128) else _ZERO
            if add:
                g = total[p, j] + g
            total[p, j] = g
            a = g if g > _ZERO else -g
            column_max[j] = a if a > column_max[j] else column_max[j]


@njit(cache=True, nogil=True)
def round_stochastic_rows(  # type: ignore[no-untyped-def]
    begin, end, values, inverse_step, key, limit, out, column_sum
):
    """As `compiled.round_stochastic_rows` into int8; column_sum int64 [W] receives the sums."""
    width = values.shape[1]
    key = np.uint32(key)
    low = -limit
    sums = np.zeros(width, np.int32)
    for p in range(begin, end):
        base = np.uint32(p) * np.uint32(width)
        for j in range(width):
            u = uniform32(np.uint32(base + np.uint32(j)), key)
            q = np.floor(values[p, j] * inverse_step + u)
            q = q if q < limit else limit
            q = q if q > low else low
            whole = np.int32(q)
            out[p, j] = np.int8(whole)
            sums[j] += whole
    for j in range(width):
        column_sum[j] = sums[j]


@njit(cache=True, nogil=True)
def weight_gradient(product, sums, scale, step, weight, bias):  # type: ignore[no-untyped-def]
    """Gradients f32 [o, i] and [o] from int32 [o, i] over inputs less 128 and sums int64 [o]."""
    outputs, inputs = weight.shape
    for o in range(outputs):
        shift = 128 * sums[o]
        for i in range(inputs):
            weight[o, i] = np.float32(np.int64(product[o, i]) + shift) * scale
        bias[o] = np.float32(sums[o]) * step


@njit(cache=True, nogil=True)
def split_features(features, out):  # type: ignore[no-untyped-def]
    """Integers x f32 [P, F] of 8 bits and sign as int8 [P, 2F]: x = 2 * high + low, low 0 or 1.

    Returns False where one is outside -256 .. 255.
    """
    rows, columns = features.shape
    smallest, largest = _ZERO, _ZERO
    for p in range(rows):
        for j in range(columns):
            x = features[p, j]
            smallest = min(smallest, x)
            largest = max(largest, x)
            whole = np.int32(x)
            out[p, j] = np.int8(whole >> 1)
            out[p, columns + j] = np.int8(whole & 1)
    return smallest >= np.float32(-256.0) and largest <= np.float32(255.0)


@njit(cache=True, nogil=True)
def first_weight_gradient(product, sums, scale, step, weight, bias):  # type: ignore[no-untyped-def]
    """As `weight_gradient`, from int32 [o, 2i] over the inputs of `split_features`."""
    outputs, inputs = weight.shape
    for o in range(outputs):
        for i in range(inputs):
            total = 2 * np.int64(product[o, i]) + np.int64(product[o, inputs + i])
            weight[o, i] = np.float32(total) * scale
        bias[o] = np.float32(sums[o]) * step


@njit(cache=True, nogil=True)
def split_limbs(weights, limbs):  # type: ignore[no-untyped-def]
    """Limbs int8 [n, 2m] (high | low) of integers f32 [n, m]: w = 4 * high + low, low in 0..3."""
    rows, columns = weights.shape
    for r in range(rows):
        for c in range(columns):
            whole = np.int32(weights[r, c])
            high = whole >> 2
            limbs[r, c] = np.int8(high)
            limbs[r, columns + c] = np.int8(whole - 4 * high)
