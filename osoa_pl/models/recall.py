"""What memory says of one pixel: candidates for its value, and features for the network.

One-shot learning for repeats, where gradients would need hundreds of steps. Everything is integers:

- **contexts**: for each of 9 contexts a hash table of the last 3 distinct pixels
  that followed it, with counts. A group of tiles also sees what it has coded of the present batch.
- **matches**: pointers into old pixels, carried along from the neighbours or found by context,
  each verified against the 24 causal neighbours (the match model of Mahoney's PAQ, in 2D).
- **reference**: the same position of the last image of the same size, and the running mean there.
- **trust**: how often proposals of each kind came true, as adaptive probabilities.
- **colours** seen so far, as a tree over the channels, while they are few.

`look` asks for one pixel; `memory.MemoryState.remember` takes a whole batch in. What is proposed
becomes copy components of the mixture and features of the network (`memory_ar`).
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from osoa_pl.arith.native import BORROWED, prefetch
from osoa_pl.models.features import ACTIVITY, COPIES, RADIUS, median_edge, packed_sample

OFFSETS = np.array(
    [
        (0, -1), (-1, 0), (-1, -1), (-1, 1),
        (0, -2), (-2, 0), (-1, 2), (-1, -2),
        (0, -3), (-2, -1), (-2, 1), (-2, -2), (-2, 2),
        (-1, -3), (-1, 3), (-2, -3), (-2, 3),
        (-3, 0), (-3, -1), (-3, 1), (-3, -2), (-3, 2), (-3, -3), (-3, 3),
    ],
    np.int64,
)  # fmt: skip
"""The causal 7x7 neighbourhood, nearest first: a context is a beginning of this list."""
CONTEXTS = 9
"""W; N; W and N; the first 4, 8, 13 and 24 of `OFFSETS`; W, N and the position; the reference's
pixel, in the same tile alone (what was recoloured)."""
LASTING = CONTEXTS - 1
"""Contexts that are kept beyond a batch."""
SLOTS = np.array([3, 3, 3, 2, 2, 2, 2, 2, 2], np.int64)
"""Proposals of each context."""
FIRST_SLOT = np.concatenate([[0], np.cumsum(SLOTS)]).astype(np.int64)
NEIGHBOURS = len(COPIES)
MATCH = NEIGHBOURS + int(SLOTS.sum())
REFERENCE = MATCH + 1
COMPONENTS = REFERENCE + 1
"""Copy components: causal neighbours, proposals of the contexts, match, reference."""
GROUPS = 2
"""The first and the second half of a batch's tiles: two threads can decode. In a group tile after
tile is coded, and each sees all that the group has coded before."""
LOCAL_BITS = 13
POINTERS = (3, 4)  # contexts whose last place is kept
STRIDE_BITS = 20
REAL = 1 << 24  # marks pixels in the history; padding lacks it
_COLOUR = REAL - 1
CONTEXT_BINS = CONTEXTS * 3 * 8 * 4
SCORES = len(OFFSETS) + 1
BINS = CONTEXT_BINS + 2 * SCORES * 4
_LEAST_SCORE = 4
_ABSENT = np.float32(-48.0)
_EXTRA = (0, 24, 0, 40)  # features by samples a pixel
_AHEAD = np.array([(0, 1), (1, 0), (1, 1), (1, -1)], np.int64)  # seen in the reference alone


def extra_features(channels: int) -> int:
    """Features of memory for each pixel, after those of its neighbourhood."""
    return _EXTRA[channels]


def largest_input(channels: int) -> int:
    """A bound on the sum of all features' absolute values, of neighbourhood and memory."""
    samples = len(OFFSETS) * 255 + 128 + int(ACTIVITY.max()) + (5 + len(_AHEAD)) * 255
    odds = (CONTEXTS + 2) * int(STRETCH.max())
    return channels * samples + (channels - 1) * 255 + 16 * 32 + odds + 8 * CONTEXTS + 32


def _stretch() -> NDArray[np.int64]:
    """8 ln(p / (1 - p)) rounded, for p = (i + 1/2) / 4096; decimal logarithms round alike."""
    with localcontext() as context:
        context.prec = 40
        odds = [(Decimal(2 * i + 1) / Decimal(8191 - 2 * i)).ln() * 8 for i in range(4096)]
        return np.array([int(o.to_integral_value()) for o in odds], np.int64)


STRETCH = _stretch()


