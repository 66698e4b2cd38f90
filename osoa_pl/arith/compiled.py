"""Compiled twins of the eager functions that the inner loops need; `threads` runs them over rows.

Every function repeats the eager definition operation by operation: separate IEEE-754 additions,
multiplications and divisions, no `fastmath`, no fused multiply-add, no sum of non-integers whose
order could differ. `tests/arith/test_compiled.py` compares them with the eager path bit for bit.

numba compiles on first use and keeps the result in its cache (beside the package, or in the
user's cache folder where that is read-only).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from osoa_pl.arith.quantize import SMALLEST_MAXIMUM

_EXP_COEFFICIENTS = np.array([1.0 / math.factorial(i) for i in range(14)])
_ROUND_64 = 6755399441055744.0  # 1.5 * 2^52: adding and taking it away rounds to nearest even
_ROUND_64_BITS = int(np.float64(_ROUND_64).view(np.int64))
_ROUND_32 = np.float32(12582912.0)  # 1.5 * 2^23
_ZERO = np.float32(0.0)
_NOISE_SCALE = np.float32(2.0**-20)
_HALF = np.float32(0.5)
_SMALLEST_MAXIMUM = np.float32(SMALLEST_MAXIMUM)
_NOT_FINITE = np.int32(0x7F800000)  # the bits of infinity; NaN's are above


@njit(inline="always")
def exp64(x):  # type: ignore[no-untyped-def]
    """e^x in float64, the twin of `functions.exp`; x is clamped to [-708, 709]."""
    x = min(max(x, -708.0), 709.0)
    shifted = x * 1.4426950408889634 + _ROUND_64
    k = shifted - _ROUND_64
    r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    y = _EXP_COEFFICIENTS[13]
    for i in range(12, -1, -1):
        y = y * r + _EXP_COEFFICIENTS[i]
    # 2^k, -1021 <= k <= 1023: the last bits of `shifted` are those of k, an exponent's come first
    power = np.int64((np.float64(shifted).view(np.int64) + 1023) << 52)
    return y * power.view(np.float64)


@njit(inline="always")
def round64(x):  # type: ignore[no-untyped-def]
    """Nearest integer to x (|x| < 2^51), ties to even, as float64."""
    return (x + _ROUND_64) - _ROUND_64


@njit(inline="always")
def nearest64(x):  # type: ignore[no-untyped-def]
    """Nearest integer to x (|x| < 2^51), ties to even, as int64: from the bits of the sum."""
    return np.float64(x + _ROUND_64).view(np.int64) - _ROUND_64_BITS


@njit(inline="always")
def quotient64(a, b):  # type: ignore[no-untyped-def]
    """a // b of int64 a >= 0, b > 0, a + b < 2^53: float64 cannot round up to the next integer."""
    return np.int64(np.float64(a) / np.float64(b))


@njit(cache=True, nogil=True)
def quantise_rectified_rows(  # type: ignore[no-untyped-def]
    begin, end, product, scale, bias, residual, inverse_step, limit, quantised, column_max
):
    """h = product*scale + bias (+ residual); quantised = clamp(rne(relu(h)/step), 0, limit).

    Rows [begin, end) of product f32 [P, W]. `residual` holds h of the block before and
    receives the new h; pass a [0, 0] array for none (then `product` receives h). `column_max`
    f32 [W] receives the largest relu(h) of each column.
    """
    width = product.shape[1]
    has_residual = residual.shape[0] > 0
    for p in range(begin, end):
        if has_residual:
            for j in range(width):
                h = product[p, j] * scale
                h = h + bias[j]
                h = residual[p, j] + h
                residual[p, j] = h
                product[p, j] = h
        else:
            for j in range(width):
                h = product[p, j] * scale
                product[p, j] = h + bias[j]
        for j in range(width):
            h = product[p, j]
            h = h if h > _ZERO else _ZERO
            column_max[j] = h if h > column_max[j] else column_max[j]
            q = h * inverse_step
            q = (q + _ROUND_32) - _ROUND_32
            quantised[p, j] = q if q < limit else limit


