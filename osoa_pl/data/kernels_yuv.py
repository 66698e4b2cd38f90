"""Compiled loops that find the luma and chroma of a video's frame (`osoa_pl.data.yuv`).

Importing this loads numba; callers do so when they need it.
"""

from __future__ import annotations

from numba import njit

_SPAN = 1024


@njit(cache=True, nogil=True)
def invert(picture, tables, inverses, luma, chroma):  # type: ignore[no-untyped-def]
    """Fill `luma` uint8 (h, w) and `chroma` uint8 (2, h / 2, w / 2); False where none fit.

    picture: uint8 (h, w, 3). Where colours are clamped several fit: that nearest to the chroma
    of the square before is taken, and the darkest luma.
    """
    of_chroma = inverses[1]
    height, width = luma.shape
    before_u, before_v = 128, 128
    for row in range(chroma.shape[1]):
        for column in range(chroma.shape[2]):
            pair = -1
            clear = False
            for y in range(2 * row, min(2 * row + 2, height)):
                for x in range(2 * column, min(2 * column + 2, width)):
                    red, green = int(picture[y, x, 0]), int(picture[y, x, 1])
                    blue = int(picture[y, x, 2])
                    if min(red, green, blue) > 0 and max(red, green, blue) < 255:
                        clear = True
                        place = (red - green + _SPAN) * 2 * _SPAN + blue - green + _SPAN
                        pair = of_chroma[place]
            if clear:
                u, v = pair >> 8, pair & 255
                if pair < 0 or not _fill(picture, tables, inverses, luma, row, column, u, v):
                    return False
            else:
                u, v = _nearest(picture, tables, inverses, luma, row, column, before_u, before_v)
                if u < 0:
                    return False
            chroma[0, row, column], chroma[1, row, column] = u, v
            before_u, before_v = u, v
    return True


@njit(cache=True, nogil=True)
def _nearest(picture, tables, inverses, luma, row, column, u, v):  # type: ignore[no-untyped-def]
    """Chroma nearest to (u, v) that fits a square with clamped colours; (-1, -1): none."""
    for distance in range(511):
        for up in range(max(-distance, -u), min(distance, 255 - u) + 1):
            left = distance - abs(up)
            for side in range(-1, 2, 2):
                other = v + side * left
                fits = 0 <= other < 256 and (left > 0 or side > 0)
                if fits and _fill(picture, tables, inverses, luma, row, column, u + up, other):
                    return u + up, other
    return -1, -1


@njit(cache=True, nogil=True)
def _fill(picture, tables, inverses, luma, row, column, u, v):  # type: ignore[no-untyped-def]
    """Fill the luma of a square, given its chroma; False where none fits."""
    lights, reds, greens_u, greens_v, blues = tables
    of_luma = inverses[0]
    shifts = (reds[v], greens_u[u] + greens_v[v], blues[u])
    height, width = luma.shape
    for y in range(2 * row, min(2 * row + 2, height)):
        for x in range(2 * column, min(2 * column + 2, width)):
            low, high = lights[0], lights[255]
            for c in range(3):
                value = int(picture[y, x, c])
                if value > 0:
                    low = max(low, value - shifts[c])
                if value < 255:
                    high = min(high, value - shifts[c])
            found = -1
            while low <= high and found < 0:
                found = of_luma[low + _SPAN]
                low += 1
            if found < 0:
                return False
            luma[y, x] = found
    return True