class Tables(NamedTuple):
    """Memory of the batches before the present one."""

    entries: NDArray[np.uint32]
    """[LASTING, 2^bits, 4]: check, then three pixels with their counts in the top byte."""
    pointers: NDArray[np.int64]
    """[2, 2^17]: place << 20 | stride of the pixel that followed a context last; 0: none."""
    history: NDArray[np.uint32]
    """[2^22] ring of padded tiles, packed pixels."""
    trust: NDArray[np.int64]
    """[BINS] probabilities in 1/65536."""


class Work(NamedTuple):
    """What is found and made for one batch; every group touches its own tiles alone."""

    packed: NDArray[np.uint32]
    """The batch's buffer with a pixel in a word."""
    means: NDArray[np.uint8]
    """Running means, in the layout of the buffer."""
    has_mean: NDArray[np.bool_]
    """[tiles]"""
    has_reference: NDArray[np.int8]
    """[tiles] whether an old tile of the same shape is known: 1 in the history, 2 in `packed`."""
    references: NDArray[np.int64]
    """[tiles] place of a pixel in that tile, less its place in `packed`."""
    rows: NDArray[np.int64]
    """[tiles] row of the image at which a tile starts."""
    local: NDArray[np.uint32]
    """[groups, contexts, 2^13, 4]: as `Tables.entries`, of the present batch."""
    hashes: NDArray[np.uint64]
    """[P, contexts]."""
    matches: NDArray[np.int64]
    """[P] place << 20 | stride of the verified match, or 0."""
    runs: NDArray[np.uint8]
    """[P] how many matches in a row came true, up to the pixel."""
    features: NDArray[np.float32]
    """[P, F]; the last ones are of memory."""
    predictors: NDArray[np.int64]
    counts: NDArray[np.int64]
    """[P] number of copy components that are there."""
    columns: NDArray[np.uint8]
    """[P, COMPONENTS] which component each is, rising."""
    values: NDArray[np.uint32]
    """[P, COMPONENTS] the pixel that it proposes."""
    bins: NDArray[np.int16]
    """[P, COMPONENTS] its bin of trust, or -1."""
    offsets: NDArray[np.float32]
    """[P, COMPONENTS] log-odds of its trust, added to the network's logit."""
    pixels: NDArray[np.uint32]
    numbers: NDArray[np.int64]
    candidates: NDArray[np.int64]
    """Scratch of each group: [groups, 3], [groups, 3], [groups, 6]."""


@njit(inline="always")
def _mix(h, value):  # type: ignore[no-untyped-def]
    h = (h ^ np.uint64(value)) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


@njit(inline="always")
def _final(h, context):  # type: ignore[no-untyped-def]
    h = (h + np.uint64(context) * np.uint64(0xA24BAED4963EE407)) ^ (h >> np.uint64(31))
    h = h * np.uint64(0xD6E8FEB86659FD93)
    return h ^ (h >> np.uint64(32))


@njit(inline="always")
def _check(h):  # type: ignore[no-untyped-def]
    return np.uint32(h >> np.uint64(32)) | np.uint32(1)


@njit(inline="always")
def _hash_contexts(packed, place, stride, row, column, hashes):  # type: ignore[no-untyped-def]
    """Hashes of the contexts of the pixel at `place`, into uint64 [contexts]."""
    h = _mix(np.uint64(1), packed[place - 1])
    hashes[0] = _final(h, 0)
    hashes[1] = _final(_mix(np.uint64(2), packed[place - stride]), 1)
    h = _mix(h, packed[place - stride])
    hashes[2] = _final(h, 2)
    hashes[7] = _final(_mix(h, np.uint64(row) * np.uint64(65537) + np.uint64(column)), 7)
    context = 3
    for k in range(2, OFFSETS.shape[0]):
        h = _mix(h, packed[place + OFFSETS[k, 0] * stride + OFFSETS[k, 1]])
        if k == 3 or k == 7 or k == 12 or k == 23:
            hashes[context] = _final(h, context)
            context += 1


@njit(**BORROWED)
def insert(entries, h, value):  # type: ignore[no-untyped-def]
    """Note in uint32 [2^bits, 4] that pixel `value` followed the context of hash h."""
    entry = entries[h & np.uint64(entries.shape[0] - 1)]
    check = _check(h)
    one = np.uint32(1 << 24)
    if entry[0] != check:
        entry[0] = check
        entry[1] = np.uint32(value) | one
        entry[2] = np.uint32(0)
        entry[3] = np.uint32(0)
        return
    k = 1
    while k < 4 and (entry[k] >> np.uint32(24) == 0 or (entry[k] & np.uint32(_COLOUR)) != value):
        k += 1
    number = np.uint32(1)
    if k < 4:
        number = min((entry[k] >> np.uint32(24)) + np.uint32(1), np.uint32(255))
    else:
        k = 3
    for j in range(k, 1, -1):
        entry[j] = entry[j - 1]
    entry[1] = np.uint32(value) | (np.uint32(number) << np.uint32(24))
    for j in range(2, 4):
        n = entry[j] >> np.uint32(24)
        if n > 6:
            n -= n >> np.uint32(3)
            entry[j] = (entry[j] & np.uint32(_COLOUR)) | np.uint32(n << np.uint32(24))


