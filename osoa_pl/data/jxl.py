"""Lossless JPEG XL: one modular frame of 8- or 16-bit samples, as the file's own headers tell.

Such a frame is integers from end to end, so that every decoder gives the same samples. Whether
they were rounded before they were coded nobody can tell, as with a PNG. Not taken, though sound:
ICC profiles, patches and Brotli-packed metadata, for no decoder at hand tells them exactly, and
what is small beside its pixels, for it may be a bomb.

Source: ISO/IEC 18181-1 (codestream; bundles are named as there) and 18181-2 (boxes).
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import png
from osoa_pl.data.picture import Picture, Raster
from osoa_pl.errors import InputError
from osoa_pl.types import MODES

SIGNATURE = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_UNCERTAIN = "JPEG XL of uncertain losslessness"
_LOSSY = "lossy JPEG XL"
_BOXES = (b"ftyp", b"jxll", b"jxlc", b"jxlp", b"Exif", b"xml ")
_REFUSED = {b"jbrd": "JPEG in JPEG XL", b"brob": "JPEG XL with packed metadata"}
_MODES = {(1, 0): "grey", (1, 1): "greyalpha", (3, 0): "rgb", (3, 1): "rgba"}
_SIZES = ((9, 1), (13, 1), (18, 1), (30, 1))
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_ENUM = ((0, 0), (0, 1), (4, 2), (6, 18))
_DEPTHS = ((0, 8), (0, 10), (0, 12), (6, 1))
_SECTIONS = ((10, 0), (14, 1024), (22, 17_408), (30, 4_211_712))
_D65, _PRIMARIES, _LINEAR, _SRGB, _RELATIVE = 1, 1, 8, 13, 1
_CHROMATICITIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
_SMALL = 1 << 22
_MAX_RATIO = 1 << 12
"""Samples for a byte of the file, where they are more than _SMALL; flat ground reaches any."""


def inspect(data: bytes) -> Picture:
    """Picture of the file `data`. Raises InputError, or anything for a broken file."""
    codestream, before = _unpacked(data)
    mode, height, width, colours, size = _headers(codestream)
    if size not in (None, len(codestream)):
        found = "truncated" if size > len(codestream) else "data after the end of the image"
        raise ValueError(found)
    if height * width * MODES[mode].samples > max(_SMALL, _MAX_RATIO * len(codestream)):
        raise InputError("JPEG XL of few bytes for its pixels")
    if not _codec().available:
        raise InputError("JPEG XL")
    return Picture("jxl", mode, height, width, colours + before)


def decode(data: bytes, picture: Picture) -> Raster:
    """Samples (h, w, samples)."""
    codestream = _unpacked(data)[0]
    found = _samples(codestream, picture)
    if _headers(codestream).size is None:
        try:
            _samples(codestream[:-1], picture)
        except RuntimeError:  # wants more: the last byte belongs to the picture
            return found
        raise ValueError("data after the end of the image")
    return found


def _samples(codestream: bytes, picture: Picture) -> Raster:
    from imagecodecs import jpegxl_decode

    mode = MODES[picture.mode]
    found: NDArray[Any] = jpegxl_decode(codestream, index=0, numthreads=1)
    shape = (picture.height, picture.width, mode.samples)
    if found.shape not in (shape, shape[:2] if mode.samples == 1 else shape):
        raise ValueError(f"found {found.shape}, expected {shape}")
    found = found.reshape(shape)
    if found.dtype != (np.uint16 if mode.depth == 16 else np.uint8):
        raise ValueError(f"found {found.dtype}, expected {mode.depth} bits")
    return found


def _codec() -> Any:
    try:
        from imagecodecs import JPEGXL
    except ImportError as error:
        raise InputError("JPEG XL") from error
    return JPEGXL


class _Bits:
    """The bits of a codestream, lowest of each byte first."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def read(self, count: int) -> int:
        """The next `count` bits as a number."""
        start, end = self.place, self.place + count
        if end > 8 * len(self.data):
            raise ValueError("truncated")
        self.place = end
        whole = int.from_bytes(self.data[start // 8 : (end + 7) // 8], "little")
        return whole >> start % 8 & ((1 << count) - 1)

    def pick(self, choices: tuple[tuple[int, int], ...]) -> int:
        """U32 of the standard: two bits choose (bits to read, number to add)."""
        count, offset = choices[self.read(2)]
        return offset + self.read(count)

    def need(self, count: int, wanted: int, reason: str = _UNCERTAIN) -> None:
        """Raise InputError unless the next `count` bits are the number `wanted`."""
        if self.read(count) != wanted:
            raise InputError(reason)

    def align(self) -> None:
        """Go to the next byte; what is skipped is zeros."""
        if self.read(-self.place % 8):
            raise ValueError("bits set between headers")


def _unpacked(data: bytes) -> tuple[bytes, bytes]:
    """The codestream, and the metadata beside it as PNG chunks."""
    if data.startswith(SIGNATURE):
        return data, b""
    if not data.startswith(CONTAINER):
        raise ValueError("no JPEG XL signature")
    found: dict[bytes, bytes] = {}
    parts: list[bytes] = []
    start = len(CONTAINER)
    while start < len(data):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        head = 8
        if length == 1:
            head, length = 16, int.from_bytes(data[start + 8 : start + 16], "big")
        end = start + length if length else len(data)
        if start + head > end or end > len(data):
            raise ValueError("a box is cut off")
        if kind not in _BOXES:
            raise InputError(_REFUSED.get(kind, f"JPEG XL with box {kind!r}"))
        body, start = data[start + head : end], end
        if kind == b"jxlp":
            number = int.from_bytes(body[:4], "big")
            last = number >> 31
            if len(body) < 4 or number & 0x7FFFFFFF != len(parts) or b"jxlc" in found:
                raise ValueError("parts out of order")
            parts.append(body[4:])
            kind = b"jxlc" if last else kind
            body = b"".join(parts) if last else body
        if kind in found and kind != b"jxlp":
            raise ValueError(f"box {kind!r} is repeated")
        found[kind] = body
    codestream = found.get(b"jxlc", b"")
    if found.get(b"ftyp", b"")[:4] != b"jxl " or not codestream.startswith(SIGNATURE):
        raise ValueError("no codestream")
    exif = found.get(b"Exif", bytes(4))
    if exif[:4] != bytes(4):
        raise InputError("JPEG XL with an unusual Exif box")
    return codestream, png.metadata_chunks(exif=exif[4:], xmp=found.get(b"xml ", b""))


class _Headers(NamedTuple):
    mode: str
    height: int
    width: int
    colours: bytes
    """As PNG chunks."""
    size: int | None
    """Bytes of the codestream; None where the headers do not tell."""


def _headers(codestream: bytes) -> _Headers:
    bits = _Bits(codestream, 8 * len(SIGNATURE))
    height, width = _size(bits)
    mode, colours = _metadata(bits)
    bits.align()
    side = 128 << _frame(bits, MODES[mode].samples in (2, 4))
    groups, blocks = (-(-height // s) * -(-width // s) for s in (side, 8 * side))
    size = _sections(bits, 1 if groups == 1 else 2 + groups + blocks)
    return _Headers(mode, height, width, colours, size)


def _size(bits: _Bits) -> tuple[int, int]:
    """SizeHeader: (height, width)."""
    small = bits.read(1)
    height = 8 * (1 + bits.read(5)) if small else bits.pick(_SIZES)
    ratio = bits.read(3)
    if ratio:
        up, down = _RATIOS[ratio - 1]
        return height, height * up // down
    return height, 8 * (1 + bits.read(5)) if small else bits.pick(_SIZES)


def _metadata(bits: _Bits) -> tuple[str, bytes]:
    """ImageMetadata: mode, and chunks for the colours."""
    if bits.read(1):
        raise InputError(_LOSSY)  # by default colours are XYB
    extra = bits.read(1)
    if extra:
        bits.need(3, 0, "JPEG XL that is turned")
        bits.need(1, 0, "JPEG XL with a size beside its own")
        bits.need(1, 0, "JPEG XL with a preview")
        bits.need(1, 0, "animated")
    depth = _depth(bits)
    bits.read(1)  # whether 16-bit buffers suffice: a hint
    alpha = bits.pick(((0, 0), (0, 1), (4, 2), (12, 1)))
    if alpha > 1 or (alpha and not _is_plain_alpha(bits, depth)):
        raise InputError("JPEG XL with extra channels other than plain alpha")
    bits.need(1, 0, _LOSSY)  # XYB
    colour, colours = _colours(bits)
    if extra:
        bits.need(1, 1, "JPEG XL with tone mapping")
    bits.need(2, 0)  # U64: no extensions
    bits.need(1, 1)  # CustomTransformData
    return f"{_MODES[colour, alpha]}{depth}", colours


def _depth(bits: _Bits) -> int:
    bits.need(1, 0, "float")
    depth = bits.pick(_DEPTHS)
    if depth not in (8, 16):
        raise InputError(f"{depth}-bit JPEG XL")
    return depth


def _is_plain_alpha(bits: _Bits, depth: int) -> bool:
    """ExtraChannelInfo: whether it is alpha of `depth` bits, whole, unnamed, not associated."""
    if bits.read(1):
        return depth == 8
    kind, found, *others = bits.pick(_ENUM), _depth(bits), bits.read(2), bits.read(2), bits.read(1)
    return (kind, found, others) == (0, depth, [0, 0, 0])


def _colours(bits: _Bits) -> tuple[int, bytes]:
    """ColourEncoding: number of colours, and chunks that tell the same."""
    count, curve, intent = 3, _SRGB, _RELATIVE
    if not bits.read(1):
        bits.need(1, 0, "JPEG XL with an ICC profile")
        space = bits.pick(_ENUM)
        if space > 1:
            raise InputError("JPEG XL that is neither grey nor RGB")
        count = 1 if space else 3
        known = bits.pick(_ENUM) == _D65 and (space or bits.pick(_ENUM) == _PRIMARIES)
        known = known and not bits.read(1)  # a gamma of its own
        if known:
            curve, intent = bits.pick(_ENUM), bits.pick(_ENUM)
        if not known or (curve, intent) not in [(_LINEAR, 1), *((_SRGB, i) for i in range(4))]:
            raise InputError("JPEG XL with colours other than sRGB")
    if curve == _SRGB:
        return count, png.chunk(b"sRGB", bytes([intent]))
    space_chunk = png.chunk(b"cHRM", struct.pack(">8I", *_CHROMATICITIES)) if count == 3 else b""
    return count, png.chunk(b"gAMA", struct.pack(">I", 100_000)) + space_chunk


def _frame(bits: _Bits, alpha: bool) -> int:
    """FrameHeader of the only frame, whose samples are stored as they are: its group size."""
    bits.need(1, 0, _LOSSY)  # all is default, that is VarDCT
    bits.need(2, 0, "JPEG XL of several frames")
    bits.need(1, 1, _LOSSY)  # VarDCT
    bits.need(2, 0)  # U64: no noise, patches, splines
    bits.need(1, 0, _LOSSY)  # YCbCr
    for _ in range(1 + alpha):
        bits.need(2, 0, _LOSSY)  # upsampling
    shift = bits.read(2)
    bits.need(2, 0)  # one pass
    bits.need(1, 0, "JPEG XL with a frame that is not its canvas")
    for _ in range(1 + alpha):
        bits.need(2, 0)  # blending: replace
    bits.need(1, 1, "JPEG XL of several frames")
    bits.need(2, 0)  # name
    bits.need(1, 0, _LOSSY)  # by default both filters are on
    bits.need(1, 0, _LOSSY)  # Gaborish
    bits.need(2, 0, _LOSSY)  # edge-preserving filter
    bits.need(2, 0)  # U64: no extensions of the filters
    bits.need(2, 0)  # U64: no extensions of the frame
    return shift


def _sections(bits: _Bits, count: int) -> int | None:
    """TOC of `count` sections: where the last one ends, in bytes; None where it is permuted."""
    if bits.read(1):
        return None
    bits.align()
    if 12 * count > 8 * len(bits.data):
        raise ValueError("truncated")
    total = sum(bits.pick(_SECTIONS) for _ in range(count))
    bits.align()
    return bits.place // 8 + total
