"""Scanlines of a PNG: samples to packed bytes, filters, passes of an interlaced picture."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data.picture import Raster
from osoa_pl.types import Mode

Bytes = NDArray[np.uint8]

ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column, first row, and steps of each pass."""
WHOLE = ((0, 0, 1, 1),)
_BLOCK_BYTES = 1 << 19


def read(stream: bytes, mode: Mode, height: int, width: int, *, interlaced: bool) -> Raster:
    """Samples (h, w, samples) of the joined IDAT bodies `stream`.

    Inflates one byte more than the header promises, at most. Raises ValueError.
    """
    from osoa_pl.data.kernels import undo_filters

    passes = list(_passes(height, width, mode, interlaced=interlaced))
    length = sum(rows * (1 + stride) for _, rows, _, stride in passes)
    inflate = zlib.decompressobj()
    try:
        raw = np.frombuffer(inflate.decompress(stream, length + 1), np.uint8)
    except zlib.error as error:
        raise ValueError(f"broken pixel data: {error}") from error
    if raw.size > length:
        raise ValueError("more pixel data than its header says")
    if raw.size < length or not inflate.eof:
        raise ValueError("pixel data are cut off")
    if inflate.unused_data:
        raise ValueError("data after the pixels")
    size = (height if interlaced else 0, width, mode.samples)
    raster: Raster = np.empty(size, np.uint16) if mode.depth == 16 else np.empty(size, np.uint8)
    start = 0
    for (left, top, right, down), rows, columns, stride in passes:
        end = start + rows * (1 + stride)
        found = np.empty((rows, stride), np.uint8)
        step = max(1, mode.depth * mode.samples // 8)
        if not undo_filters(raw[start:end].reshape(rows, 1 + stride), found, step):
            raise ValueError("a row has an unknown filter")
        part = unpack(found, mode, columns)
        if not interlaced:
            return part
        raster[top::down, left::right] = part
        start = end
    return raster


def _passes(
    height: int, width: int, mode: Mode, *, interlaced: bool
) -> Iterator[tuple[tuple[int, int, int, int], int, int, int]]:
    """(place, rows, columns, bytes of a row) of the passes that are not empty."""
    for place in ADAM7 if interlaced else WHOLE:
        left, top, right, down = place
        rows, columns = -((top - height) // down), -((left - width) // right)
        if rows > 0 and columns > 0:
            yield place, rows, columns, -(-columns * mode.depth * mode.samples // 8)


def unpack(rows: Bytes, mode: Mode, width: int) -> Raster:
    """Samples (h, w, samples) of packed rows (h, bytes), the first in the highest bits."""
    if mode.depth == 16:
        wide = rows.view(">u2").astype(np.uint16)
        return wide.reshape(len(rows), width, mode.samples)
    if mode.depth == 8:
        return rows.reshape(len(rows), width, mode.samples)
    share = 8 // mode.depth
    found = np.empty((len(rows), rows.shape[1] * share), np.uint8)
    for place in range(share):
        found[:, place::share] = rows >> (8 - mode.depth * (place + 1)) & ((1 << mode.depth) - 1)
    return np.ascontiguousarray(found[:, :width, None])


def pack(raster: Raster, mode: Mode) -> Bytes:
    """Packed rows (h, bytes) of samples (h, w, samples). Raises ValueError for one too large."""
    height, width = raster.shape[:2]
    if mode.depth == 16:
        return raster.astype(">u2").reshape(height, -1).view(np.uint8)
    if mode.depth == 8:
        return raster.astype(np.uint8, copy=False).reshape(height, -1)
    if raster.max(initial=0) >> mode.depth:
        raise ValueError(f"a sample of more than {mode.depth} bits")
    share = 8 // mode.depth
    padded = np.zeros((height, -(-width // share) * share), np.uint8)
    padded[:, :width] = raster[:, :, 0]
    rows = np.zeros((height, padded.shape[1] // share), np.uint8)
    for place in range(share):
        rows |= padded[:, place::share] << (8 - mode.depth * (place + 1))
    return rows


def write(raster: Raster, mode: Mode) -> Iterator[bytes]:
    """Pieces of the zlib stream of a picture (h, w, samples)."""
    rows = pack(raster, mode)
    deflate, stream = zlib.compressobj(6), bytearray()
    size = max(1, _BLOCK_BYTES // rows.shape[1])
    above = np.zeros((1, rows.shape[1]), np.uint8)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        if mode.depth < 8 or mode.colour_type == 3:
            filtered = np.pad(block, ((0, 0), (1, 0)))
        else:
            filtered = filter_rows(block, np.concatenate((above, block[:-1])), mode)
        above = block[-1:]
        stream += deflate.compress(filtered.tobytes())
        if len(stream) >= _BLOCK_BYTES:
            yield bytes(stream)
            stream.clear()
    yield bytes(stream) + deflate.flush()


def filter_rows(rows: Bytes, above: Bytes, mode: Mode) -> Bytes:
    """Each row by the filter with the least sum of absolute differences, its number in front.

    PNG specification, section 9 (filtering) and 12.7 (the heuristic).
    """
    step = mode.depth * mode.samples // 8
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:], corner[:, step:] = rows[:, :-step], above[:, :-step]
    mean = (left.astype(np.uint16) + above) >> 1
    a, b, c = left.astype(np.int16), above.astype(np.int16), corner.astype(np.int16)
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, above, corner))
    guesses = (np.zeros_like(rows), left, above, mean.astype(np.uint8), nearest)
    best = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    least = np.full(len(rows), np.iinfo(np.int64).max)
    for kind, guess in enumerate(guesses):
        rest = rows - guess
        cost = np.minimum(rest, -rest).sum(axis=1, dtype=np.int64)
        better = cost < least
        least[better] = cost[better]
        best[better, 0], best[better, 1:] = kind, rest[better]
    return best