@njit(inline="always")
def _gather(near, far, sources, h, values, numbers):  # type: ignore[no-untyped-def]
    """Up to 3 distinct pixels that followed context h, the batch's own first: their number.

    sources: 1 to ask `near` alone.
    """
    found = 0
    for source in range(sources):
        entries = near if source == 0 else far
        entry = entries[h & np.uint64(entries.shape[0] - 1)]
        if entry[0] != _check(h):
            continue
        for k in range(1, 4):
            number = np.int64(entry[k] >> np.uint32(24))
            if number == 0:
                continue
            value = entry[k] & np.uint32(_COLOUR)
            at = 0
            while at < found and values[at] != value:
                at += 1
            if at < found:
                numbers[at] += number
            elif found < 3:
                values[found] = value
                numbers[found] = number
                found += 1
    return found


@njit(inline="always")
def _score(packed, place, stride, history, mask, pointer):  # type: ignore[no-untyped-def]
    """How many of the 24 causal neighbours are equal at both places."""
    there = pointer >> STRIDE_BITS
    width = pointer & ((1 << STRIDE_BITS) - 1)
    equal = 0
    for k in range(OFFSETS.shape[0]):
        dy, dx = OFFSETS[k, 0], OFFSETS[k, 1]
        old = history[(there + dy * width + dx) & mask] & np.uint32(_COLOUR)
        equal += old == packed[place + dy * stride + dx]
    return equal


@njit(inline="always")
def _old_residual(history, mask, there, width, channel, channels):  # type: ignore[no-untyped-def]
    """(sample, what the median-edge predictor leaves of it) at a place of the history."""
    value = packed_sample(history[there & mask], channel, channels)
    west = packed_sample(history[(there - 1) & mask], channel, channels)
    north = packed_sample(history[(there - width) & mask], channel, channels)
    north_west = packed_sample(history[(there - width - 1) & mask], channel, channels)
    return value, value - median_edge(west, north, north_west)


@njit(inline="always")
def _propose(work, pixel, n, column, value, trust, odds):  # type: ignore[no-untyped-def]
    """Note proposal number n of a pixel, its bin of trust and log-odds in 1/8; returns n + 1."""
    work.columns[pixel, n] = column
    work.values[pixel, n] = value
    work.bins[pixel, n] = trust
    work.offsets[pixel, n] = odds * np.float32(0.125)
    return n + 1


@njit(**BORROWED)
def hash_pixel(tables, work, group, tile, pixel, place, stride, row, column):  # type: ignore[no-untyped-def]
    """Hashes of the pixel's contexts, for `look`; their entries are fetched in the meantime."""
    packed, hashes = work.packed, work.hashes[pixel]
    _hash_contexts(packed, place, stride, row + work.rows[tile], column, hashes)
    hashes[LASTING] = np.uint64(0)
    if work.has_reference[tile]:
        there = work.references[tile] + place
        if work.has_reference[tile] == 2:
            old = packed[there] & np.uint32(_COLOUR)
        else:
            old = tables.history[there & (tables.history.shape[0] - 1)] & np.uint32(_COLOUR)
        hashes[LASTING] = _final(_mix(_mix(np.uint64(3), old), np.uint64(tile)), LASTING)
    for q in range(CONTEXTS):
        prefetch(work.local[group, q], hashes[q] & np.uint64(work.local.shape[2] - 1))
    for q in range(LASTING):
        prefetch(tables.entries[q], hashes[q] & np.uint64(tables.entries.shape[1] - 1))
    for k in range(2):
        slot = hashes[POINTERS[k]] & np.uint64(tables.pointers.shape[1] - 1)
        prefetch(tables.pointers[k], slot)


