"""Compiled loops that find the luma and chroma of RGB pixels (`osoa_pl.data.yuv`).

Importing this loads numba; callers do so when they need it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SPAN = 1024
_TRIES, _TRIES_PIXEL = 1 << 18, 64
"""Chroma that may be tried where colours are clamped: in a picture, and more for each pixel. What
needs more is hardly a picture of this kind."""


@njit(cache=True, nogil=True)
def invert(picture, tables, inverses, luma, chroma):  # type: ignore[no-untyped-def]
    """Fill `luma` uint8 (h, w) and `chroma` uint8 (2, h / 2, w / 2); False where none fit.

    picture: uint8 (h, w, 3). Where colours are clamped several fit: that nearest to the chroma
    of the square before is taken, and the darkest luma.
    """
    of_chroma = inverses[1]
    height, width = luma.shape
    before_u, before_v = 128, 128
    left = np.full(1, _TRIES + _TRIES_PIXEL * height * width, np.int64)
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
                u, v = _nearest(
                    picture, tables, inverses, luma, row, column, before_u, before_v, left
                )
                if u < 0:
                    return False
            chroma[0, row, column], chroma[1, row, column] = u, v
            before_u, before_v = u, v
    return True


@njit(cache=True, nogil=True)
def _nearest(  # type: ignore[no-untyped-def]
    picture, tables, inverses, luma, row, column, u, v, left
):
    """Chroma nearest to (u, v) that fits a square with clamped colours; (-1, -1): none, or no
    tries are `left`.
    """
    for distance in range(511):
        left[0] -= 2 * distance + 1
        if left[0] < 0:
            break
        for up in range(max(-distance, -u), min(distance, 255 - u) + 1):
            across = distance - abs(up)
            for side in range(-1, 2, 2):
                other = v + side * across
                fits = 0 <= other < 256 and (across > 0 or side > 0)
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


@njit(cache=True, nogil=True)
def invert_jfif(picture, luma, chroma):  # type: ignore[no-untyped-def]
    """Fill `luma` uint8 (h, w) and `chroma` uint8 (2, h, w); False where none fit.

    picture: uint8 (h, w, 3). Where colours are clamped several fit: that nearest to the chroma
    of the pixel before is taken, and the darkest luma.
    """
    height, width = luma.shape
    before_u, before_v = 128, 128
    left = np.full(1, _TRIES + _TRIES_PIXEL * height * width, np.int64)
    for row in range(height):
        for column in range(width):
            red, green = int(picture[row, column, 0]), int(picture[row, column, 1])
            blue = int(picture[row, column, 2])
            reach = 510
            if min(red, green, blue) > 0 and max(red, green, blue) < 255:
                # the chroma of these colours before they were rounded
                before_u = 128 + round(-0.168736 * red - 0.331264 * green + 0.5 * blue)
                before_v = 128 + round(0.5 * red - 0.418688 * green - 0.081312 * blue)
                before_u, before_v = min(max(before_u, 0), 255), min(max(before_v, 0), 255)
                reach = 4
            y, u, v = _nearest_jfif(red, green, blue, before_u, before_v, reach, left)
            if y < 0:
                return False
            luma[row, column], chroma[0, row, column], chroma[1, row, column] = y, u, v
            before_u, before_v = u, v
    return True


@njit(cache=True, nogil=True)
def _nearest_jfif(red, green, blue, u, v, reach, left):  # type: ignore[no-untyped-def]
    """(Y, U, V) that give a pixel, of chroma nearest to (u, v); -1 for Y: none within `reach`, or
    no tries are `left`.
    """
    for distance in range(reach + 1):
        left[0] -= 2 * distance + 1
        if left[0] < 0:
            break
        for up in range(max(-distance, -u), min(distance, 255 - u) + 1):
            across = distance - abs(up)
            for side in range(-1, 2, 2):
                other = v + side * across
                if 0 <= other < 256 and (across > 0 or side > 0):
                    found = _luma_jfif(red, green, blue, u + up, other)
                    if found >= 0:
                        return found, u + up, other
    return -1, 0, 0


@njit(cache=True, nogil=True)
def _luma_jfif(red, green, blue, u, v):  # type: ignore[no-untyped-def]
    """The darkest luma that gives a pixel with this chroma; -1: none."""
    x, y = u - 128, v - 128
    shifts = (
        (91881 * y + 32768) >> 16,
        (-22554 * x - 46802 * y + 32768) >> 16,
        (116130 * x + 32768) >> 16,
    )
    low, high = 0, 255
    for value, shift in zip((red, green, blue), shifts):
        if value > 0:
            low = max(low, value - shift)
        if value < 255:
            high = min(high, value - shift)
    return low if low <= high else -1
