"""What the local model sees of a pixel: integers computed from its causal 7x7 neighbourhood.

A batch of tiles is held as one flat uint8 buffer. Each tile stands there with 3 context rows above
and 3 columns on either side, so that every neighbour is a plain load:

- rows above the image are 128; rows above a strip are the last rows of the strip before;
- left of column 0 of row i stands pixel (i-1, 0), right of the last column the last pixel.

Both fillings use decoded pixels only. All features are integers of at most 8 bits and sign, at the
fixed step 2^-5: differences to the median-edge predictor (Martucci 1990, LOCO-I), the predictor
itself, local activity, which neighbours are equal, and whether the pixel lies on a border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from osoa_pl.arith.native import BORROWED

RADIUS = 3
OFFSETS = np.array(
    [(dy, dx) for dy in range(-RADIUS, 1) for dx in range(-RADIUS, RADIUS + 1) if dy < 0 or dx < 0],
    np.int64,
)
COPIES = np.array([(0, -1), (-1, 0), (-1, 1), (-1, -1), (0, -2), (-2, 0)], np.int64)
FEATURE_STEP = 2.0**-5
FEATURE_BITS = 8
OUTSIDE = 128
_ONE = np.float32(32.0)  # 1.0 at the feature step
# 8*log2(a+1) for an activity a in 0..1020, rounded: four differences of at most 255 each. The
# integer bit length of (a+1)^8, and whether it is past the half, decide; no float is involved.
ACTIVITY = np.array([((a + 1) ** 16).bit_length() // 2 for a in range(1021)], np.float32)
ACTIVITY -= ACTIVITY[0]


def feature_count(channels: int) -> int:
    """Length of a feature vector, padded with zeros to a multiple of 4."""
    equal = len(COPIES) * (len(COPIES) - 1) // 2
    used = len(OFFSETS) * channels + channels + (channels - 1) + channels + equal + 1
    return -(-used // 4) * 4


@dataclass
class TileBatch:
    """Tiles of one batch in one flat buffer.

    `table` int64 [tiles, 4] holds offset, height, width and first of each tile: `offset` is the
    place of the tile's padded top-left sample in `buffer`, `first` the index of its first pixel
    in the batch (raster order, tile after tile).
    """

    buffer: np.ndarray
    table: np.ndarray
    channels: int
    tops: np.ndarray  # bool [tiles]: the tile starts at the image's first row
    rows: np.ndarray  # int64 [tiles]: the image's row at which the tile starts

    @property
    def pixels(self) -> int:
        """Number of pixels in the batch."""
        return int((self.table[:, 1] * self.table[:, 2]).sum())

    def tile(self, index: int) -> np.ndarray:
        """View uint8 [h, w, c] of one tile without its padding."""
        return self.padded(index)[RADIUS:, RADIUS:-RADIUS]

    def padded(self, index: int) -> np.ndarray:
        """View uint8 [h+3, w+6, c] of one tile with its padding."""
        offset, height, width, _ = (int(v) for v in self.table[index])
        shape = (height + RADIUS, width + 2 * RADIUS, self.channels)
        return self.buffer[offset : offset + shape[0] * shape[1] * shape[2]].reshape(shape)


def make_batch(
    shapes: list[tuple[int, int]],
    channels: int,
    contexts: list[np.ndarray | None],
    rows: list[int] | None = None,
) -> TileBatch:
    """An empty batch for tiles of these (height, width); pixels are to be filled in.

    contexts: for each tile None (its image starts here) or the padded last 3 rows, uint8
    [3, w+6, c], of the strip above. rows: of the image at which each tile starts, by default 0.
    """
    table = np.zeros((len(shapes), 4), np.int64)
    offset = first = 0
    for index, (height, width) in enumerate(shapes):
        table[index] = offset, height, width, first
        offset += (height + RADIUS) * (width + 2 * RADIUS) * channels
        first += height * width
    tops = np.array([context is None for context in contexts], np.bool_)
    starts = np.array(rows or [0] * len(shapes), np.int64)
    batch = TileBatch(np.full(offset, OUTSIDE, np.uint8), table, channels, tops, starts)
    for index, context in enumerate(contexts):
        if context is not None:
            padded = batch.padded(index)
            padded[:RADIUS] = context
            padded[RADIUS, :RADIUS] = context[-1, RADIUS]
    return batch


def fill_tile(batch: TileBatch, index: int, pixels: np.ndarray) -> None:
    """Write a tile's pixels uint8 [h, w, c] and the padding that follows from them."""
    padded = batch.padded(index)
    padded[RADIUS:, RADIUS:-RADIUS] = pixels
    padded[RADIUS + 1 :, :RADIUS] = pixels[:-1, :1]
    padded[RADIUS:, -RADIUS:] = pixels[:, -1:]