@njit(cache=True, nogil=True)
def add_bias_rows(begin, end, product, scale, bias):  # type: ignore[no-untyped-def]
    """product = product*scale + bias in place, rows [begin, end)."""
    width = product.shape[1]
    for p in range(begin, end):
        for j in range(width):
            h = product[p, j] * scale
            product[p, j] = h + bias[j]


@njit(cache=True, nogil=True)
def masked_gradient_rows(  # type: ignore[no-untyped-def]
    begin, end, product, scale, quantised, add, total, column_max
):
    """g = product*scale where quantised > 0, else 0; plus `total` if `add`; written to `total`."""
    width = product.shape[1]
    for p in range(begin, end):
        for j in range(width):
            g = product[p, j] * scale
            g = g if quantised[p, j] > _ZERO else _ZERO
            if add:
                g = total[p, j] + g
            total[p, j] = g
            a = g if g > _ZERO else -g
            column_max[j] = a if a > column_max[j] else column_max[j]


@njit(cache=True, nogil=True)
def absolute_max_rows(begin, end, values, column_max):  # type: ignore[no-untyped-def]
    """column_max[j] = max |values[p, j]| over rows [begin, end)."""
    width = values.shape[1]
    for p in range(begin, end):
        for j in range(width):
            g = values[p, j]
            a = g if g > _ZERO else -g
            column_max[j] = a if a > column_max[j] else column_max[j]


@njit(cache=True, nogil=True)
def round_matrices(values, at, stride, factors, bits, out, steps):  # type: ignore[no-untyped-def]
    """Round matrices to integers of `bits` bits, each at the step of its largest magnitude.

    values f32 (flat): matrix n is the out.shape[1] numbers from at + n * stride, times factors[n],
    a power of two. out f32 [n, size]; steps f32 [n] receives the steps. Twin of
    `quantize.power_of_two_step` and `quantize_nearest`; False, and no result, where a number is
    not finite.
    """
    integers, step_bits = values.view(np.uint32), steps.view(np.int32)
    limit = np.float32((1 << bits) - 1)
    low = -limit
    size = out.shape[1]
    held = np.empty(1, np.float32)
    held_bits = held.view(np.int32)
    for n in range(out.shape[0]):
        begin = at + n * stride
        matrix, patterns = values[begin : begin + size], integers[begin : begin + size]
        largest = np.uint32(0)  # magnitudes order as their bits do, what is not finite above all
        for i in range(size):
            magnitude = np.uint32(patterns[i] << np.uint32(1))
            largest = magnitude if magnitude > largest else largest
        held_bits[0] = largest >> np.uint32(1)
        factor = factors[n]
        held[0] = max(held[0] * factor, _SMALLEST_MAXIMUM)
        if largest >> np.uint32(1) >= _NOT_FINITE or held_bits[0] >= _NOT_FINITE:
            return False
        step_bits[n] = (held_bits[0] & np.int32(0x7F800000)) - np.int32((bits - 1) << 23)
        held_bits[0] = np.int32(0x7F000000) - step_bits[n]
        inverse = held[0]
        row = out[n]
        for i in range(size):
            q = (matrix[i] * factor) * inverse
            q = (q + _ROUND_32) - _ROUND_32
            q = q if q < limit else limit
            row[i] = q if q > low else low
    return True


@njit(cache=True, nogil=True)
def scale_matrices(products, factors, out, at, stride):  # type: ignore[no-untyped-def]
    """out[at + n * stride + i] = products[n, i] * factors[n], float32, `out` flat."""
    size = products.shape[1]
    for n in range(products.shape[0]):
        begin, factor = at + n * stride, factors[n]
        source, target = products[n], out[begin : begin + size]
        for i in range(size):
            target[i] = source[i] * factor


@njit(cache=True, nogil=True, error_model="numpy")
def adam_step(  # type: ignore[no-untyped-def]
    parameters, first, second, gradient, decay1, share1, decay2, share2, factor, eps, rate
):
    """Twin of `optim.Adam.step`, whose constants these are, float32 all of them."""
    for i in range(parameters.shape[0]):
        g = gradient[i]
        m = first[i] * decay1
        m = m + g * share1
        v = second[i] * decay2
        v = v + (g * g) * share2
        first[i], second[i] = m, v
        den = np.sqrt(v * factor) + eps
        parameters[i] = parameters[i] - (m * rate) / den