@njit(**BORROWED)
def look(  # type: ignore[no-untyped-def]
    tables, work, channels, group, tile, pixel, place, stride, row, column, seen
):
    """Fill in the components and the memory's features of one pixel.

    place: of the pixel in `work.packed`; row, column: in its tile. seen: whether the component of
    the colours seen is on. Needs `work.predictors` of the pixel and `hash_pixel`.
    """
    packed, history = work.packed, tables.history
    hashes, x = work.hashes[pixel], work.features[pixel]
    predictor = work.predictors[pixel]
    mask = history.shape[0] - 1
    first = x.shape[0] - _EXTRA[channels]
    for k in range(first, x.shape[0]):
        x[k] = np.float32(0.0)
    for k in range(NEIGHBOURS):
        near = packed[place + COPIES[k, 0] * stride + COPIES[k, 1]]
        _propose(work, pixel, k, k, near, -1, np.float32(0.0))
    n = NEIGHBOURS
    # the reference stands in the history or, the tile before in the group, in the batch
    there = work.references[tile] + place
    source, source_mask = history, mask
    if work.has_reference[tile] == 2:
        source, source_mask = packed, -1
    pixels, numbers = work.pixels[group], work.numbers[group]
    highest = 0
    at = first + 5 * channels
    for q in range(CONTEXTS):
        found = 0
        if hashes[q] != 0:
            found = _gather(
                work.local[group, q], tables.entries[min(q, LASTING - 1)], 2 if q < LASTING else 1,
                hashes[q], pixels, numbers,
            )  # fmt: skip
        total = 0
        for k in range(found):
            total += numbers[k]
        x[at + q] = _ABSENT
        if found and q < 7:
            highest = q + 1
        for k in range(min(found, SLOTS[q])):
            others = total - numbers[k]
            rest = 3 if others > 8 else 2 if others > 2 else 1 if others > 0 else 0
            b = ((q * 3 + k) * 8 + min(numbers[k], 7)) * 4 + rest
            odds = np.float32(STRETCH[tables.trust[b] >> 4])
            if k == 0:
                x[at + q] = odds
            n = _propose(work, pixel, n, NEIGHBOURS + FIRST_SLOT[q] + k, pixels[k], b, odds)
    at += CONTEXTS
    x[at] = np.float32(8 * highest)
    x[at + 1] = np.float32(32.0) if seen else np.float32(0.0)
    at += 2
    # the match: the best verified of what the neighbours point to and what contexts have kept
    candidates = work.candidates[group]
    candidates[:3] = 0
    step = 1 << STRIDE_BITS
    tile_width = stride - 2 * RADIUS
    if column > 0 and work.matches[pixel - 1] != 0:
        candidates[0] = work.matches[pixel - 1] + step
    if row > 0:
        other = work.matches[pixel - tile_width]
        if other != 0:
            candidates[1] = other + step * (other & (step - 1))
        if column + 1 < tile_width:
            other = work.matches[pixel - tile_width + 1]
            if other != 0:
                candidates[2] = other + step * ((other & (step - 1)) - 1)
    for k in range(2):
        h = hashes[POINTERS[k]]
        candidates[3 + k] = tables.pointers[k, h & np.uint64(tables.pointers.shape[1] - 1)]
    candidates[5] = 0
    if work.has_reference[tile] == 1:
        candidates[5] = ((there & mask) << STRIDE_BITS) | stride
    best, best_score = np.int64(0), _LEAST_SCORE - 1
    for k in range(6):
        pointer = candidates[k]
        if pointer == 0 or history[(pointer >> STRIDE_BITS) & mask] < np.uint32(REAL):
            continue
        known = False
        for j in range(k):
            known = known or candidates[j] == pointer
        if known:
            continue
        score = _score(packed, place, stride, history, mask, pointer)
        if score > best_score:
            best, best_score = pointer, score
    work.matches[pixel] = best
    run = np.int64(work.runs[pixel - 1]) if column > 0 else 0
    level = 3 if run >= 8 else 2 if run >= 2 else run
    if best != 0:
        match, width = best >> STRIDE_BITS, best & (step - 1)
        b = CONTEXT_BINS + best_score * 4 + level
        odds = np.float32(STRETCH[tables.trust[b] >> 4])
        for c in range(channels):
            value, residual = _old_residual(history, mask, match, width, c, channels)
            x[first + c] = np.float32(value - predictor[c])
            x[first + channels + c] = np.float32(residual)
        x[at] = odds
        n = _propose(work, pixel, n, MATCH, history[match & mask] & np.uint32(_COLOUR), b, odds)
    else:
        x[at] = _ABSENT
    at += 1
    if work.has_mean[tile]:
        for c in range(channels):
            x[first + 4 * channels + c] = np.float32(
                np.int64(work.means[place * channels + c]) - predictor[c]
            )
    if work.has_reference[tile]:
        pointer = (there << STRIDE_BITS) | stride
        score = _score(packed, place, stride, source, source_mask, pointer)
        b = CONTEXT_BINS + (SCORES + score) * 4 + level
        odds = np.float32(STRETCH[tables.trust[b] >> 4])
        for c in range(channels):
            value, residual = _old_residual(source, source_mask, there, stride, c, channels)
            x[first + 2 * channels + c] = np.float32(value - predictor[c])
            x[first + 3 * channels + c] = np.float32(residual)
            for k in range(_AHEAD.shape[0]):
                ahead = source[(there + _AHEAD[k, 0] * stride + _AHEAD[k, 1]) & source_mask]
                x[at + 1 + k * channels + c] = np.float32(packed_sample(ahead, c, channels) - value)
        x[at] = odds
        old = source[there & source_mask] & np.uint32(_COLOUR)
        n = _propose(work, pixel, n, REFERENCE, old, b, odds)
    else:
        x[at] = _ABSENT
    work.counts[pixel] = n


