"""The compiled decoder of a model with memory; the order is that of `wavefront`."""

from __future__ import annotations

import numpy as np
from numba import njit

from osoa_pl.coding.rans_numba import advance_scalar, peek_scalar
from osoa_pl.models.compiled_head import (
    PRECISION,
    channel_parameters,
    mixture_cumulative,
    softmax_integers,
)
from osoa_pl.models.features import RADIUS, pixel_features
from osoa_pl.models.memory_head import (
    PARTS,
    cumulative,
    find_child,
    part_weights,
    seen_cumulative,
    seen_prefix,
    update_weights,
)
from osoa_pl.models.recall import GROUPS, finish_pixel, look
from osoa_pl.models.wavefront import forward_rows


@njit(cache=True, nogil=True)
def decode_streams(  # type: ignore[no-untyped-def]
    buffer, table, tops, tables, work, colours, channels, mixtures,
    streams, first_stream, stream_step, heads, words, offsets, sizes, weights, passed, largest,
):  # fmt: skip
    """Decode the tiles of streams first_stream, first_stream + stream_step, ... into `buffer`.

    As `wavefront.decode_streams`; what memory says of each pixel stays in `work`, whose
    features are those of `passed`.
    """
    tile_count = table.shape[0]
    slots = 0
    longest = 0
    for b in range(tile_count):
        if (b % streams) % stream_step == first_stream:
            slots += min(table[b, 1], table[b, 2] // (RADIUS + 1) + 1)
            longest = max(longest, table[b, 2] + (RADIUS + 1) * (table[b, 1] - 1))
    if slots == 0:
        return True
    width = weights.first.shape[1]
    x = np.zeros((slots, weights.first.shape[0]), np.float32)
    stream = np.empty((slots, width), np.float32)
    inner = np.empty((slots, width), np.float32)
    product = np.empty((slots, width), np.float32)
    ignored = np.empty((6, channels), np.int64)
    pixels = np.empty(slots, np.int64)
    places = np.empty(slots, np.int64)
    tile_of = np.empty(slots, np.int64)
    row_of = np.empty(slots, np.int64)
    q = np.empty(max(mixtures, PARTS), np.int64)
    logits = np.empty(PARTS, np.float32)
    shares = np.empty(mixtures, np.int64)
    mean, scale = np.empty(mixtures), np.empty(mixtures)
    mean_fixed, inverse_fixed = np.empty(mixtures, np.int64), np.empty(mixtures, np.int64)
    parts = np.zeros(PARTS, np.int64)
    prefix = np.zeros(257, np.int64)
    residuals = np.zeros(channels, np.int64)
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    on = colours.values[0].shape[0] > 0
    for t in range(longest):
        count = 0
        for b in range(tile_count):
            s = b % streams
            if s % stream_step != first_stream:
                continue
            height, tile_width = table[b, 1], table[b, 2]
            stride = tile_width + 2 * RADIUS
            lowest = max(0, (t - tile_width + RADIUS + 1) // (RADIUS + 1))
            for i in range(lowest, min(height, t // (RADIUS + 1) + 1)):
                j = t - (RADIUS + 1) * i
                place = table[b, 0] // channels + (i + RADIUS) * stride + RADIUS + j
                places[count] = place
                tile_of[count] = b
                row_of[count] = i
                p = table[b, 3] + i * tile_width + j
                pixels[count] = p
                border = (tops[b] and i == 0) or j == 0
                pixel_features(
                    buffer, place * channels, stride * channels, channels, border,
                    work.predictors[p], ignored, work.features[p],
                )  # fmt: skip
                look(tables, work, channels, b % GROUPS, b, p, place, stride, i, j, on)
                for k in range(x.shape[1]):
                    x[count, k] = work.features[p, k]
                count += 1
        forward_rows(count, pixels, x, stream, inner, product, weights, passed, largest)
        for n in range(count):
            b = tile_of[n]
            s = b % streams
            i = row_of[n]
            j = t - (RADIUS + 1) * i
            height, tile_width = table[b, 1], table[b, 2]
            stride = tile_width + 2 * RADIUS
            p = pixels[n]
            row = passed.outputs[p]
            found, values = work.counts[p], work.values[p]
            tail = words[offsets[s] : offsets[s + 1]]
            part_weights(
                row, copy_at, on, found, work.columns[p], work.offsets[p], logits, q, parts
            )
            node_low, node_high = 0, colours.values[0].shape[0]
            packed = np.uint32(0)
            for c in range(channels):
                predictor = work.predictors[p, c]
                softmax_integers(row, 3 * mixtures * c, mixtures, 14, q, shares)
                channel_parameters(
                    row, c, channels, mixtures, residuals, mean, scale, mean_fixed, inverse_fixed
                )
                level = colours.values[c]
                seen = parts[1] > 0
                if seen:
                    seen_prefix(
                        level, colours.weights[c], node_low, node_high, predictor, mixtures,
                        shares, mean_fixed, inverse_fixed, prefix,
                    )  # fmt: skip
                slot = peek_scalar(heads[s], PRECISION)
                low, high = 0, 256
                low_mixture, high_mixture = 0, 1 << 32
                low_seen, high_seen = 0, (1 << 32) if seen else 0
                start, stop = 0, 1 << PRECISION
                while high - low > 1:
                    middle = (low + high) >> 1
                    mixture = mixture_cumulative(
                        middle, predictor, mixtures, shares, mean_fixed, inverse_fixed
                    )
                    below = 0
                    if seen:
                        below = seen_cumulative(middle, level, node_low, node_high, prefix)
                    edge = cumulative(middle, mixture, below, c, channels, found, parts, values)
                    if edge <= slot:
                        low, low_mixture, low_seen, start = middle, mixture, below, edge
                    else:
                        high, high_mixture, high_seen, stop = middle, mixture, below, edge
                heads[s], sizes[s] = advance_scalar(
                    heads[s], tail, sizes[s], start, stop - start, PRECISION
                )
                if sizes[s] < 0:
                    return False
                if seen and c + 1 < channels:
                    node = find_child(low, level, node_low, node_high)
                    if node >= 0:
                        node_low, node_high = colours.first[c][node], colours.first[c][node + 1]
                update_weights(
                    low, high_mixture - low_mixture, high_seen - low_seen, c, channels, found,
                    parts, values,
                )  # fmt: skip
                residuals[c] = low - predictor
                buffer[places[n] * channels + c] = low
                packed = np.uint32(packed << np.uint32(8)) | np.uint32(low)
            place = places[n]
            work.packed[place] = packed
            if j == 0 and i + 1 < height:
                _fill(buffer, work.packed, channels, place, place + stride - RADIUS)
            if j == tile_width - 1:
                _fill(buffer, work.packed, channels, place, place + 1)
        for n in range(count):
            b = tile_of[n]
            i = row_of[n]
            j = t - (RADIUS + 1) * i
            finish_pixel(tables, work, b % GROUPS, b, pixels[n], i, j, work.packed[places[n]])
    return True


@njit(inline="always")
def _fill(buffer, packed, channels, source, target):  # type: ignore[no-untyped-def]
    """Repeat the pixel at `source` in the padding from `target` on."""
    for k in range(RADIUS):
        packed[target + k] = packed[source]
        for c in range(channels):
            buffer[(target + k) * channels + c] = buffer[source * channels + c]
