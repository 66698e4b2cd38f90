"""PNG at the level of chunks: what a decoder throws away is kept, and put back verbatim."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_HEADER_END = len(SIGNATURE) + 25  # IHDR: length, type, 13 bytes, CRC
_END_BYTES = 12


@dataclass(frozen=True)
class PngStructure:
    """IHDR's facts and the ancillary chunks, as they stand in the file."""

    width: int
    height: int
    bit_depth: int
    colour_type: int
    before: bytes
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
    if not data.startswith(SIGNATURE):
        raise ValueError("no PNG signature")
    header: tuple[int, int, int, int] | None = None
    before, after = bytearray(), bytearray()
    state = "before"  # -> "pixels" -> "after" -> "end"
    for kind, body, begin, end in chunks(data, len(SIGNATURE)):
        if state == "end":
            raise ValueError("data after the end of the image")
        if (kind == b"IHDR") != (header is None):
            raise ValueError("IHDR is not the first chunk or not the only one")
        if kind == b"IHDR":
            if len(body) != 13:
                raise ValueError("IHDR has a wrong length")
            header = struct.unpack(">IIBB", body[:10])
        elif kind == b"IDAT":
            if state == "after":
                raise ValueError("IDAT chunks are not consecutive")
            state = "pixels"
        elif kind == b"IEND":
            state = "end"
        elif kind in _ANIMATION:
            raise ValueError("animated")
        elif kind[:1].isupper() and kind != b"PLTE":
            raise ValueError(f"unknown critical chunk {kind.decode('ascii')}")
        elif state == "before":
            before += data[begin:end]
        else:
            state = "after"
            after += data[begin:end]
    if header is None or state != "end":
        raise ValueError("truncated")
    return PngStructure(*header, bytes(before), bytes(after))


def check_metadata(data: bytes) -> None:
    """Raise ValueError unless `data` is chunks that may stand around IDAT."""
    for kind, _, _, _ in chunks(data):
        if kind in (b"IHDR", b"IDAT", b"IEND", *_ANIMATION):
            raise ValueError(f"chunk {kind.decode('ascii')} among metadata")


def encode(image: NDArray[np.uint8], before: bytes = b"", after: bytes = b"") -> bytes:
    """PNG file of a uint8 image (h, w, 1) or (h, w, 3) with metadata chunks around its IDAT."""
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=6)
    plain = stream.getvalue()
    if not before and not after:
        return plain
    return b"".join(
        (
            plain[:_HEADER_END],
            before,
            plain[_HEADER_END : len(plain) - _END_BYTES],
            after,
            plain[len(plain) - _END_BYTES :],
        )
    )


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
