"""The raster wavefront: in which order pixels are coded, and the compiled decoder.

A pixel needs 3 columns to the right in the row above, so row i can run 4 columns behind row i-1:
pixel (i, j) is ready at time j + 4i (Sheared PixelCNN idea of ParallelNeLLoC with horizon 3), and a
tile of h rows and w columns takes w + 4(h-1) steps. The tiles of a batch are dealt to streams
(tile b to stream b mod streams); within a stream the order is time, then tile, then row, then
channel. Streams share nothing, so threads decode them side by side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from osoa_pl.arith import vnni
from osoa_pl.arith.compiled import matmul_rows
from osoa_pl.arith.native import BORROWED
from osoa_pl.coding.rans_numba import advance_scalar, peek_scalar
from osoa_pl.models.compiled_head import (
    _WEIGHT,
    LANES,
    PRECISION,
    RESIDUAL,
    cumulative,
    lane_logistics,
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
_BLOCK = 32  # pixels whose operands stay in the cache from layer to layer
_OPERAND, _SUM = (np.int16, np.int32) if vnni.AVAILABLE else (np.float32, np.float32)


class Weights(NamedTuple):
    """The network's quantised weights of one moment, transposed for `forward_rows`.

    first [F, W], hidden [2*depth, W, W], last [W, O] float32, or each matrix as `vnni.pack_pairs`
    has it where this processor has the instruction; biases [2*depth+1, W], last_bias [O];
    scales [2*depth+2]: of each layer's products; steps [2*depth+1]: inverse ones of each input.
    """

    first: NDArray[Any]
    hidden: NDArray[Any]
    last: NDArray[Any]
    biases: NDArray[np.float32]
    last_bias: NDArray[np.float32]
    scales: NDArray[np.float32]
    steps: NDArray[np.float32]


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


class Rows(NamedTuple):
    """Room for the pixels of one step: see `make_rows`."""

    features: NDArray[Any]
    inputs: NDArray[Any]
    products: NDArray[Any]
    hidden: NDArray[np.float32]
    stream: NDArray[np.float32]


@njit(cache=True, nogil=True)
def make_rows(slots, weights, passed):  # type: ignore[no-untyped-def]
    """What `forward_rows` needs for at most `slots` pixels at once."""
    width = weights.biases.shape[1]
    sums = max(weights.first.shape[1], weights.last.shape[1])
    return Rows(
        np.empty((slots, passed.features.shape[1]), _OPERAND),
        np.empty((slots, width), _OPERAND),
        np.empty((slots, sums), _SUM),
        np.empty((slots, width), np.float32),
        np.empty((slots, width), np.float32),
    )


@njit(**BORROWED)
def _plain_product(count, x, weights, out):  # type: ignore[no-untyped-def]
    """out[:count] = x[:count] @ weights for integer operands in float32."""
    matmul_rows(0, count, x, weights, out)


_integer_product = vnni.layer_product if vnni.AVAILABLE else _plain_product


@njit(**BORROWED)
def forward_rows(count, pixels, rows, weights, passed, largest):  # type: ignore[no-untyped-def]
    """Forward pass of `count` pixels, the sums of integers exact: the bits of `EagerNetwork`.

    pixels int64 [count]: their numbers; `passed` has their features and receives the rest;
    largest f32 [2*depth+1, W] follows the activation maxima.
    """
    limit, half = np.float32(255.0), np.float32(128.0)
    depth, width = weights.biases.shape[0] - 1, weights.biases.shape[1]
    for p in range(count):
        x, features = rows.features[p], passed.features[pixels[p]]
        for k in range(features.shape[0]):
            x[k] = _OPERAND(features[k])
    for layer in range(depth + 1):
        if layer == 0:
            _integer_product(count, rows.features, weights.first, rows.products)
        else:
            _integer_product(count, rows.inputs, weights.hidden[layer - 1], rows.products)
        scale, inverse = weights.scales[layer], weights.steps[layer]
        bias, top = weights.biases[layer], largest[layer]
        for p in range(count):
            product, stream = rows.products[p], rows.stream[p]
            hidden = rows.hidden[p]
            if layer == 0:
                for j in range(width):
                    h = np.float32(product[j]) * scale
                    stream[j] = h + bias[j]
            elif layer % 2 == 0:
                for j in range(width):
                    h = np.float32(product[j]) * scale
                    h = h + bias[j]
                    stream[j] = stream[j] + h
            else:
                for j in range(width):
                    h = np.float32(product[j]) * scale
                    hidden[j] = h + bias[j]
            if layer % 2 == 0:
                hidden = stream
            inputs, kept = rows.inputs[p], passed.inputs[layer, pixels[p]]
            for j in range(width):
                h = hidden[j]
                h = h if h > _ZERO else _ZERO
                top[j] = h if h > top[j] else top[j]
                q = h * inverse
                q = (q + _ROUND) - _ROUND
                q = q if q < limit else limit
                inputs[j] = _OPERAND(q)
                kept[j] = np.int8(np.int32(q - half))
    outputs = weights.last_bias.shape[0]
    _integer_product(count, rows.inputs, weights.last, rows.products)
    scale = weights.scales[depth + 1]
    for p in range(count):
        product, row = rows.products[p], passed.outputs[pixels[p]]
        for j in range(outputs):
            h = np.float32(product[j]) * scale
            row[j] = h + weights.last_bias[j]


@njit(**BORROWED)
def _forward_blocks(begin, end, pixels, rows, weights, passed, largest):  # type: ignore[no-untyped-def]
    for first in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - first)
        for n in range(count):
            pixels[n] = first + n
        forward_rows(count, pixels, rows, weights, passed, largest)


@njit(cache=True, nogil=True)
def forward_batch(begin, end, weights, passed, largest):  # type: ignore[no-untyped-def]
    """`forward_rows` of pixels begin .. end - 1, all of whose features are known."""
    rows = make_rows(_BLOCK, weights, passed)
    _forward_blocks(begin, end, np.empty(_BLOCK, np.int64), rows, weights, passed, largest)


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
    room = make_rows(slots, weights, passed)
    pixels = np.empty(slots, np.int64)
    places = np.empty(slots, np.int64)
    tile_of = np.empty(slots, np.int64)
    row_of = np.empty(slots, np.int64)
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    columns, fixed, terms, floats, integers = make_lanes(copy_at + _COPIES + 1, channels, mixtures)
    lane_copies = np.zeros((_COPIES + 1, fixed.shape[1], LANES), np.int64)
    copy_weights = np.empty(_COPIES + 1, np.int64)
    return _decode_steps(
        longest, buffer, table, tops, channels, mixtures, streams, first_stream, stream_step,
        heads, words, offsets, sizes, weights, passed, largest, predictors, copies,
        room, pixels, places, tile_of, row_of, columns, fixed, terms, floats, integers, lane_copies,
        copy_weights,
    )  # fmt: skip


@njit(**BORROWED, error_model="numpy")
def _decode_steps(  # type: ignore[no-untyped-def]
    longest, buffer, table, tops, channels, mixtures, streams, first_stream, stream_step,
    heads, words, offsets, sizes, weights, passed, largest, predictors, copies,
    room, pixels, places, tile_of, row_of, columns, fixed, terms, floats, integers, lane_copies,
    copy_weights,
):  # fmt: skip
    """The loop of `decode_streams` over its `longest` steps; all room is made before."""
    tile_count = table.shape[0]
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
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
                count += 1
        forward_rows(count, pixels, room, weights, passed, largest)
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
                lane_logistics(lanes, columns, channels, mixtures, fixed, terms, floats, integers)
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
