"""BMP: palettes of 1, 4 and 8 bits, 24-bit RGB, and 32 bits where their alpha is certain."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import png, scanlines
from osoa_pl.data.picture import Picture, Raster
from osoa_pl.errors import InputError
from osoa_pl.types import MODES

HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)

_MASKS = (0xFF0000, 0xFF00, 0xFF)


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    bits: int
    offset: int
    downwards: bool
    alpha_mask: int
    palette: bytes
    dots_per_metre: tuple[int, int] | None


def inspect(data: bytes) -> Picture:
    """Picture of the file `data`. Raises InputError, or anything for a broken file."""
    header = _header(data)
    mode, before = _mode(header, data)
    before += png.metadata_chunks(dots_per_metre=header.dots_per_metre)
    return Picture("bmp", mode, header.height, header.width, before)


def decode(data: bytes, picture: Picture) -> Raster:
    """Samples uint8 (h, w, samples)."""
    header = _header(data)
    rows = _rows(header, data)
    mode = MODES[picture.mode]
    rows = rows[:, : -(-header.width * header.bits // 8)]
    if header.bits <= 8:
        return scanlines.unpack(np.ascontiguousarray(rows), mode, header.width)
    pixels = rows.reshape(header.height, header.width, -1)
    return np.ascontiguousarray(pixels[:, :, (2, 1, 0, 3)[: mode.samples]])


def _header(data: bytes) -> _Header:
    offset, size = struct.unpack_from("<II", data, 10)
    if size not in (40, 52, 56, 108, 124):
        raise InputError(f"BMP with a header of {size} bytes")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    metre = struct.unpack_from("<ii", data, 38)
    (colours,) = struct.unpack_from("<I", data, 46)
    if compression not in (0, 3) or (compression == 3 and bits != 32):
        raise InputError("compressed BMP" if compression in (1, 2, 4, 5) else f"{bits}-bit BMP")
    if bits not in (1, 4, 8, 24, 32):
        raise InputError(f"{bits}-bit BMP")
    if size >= 108 and data[70:74] not in (b"BGRs", b" niW"):
        raise InputError("BMP with a colour profile")
    if width <= 0 or height == 0:
        raise ValueError("no pixels")
    start = 14 + size
    alpha_mask = 0
    if compression == 3:
        if struct.unpack_from("<III", data, 54) != _MASKS:
            raise InputError("BMP with unusual colour masks")
        if size == 40:
            start += 12
        elif size >= 56:
            (alpha_mask,) = struct.unpack_from("<I", data, 66)
    if bits > 8 and colours:
        raise InputError("BMP with colours beside its pixels")
    colours = colours or (1 << bits if bits <= 8 else 0)
    if colours > 256 or (bits <= 8 and colours > 1 << bits):
        raise ValueError("an absurd palette")
    palette = data[start : start + 4 * colours]
    if offset != start + len(palette) or len(palette) != 4 * colours:
        raise InputError("BMP with a gap before its pixels")
    end = offset + _stride(width, bits) * abs(height)
    if not 0 <= len(data) - end <= 2 or any(data[end:]):  # some programs add two zero bytes
        raise ValueError("truncated" if end > len(data) else "data after the end of the image")
    dots = metre if min(metre) > 0 else None
    return _Header(width, abs(height), bits, offset, height < 0, alpha_mask, palette, dots)


def _stride(width: int, bits: int) -> int:
    return (width * bits + 31) // 32 * 4


def _rows(header: _Header, data: bytes) -> NDArray[np.uint8]:
    """Packed rows, the top one first."""
    stride = _stride(header.width, header.bits)
    rows = np.frombuffer(data, np.uint8, stride * header.height, header.offset)
    rows = rows.reshape(header.height, stride)
    return rows if header.downwards else rows[::-1]


def _mode(header: _Header, data: bytes) -> tuple[str, bytes]:
    """Name of the mode, and PLTE where there is one."""
    if header.bits == 24:
        return "rgb8", b""
    if header.bits == 32:
        if header.alpha_mask == 0xFF000000:
            return "rgba8", b""
        if header.alpha_mask or _rows(header, data)[:, 3::4].any():
            raise InputError("32-bit BMP of unclear alpha")
        return "rgb8", b""
    entries = np.frombuffer(header.palette, np.uint8).reshape(-1, 4)
    if entries[:, 3].any():
        raise InputError("BMP palette with a fourth component")
    levels = 1 << header.bits
    ramp = np.arange(len(entries)) * (255 // (levels - 1))
    if len(entries) == levels and (entries[:, :3] == ramp[:, None]).all():
        return f"grey{header.bits}", b""
    return f"palette{header.bits}", png.chunk(b"PLTE", entries[:, 2::-1].tobytes())
