"""The compiled decoder of a model with memory; the order is that of `wavefront`."""

from __future__ import annotations

import numpy as np
from numba import njit

from osoa_pl.arith.native import BORROWED
from osoa_pl.coding.rans_numba import advance_scalar, peek_scalar
from osoa_pl.models.compiled_head import (
    LANES,
    PRECISION,
    RESIDUAL,
    lane_logistics,
    likely_value,
    load_outputs,
    make_lanes,
    mixture_cumulative,
    next_value,
    pixel_means,
)
from osoa_pl.models.features import RADIUS, packed_sample, pixel_features
from osoa_pl.models.memory_head import (
    copies_below,
    cumulative,
    find_child,
    load_parts,
    make_parts,
    part_exponentials,
    part_weights,
    seen_cumulative,
    seen_prefix,
    update_weights,
)
from osoa_pl.models.recall import (
    NEIGHBOURS,
    finish_pixel,
    group_tiles,
    hash_pixel,
    look,
    step_rows,
)
from osoa_pl.models.wavefront import forward_rows, make_rows


@njit(inline="always")
def _fill(buffer, packed, channels, source, target):  # type: ignore[no-untyped-def]
    """Repeat the pixel at `source` in the padding from `target` on."""
    for k in range(RADIUS):
        packed[target + k] = packed[source]
        for c in range(channels):
            buffer[(target + k) * channels + c] = buffer[source * channels + c]


@njit(inline="always")
def _load_lanes(  # type: ignore[no-untyped-def]
    outputs, pixels, counts, part_columns, offsets, on, channels, mixtures, columns, fixed, terms,
    floats, integers, exponents, q, places, weights,
):  # fmt: skip
    """Prepare all of the first LANES of `pixels` that does not wait for their values."""
    lanes = min(LANES, pixels.shape[0])
    used = 0
    for i in range(lanes):
        p = pixels[i]
        load_outputs(outputs, p, i, columns)
        used = load_parts(
            outputs[p], columns.shape[0], on, counts[p], part_columns[p], offsets[p], i, used,
            exponents, places,
        )  # fmt: skip
    part_exponentials(used, exponents, q)
    for i in range(lanes):
        part_weights(i, on, counts[pixels[i]], q, places, weights)
    lane_logistics(lanes, columns, channels, mixtures, fixed, terms, floats, integers)


@njit(inline="always")
def _heaviest_copy(parts, count):  # type: ignore[no-untyped-def]
    """Which proposal weighs most, or -1 where the network's own part weighs more."""
    best, top = -1, parts[0]
    for k in range(count):
        best = k if parts[2 + k] > top else best
        top = parts[2 + k] if parts[2 + k] > top else top
    return best


@njit(inline="always")
def _decode_pixel(  # type: ignore[no-untyped-def]
    buffer, place, packed_buffer, predictors, found, values, colours, channels, mixtures, lane,
    head, tail, size, columns, fixed, floats, parts, masses, prefix,
):  # fmt: skip
    """Decode one pixel into both buffers; returns (head, words left or -1)."""
    node_low, node_high = 0, colours.values[0].shape[0]
    packed = np.uint32(0)
    for c in range(channels):
        predictor = predictors[c]
        pixel_means(columns, c, channels, mixtures, lane, fixed, floats)
        level = colours.values[c]
        seen = parts[1] > 0
        if seen:
            seen_prefix(
                level, colours.weights[c], node_low, node_high, predictor, c, mixtures, lane,
                fixed, masses, prefix,
            )  # fmt: skip
        slot = peek_scalar(head, PRECISION)
        low, high = 0, 256
        low_mixture, high_mixture = 0, 1 << 32
        low_seen, high_seen = 0, (1 << 32) if seen else 0
        low_copies, high_copies = 0, (1 << 16) - parts[0] - parts[1]
        start, stop = 0, 1 << PRECISION
        copy = _heaviest_copy(parts, found)
        if copy >= 0:
            middle = packed_sample(values[copy], c, channels)
        else:
            middle = likely_value(predictor, c, mixtures, lane, fixed)
        middle, step = min(max(middle, 1), 255), 1
        while high - low > 1:
            mixture = mixture_cumulative(middle, predictor, c, mixtures, lane, fixed)
            below = 0
            if seen:
                below = seen_cumulative(middle, level, node_low, node_high, prefix)
            copies = copies_below(middle, c, channels, found, values, parts)
            edge = cumulative(middle, mixture, below, copies, parts)
            if edge <= slot:
                low, low_mixture, low_seen = middle, mixture, below
                low_copies, start = copies, edge
            else:
                high, high_mixture, high_seen = middle, mixture, below
                high_copies, stop = copies, edge
            middle, step = next_value(low, high, middle, step), 2 * step
        head, size = advance_scalar(head, tail, size, start, stop - start, PRECISION)
        if size < 0:
            return head, size
        if seen and c + 1 < channels:
            node = find_child(low, level, node_low, node_high)
            if node >= 0:
                node_low, node_high = colours.first[c][node], colours.first[c][node + 1]
        update_weights(
            low, high_mixture - low_mixture, high_seen - low_seen, high_copies - low_copies, c,
            channels, found, parts, values,
        )  # fmt: skip
        floats[RESIDUAL + c, lane] = np.float64(low - predictor)
        buffer[place * channels + c] = low
        packed = np.uint32(packed << np.uint32(8)) | np.uint32(low)
    packed_buffer[place] = packed
    return head, size


