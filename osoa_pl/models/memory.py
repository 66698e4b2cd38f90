"""What the model remembers of all that is decoded: exact contexts, old images, colours, trust.

`MemoryState` is filled batch by batch; `recall` asks it.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numba import njit
from numpy.typing import NDArray

from osoa_pl.arith.native import BORROWED
from osoa_pl.arith.threads import RowPool
from osoa_pl.models.colours import SeenColours
from osoa_pl.models.features import RADIUS, TileBatch, pack_pixels
from osoa_pl.models.recall import (
    BINS,
    COMPONENTS,
    CONTEXT_BINS,
    CONTEXTS,
    GROUPS,
    LASTING,
    LOCAL_BITS,
    NEIGHBOURS,
    POINTERS,
    REAL,
    SCORES,
    STRIDE_BITS,
    Tables,
    Work,
    group_tiles,
    insert,
)

HISTORY_BITS = 22
POINTER_BITS = 17
_MOST_TRIES = 1000
_FIRST_TRIES = 24
_MOST_SHAPES = 256  # shapes of tile whose last one and mean are kept
_MEAN_SAMPLES = 1 << 18  # of the largest tile that has a mean
_MEAN_WINDOW = 32


@njit(**BORROWED)
def tally_rows(begin, end, work, truths, hits, tries):  # type: ignore[no-untyped-def]
    """Add up which proposals of pixels [begin, end) came true, by bin of trust."""
    for p in range(begin, end):
        for k in range(NEIGHBOURS, work.counts[p]):
            b = work.bins[p, k]
            tries[b] += 1
            hits[b] += work.values[p, k] == truths[p]


@njit(**BORROWED)
def insert_rows(begin, end, entries, hashes, truths):  # type: ignore[no-untyped-def]
    """Contexts [begin, end) of all pixels, in raster order: each context has a table alone."""
    for q in range(begin, end):
        for p in range(truths.shape[0]):
            insert(entries[q], hashes[p, q], truths[p])


@njit(**BORROWED)
def note_tile(tables, work, table, tile, channels, start):  # type: ignore[no-untyped-def]
    """Copy a padded tile into the history at `start` and point contexts to its pixels."""
    height, width, pixel = table[tile, 1], table[tile, 2], table[tile, 3]
    stride = width + 2 * RADIUS
    base = table[tile, 0] // channels
    mask = tables.history.shape[0] - 1
    for k in range((height + RADIUS) * stride):
        tables.history[(start + k) & mask] = work.packed[base + k]
    for i in range(height):
        for j in range(width):
            k = (i + RADIUS) * stride + RADIUS + j
            there = (start + k) & mask
            tables.history[there] |= np.uint32(REAL)
            for n in range(2):
                h = work.hashes[pixel, POINTERS[n]]
                slot = h & np.uint64(tables.pointers.shape[1] - 1)
                tables.pointers[n, slot] = (there << STRIDE_BITS) | stride
            pixel += 1


def _first_trust() -> NDArray[np.int64]:
    """Probabilities in 1/65536 to begin with, before anything is known of a collection.

    Of a context's first proposal, seen n times, (0.4 + 0.05 n) times 0.6 where there are others,
    plus 0.02 for each context before it; of other proposals 0.1; of a match 0.02 + 0.9 (s / 24)^2.
    """
    trust = np.zeros(BINS, np.int64)
    for q in range(CONTEXTS):
        for k in range(3):
            for n in range(8):
                for rest in range(4):
                    sure = (40 + 5 * n) * (60 if rest else 100) + 200 * q
                    trust[((q * 3 + k) * 8 + n) * 4 + rest] = (1000 if k else sure) * 65536 // 10000
    for score in range(SCORES):
        at = CONTEXT_BINS + score * 4
        trust[at : at + 4] = (2 * 576 + 90 * score * score) * 65536 // 57600
        trust[at + SCORES * 4 : at + SCORES * 4 + 4] = trust[at]
    return trust


class MemoryState:
    """All that one trajectory remembers. The same batches in the same order give the same state.

    bits: of each context's table (16 bytes an entry).
    """

    def __init__(self, channels: int, bits: int, pool: RowPool) -> None:
        self._channels, self.pool = channels, pool
        self.tables = Tables(
            np.zeros((LASTING, 1 << bits, 4), np.uint32),
            np.zeros((2, 1 << POINTER_BITS), np.int64),
            np.zeros(1 << HISTORY_BITS, np.uint32),
            _first_trust(),
        )
        self.tries = np.full(BINS, _FIRST_TRIES, np.int64)
        self.colours = SeenColours(channels)
        self._head = 0
        self._last: OrderedDict[tuple[int, int, int], int] = OrderedDict()
        self._means: OrderedDict[tuple[int, int, int], tuple[NDArray[np.int64], int]] = (
            OrderedDict()
        )

    def begin(self, batch: TileBatch, features: int) -> Work:
        """What `look` needs for this batch."""
        pixels, tiles, channels = batch.pixels, len(batch.table), self._channels
        packed = np.empty(len(batch.buffer) // channels, np.uint32)
        pack_pixels(batch.buffer, channels, packed)
        means = np.zeros_like(batch.buffer)
        has_mean, has_reference = np.zeros(tiles, np.bool_), np.zeros(tiles, np.int8)
        references = np.zeros(tiles, np.int64)
        oldest = self._head - (1 << HISTORY_BITS)
        before, middle = None, group_tiles(tiles, 1)[0]
        for index, (offset, height, width, _) in enumerate(batch.table.tolist()):
            shape = (int(batch.rows[index]), height, width)
            start = self._last.get(shape, -1)
            if before == shape and index != middle:
                has_reference[index] = 2
                references[index] = -(height + RADIUS) * (width + 2 * RADIUS)
            elif start >= max(oldest, 0):
                has_reference[index] = 1
                references[index] = start - offset // channels
            before = shape
            if shape in self._means:
                has_mean[index] = True
                mean = (self._means[shape][0] + 128) >> 8
                means[offset : offset + len(mean)] = mean
        return Work(
            packed, means, has_mean, has_reference, references, batch.rows,
            np.zeros((GROUPS, CONTEXTS, 1 << LOCAL_BITS, 4), np.uint32),
            np.empty((pixels, CONTEXTS), np.uint64), np.zeros(pixels, np.int64),
            np.zeros(pixels, np.uint8), np.empty((pixels, features), np.float32),
            np.empty((pixels, channels), np.int64), np.zeros(pixels, np.int64),
            np.zeros((pixels, COMPONENTS), np.uint8), np.zeros((pixels, COMPONENTS), np.uint32),
            np.zeros((pixels, COMPONENTS), np.int16), np.zeros((pixels, COMPONENTS), np.float32),
            np.zeros((GROUPS, 3), np.uint32), np.zeros((GROUPS, 3), np.int64),
            np.zeros((GROUPS, 6), np.int64),
        )  # fmt: skip

    def remember(self, batch: TileBatch, work: Work) -> None:
        """Take in a batch whose pixels are all known and looked at."""
        channels = self._channels
        truths = np.empty(batch.pixels, np.uint32)
        for offset, height, width, first in batch.table.tolist():
            stride = width + 2 * RADIUS
            base = offset // channels
            tile = work.packed[base : base + (height + RADIUS) * stride].reshape(-1, stride)
            truths[first : first + height * width] = tile[RADIUS:, RADIUS:-RADIUS].reshape(-1)
        self._learn_trust(work, truths)
        self.pool.run_each(
            insert_rows, LASTING, batch.pixels, self.tables.entries, work.hashes, truths
        )
        for index, (offset, height, width, _) in enumerate(batch.table.tolist()):
            self._note(batch, work, index, (int(batch.rows[index]), height, width), offset)
        self.colours.take(truths)

    def _learn_trust(self, work: Work, truths: NDArray[np.uint32]) -> None:
        hits, tries = np.zeros((2, BINS), np.int64)
        tally_rows(0, len(truths), work, truths, hits, tries)
        trust = self.tables.trust
        total = self.tries + tries
        trust[:] = np.clip((trust * self.tries + (hits << 16)) // total, 32, 65504)
        np.minimum(total, _MOST_TRIES, out=self.tries)

    def _note(
        self, batch: TileBatch, work: Work, index: int, shape: tuple[int, int, int], offset: int
    ) -> None:
        _, height, width = shape
        size = (height + RADIUS) * (width + 2 * RADIUS)
        if size > 1 << (HISTORY_BITS - 1):
            return
        note_tile(self.tables, work, batch.table, index, self._channels, self._head)
        self._last[shape] = self._head
        self._last.move_to_end(shape)
        if len(self._last) > _MOST_SHAPES:
            self._last.popitem(last=False)
        self._head += size
        samples = size * self._channels
        if samples > _MEAN_SAMPLES:
            return
        new = batch.buffer[offset : offset + samples].astype(np.int64) << 8
        mean, count = self._means.pop(shape, (new, 0))
        count = min(count + 1, _MEAN_WINDOW)
        self._means[shape] = (mean + (new - mean) // count, count)
        if len(self._means) > _MOST_SHAPES:
            self._means.popitem(last=False)
