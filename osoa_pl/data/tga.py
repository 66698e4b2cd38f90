"""TGA: grey, RGB, RGBA and palettes of 8 bits, stored plainly or as runs."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import png
from osoa_pl.data.picture import Picture, Raster
from osoa_pl.errors import InputError
from osoa_pl.format.items import size_problem

SUFFIXES = (".tga", ".targa")

_SIGNATURE = b"TRUEVISION-XFILE.\0"
_MODES = {
    (1, 8, 8): "palette8",
    (1, 8, 0): "palette8",
    (2, 24, 0): "rgb8",
    (2, 32, 8): "rgba8",
    (3, 8, 0): "grey8",
}
"""By kind without its run-length bit, bits of a pixel, bits of alpha."""


def plausible(head: bytes) -> bool:
    """Whether the header `head` (18 bytes) may be a TGA's, which has no magic number."""
    return (
        len(head) >= 18
        and head[1] in (0, 1)
        and head[2] in (1, 2, 3, 9, 10, 11)
        and head[16] in (8, 15, 16, 24, 32)
    )


def inspect(data: bytes) -> Picture:
    """Picture of the file `data`. Raises InputError, or anything for a broken file."""
    picture, _ = _read(data)
    return picture


def decode(data: bytes, picture: Picture) -> Raster:
    """Samples uint8 (h, w, samples), the top left one first."""
    _, pixels = _read(data)
    pixels = pixels.reshape(picture.height, picture.width, -1)
    if not data[17] & 0x20:
        pixels = pixels[::-1]
    if data[17] & 0x10:
        pixels = pixels[:, ::-1]
    if pixels.shape[2] >= 3:
        pixels = pixels[:, :, (2, 1, 0, 3)[: pixels.shape[2]]]
    return np.ascontiguousarray(pixels)


def _read(data: bytes) -> tuple[Picture, NDArray[np.uint8]]:
    if not plausible(data):
        raise ValueError("no TGA header")
    comment, mapped, kind, first, colours, colour_bits = struct.unpack_from("<BBBHHB", data)
    left, top, width, height, bits, flags = struct.unpack_from("<HHHHBB", data, 8)
    mode = _MODES.get((kind & 7, bits, flags & 15))
    if mode is None:
        raise InputError(f"TGA of {bits} bits with {flags & 15} bits of alpha")
    if left or top or flags & 0xC0:
        raise InputError("TGA with an origin or interleaved rows")
    if problem := size_problem(height, width):
        raise InputError(problem)
    place = 18 + comment
    before = b""
    if mode == "palette8":
        if not mapped or first or not 0 < colours <= 256 or colour_bits != 24:
            raise InputError(f"TGA with a palette of {colour_bits} bits")
        entries = np.frombuffer(data, np.uint8, 3 * colours, place).reshape(-1, 3)
        before = png.chunk(b"PLTE", entries[:, ::-1].tobytes())
        place += 3 * colours
    elif mapped or colours or first:
        raise InputError("TGA with a palette beside its pixels")
    text = data[18 : 18 + comment].rstrip(b"\0")
    if not text.isascii() or b"\0" in text:
        raise InputError("TGA with a comment that is not text")
    if text:
        before += png.metadata_chunks(texts={"Comment": text.decode("ascii")})
    end = len(data)
    if data.endswith(_SIGNATURE):
        end -= 26
        if any(data[end : end + 8]):
            raise InputError("TGA with an extension area")
    pixels = _pixels(data[:end], place, height * width, bits // 8, runs=bool(kind & 8))
    return Picture("tga", mode, height, width, before), pixels


def _pixels(data: bytes, place: int, count: int, step: int, *, runs: bool) -> NDArray[np.uint8]:
    excess = len(data) - place - count * step
    if not runs:
        if excess:
            raise ValueError("truncated" if excess < 0 else "data after the end of the image")
        return np.frombuffer(data, np.uint8, offset=place).reshape(count, step)
    from osoa_pl.data.kernels import unpack_runs

    if len(data) - place < -(-count // 128) * (1 + step):
        raise ValueError("truncated")
    pixels = np.empty((count, step), np.uint8)
    end = unpack_runs(np.frombuffer(data, np.uint8), place, pixels)
    if end != len(data):
        raise ValueError("truncated" if end < 0 else "data after the end of the image")
    return pixels