@njit(cache=True, nogil=True)
def squared_sum(gradient, scale, limit):  # type: ignore[no-untyped-def]
    """Sum of clamp(rne(g * scale), -limit, limit)^2 in int64, or -1 where a g is not finite.

    limit: at most 2^22. Elements are clamped first, which gives the same.
    """
    total = np.int64(0)
    wrong = np.float32(0.0)
    low = -limit
    for i in range(gradient.shape[0]):
        g = gradient[i]
        wrong += g - g  # NaN from the first value that is not finite
        q = g * scale
        q = q if q < limit else limit
        q = q if q > low else low
        q = (q + _ROUND_32) - _ROUND_32
        whole = np.int64(q)
        total += whole * whole
    return total if wrong == _ZERO else np.int64(-1)


@njit(inline="always")
def uniform32(counter, key):  # type: ignore[no-untyped-def]
    """Twin of `noise.uniform` for one counter, both uint32: f32 in (0, 1), 21 bits."""
    h = np.uint32(np.uint32(counter * np.uint32(0x9E3779B1)) + key)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x21F0AAAD))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x735A2D97))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    return (np.float32(np.int32(h >> np.uint32(12))) + _HALF) * _NOISE_SCALE


@njit(cache=True, nogil=True)
def round_stochastic_rows(begin, end, values, inverse_step, key, limit, out):  # type: ignore[no-untyped-def]
    """Twin of `quantize.quantize_stochastic`: clamp(floor(x/step + u)), u from the counter."""
    width = values.shape[1]
    key = np.uint32(key)
    low = -limit
    for p in range(begin, end):
        base = np.uint32(p) * np.uint32(width)
        for j in range(width):
            u = uniform32(np.uint32(base + np.uint32(j)), key)
            q = np.floor(values[p, j] * inverse_step + u)
            q = q if q < limit else limit
            out[p, j] = q if q > low else low


@njit(cache=True, nogil=True, fastmath={"contract"})
def matmul_rows(begin, end, x, weights, out):  # type: ignore[no-untyped-def]
    """out[p, :] = x[p, :] @ weights for integer-valued float32 operands, rows [begin, end).

    x f32 [P, K], weights f32 [K, O], K a multiple of 4. Exact, hence of any order and fused or not,
    while every sum of |x| * |w| stays below 2^24; four rows at a time share the loads of weights.
    """
    depth, width = weights.shape
    p = begin
    while p + 3 < end:
        for o in range(width):
            out[p, o] = _ZERO
            out[p + 1, o] = _ZERO
            out[p + 2, o] = _ZERO
            out[p + 3, o] = _ZERO
        for k in range(0, depth, 4):
            a0, a1, a2, a3 = x[p, k], x[p, k + 1], x[p, k + 2], x[p, k + 3]
            b0, b1, b2, b3 = x[p + 1, k], x[p + 1, k + 1], x[p + 1, k + 2], x[p + 1, k + 3]
            c0, c1, c2, c3 = x[p + 2, k], x[p + 2, k + 1], x[p + 2, k + 2], x[p + 2, k + 3]
            d0, d1, d2, d3 = x[p + 3, k], x[p + 3, k + 1], x[p + 3, k + 2], x[p + 3, k + 3]
            for o in range(width):
                w0, w1 = weights[k, o], weights[k + 1, o]
                w2, w3 = weights[k + 2, o], weights[k + 3, o]
                out[p, o] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                out[p + 1, o] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
                out[p + 2, o] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                out[p + 3, o] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
        p += 4
    while p < end:
        for o in range(width):
            out[p, o] = _ZERO
        for k in range(0, depth, 4):
            a0, a1, a2, a3 = x[p, k], x[p, k + 1], x[p, k + 2], x[p, k + 3]
            for o in range(width):
                out[p, o] += (
                    a0 * weights[k, o]
                    + a1 * weights[k + 1, o]
                    + a2 * weights[k + 2, o]
                    + a3 * weights[k + 3, o]
                )
        p += 1
