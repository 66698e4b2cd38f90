"""Picture files: which of them are coded as pixels, and their pixels.

Coded as pixels are still images of 8-bit grey or RGB whose every bit of metadata a PNG can
carry. All else is refused with a reason, and stored byte for byte by the caller: never a lossy
reading, never a silent conversion.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osoa_pl.data import png
from osoa_pl.errors import InputError
from osoa_pl.format.items import MAX_IMAGE_PIXELS, MAX_METADATA_BYTES, size_problem

SUFFIXES = (
    *(".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pnm", ".pbm"),
    *(".jpg", ".jpeg", ".jpe", ".gif", ".jxl", ".jp2", ".avif", ".heic", ".ico", ".tga"),
)

_DECODERS = {"png": "PNG", "webp": "WEBP", "tiff": "TIFF", "bmp": "BMP", "ppm": "PPM"}
_bomb_limit = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """What is known of a picture file from its headers."""

    source: str
    """png, webp, tiff, bmp or ppm."""
    channels: int
    height: int
    width: int
    before: bytes = b""
    """Metadata as PNG chunks, before and after the pixels."""
    after: bytes = b""


def sniff(head: bytes) -> str | None:
    """Kind of picture that starts with the bytes `head` (at least 16), or None."""
    if head.startswith(png.SIGNATURE):
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:2] == b"BM":
        return "bmp"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "ppm"
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return None


def inspect(data: bytes, source: str) -> Picture:
    """Picture described by the headers of the file `data` of kind `source` (see `sniff`).

    Raises InputError whose message is the reason for storing the file as it is.
    """
    reader = _INSPECTORS.get(source)
    if reader is None:
        raise InputError(source)
    try:
        picture = reader(data)
    except InputError:
        raise
    except Exception as error:  # decoders raise what they like on broken files
        raise InputError(f"cannot be read as an image: {_one_line(error)}") from error
    pixels = picture.height * picture.width
    if not pixels:
        raise InputError("cannot be read as an image: no pixels")
    if problem := size_problem(picture.height, picture.width):
        raise InputError(problem)
    if len(picture.before) + len(picture.after) > MAX_METADATA_BYTES:
        raise InputError("too much metadata")
    return picture


def decode(data: bytes, picture: Picture) -> NDArray[np.uint8]:
    """Pixels uint8 (h, w, c) of the file `data`, c in 1, 3.

    Raises InputError where the file is broken or is not what `picture` says.
    """
    mode = "L" if picture.channels == 1 else "RGB"
    try:
        with _open(data, picture.source, picture.width * picture.height) as image:
            if image.mode != mode or image.size != (picture.width, picture.height):
                raise InputError(f"found {image.mode} {image.size}, expected {mode}")
            pixels = np.asarray(image)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot be read as an image: {_one_line(error)}") from error
    shape = (picture.height, picture.width, picture.channels)
    if pixels.dtype != np.uint8 or pixels.size != np.prod(shape):
        raise InputError(f"cannot be read as an image: found {pixels.dtype} {pixels.shape}")
    return pixels.reshape(shape)


@contextmanager
def _open(data: bytes, source: str, pixels: int | None = None) -> Iterator[Image.Image]:
    limit = Image.MAX_IMAGE_PIXELS
    if pixels is not None and (limit is None or pixels <= limit):
        with Image.open(io.BytesIO(data), formats=(_DECODERS[source],)) as image:
            yield image
        return
    # Pillow's limit is a global that guards against bombs; ours takes its place for as long as
    # this file is open. A warning means that something would be lost: then it is a refusal.
    with _bomb_limit, warnings.catch_warnings():
        warnings.simplefilter("error")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS
        try:
            with Image.open(io.BytesIO(data), formats=(_DECODERS[source],)) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _inspect_png(data: bytes) -> Picture:
    try:
        found = png.structure(data)
    except ValueError as error:
        if str(error) == "animated":
            raise InputError("animated") from error
        raise
    if found.colour_type == 3:
        raise InputError("palette image")
    if found.colour_type in (4, 6):
        raise InputError("alpha channel" if found.colour_type == 6 else "grey with alpha")
    if found.bit_depth != 8:
        raise InputError(f"{found.bit_depth}-bit")
    channels = 3 if found.colour_type == 2 else 1
    return Picture("png", channels, found.height, found.width, found.before, found.after)


def _inspect_webp(data: bytes) -> Picture:
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
    if b"VP8L" not in blocks:
        raise InputError("lossy WebP")
    with _open(data, "webp") as image:
        if image.mode != "RGB":
            raise InputError("alpha channel")
        width, height = image.size
    exif = blocks.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    before = png.metadata_chunks(
        icc_profile=blocks.get(b"ICCP", b""), exif=exif, xmp=blocks.get(b"XMP ", b"")
    )
    return Picture("webp", 3, height, width, before)


_TIFF_LAYOUT = frozenset(
    (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296)
    + (317, 322, 323, 324, 325, 339, 700, 34675)
)
_TIFF_TEXTS = {
    **{270: "Description", 305: "Software", 306: "Creation Time", 315: "Author"},
    **{269: "Title", 271: "Make", 272: "Source", 316: "Host", 33432: "Copyright"},
}
_TIFF_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)


def _inspect_tiff(data: bytes) -> Picture:
    with _open(data, "tiff") as image:
        if getattr(image, "n_frames", 1) != 1:
            raise InputError("several pages")
        tags = {int(tag): value for tag, value in image.tag_v2.items()}  # type: ignore[attr-defined]
        mode, (width, height) = image.mode, image.size
    bits = tags.get(258, (1,))
    if any(depth != 8 for depth in bits):
        raise InputError(f"{max(bits)}-bit")
    if tags.get(262) == 3:
        raise InputError("palette image")
    if mode not in ("L", "RGB") or len(bits) != (1 if mode == "L" else 3):
        raise InputError(f"mode {mode}")
    if tags.get(262) != (1 if mode == "L" else 2):
        raise InputError(f"TIFF with photometric interpretation {tags.get(262)}")
    if tags.get(259, 1) not in _TIFF_LOSSLESS:
        raise InputError("TIFF with lossy compression")
    plain = {254: 0, 266: 1, 274: 1, 339: 1}
    for tag, value in tags.items():
        if tag not in _TIFF_LAYOUT and tag not in _TIFF_TEXTS:
            raise InputError(f"TIFF with tag {tag}, which a PNG cannot carry")
        first = value[0] if isinstance(value, tuple) else value
        if tag in plain and first != plain[tag]:
            raise InputError(f"TIFF with tag {tag} = {first}")
    texts = {word: _tiff_text(tags[tag]) for tag, word in _TIFF_TEXTS.items() if tag in tags}
    before = png.metadata_chunks(
        icc_profile=_as_bytes(tags.get(34675)),
        xmp=_as_bytes(tags.get(700)),
        dots_per_metre=_tiff_resolution(tags),
        texts=texts,
    )
    return Picture("tiff", 1 if mode == "L" else 3, height, width, before)


def _as_bytes(value: object) -> bytes:
    if isinstance(value, tuple):
        return bytes(value)
    return value if isinstance(value, bytes) else b""


def _tiff_text(value: object) -> str:
    # Officially ASCII, read by Pillow as Latin-1, in practice often UTF-8.
    text = str(value)
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _tiff_resolution(tags: dict[int, object]) -> tuple[int, int] | None:
    unit = {2: 1 / 0.0254, 3: 100.0}.get(tags.get(296, 2))  # type: ignore[call-overload]
    if unit is None or 282 not in tags or 283 not in tags:
        return None
    sides = [round(float(tags[tag]) * unit) for tag in (282, 283)]  # type: ignore[arg-type]
    if not all(0 < side < 1 << 31 for side in sides):
        return None
    return sides[0], sides[1]


def _inspect_bmp(data: bytes) -> Picture:
    offset, header = struct.unpack_from("<II", data, 10)
    if header not in (40, 108, 124):
        raise InputError(f"BMP with a header of {header} bytes")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if bits not in (8, 24) or compression != 0:
        raise InputError(f"{bits}-bit BMP" if compression == 0 else "compressed BMP")
    if header > 40 and data[70:74] not in (b"BGRs", b" niW"):
        raise InputError("BMP with a colour profile")
    if width <= 0 or height == 0:
        raise ValueError("no pixels")
    end = offset + (width * bits // 8 + 3) // 4 * 4 * abs(height)
    if not 0 <= len(data) - end <= 2:  # some programs add two zero bytes
        raise ValueError("truncated" if end > len(data) else "data after the end of the image")
    with _open(data, "bmp") as image:
        mode = image.mode
    if mode not in ("L", "RGB") or (mode == "RGB") != (bits == 24):
        raise InputError("palette image")
    metre = struct.unpack_from("<ii", data, 38)
    before = png.metadata_chunks(dots_per_metre=metre if min(metre) > 0 else None)
    return Picture("bmp", 1 if mode == "L" else 3, abs(height), width, before)


def _inspect_ppm(data: bytes) -> Picture:
    if data[:2] not in (b"P5", b"P6"):
        raise InputError("bitmap" if data[:2] in (b"P1", b"P4") else "plain-text PPM or PGM")
    numbers: list[int] = []
    comments: list[str] = []
    place = 2
    while len(numbers) < 3:
        byte = data[place : place + 1]
        if byte == b"#":
            end = data.index(b"\n", place)
            comments.append(data[place + 1 : end].decode("utf-8"))
            place = end + 1
        elif byte.isspace():
            place += 1
        elif byte.isdigit():
            end = place
            while data[end : end + 1].isdigit():
                end += 1
            if end - place > 9:
                raise ValueError("an absurd size")
            numbers.append(int(data[place:end]))
            place = end
        else:
            raise ValueError("no size in the header")
    width, height, largest = numbers
    if largest != 255:
        raise InputError(f"PPM or PGM with a maximum of {largest}")
    channels = 1 if data[:2] == b"P5" else 3
    excess = len(data) - place - 1 - width * height * channels
    if excess:
        raise ValueError("truncated" if excess < 0 else "data after the end of the image")
    texts = {"Comment": "\n".join(comments)} if comments else {}
    return Picture("ppm", channels, height, width, png.metadata_chunks(texts=texts))


_INSPECTORS: dict[str, Callable[[bytes], Picture]] = {
    "png": _inspect_png,
    "webp": _inspect_webp,
    "tiff": _inspect_tiff,
    "bmp": _inspect_bmp,
    "ppm": _inspect_ppm,
}
