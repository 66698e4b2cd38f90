"""PNG at the level of chunks: what a decoder throws away is kept, and put back verbatim."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from osoa_pl.data import scanlines
from osoa_pl.data.picture import Raster
from osoa_pl.types import MODES, Mode, mode_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_HEADER_END = len(SIGNATURE) + 25  # IHDR: length, type, 13 bytes, CRC
_END_BYTES = 12


@dataclass(frozen=True)
class PngStructure:
    """IHDR's facts and the ancillary chunks, as they stand in the file."""

    width: int
    height: int
    mode: str
    """Name in `osoa_pl.types.MODES`."""
    interlaced: bool
    before: bytes
    """All chunks but IHDR and IDAT, PLTE among them."""
    after: bytes


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk: length, type, body, CRC."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes, start: int = 0) -> Iterator[tuple[bytes, bytes, int, int]]:
    """(type, body, begin, end) of the chunks in data[start:].

    Raises ValueError for a chunk that is cut off or fails its CRC.
    """
    while start < len(data):
        head = data[start : start + 8]
        if len(head) < 8:
            raise ValueError("a chunk is cut off")
        length, kind = struct.unpack(">I4s", head)
        end = start + 12 + length
        if end > len(data):
            raise ValueError("a chunk is cut off")
        if not kind.isalpha():
            raise ValueError("a chunk has no valid type")
        body = data[start + 8 : end - 4]
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError(f"chunk {kind.decode('ascii')} fails its checksum")
        yield kind, body, start, end
        start = end


def structure(data: bytes) -> PngStructure:
    """Structure of the PNG file `data`, without decoding its pixels.

    Raises ValueError for anything that could not be put back around other IDAT chunks.
    """
    return _walk(data)[0]


def decode(data: bytes) -> Raster:
    """Samples (h, w, samples) of the PNG file `data`, never scaled, tRNS and gamma left alone.

    Raises ValueError where the file is broken.
    """
    found, bodies = _walk(data)
    return scanlines.read(
        b"".join(bodies),
        MODES[found.mode],
        found.height,
        found.width,
        interlaced=found.interlaced,
    )


def _walk(data: bytes) -> tuple[PngStructure, list[bytes]]:
    """Structure, and the bodies of the IDAT chunks."""
    if not data.startswith(SIGNATURE):
        raise ValueError("no PNG signature")
    header = b""
    palettes: list[int] = []
    before, after = bytearray(), bytearray()
    bodies: list[bytes] = []
    state = "before"  # -> "pixels" -> "after" -> "end"
    for kind, body, begin, end in chunks(data, len(SIGNATURE)):
        if state == "end":
            raise ValueError("data after the end of the image")
        if (kind == b"IHDR") == bool(header):
            raise ValueError("IHDR is not the first chunk or not the only one")
        if kind == b"IHDR":
            if len(body) != 13:
                raise ValueError("IHDR has a wrong length")
            header = body
        elif kind == b"IDAT":
            if state == "after":
                raise ValueError("IDAT chunks are not consecutive")
            state = "pixels"
            bodies.append(body)
        elif kind == b"IEND":
            if body or not bodies:
                raise ValueError("no pixels" if not bodies else "data in the end chunk")
            state = "end"
        elif kind in _ANIMATION:
            raise ValueError("animated")
        elif kind[:1].isupper() and kind != b"PLTE":
            raise ValueError(f"unknown critical chunk {kind.decode('ascii')}")
        elif state == "before":
            palettes += [len(body)] if kind == b"PLTE" else []
            before += data[begin:end]
        elif kind == b"PLTE":
            raise ValueError("a palette after the pixels")
        else:
            state = "after"
            after += data[begin:end]
    if state != "end":
        raise ValueError("truncated")
    width, height, depth, colour_type, *methods = struct.unpack(">IIBBBBB", header)
    mode = mode_of(colour_type, depth)
    if mode is None:
        raise ValueError(f"colour type {colour_type} with {depth} bits")
    if methods[:2] != [0, 0] or methods[2] > 1:
        raise ValueError("unknown compression, filter or interlacing")
    _check_palettes(palettes, mode)
    found = PngStructure(width, height, mode.name, methods[2] == 1, bytes(before), bytes(after))
    return found, bodies


def _check_palettes(sizes: list[int], mode: Mode) -> None:
    """Refuse PLTE chunks of `sizes` bytes that no picture of `mode` may have."""
    if len(sizes) > 1 or (sizes and mode.colour_type in (0, 4)):
        raise ValueError("a palette too many")
    if mode.colour_type == 3 and not sizes:
        raise ValueError("no palette")
    entries = 1 << mode.depth if mode.colour_type == 3 else 256
    if any(size % 3 or not 0 < size <= 3 * entries for size in sizes):
        raise ValueError("a palette of a wrong size")


def check_metadata(data: bytes) -> None:
    """Raise ValueError unless `data` is chunks that may stand around IDAT."""
    for kind, _, _, _ in chunks(data):
        if kind in (b"IHDR", b"IDAT", b"IEND", *_ANIMATION):
            raise ValueError(f"chunk {kind.decode('ascii')} among metadata")


def encode(raster: Raster, mode: str, before: bytes = b"", after: bytes = b"") -> bytes:
    """PNG file of a picture (h, w, samples) of `mode`, with these chunks around its IDAT.

    raster: uint16 for 16-bit modes, else uint8. before: PLTE as well, where `mode` needs one.
    Raises ValueError for a raster or chunks that do not fit the mode.
    """
    found = MODES[mode]
    height, width, samples = raster.shape
    dtype = np.uint16 if found.depth == 16 else np.uint8
    if samples != found.samples or raster.dtype != dtype:
        raise ValueError(f"found {raster.dtype} {raster.shape}, expected samples of {mode}")
    _check_palettes([len(body) for kind, body, *_ in chunks(before) if kind == b"PLTE"], found)
    head = struct.pack(">IIBBBBB", width, height, found.depth, found.colour_type, 0, 0, 0)
    parts = [SIGNATURE, chunk(b"IHDR", head), before]
    if found.depth == 8 and found.colour_type != 3:
        pixels = raster[:, :, 0] if samples == 1 else raster
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=6)
        parts.append(stream.getvalue()[_HEADER_END:-_END_BYTES])
    else:
        parts += [chunk(b"IDAT", piece) for piece in scanlines.write(raster, found)]
    parts += [after, chunk(b"IEND", b"")]
    return b"".join(parts)


def metadata_chunks(
    *,
    icc_profile: bytes = b"",
    exif: bytes = b"",
    xmp: bytes = b"",
    dots_per_metre: tuple[int, int] | None = None,
    texts: dict[str, str] | None = None,
) -> bytes:
    """PNG chunks for the metadata of another format.

    `texts`: keyword of 1-79 Latin-1 characters -> text (iTXt). `exif`: TIFF structure without
    the ``Exif\\0\\0`` prefix.
    """
    found = b""
    if icc_profile:
        found += chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc_profile, 9))
    if dots_per_metre is not None:
        found += chunk(b"pHYs", struct.pack(">IIB", *dots_per_metre, 1))
    if exif:
        found += chunk(b"eXIf", exif)
    if xmp:
        found += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    for keyword, text in (texts or {}).items():
        found += chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8"))
    return found