@njit(**BORROWED, error_model="numpy")
def _decode_tile(  # type: ignore[no-untyped-def]
    buffer, table, tops, tables, work, colours, channels, mixtures, group, b, s, heads, words,
    offsets, sizes, weights, passed, largest, room, pixels, ignored, columns, fixed, terms, floats,
    integers, exponents, q, places, parts, masses, prefix,
):  # fmt: skip
    """Decode tile b of a group from stream s; see `decode_groups`."""
    height, tile_width = table[b, 1], table[b, 2]
    stride = tile_width + 2 * RADIUS
    corner = table[b, 0] // channels + RADIUS * stride + RADIUS
    on = colours.values[0].shape[0] > 0
    for t in range(tile_width + (RADIUS + 1) * (height - 1)):
        lowest, above = step_rows(height, tile_width, t)
        for i in range(lowest, above):
            j = t - (RADIUS + 1) * i
            place = corner + i * stride + j
            p = table[b, 3] + i * tile_width + j
            pixels[i - lowest] = p
            hash_pixel(tables, work, group, b, p, place, stride, i, j)
        for i in range(lowest, above):
            j = t - (RADIUS + 1) * i
            place = corner + i * stride + j
            p = pixels[i - lowest]
            border = (tops[b] and i == 0) or j == 0
            pixel_features(
                buffer, place * channels, stride * channels, channels, border,
                work.predictors[p], ignored, work.features[p],
            )  # fmt: skip
            look(tables, work, channels, group, b, p, place, stride, i, j, on)
        count = above - lowest
        forward_rows(count, pixels, room, weights, passed, largest)
        for n in range(count):
            if n % LANES == 0:
                _load_lanes(
                    passed.outputs, pixels[n:count], work.counts, work.columns, work.offsets, on,
                    channels, mixtures, columns, fixed, terms, floats, integers, exponents, q,
                    places, parts,
                )  # fmt: skip
            i = lowest + n
            j = t - (RADIUS + 1) * i
            place, p = corner + i * stride + j, pixels[n]
            heads[s], sizes[s] = _decode_pixel(
                buffer, place, work.packed, work.predictors[p], work.counts[p], work.values[p],
                colours, channels, mixtures, n % LANES, heads[s],
                words[offsets[s] : offsets[s + 1]], sizes[s], columns, fixed, floats,
                parts[n % LANES], masses, prefix,
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
    slots = 1
    for b in range(table.shape[0]):
        slots = max(slots, min(table[b, 1], table[b, 2] // (RADIUS + 1) + 1))
    room = make_rows(slots, weights, passed)
    pixels = np.empty(slots, np.int64)
    ignored = np.empty((NEIGHBOURS, channels), np.int64)
    at = 3 * mixtures * channels + channels * (channels - 1) // 2
    columns, fixed, terms, floats, integers = make_lanes(at, channels, mixtures)
    exponents, q, places, parts = make_parts()
    masses, prefix = np.zeros((2, 256), np.int64), np.zeros(257, np.int64)
    for group in range(first_group, end_group):
        s = group if streams > 1 else 0
        begin, end = group_tiles(table.shape[0], group)
        for b in range(begin, end):
            if not _decode_tile(
                buffer, table, tops, tables, work, colours, channels, mixtures, group, b, s,
                heads, words, offsets, sizes, weights, passed, largest, room, pixels, ignored,
                columns, fixed, terms, floats, integers, exponents, q, places, parts, masses,
                prefix,
            ):  # fmt: skip
                return False
    return True
