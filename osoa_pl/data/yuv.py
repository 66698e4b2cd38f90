"""Pictures that a decoder of video or JPEG made RGB, back to the luma and chroma that it had.

``yuv420``. Most video has one sample of chroma (U, V) for two by two of luma (Y). To RGB it comes
by swscale's fast way, in 16-bit whole numbers (libswscale/x86/yuv2rgb_template; PyAV's and
OpenCV's frames come by it too):

    l = ((Y - black) * 8 * cy) >> 16      and of U and V of the square:
    r = (8 * (V - 128) * crv) >> 16
    g = ((8 * (U - 128) * cgu) >> 16) + ((8 * (V - 128) * cgv) >> 16)
    b = (8 * (U - 128) * cbu) >> 16
    R, G, B = clamp(l + r), clamp(l + g), clamp(l + b)

The differences of the three colours tell U and V, where no colour was clamped; l tells Y.

``jfif``. Decoders of JPEG (libjpeg's and its heirs) have luma and chroma for each pixel, and

    R = clamp(Y + ((91881 * v + 32768) >> 16))           with u = U - 128, v = V - 128
    G = clamp(Y + ((-22554 * u - 46802 * v + 32768) >> 16))
    B = clamp(Y + ((116130 * u + 32768) >> 16))

A quarter of all colours is of this kind; a picture of such alone was a JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from osoa_pl.types import MATRICES, Step

_COEFFICIENTS = (
    (16, 9539, 13075, 16525, -3209, -6660),  # BT.601, Y from 16 to 235: ffmpeg's default
    (0, 8192, 11485, 14516, -2819, -5850),  # BT.601, Y from 0 to 255
    (16, 9539, 14686, 17305, -1747, -4366),  # BT.709, Y from 16 to 235
    (0, 8192, 12901, 15201, -1534, -3835),  # BT.709, Y from 0 to 255
)
"""black, cy, crv, cbu, cgu, cgv."""
assert len(_COEFFICIENTS) == MATRICES

_ROWS = 128
"""Of chroma, made RGB at once."""
_SPAN = 1024
"""Differences of colours before clamping lie between -_SPAN and _SPAN."""


class Tables(NamedTuple):
    """What a matrix makes of each byte: int64 (256,); green from U and from V."""

    luma: NDArray[np.int64]
    red: NDArray[np.int64]
    green_u: NDArray[np.int64]
    green_v: NDArray[np.int64]
    blue: NDArray[np.int64]


@lru_cache(MATRICES)
def tables(matrix: int) -> Tables:
    """The tables of a matrix, 0 to 3."""
    black, cy, crv, cbu, cgu, cgv = _COEFFICIENTS[matrix]
    value = np.arange(256, dtype=np.int64)
    chroma = 8 * (value - 128)
    products = [chroma * factor >> 16 for factor in (crv, cgu, cgv, cbu)]
    return Tables((value - black) * 8 * cy >> 16, *products)


@lru_cache(MATRICES)
def _inverses(matrix: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For l + _SPAN the byte Y, and for (R - G + _SPAN) * 2 _SPAN + B - G + _SPAN the number
    256 U + V; -1 where there is none.
    """
    found = tables(matrix)
    of_luma = np.full(2 * _SPAN, -1)
    of_luma[found.luma + _SPAN] = np.arange(256)
    green = found.green_u[:, None] + found.green_v
    first = found.red - green + _SPAN
    second = found.blue[:, None] - green + _SPAN
    of_chroma = np.full(4 * _SPAN * _SPAN, -1)
    of_chroma[first * 2 * _SPAN + second] = np.arange(65536).reshape(256, 256)
    return of_luma, of_chroma


def split(picture: NDArray[np.uint8], step: Step) -> list[NDArray[np.uint8]]:
    """Planes Y, U and V (h, w, 1), the last two half as high and wide for ``yuv420``, of RGB
    pixels (h, w, 3).

    Raises ValueError where there are none that give the picture.
    """
    from osoa_pl.data import kernels_yuv

    height, width = picture.shape[:2]
    luma = np.zeros((height, width), np.uint8)
    picture = np.ascontiguousarray(picture)
    if step.name == "jfif":
        chroma = np.zeros((2, height, width), np.uint8)
        fits = kernels_yuv.invert_jfif(picture, luma, chroma)
    else:
        chroma = np.zeros((2, (height + 1) // 2, (width + 1) // 2), np.uint8)
        matrix = step.values[0][0]
        fits = kernels_yuv.invert(picture, tables(matrix), _inverses(matrix), luma, chroma)
    if not fits:
        raise ValueError(f"not a picture for the transform {step}")
    return [luma[:, :, None], *chroma[..., None]]


def join(planes: Sequence[NDArray[np.uint8]], step: Step) -> NDArray[np.uint8]:
    """RGB pixels (h, w, 3) of the three planes; any have some."""
    luma, u, v = (plane[:, :, 0] for plane in planes)
    picture = np.empty((*luma.shape, 3), np.uint8)
    for row in range(0, len(luma), 2 * _ROWS):
        rows = slice(row, row + 2 * _ROWS)
        if step.name == "jfif":
            picture[rows] = _from_jfif(luma[rows], u[rows], v[rows])
        else:
            half = slice(row // 2, row // 2 + _ROWS)
            picture[rows] = _from_yuv420(luma[rows], u[half], v[half], step.values[0][0])
    return picture


def _from_yuv420(
    luma: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8], matrix: int
) -> NDArray[np.int16]:
    light, red, green_u, green_v, blue = (t.astype(np.int16) for t in tables(matrix))
    height, width = luma.shape
    shifts = np.stack((red[v], green_u[u] + green_v[v], blue[u]), 2)
    shifts = shifts.repeat(2, axis=0)[:height].repeat(2, axis=1)[:, :width]
    return (light[luma][:, :, None] + shifts).clip(0, 255)


def _from_jfif(
    luma: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]
) -> NDArray[np.int32]:
    x, y = (plane.astype(np.int32) - 128 for plane in (u, v))
    shifts = (91881 * y, -22554 * x - 46802 * y, 116130 * x)
    return (luma[:, :, None] + (np.stack(shifts, 2) + 32768 >> 16)).clip(0, 255)
