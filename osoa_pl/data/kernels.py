"""Compiled loops of picture formats: undoing a PNG's filters, unpacking a TGA's runs.

Importing this loads numba; callers do so when they need it.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def undo_filters(rows, found, step):  # type: ignore[no-untyped-def]
    """Fill `found` uint8 (h, n) from filtered `rows` uint8 (h, 1 + n); False: unknown filter.

    step: bytes of a pixel, at least 1. PNG specification, section 9.
    """
    height, width = found.shape
    for y in range(height):
        kind = rows[y, 0]
        if kind > 4:
            return False
        for x in range(width):
            value = int(rows[y, x + 1])
            if kind != 0:
                left = int(found[y, x - step]) if x >= step else 0
                above = int(found[y - 1, x]) if y > 0 else 0
                if kind == 1:
                    value += left
                elif kind == 2:
                    value += above
                elif kind == 3:
                    value += (left + above) >> 1
                else:
                    corner = int(found[y - 1, x - step]) if y > 0 and x >= step else 0
                    to_left = abs(above - corner)
                    to_above = abs(left - corner)
                    to_corner = abs(left + above - 2 * corner)
                    if to_left <= to_above and to_left <= to_corner:
                        value += left
                    elif to_above <= to_corner:
                        value += above
                    else:
                        value += corner
            found[y, x] = value & 255
    return True


@njit(cache=True, nogil=True)
def unpack_runs(data, start, pixels):  # type: ignore[no-untyped-def]
    """Fill `pixels` uint8 (n, bytes) from run-length packets; where they end, -1: cut off."""
    count, step = pixels.shape
    place = 0
    while place < count:
        if start >= data.size:
            return -1
        packet = int(data[start])
        length = (packet & 127) + 1
        stored = 1 if packet > 127 else length
        start += 1
        if place + length > count or start + stored * step > data.size:
            return -1
        for index in range(length):
            source = start + (0 if packet > 127 else index * step)
            for part in range(step):
                pixels[place + index, part] = data[source + part]
        place += length
        start += stored * step
    return start
