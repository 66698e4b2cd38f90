"""Picture files: which of them are coded as pixels, and their pixels.

Coded as pixels are still images whose every sample and every bit of metadata a PNG can carry.
All else is refused with a reason, and stored byte for byte by the caller: never a lossy reading,
never a silent conversion. What does not come back is the file's own way of storing: strips,
filters, interlacing, the order of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from osoa_pl.data import bmp, jxl, png, ppm, tga, tiff, webp
from osoa_pl.data.picture import Picture, Raster
from osoa_pl.errors import InputError
from osoa_pl.format.items import MAX_METADATA_BYTES, size_problem
from osoa_pl.types import MODES

__all__ = ["SUFFIXES", "Picture", "decode", "inspect", "sniff"]

SUFFIXES = (
    *(".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", *tga.SUFFIXES),
    *(".ppm", ".pgm", ".pnm", ".pbm", ".pam"),
    *(".jpg", ".jpeg", ".jpe", ".gif", ".jxl", ".jp2", ".avif", ".heic", ".ico"),
)


class _Format(NamedTuple):
    inspect: Callable[[bytes], Picture]
    decode: Callable[[bytes, Picture], Raster]


def sniff(head: bytes, suffix: str = "") -> str | None:
    """Kind of picture that starts with the bytes `head` (at least 32), or None.

    suffix: of the file's name, with its dot; it alone tells of a TGA.
    """
    if head.startswith(png.SIGNATURE):
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in bmp.HEADER_SIZES:
        return "bmp"
    if ppm.MAGIC.match(head):
        return "ppm"
    if head.startswith((jxl.SIGNATURE, jxl.CONTAINER)):
        return "jxl"
    for magic, place, name in _REFUSED:
        if head[place : place + len(magic)] == magic:
            return name
    if suffix.lower() in tga.SUFFIXES and tga.plausible(head):
        return "tga"
    return None


def inspect(data: bytes, source: str) -> Picture:
    """Picture described by the headers of the file `data` of kind `source` (see `sniff`).

    Raises InputError whose message is the reason for storing the file as it is.
    """
    if source not in _FORMATS:
        raise InputError(source)
    try:
        picture = _FORMATS[source].inspect(data)
    except InputError:
        raise
    except Exception as error:  # decoders raise what they like on broken files
        raise _unreadable(error) from error
    if not picture.height * picture.width:
        raise InputError("cannot be read as an image: no pixels")
    if problem := size_problem(picture.height, picture.width):
        raise InputError(problem)
    if len(picture.before) + len(picture.after) > MAX_METADATA_BYTES:
        raise InputError("too much metadata")
    return picture


def decode(data: bytes, picture: Picture) -> Raster:
    """Samples (h, w, samples) of the file `data`: uint16 for 16-bit modes, else uint8.

    Samples of fewer than 8 bits, and indices into a palette, take a byte each. A PBM comes as
    the grey picture of the same look: 0 for black.

    Raises InputError where the file is broken or is not what `picture` says.
    """
    found = inspect(data, picture.source)
    seen, wanted = ((p.mode, p.height, p.width) for p in (found, picture))
    if seen != wanted:
        raise InputError(f"found {seen}, expected {wanted}")
    mode = MODES[picture.mode]
    try:
        raster = _FORMATS[picture.source].decode(data, found)
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(error) from error
    dtype = np.uint16 if mode.depth == 16 else np.uint8
    if raster.dtype != dtype or raster.shape != (picture.height, picture.width, mode.samples):
        raise InputError(f"cannot be read as an image: found {raster.dtype} {raster.shape}")
    return raster


def _unreadable(error: Exception) -> InputError:
    message = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"cannot be read as an image: {message}")


def _inspect_png(data: bytes) -> Picture:
    try:
        found = png.structure(data)
    except ValueError as error:
        if str(error) == "animated":
            raise InputError("animated") from error
        raise
    return Picture("png", found.mode, found.height, found.width, found.before, found.after)


def _decode_png(data: bytes, picture: Picture) -> Raster:
    return png.decode(data)


_FORMATS = {
    "png": _Format(_inspect_png, _decode_png),
    "webp": _Format(webp.inspect, webp.decode),
    "tiff": _Format(tiff.inspect, tiff.decode),
    "bmp": _Format(bmp.inspect, bmp.decode),
    "ppm": _Format(ppm.inspect, ppm.decode),
    "tga": _Format(tga.inspect, tga.decode),
    "jxl": _Format(jxl.inspect, jxl.decode),
}
_REFUSED = (
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"GIF87a", 0, "GIF"),
    (b"GIF89a", 0, "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, "JPEG 2000"),
    (b"ftypavif", 4, "AVIF"),
    (b"ftyphei", 4, "HEIF"),
    (b"ftypmif1", 4, "HEIF"),
    (b"\0\0\1\0", 0, "icon"),
)
"""Magic bytes, where they stand, and the reason."""