@njit(inline="always")
def median_edge(west, north, north_west):  # type: ignore[no-untyped-def]
    """Median of west, north and west + north - north_west."""
    low = min(west, north)
    high = max(west, north)
    return min(max(west + north - north_west, low), high)


@njit(**BORROWED)
def pixel_features(  # type: ignore[no-untyped-def]
    buffer, place, stride, channels, border, predictor, copies, out
):
    """Features of the pixel whose first sample is buffer[place] in rows of `stride` samples.

    Writes out f32 [F], predictor int64 [c] and the copy candidates int64 [6, c].
    """
    n = 0
    for c in range(channels):
        at = place + c
        west = np.int64(buffer[at - channels])
        north = np.int64(buffer[at - stride])
        north_west = np.int64(buffer[at - stride - channels])
        predictor[c] = median_edge(west, north, north_west)
    for i in range(OFFSETS.shape[0]):
        at = place + OFFSETS[i, 0] * stride + OFFSETS[i, 1] * channels
        for c in range(channels):
            out[n] = np.float32(np.int64(buffer[at + c]) - predictor[c])
            n += 1
    for c in range(channels):
        out[n] = np.float32(predictor[c] - 128)
        n += 1
    for c in range(1, channels):
        out[n] = np.float32(predictor[c] - predictor[0])
        n += 1
    for c in range(channels):
        at = place + c
        west = np.int64(buffer[at - channels])
        north = np.int64(buffer[at - stride])
        north_west = np.int64(buffer[at - stride - channels])
        north_east = np.int64(buffer[at - stride + channels])
        west_west = np.int64(buffer[at - 2 * channels])
        activity = abs(west - north_west) + abs(north_west - north)
        activity += abs(north - north_east) + abs(west - west_west)
        out[n] = ACTIVITY[activity]
        n += 1
    for i in range(COPIES.shape[0]):
        at = place + COPIES[i, 0] * stride + COPIES[i, 1] * channels
        for c in range(channels):
            copies[i, c] = np.int64(buffer[at + c])
        for j in range(i):
            equal = True
            for c in range(channels):
                equal = equal and copies[i, c] == copies[j, c]
            out[n] = _ONE if equal else np.float32(0.0)
            n += 1
    out[n] = _ONE if border else np.float32(0.0)
    for rest in range(n + 1, out.shape[0]):
        out[rest] = np.float32(0.0)


@njit(**BORROWED)
def batch_features_rows(  # type: ignore[no-untyped-def]
    begin, end, buffer, table, tops, row_tile, row_index, channels, features, predictors, copies
):
    """Features of the batch's image rows [begin, end): row r is row row_index[r] of row_tile[r].

    features f32 [P, F], predictors int64 [P, c], copies int64 [P, 6, c].
    """
    for r in range(begin, end):
        b = row_tile[r]
        i = row_index[r]
        width = table[b, 2]
        stride = (width + 2 * RADIUS) * channels
        place = table[b, 0] + (i + RADIUS) * stride + RADIUS * channels
        p = table[b, 3] + i * width
        top = tops[b] and i == 0
        for j in range(width):
            pixel_features(
                buffer, place + j * channels, stride, channels, top or j == 0,
                predictors[p + j], copies[p + j], features[p + j],
            )  # fmt: skip


@njit(cache=True, nogil=True)
def pack_pixels(buffer, channels, packed):  # type: ignore[no-untyped-def]
    """Samples uint8 to one word a pixel (uint32 [n]), the first channel highest."""
    for p in range(packed.shape[0]):
        value = np.uint32(0)
        for c in range(channels):
            value = np.uint32(value << np.uint32(8)) | np.uint32(buffer[p * channels + c])
        packed[p] = value


@njit(inline="always")
def packed_sample(packed, channel, channels):  # type: ignore[no-untyped-def]
    """One channel of a packed pixel, int64."""
    return np.int64((packed >> np.uint32(8 * (channels - 1 - channel))) & np.uint32(255))
