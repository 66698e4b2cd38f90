"""TIFF of one page whose compression is lossless and whose every tag a PNG can carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import pillow, png
from osoa_pl.data.picture import Picture, Raster
from osoa_pl.errors import InputError
from osoa_pl.types import MODES

_LAYOUT = frozenset(
    (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296)
    + (317, 320, 322, 323, 324, 325, 338, 339, 700, 34675)
)
_TEXTS = {
    **{270: "Description", 305: "Software", 306: "Creation Time", 315: "Author"},
    **{269: "Title", 271: "Make", 272: "Source", 316: "Host", 33432: "Copyright"},
}
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
_LOSSY = (6, 7, 33003, 33005, 34712, 34892)
_PLAIN = {254: (0,), 266: (1,), 274: (1,), 284: (1,), 317: (1, 2), 339: (1,)}
_MAX_RATIO = 1 << 12
"""Samples for a byte of the file; Deflate and LZW reach some 1400."""
_PHOTOMETRIC = {0: "white is zero", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}
_FORMATS = {2: "signed integers", 3: "float"}
_MODES: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {
    **{(1, (depth,), ()): f"grey{depth}" for depth in (1, 2, 4, 8, 16)},
    **{(3, (depth,), ()): f"palette{depth}" for depth in (1, 2, 4, 8)},
    (1, (8, 8), (2,)): "greyalpha8",
    (2, (8, 8, 8), ()): "rgb8",
    (2, (8, 8, 8, 8), (2,)): "rgba8",
    (2, (16, 16, 16), ()): "rgb16",
    (2, (16, 16, 16, 16), (2,)): "rgba16",
}
"""By photometric interpretation, bits and extra samples."""


def inspect(data: bytes) -> Picture:
    """Picture of the file `data`. Raises InputError, or anything for a broken file."""
    with pillow.opened(data, "TIFF") as image:
        if getattr(image, "n_frames", 1) != 1:
            raise InputError("several pages")
        tags = {int(tag): value for tag, value in image.tag_v2.items()}  # type: ignore[attr-defined]
        width, height = image.size
    mode = _mode(tags)
    if width * height * MODES[mode].samples > _MAX_RATIO * len(data):
        raise ValueError("truncated")
    for tag, value in tags.items():
        if tag not in _LAYOUT and tag not in _TEXTS:
            raise InputError(f"TIFF with tag {tag}, which a PNG cannot carry")
        values = value if isinstance(value, tuple) else (value,)
        if tag in _PLAIN and not set(values) <= set(_PLAIN[tag]):
            raise InputError(f"TIFF with tag {tag} = {values[0]}")
    texts = {word: _text(tags[tag]) for tag, word in _TEXTS.items() if tag in tags}
    before = png.metadata_chunks(
        icc_profile=_as_bytes(tags.get(34675)),
        xmp=_as_bytes(tags.get(700)),
        dots_per_metre=_resolution(tags),
        texts=texts,
    )
    if MODES[mode].colour_type == 3:
        before += _palette(tags, 1 << MODES[mode].depth)
    elif 320 in tags:
        raise InputError("TIFF with colours beside its pixels")
    return Picture("tiff", mode, height, width, before)


def decode(data: bytes, picture: Picture) -> Raster:
    """Samples (h, w, samples).

    By libtiff through imagecodecs: Pillow would keep 8 of 16 bits, and print what it dislikes.
    """
    from imagecodecs import tiff_decode

    mode = MODES[picture.mode]
    found: NDArray[Any] = tiff_decode(data)
    shape = (picture.height, picture.width, mode.samples)
    if found.shape not in (shape, shape[:2] if mode.samples == 1 else shape):
        raise ValueError(f"found {found.shape}, expected {shape}")
    found = found.reshape(shape)
    if mode.depth == 16:
        return found.astype(np.uint16, copy=False)
    return found.astype(np.uint8, copy=False)


def _mode(tags: dict[int, Any]) -> str:
    bits, photometric = tuple(tags.get(258, (1,))), tags.get(262, -1)
    extra = tuple(tags.get(338, ()))
    if photometric in _PHOTOMETRIC:
        raise InputError(_PHOTOMETRIC[photometric])
    for kind in tags.get(339, ()):
        if kind in _FORMATS:
            raise InputError(_FORMATS[kind])
    mode = _MODES.get((photometric, bits, extra))
    if mode is None:
        if extra and extra != (2,):
            raise InputError("TIFF with extra samples other than plain alpha")
        shown = "x".join(str(depth) for depth in bits)
        raise InputError(f"{shown}-bit TIFF, photometric interpretation {photometric}")
    compression = tags.get(259, 1)
    if compression not in _LOSSLESS:
        lossy = compression in _LOSSY
        raise InputError(f"TIFF with {'lossy ' if lossy else ''}compression {compression}")
    return mode


def _palette(tags: dict[int, Any], size: int) -> bytes:
    entries = np.array(tags.get(320, ()), np.int64)
    if entries.size != 3 * size or (entries % 257).any() or (entries > 65535).any():
        raise InputError("TIFF palette of 16 bits")
    return png.chunk(b"PLTE", (entries // 257).astype(np.uint8).reshape(3, size).T.tobytes())


def _as_bytes(value: object) -> bytes:
    if isinstance(value, tuple):
        return bytes(value)
    return value if isinstance(value, bytes) else b""


def _text(value: object) -> str:
    # Officially ASCII, read by Pillow as Latin-1, in practice often UTF-8.
    text = str(value)
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _resolution(tags: dict[int, Any]) -> tuple[int, int] | None:
    if 282 not in tags or 283 not in tags:
        return None
    sides = [float(tags[tag]) for tag in (282, 283)]
    unit = {2: 1 / 0.0254, 3: 100.0}.get(tags.get(296, 2))
    if unit is None:
        if sides[0] != sides[1]:
            raise InputError("TIFF with pixels that are not square")
        return None
    dots = [round(side * unit) for side in sides]
    if not all(0 < side < 1 << 31 for side in dots):
        return None
    return dots[0], dots[1]
