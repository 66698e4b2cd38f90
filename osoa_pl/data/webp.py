"""Lossless WebP, RGB and RGBA; the colours of transparent pixels are kept."""

from __future__ import annotations

from osoa_pl.data import pillow, png
from osoa_pl.data.picture import Picture, Raster
from osoa_pl.errors import InputError

_MODES = {"RGB": "rgb8", "RGBA": "rgba8"}
_SAMPLES = {mode: kind for kind, mode in _MODES.items()}


def inspect(data: bytes) -> Picture:
    """Picture of the file `data`. Raises InputError, or anything for a broken file."""
    length = 8 + int.from_bytes(data[4:8], "little")
    if length != len(data):
        raise ValueError("truncated" if length > len(data) else "data after the end of the image")
    blocks: dict[bytes, bytes] = {}
    start = 12
    while start < length:
        kind, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        if kind in (b"ANIM", b"ANMF"):
            raise InputError("animated")
        if kind not in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"EXIF", b"XMP "):
            raise InputError(f"WebP with unknown block {kind!r}")
        if kind in blocks or start + 8 + size > length:
            raise ValueError(f"block {kind!r} is repeated or cut off")
        blocks[kind] = data[start + 8 : start + 8 + size]
        start += 8 + size + size % 2
    if b"VP8L" not in blocks or b"VP8 " in blocks or b"ALPH" in blocks:
        raise InputError("lossy WebP")
    with pillow.opened(data, "WEBP") as image:
        mode, (width, height) = _MODES[image.mode], image.size
    if (width, height, mode) != _stored(blocks[b"VP8L"], mode):
        raise InputError("WebP with a frame that is not its canvas")
    before = png.metadata_chunks(
        icc_profile=blocks.get(b"ICCP", b""),
        exif=blocks.get(b"EXIF", b"").removeprefix(b"Exif\0\0"),
        xmp=blocks.get(b"XMP ", b""),
    )
    return Picture("webp", mode, height, width, before)


def _stored(frame: bytes, mode: str) -> tuple[int, int, str]:
    """(width, height, mode) of a VP8L block; a canvas may claim alpha that it does not use."""
    if frame[:1] != b"\x2f":
        raise ValueError("no VP8L signature")
    bits = int.from_bytes(frame[1:5], "little")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), "rgba8" if bits >> 28 & 1 else mode


def decode(data: bytes, picture: Picture) -> Raster:
    """Samples uint8 (h, w, samples)."""
    modes = (_SAMPLES[picture.mode],)
    return pillow.samples(data, "WEBP", modes, picture.height * picture.width).astype("u1")