@njit(**BORROWED)
def finish_pixel(tables, work, group, pixel, column, truth):  # type: ignore[no-untyped-def]
    """After pixel `truth` (packed) is known: the run of its match, the group's own contexts."""
    work.runs[pixel] = 0
    if work.matches[pixel] != 0:
        there = (work.matches[pixel] >> STRIDE_BITS) & (tables.history.shape[0] - 1)
        if (tables.history[there] & np.uint32(_COLOUR)) == truth:
            before = np.int64(work.runs[pixel - 1]) if column > 0 else 0
            work.runs[pixel] = min(before + 1, 250)
    for q in range(CONTEXTS):
        if work.hashes[pixel, q] != 0:
            insert(work.local[group, q], work.hashes[pixel, q], truth)


@njit(inline="always", cache=True)  # Python calls it too
def group_tiles(tiles, group):  # type: ignore[no-untyped-def]
    """(begin, end) of the tiles of a group: the first half is the larger one."""
    middle = (tiles + 1) // 2
    return (0, middle) if group == 0 else (middle, tiles)


@njit(inline="always")
def step_rows(height, width, t):  # type: ignore[no-untyped-def]
    """(lowest, end) of the rows of a tile that have a pixel at step t: column t - 4 * row."""
    lowest = max(0, (t - width + RADIUS + 1) // (RADIUS + 1))
    return lowest, min(height, t // (RADIUS + 1) + 1)


@njit(cache=True, nogil=True)
def group_order(table, group):  # type: ignore[no-untyped-def]
    """Pixel indices of a group in coding order, int64 [n]: tile after tile, each by its steps."""
    begin, end = group_tiles(table.shape[0], group)
    count = 0
    for b in range(begin, end):
        count += table[b, 1] * table[b, 2]
    order = np.empty(count, np.int64)
    n = 0
    for b in range(begin, end):
        height, width, first = table[b, 1], table[b, 2], table[b, 3]
        for t in range(width + (RADIUS + 1) * (height - 1)):
            lowest, above = step_rows(height, width, t)
            for i in range(lowest, above):
                order[n] = first + i * width + t - (RADIUS + 1) * i
                n += 1
    return order


@njit(**BORROWED)
def recall_group(tables, work, table, channels, group, seen):  # type: ignore[no-untyped-def]
    """`look` at all pixels of one group's tiles in coding order, the pixels being known."""
    begin, end = group_tiles(table.shape[0], group)
    for b in range(begin, end):
        height, width, first = table[b, 1], table[b, 2], table[b, 3]
        stride = width + 2 * RADIUS
        corner = table[b, 0] // channels + RADIUS * stride + RADIUS
        for t in range(width + (RADIUS + 1) * (height - 1)):
            lowest, above = step_rows(height, width, t)
            for i in range(lowest, above):
                j = t - (RADIUS + 1) * i
                hash_pixel(
                    tables, work, group, b, first + i * width + j, corner + i * stride + j,
                    stride, i, j,
                )  # fmt: skip
            for i in range(lowest, above):
                j = t - (RADIUS + 1) * i
                look(
                    tables, work, channels, group, b, first + i * width + j,
                    corner + i * stride + j, stride, i, j, seen,
                )  # fmt: skip
            for i in range(lowest, above):
                j = t - (RADIUS + 1) * i
                truth = work.packed[corner + i * stride + j]
                finish_pixel(tables, work, group, first + i * width + j, j, truth)
