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
    cumulative,
    find_child,
    make_scratch,
    part_weights,
    seen_cumulative,
    seen_prefix,
    update_weights,
)
from osoa_pl.models.recall import NEIGHBOURS, finish_pixel, group_tiles, look, step_rows
from osoa_pl.models.wavefront import forward_rows


@njit(inline="always")
def _fill(buffer, packed, channels, source, target):  # type: ignore[no-untyped-def]
    """Repeat the pixel at `source` in the padding from `target` on."""
    for k in range(RADIUS):
        packed[target + k] = packed[source]
        for c in range(channels):
            buffer[(target + k) * channels + c] = buffer[source * channels + c]


@njit(inline="always")
def _decode_pixel(  # type: ignore[no-untyped-def]
    buffer, place, work, colours, channels, mixtures, p, row, head, tail, size, scratch
):
    """Decode one pixel into `buffer` and `work.packed`; returns (head, words left or -1)."""
    parts, residuals = scratch.parts, scratch.residuals
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    on = colours.values[0].shape[0] > 0
    found, values = work.counts[p], work.values[p]
    part_weights(
        row, copy_at, on, found, work.columns[p], work.offsets[p], scratch.logits, scratch.q, parts
    )
    node_low, node_high = 0, colours.values[0].shape[0]
    packed = np.uint32(0)
    for c in range(channels):
        predictor = work.predictors[p, c]
        softmax_integers(row, 3 * mixtures * c, mixtures, 14, scratch.q, scratch.weights)
        channel_parameters(
            row, c, channels, mixtures, residuals, scratch.mean, scratch.scale,
            scratch.mean_fixed, scratch.inverse_fixed,
        )  # fmt: skip
        level = colours.values[c]
        seen = parts[1] > 0
        if seen:
            seen_prefix(
                level, colours.weights[c], node_low, node_high, predictor, mixtures,
                scratch.weights, scratch.mean_fixed, scratch.inverse_fixed, scratch.prefix,
            )  # fmt: skip
        slot = peek_scalar(head, PRECISION)
        low, high = 0, 256
        low_mixture, high_mixture = 0, 1 << 32
        low_seen, high_seen = 0, (1 << 32) if seen else 0
        start, stop = 0, 1 << PRECISION
        while high - low > 1:
            middle = (low + high) >> 1
            mixture = mixture_cumulative(
                middle, predictor, mixtures, scratch.weights, scratch.mean_fixed,
                scratch.inverse_fixed,
            )  # fmt: skip
            below = 0
            if seen:
                below = seen_cumulative(middle, level, node_low, node_high, scratch.prefix)
            edge = cumulative(middle, mixture, below, c, channels, found, parts, values)
            if edge <= slot:
                low, low_mixture, low_seen, start = middle, mixture, below, edge
            else:
                high, high_mixture, high_seen, stop = middle, mixture, below, edge
        head, size = advance_scalar(head, tail, size, start, stop - start, PRECISION)
        if size < 0:
            return head, size
        if seen and c + 1 < channels:
            node = find_child(low, level, node_low, node_high)
            if node >= 0:
                node_low, node_high = colours.first[c][node], colours.first[c][node + 1]
        update_weights(
            low, high_mixture - low_mixture, high_seen - low_seen, c, channels, found,
            parts, values,
        )  # fmt: skip
        residuals[c] = low - predictor
        buffer[place * channels + c] = low
        packed = np.uint32(packed << np.uint32(8)) | np.uint32(low)
    work.packed[place] = packed
    return head, size


@njit(cache=True, nogil=True)
def decode_groups(  # type: ignore[no-untyped-def]
    buffer, table, tops, tables, work, colours, channels, mixtures, first_group, end_group,
    streams, heads, words, offsets, sizes, weights, passed, largest,
):  # fmt: skip
    """Decode the tiles of groups first_group .. end_group - 1 into `buffer`, one after the other.

    heads, words, offsets, sizes: as `wavefront.decode_streams`; group g is in stream g, or all in
    the only one. What memory says of each pixel stays in `work`, whose features are those of
    `passed`. Returns False as soon as a stream runs out of words.
    """
    width = weights.first.shape[1]
    slots = 1
    for b in range(table.shape[0]):
        slots = max(slots, min(table[b, 1], table[b, 2] // (RADIUS + 1) + 1))
    x = np.zeros((slots, weights.first.shape[0]), np.float32)
    stream = np.empty((slots, width), np.float32)
    inner = np.empty((slots, width), np.float32)
    product = np.empty((slots, width), np.float32)
    pixels = np.empty(slots, np.int64)
    ignored = np.empty((NEIGHBOURS, channels), np.int64)
    scratch = make_scratch(channels, mixtures)
    for group in range(first_group, end_group):
        s = group if streams > 1 else 0
        begin, end = group_tiles(table.shape[0], group)
        for b in range(begin, end):
            height, tile_width = table[b, 1], table[b, 2]
            stride = tile_width + 2 * RADIUS
            corner = table[b, 0] // channels + RADIUS * stride + RADIUS
            for t in range(tile_width + (RADIUS + 1) * (height - 1)):
                lowest, above = step_rows(height, tile_width, t)
                for i in range(lowest, above):
                    j = t - (RADIUS + 1) * i
                    place = corner + i * stride + j
                    p = table[b, 3] + i * tile_width + j
                    n = i - lowest
                    pixels[n] = p
                    border = (tops[b] and i == 0) or j == 0
                    pixel_features(
                        buffer, place * channels, stride * channels, channels, border,
                        work.predictors[p], ignored, work.features[p],
                    )  # fmt: skip
                    look(
                        tables, work, channels, group, b, p, place, stride, i, j,
                        colours.values[0].shape[0] > 0,
                    )  # fmt: skip
                    for k in range(x.shape[1]):
                        x[n, k] = work.features[p, k]
                count = above - lowest
                forward_rows(count, pixels, x, stream, inner, product, weights, passed, largest)
                for n in range(count):
                    i = lowest + n
                    j = t - (RADIUS + 1) * i
                    place = corner + i * stride + j
                    heads[s], sizes[s] = _decode_pixel(
                        buffer, place, work, colours, channels, mixtures, pixels[n],
                        passed.outputs[pixels[n]], heads[s], words[offsets[s] : offsets[s + 1]],
                        sizes[s], scratch,
                    )  # fmt: skip
                    if sizes[s] < 0:
                        return False
                    if j == 0 and i + 1 < height:
                        _fill(buffer, work.packed, channels, place, place + stride - RADIUS)
                    if j == tile_width - 1:
                        _fill(buffer, work.packed, channels, place, place + 1)
                for n in range(count):
                    i = lowest + n
                    j = t - (RADIUS + 1) * i
                    truth = work.packed[corner + i * stride + j]
                    finish_pixel(tables, work, group, pixels[n], j, truth)
    return True
