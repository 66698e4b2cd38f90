"""Other lossless codecs on the same pixels: each picture alone, and all of them as one.

Tiled means: pictures of one size and mode laid out in one near-square mosaic (several where a
side would pass WebP's 16383 pixels), which gives codecs without a notion of a collection a chance
to profit from it. xz sees the raw samples, concatenated. Every result is decoded and compared.
Sizes are whole files. Speeds count encoding and decoding alone, in MB of raw samples a second.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from osoa_pl.errors import OsoaError, UsageError

Pixels = NDArray[np.uint8]
Arrangement = Literal["each", "mosaic", "concatenated"]

MAX_SIDE = 16383
"""Largest side of a mosaic, in pixels: WebP's limit, kept for all so that they see the same."""
_XZ_DICTIONARY = 64 << 20  # that of preset 9


@dataclass(frozen=True)
class RivalResult:
    """One codec in one arrangement; rates in bits/dim, speeds in MB/s of raw samples."""

    codec: str
    arrangement: Arrangement
    encoded_bytes: int
    raw_bytes: int
    encode_seconds: float
    decode_seconds: float

    @property
    def bits_per_dim(self) -> float:
        """Bits of the files over the samples."""
        return 8 * self.encoded_bytes / self.raw_bytes


@dataclass(frozen=True)
class _Codec:
    """Encode uint8 (h, w) or (h, w, 3..4); `decode` takes the bytes and the expected shape."""

    encode: Callable[[Pixels, int], bytes]
    decode: Callable[[bytes, tuple[int, ...]], Pixels]
    whole: Arrangement = "mosaic"


def _encode_png(pixels: Pixels, threads: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def _decode_png(data: bytes, shape: tuple[int, ...]) -> Pixels:
    import imagecodecs  # Pillow refuses to open mosaics beyond its limit of pixels

    return np.asarray(imagecodecs.png_decode(data)).reshape(shape)


def _encode_webp(pixels: Pixels, threads: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    if picture.mode == "L":
        picture = picture.convert("RGB")
    picture.save(file, "WEBP", lossless=True, quality=100, method=6, exact=True)
    return file.getvalue()


def _decode_webp(data: bytes, shape: tuple[int, ...]) -> Pixels:
    import imagecodecs

    found = np.asarray(imagecodecs.webp_decode(data))
    if len(shape) == 2:
        return found[..., 0]  # grey comes back as RGB
    if shape[2] == 4 and found.shape[2] == 3:  # an alpha of 255 throughout is left out
        return np.concatenate([found, np.full_like(found[..., :1], 255)], axis=2)
    return found[..., : shape[2]]


def _jxl(effort: int) -> _Codec:
    def encode(pixels: Pixels, threads: int) -> bytes:
        import imagecodecs

        return bytes(
            imagecodecs.jpegxl_encode(pixels, lossless=True, effort=effort, numthreads=threads)
        )

    def decode(data: bytes, shape: tuple[int, ...]) -> Pixels:
        import imagecodecs

        return np.asarray(imagecodecs.jpegxl_decode(data)).reshape(shape)

    return _Codec(encode, decode)


def _encode_xz(pixels: Pixels, threads: int) -> bytes:
    # The dictionary of -9e, but no larger than the data: the same bytes without its setup time.
    size = min(_XZ_DICTIONARY, max(4096, 1 << (pixels.nbytes - 1).bit_length()))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}]
    return lzma.compress(pixels.tobytes(), check=lzma.CHECK_CRC32, filters=filters)


def _encode_bz2(pixels: Pixels, threads: int) -> bytes:
    return bz2.compress(pixels.tobytes(), 9)


def _decode_bz2(data: bytes, shape: tuple[int, ...]) -> Pixels:
    return np.frombuffer(bz2.decompress(data), np.uint8).reshape(shape)


def _encode_gzip(pixels: Pixels, threads: int) -> bytes:
    return gzip.compress(pixels.tobytes(), 9, mtime=0)


def _decode_gzip(data: bytes, shape: tuple[int, ...]) -> Pixels:
    return np.frombuffer(gzip.decompress(data), np.uint8).reshape(shape)


def _decode_xz(data: bytes, shape: tuple[int, ...]) -> Pixels:
    return np.frombuffer(lzma.decompress(data), np.uint8).reshape(shape)


