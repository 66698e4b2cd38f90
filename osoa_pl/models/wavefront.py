"""The raster wavefront: in which order pixels are coded, and the compiled decoder.

A pixel needs 3 columns to the right in the row above, so row i can run 4 columns behind row i-1:
pixel (i, j) is ready at time j + 4i (Sheared PixelCNN idea of ParallelNeLLoC with horizon 3), and a
tile of h rows and w columns takes w + 4(h-1) steps. The tiles of a batch are dealt to streams
(tile b to stream b mod streams); within a stream the order is time, then tile, then row, then
channel. Streams share nothing, so threads decode them side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from osoa_pl.arith import vnni
from osoa_pl.arith.compiled import matmul_rows
from osoa_pl.coding.rans_numba import advance_scalar, peek_scalar
from osoa_pl.models.compiled_head import (
    _WEIGHT,
    LANES,
    PRECISION,
    RESIDUAL,
    cumulative,
    lane_scales,
    lane_softmax,
    lane_weights,
    likely_value,
    load_outputs,
    make_lanes,
    mixture_cumulative,
    next_value,
    pixel_means,
    update_copies,
)
from osoa_pl.models.features import RADIUS, pixel_features

_ZERO = np.float32(0.0)
_ROUND = np.float32(12582912.0)
_COPIES = 6


class Weights(NamedTuple):
    """The network's quantised weights of one moment, transposed for `forward_rows`.

    first [F, W], hidden [2*depth, W, W], last [W, O], biases [2*depth+1, W], last_bias [O];
    scales [2*depth+2]: of each layer's products; steps [2*depth+1]: inverse ones of each input.
    hidden_limbs int8 [2*depth, W/4, 2, lanes, 4], last_limbs: `vnni.pack_limbs` of hidden and last,
    which then are not looked at, or empty where this processor has no such instruction.
    """

    first: NDArray[np.float32]
    hidden: NDArray[np.float32]
    last: NDArray[np.float32]
    biases: NDArray[np.float32]
    last_bias: NDArray[np.float32]
    scales: NDArray[np.float32]
    steps: NDArray[np.float32]
    hidden_limbs: NDArray[np.int8]
    last_limbs: NDArray[np.int8]


class Passed(NamedTuple):
    """What a backward pass needs of pixels that were passed forward one by one.

    features f32 [P, F]; inputs int8 [2*depth+1, P, W]: of each layer but the first, less 128;
    outputs f32 [P, O].
    """

    features: NDArray[np.float32]
    inputs: NDArray[np.int8]
    outputs: NDArray[np.float32]


@njit(cache=True, nogil=True)
def stream_order(table, tiles):  # type: ignore[no-untyped-def]
    """Pixel indices of one stream's tiles (rows of `table`) in coding order, int64 [n]."""
    count = 0
    steps = 0
    for b in tiles:
        count += table[b, 1] * table[b, 2]
        steps = max(steps, table[b, 2] + (RADIUS + 1) * (table[b, 1] - 1))
    order = np.empty(count, np.int64)
    n = 0
    for t in range(steps):
        for b in tiles:
            height, width, first = table[b, 1], table[b, 2], table[b, 3]
            lowest = max(0, (t - width + RADIUS + 1) // (RADIUS + 1))
            for i in range(lowest, min(height, t // (RADIUS + 1) + 1)):
                order[n] = first + i * width + t - (RADIUS + 1) * i
                n += 1
    return order


@njit(cache=True, nogil=True)
def _plain_product(count, x, bytes_, weights, limbs, totals, out):  # type: ignore[no-untyped-def]
    """out f32 [count, O] = x f32 [count, W] @ weights, for integer operands."""
    matmul_rows(0, count, x, weights, out)


@njit(cache=True, nogil=True)
def _vnni_product(count, x, bytes_, weights, limbs, totals, out):  # type: ignore[no-untyped-def]
    """The same from the inputs in bytes and the limbs of the weights."""
    vnni.layer_product(count, bytes_, limbs, totals)
    for p in range(count):
        for j in range(out.shape[1]):
            out[p, j] = np.float32(totals[p, j])


_integer_product = _vnni_product if vnni.AVAILABLE else _plain_product


@njit(cache=True, nogil=True)
def forward_rows(  # type: ignore[no-untyped-def]
    count, pixels, x, stream, inner, product, weights, passed, largest
):
    """Forward pass of `count` pixels, integer operands in float32: the bits of `EagerNetwork`.

    pixels int64 [count]: their numbers; x f32 [count, F]: their features, also found in `passed`,
    which receives the rest; largest f32 [2*depth+1, W] follows the activation maxima.
    """
    limit, half = np.float32(255.0), np.float32(128.0)
    width = weights.first.shape[1]
    depth = weights.biases.shape[0] - 1
    bytes_ = np.empty((count, width), np.uint8)
    lanes = max(weights.hidden_limbs.shape[3], weights.last_limbs.shape[2])
    totals = np.empty((count, lanes), np.int32)
    for layer in range(depth + 1):
        if layer == 0:
            matmul_rows(0, count, x, weights.first, product)
        else:
            _integer_product(
                count, inner, bytes_, weights.hidden[layer - 1], weights.hidden_limbs[layer - 1],
                totals, product,
            )  # fmt: skip
        scale, inverse = weights.scales[layer], weights.steps[layer]
        bias = weights.biases[layer]
        if layer == 0:
            for p in range(count):
                for j in range(width):
                    h = product[p, j] * scale
                    stream[p, j] = h + bias[j]
                    product[p, j] = stream[p, j]
        elif layer % 2 == 0:
            for p in range(count):
                for j in range(width):
                    h = product[p, j] * scale
                    h = h + bias[j]
                    stream[p, j] = stream[p, j] + h
                    product[p, j] = stream[p, j]
        else:
            for p in range(count):
                for j in range(width):
                    h = product[p, j] * scale
                    product[p, j] = h + bias[j]
        top = largest[layer]
        for p in range(count):
            inputs = passed.inputs[layer, pixels[p]]
            for j in range(width):
                h = product[p, j]
                h = h if h > _ZERO else _ZERO
                top[j] = h if h > top[j] else top[j]
                q = h * inverse
                q = (q + _ROUND) - _ROUND
                q = q if q < limit else limit
                inner[p, j] = q
                bytes_[p, j] = np.uint8(np.int32(q))
                inputs[j] = np.int8(np.int32(q - half))
    outputs = weights.last.shape[1]
    wide = np.empty((count, outputs), np.float32)
    _integer_product(count, inner, bytes_, weights.last, weights.last_limbs, totals, wide)
    scale = weights.scales[depth + 1]
    for p in range(count):
        row = passed.outputs[pixels[p]]
        for j in range(outputs):
            h = wide[p, j] * scale
            row[j] = h + weights.last_bias[j]


@njit(cache=True, nogil=True, error_model="numpy")
def decode_streams(  # type: ignore[no-untyped-def]
    buffer, table, tops, channels, mixtures, streams, first_stream, stream_step,
    heads, words, offsets, sizes, weights, passed, largest, predictors, copies,
):  # fmt: skip
    """Decode the tiles of streams first_stream, first_stream + stream_step, ... into `buffer`.

    heads uint64 [streams], words uint32: all tails, stream s at offsets[s] with sizes[s] words
    left; both advance. Returns False as soon as a stream runs out of words. `passed`, largest,
    predictors int64 [P, c] and copies int64 [P, 6, c] receive what the gradient needs.
    """
    tile_count = table.shape[0]
    slots = 0
    longest = 0
    for b in range(tile_count):
        if (b % streams) % stream_step == first_stream:
            rows = min(table[b, 1], table[b, 2] // (RADIUS + 1) + 1)
            slots += rows
            longest = max(longest, table[b, 2] + (RADIUS + 1) * (table[b, 1] - 1))
    if slots == 0:
        return True
    width = weights.first.shape[1]
    x = np.zeros((slots, weights.first.shape[0]), np.float32)
    stream = np.empty((slots, width), np.float32)
    inner = np.empty((slots, width), np.float32)
    product = np.empty((slots, width), np.float32)
    pixels = np.empty(slots, np.int64)
    places = np.empty(slots, np.int64)
    tile_of = np.empty(slots, np.int64)
    row_of = np.empty(slots, np.int64)
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    columns, fixed, terms, floats, integers = make_lanes(copy_at + _COPIES + 1, channels, mixtures)
    lane_copies = np.zeros((_COPIES + 1, fixed.shape[1], LANES), np.int64)
    copy_weights = np.empty(_COPIES + 1, np.int64)
    for t in range(longest):
        count = 0
        for b in range(tile_count):
            if (b % streams) % stream_step != first_stream:
                continue
            height, tile_width = table[b, 1], table[b, 2]
            stride = (tile_width + 2 * RADIUS) * channels
            lowest = max(0, (t - tile_width + RADIUS + 1) // (RADIUS + 1))
            for i in range(lowest, min(height, t // (RADIUS + 1) + 1)):
                j = t - (RADIUS + 1) * i
                place = table[b, 0] + (i + RADIUS) * stride + (RADIUS + j) * channels
                places[count] = place
                tile_of[count] = b
                row_of[count] = i
                border = (tops[b] and i == 0) or j == 0
                p = table[b, 3] + i * tile_width + j
                pixels[count] = p
                pixel_features(
                    buffer, place, stride, channels, border,
                    predictors[p], copies[p], passed.features[p],
                )  # fmt: skip
                for k in range(x.shape[1]):
                    x[count, k] = passed.features[p, k]
                count += 1
        forward_rows(count, pixels, x, stream, inner, product, weights, passed, largest)
        for n in range(count):
            b = tile_of[n]
            s = b % streams
            p = pixels[n]
            tail = words[offsets[s] : offsets[s + 1]]
            lane = n % LANES
            if lane == 0:
                lanes = min(LANES, count - n)
                for i in range(lanes):
                    load_outputs(passed.outputs, pixels[n + i], i, columns)
                lane_softmax(lanes, columns, copy_at, _COPIES + 1, lane_copies, 0, floats, integers)
                lane_weights(lanes, _COPIES + 1, 16, lane_copies, 0, integers)
                for c in range(channels):
                    k = mixtures * c
                    lane_softmax(lanes, columns, 3 * k, mixtures, fixed, k, floats, integers)
                    lane_weights(lanes, mixtures, 14, fixed, k, integers)
                    lane_scales(lanes, columns, c, mixtures, fixed, terms)
            for m in range(_COPIES + 1):
                copy_weights[m] = lane_copies[m, _WEIGHT, lane]
            for c in range(channels):
                predictor = predictors[p, c]
                pixel_means(columns, c, channels, mixtures, lane, fixed, floats)
                slot = peek_scalar(heads[s], PRECISION)
                low, high = 0, 256
                low_mixture, high_mixture = 0, 1 << 32
                start, stop = 0, 1 << PRECISION
                middle, step = likely_value(predictor, c, mixtures, lane, fixed), 1
                middle = min(max(middle, 1), 255)
                while high - low > 1:
                    mixture = mixture_cumulative(middle, predictor, c, mixtures, lane, fixed)
                    edge = cumulative(middle, mixture, c, copy_weights, copies[p])
                    if edge <= slot:
                        low, low_mixture, start = middle, mixture, edge
                    else:
                        high, high_mixture, stop = middle, mixture, edge
                    middle, step = next_value(low, high, middle, step), 2 * step
                heads[s], sizes[s] = advance_scalar(
                    heads[s], tail, sizes[s], start, stop - start, PRECISION
                )
                if sizes[s] < 0:
                    return False
                update_copies(low, high_mixture - low_mixture, c, copy_weights, copies[p])
                floats[RESIDUAL + c, lane] = np.float64(low - predictor)
                buffer[places[n] + c] = low
            height, tile_width = table[b, 1], table[b, 2]
            stride = (tile_width + 2 * RADIUS) * channels
            i = row_of[n]
            j = t - (RADIUS + 1) * i
            if j == 0 and i + 1 < height:
                left = places[n] + stride - RADIUS * channels
                for k in range(RADIUS):
                    for c in range(channels):
                        buffer[left + k * channels + c] = buffer[places[n] + c]
            if j == tile_width - 1:
                for k in range(RADIUS):
                    for c in range(channels):
                        buffer[places[n] + (k + 1) * channels + c] = buffer[places[n] + c]
    return True