_CODECS = {
    "png": _Codec(_encode_png, _decode_png),
    "webp": _Codec(_encode_webp, _decode_webp),
    "jxl-e7": _jxl(7),
    "jxl-e9": _jxl(9),
    "xz": _Codec(_encode_xz, _decode_xz, "concatenated"),
    "jxl-e10": _jxl(10),
    "bz2": _Codec(_encode_bz2, _decode_bz2, "concatenated"),
    "gzip": _Codec(_encode_gzip, _decode_gzip, "concatenated"),
}
RIVALS = tuple(_CODECS)
USUAL = RIVALS[:5]
"""Those that `osoa bench` runs unless told otherwise: JPEG XL e10 takes minutes."""
TITLES = {
    "png": "PNG optimised",
    "webp": "WebP lossless m6",
    "jxl-e7": "JPEG XL e7",
    "jxl-e9": "JPEG XL e9",
    "xz": "xz -9e",
    "jxl-e10": "JPEG XL e10",
    "bz2": "bzip2 -9",
    "gzip": "gzip -9",
}


def measure(
    name: str, groups: Sequence[Sequence[Pixels]], *, threads: int = 1
) -> Iterator[RivalResult]:
    """Results of codec `name`: each picture alone, then all as one where that is possible.

    groups: pictures uint8 (h, w, c) by number of channels; they are added up. `threads` is for
    JPEG XL, the others have one. Raises UsageError for an unknown name, OsoaError where pixels do
    not come back.
    """
    if name not in _CODECS:
        raise UsageError(f"unknown codec {name!r} (expected {', '.join(RIVALS)})")
    codec = _CODECS[name]
    # counted here: what a mosaic adds to fill its last row are no samples
    samples = sum(image.nbytes for group in groups for image in group)
    each = (image for group in groups for image in group)
    yield _run(name, codec, "each", each, samples, threads)
    if codec.whole == "concatenated":
        yield _run(
            name, codec, codec.whole, map(_concatenated, filter(None, groups)), samples, threads
        )
    elif all(len({image.shape for image in group}) <= 1 for group in groups):
        pictures = (mosaic for group in groups for mosaic in mosaics(group))
        yield _run(name, codec, codec.whole, pictures, samples, threads)


def mosaics(images: Sequence[Pixels], *, max_side: int = MAX_SIDE) -> Iterator[Pixels]:
    """Near-square mosaics uint8 (H, W, c) of pictures of one shape (h, w, c), in reading order.

    Places left over in the last row are black. Pictures with a side beyond `max_side` stand alone.
    """
    if not images:
        return
    height, width, channels = images[0].shape
    most = max(1, max_side // height) * max(1, max_side // width)
    for first in range(0, len(images), most):
        part = images[first : first + most]
        columns = max(1, min(max_side // width, round(math.sqrt(len(part) * height / width))))
        columns = min(columns, len(part))
        rows = -(-len(part) // columns)
        if rows * height > max_side and rows > 1:
            rows = max(1, max_side // height)
            columns = -(-len(part) // rows)
        mosaic = np.zeros((rows * height, columns * width, channels), np.uint8)
        for place, image in enumerate(part):
            row, column = place // columns * height, place % columns * width
            mosaic[row : row + height, column : column + width] = image
        yield mosaic


def _concatenated(group: Sequence[Pixels]) -> Pixels:
    return np.concatenate([image.reshape(-1) for image in group])


def _run(
    name: str,
    codec: _Codec,
    arrangement: Arrangement,
    pictures: Iterator[Pixels],
    samples: int,
    threads: int,
) -> RivalResult:
    encoded = 0
    encode_seconds = decode_seconds = 0.0
    for picture in pictures:
        flat = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
        pixels = np.ascontiguousarray(flat)
        began = time.perf_counter()
        data = codec.encode(pixels, threads)
        middle = time.perf_counter()
        found = codec.decode(data, pixels.shape)
        ended = time.perf_counter()
        if not np.array_equal(found, pixels):
            raise OsoaError(f"bench: {TITLES[name]} did not restore a picture of {pixels.shape}")
        encoded += len(data)
        encode_seconds += middle - began
        decode_seconds += ended - middle
    return RivalResult(name, arrangement, encoded, samples, encode_seconds, decode_seconds)
