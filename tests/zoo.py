"""A folder of awkward files, and a comparison of files that knows nothing of the package.

``python tests/zoo.py FOLDER`` builds it. The same files each time: nothing is drawn but from a
seed, though Pillow's encoders may change with its version.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import png  # type: ignore[import-untyped]  # pypng
from PIL import Image, ImageCms

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
KINDS += [(4, 8), (4, 16), (6, 8), (6, 16)]
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
PASSES += [(0, 1, 1, 2)]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>\xc3\xa9</x:xmpmeta>"

Chunks = Sequence[tuple[bytes, bytes]]


def build(folder: Path) -> list[Path]:
    """Write the files under `folder`, which is made; the paths of all of them."""
    found = _Folder(folder)
    for part in (_pngs, _chunks, _broken_pngs, _tiffs, _webps, _bmps, _pnms, _tgas):
        part(found)
    for part in (_others, _cut, _names, _no_pictures, _arrays, _jxls):
        part(found)
    return found.paths


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.draw = np.random.default_rng(7)
        self.paths: list[Path] = []

    def put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_bytes(data)
        except OSError:  # a name that this file system cannot hold
            return
        number = len(self.paths)
        year = 1_600_000_000 if number % 7 else -100_000_000  # 1966
        year = 200_000_000 if number % 11 == 5 else year  # 1976
        time = (year + 86_400 * number) * 10**9 + (number * 1_234_567 if number % 3 else 0)
        os.utime(path, ns=(time, time))
        self.paths.append(path)

    def raster(self, height: int, width: int, samples: int, depth: int) -> Any:
        """A gradient with noise and some flat ground: (h, w, samples), whole numbers."""
        top = (1 << depth) - 1
        ramp = np.add.outer(np.arange(height), 2 * np.arange(width))[:, :, None] / (
            height + 2 * width
        )
        noise = self.draw.normal(0, 0.06, (height, width, samples))
        found = np.clip((ramp + noise + 0.1 * np.arange(samples)) * top, 0, top).astype(np.int64)
        found[: height // 4, : width // 3] = top
        found[height // 2 :, -(width // 4) :] = found[-1, -1]
        return found

    def image(self, mode: str, height: int = 17, width: int = 23) -> Image.Image:
        samples = {"1": 1, "P": 3, "CMYK": 4, "LAB": 3, "F": 1, "I": 1, "I;16": 1}
        depth = 16 if mode in ("F", "I", "I;16") else 8
        count = samples.get(mode, len(mode))
        found = self.raster(height, width, count, depth)
        if mode == "F":
            return Image.fromarray((found[:, :, 0] / 65535).astype(np.float32))
        if mode == "I":
            return Image.fromarray(found[:, :, 0].astype(np.int32))
        if mode == "I;16":
            return Image.fromarray(found[:, :, 0].astype(np.uint16))
        squeezed = found.astype(np.uint8)
        if count == 1:
            grey = Image.fromarray(squeezed[:, :, 0])
            return grey.convert("1") if mode == "1" else grey
        if mode == "CMYK" or mode == "LAB":
            return Image.frombytes(mode, (width, height), squeezed.tobytes())
        whole = Image.fromarray(squeezed)
        return whole.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else whole


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int, colour: int, interlace: int = 0) -> bytes:
    """IHDR."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def palette(entries: int) -> bytes:
    """Body of PLTE."""
    return bytes((37 * i * (c + 1) + 11 * c) % 256 for i in range(entries) for c in range(3))


def scanlines(raster: Any, depth: int, filters: Sequence[int] = (0, 1, 2, 3, 4)) -> bytes:
    """Filtered rows, by these filters in turn."""
    height, width, samples = raster.shape
    if depth == 16:
        rows = raster.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = raster.reshape(height, -1)[:, :, None] >> np.arange(depth)[::-1] & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step = max(1, depth * samples // 8)
    rows = rows.astype(np.int64)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:], corner[:, step:] = rows[:, :-step], above[:, :-step]
    near = np.stack([left, above, corner])
    which = np.abs(near - (left + above - corner)).argmin(axis=0)
    nearest = np.take_along_axis(near, which[None], axis=0)[0]
    guesses = (0, left, above, (left + above) // 2, nearest)
    out = bytearray()
    for y in range(height):
        kind = filters[y % len(filters)]
        guess = guesses[kind][y] if kind else 0  # type: ignore[index]
        out += bytes([kind]) + ((rows[y] - guess) % 256).astype(np.uint8).tobytes()
    return bytes(out)


def pixel_data(raster: Any, depth: int, *, interlace: bool = False, **options: Any) -> bytes:
    """What stands in the IDAT chunks, before it is deflated."""
    if not interlace:
        return scanlines(raster, depth, **options)
    parts = (raster[y::down, x::right] for x, y, right, down in PASSES)
    return b"".join(scanlines(part, depth, **options) for part in parts if part.size)


def png_file(
    raster: Any,
    colour: int,
    depth: int,
    *,
    interlace: bool = False,
    before: Chunks = (),
    after: Chunks = (),
    entries: int | None = None,
    pieces: Sequence[int] = (),
    level: int = 6,
    **options: Any,
) -> bytes:
    """A PNG of a picture (h, w, samples); `pieces` are lengths of its first IDAT chunks."""
    height, width = raster.shape[:2]
    parts = [SIGNATURE, header(width, height, depth, colour, int(interlace))]
    early = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT")
    parts += [chunk(*found) for found in before if found[0] in early]
    if colour == 3:
        parts.append(chunk(b"PLTE", palette(1 << depth if entries is None else entries)))
    parts += [chunk(*found) for found in before if found[0] not in early]
    stream = zlib.compress(pixel_data(raster, depth, interlace=interlace, **options), level)
    for length in pieces:
        parts.append(chunk(b"IDAT", stream[:length]))
        stream = stream[length:]
    parts.append(chunk(b"IDAT", stream))
    parts += [chunk(*found) for found in after]
    return b"".join(parts) + chunk(b"IEND", b"")


def _pngs(zoo: _Folder) -> None:
    for colour, depth in KINDS:
        for interlace in (False, True):
            raster = zoo.raster(32, 32, SAMPLES[colour], depth)
            name = f"png/bas{'i' if interlace else 'n'}{colour}_{depth:02}.png"
            zoo.put(name, png_file(raster, colour, depth, interlace=interlace))
    for size in range(1, 41):
        colour, depth = KINDS[size * 7 % len(KINDS)]
        raster = zoo.raster(size, 41 - size if size % 2 else size, SAMPLES[colour], depth)
        name = f"png/size{size:02}_{colour}_{depth:02}.png"
        zoo.put(name, png_file(raster, colour, depth, interlace=size % 3 != 0))
    for kind in range(5):
        for colour, depth in ((2, 8), (6, 16)):
            raster = zoo.raster(12, 9, SAMPLES[colour], depth)
            data = png_file(raster, colour, depth, filters=[kind])
            zoo.put(f"png/filter{kind}_{colour}.png", data)
    grey = zoo.raster(20, 20, 1, 8)
    zoo.put("png/idat_bytes.png", png_file(grey, 0, 8, pieces=[1] * 300))
    zoo.put("png/idat_empty.png", png_file(grey, 0, 8, pieces=[0, 5, 0, 0, 100_000]))
    zoo.put("png/level0.png", png_file(grey, 0, 8, level=0))
    zoo.put("png/level9.png", png_file(grey, 0, 8, level=9))
    zoo.put("png/beyond_palette.png", png_file(zoo.raster(8, 8, 1, 8), 3, 8, entries=9))
    zoo.put("png/one_colour.png", png_file(0 * grey, 3, 8, entries=1))
    zoo.put("png/wide.png", png_file(zoo.raster(1, 8000, 1, 8), 0, 8))
    zoo.put("png/high.png", png_file(zoo.raster(8000, 1, 1, 1), 3, 1))


def _chunks(zoo: _Folder) -> None:
    clear = {
        (0, 1): struct.pack(">H", 1),
        (0, 8): struct.pack(">H", 77),
        (0, 16): struct.pack(">H", 40_000),
        (2, 8): struct.pack(">HHH", 1, 2, 255),
        (2, 16): struct.pack(">HHH", 1, 2, 65_535),
        (3, 1): b"\0",
        (3, 4): bytes(range(0, 160, 10)),
        (3, 8): bytes(range(256)),
    }
    for (colour, depth), body in clear.items():
        raster = zoo.raster(11, 13, SAMPLES[colour], depth)
        for interlace in (False, True):
            name = f"chunks/trns{colour}_{depth:02}_{int(interlace)}.png"
            data = png_file(raster, colour, depth, interlace=interlace, before=[(b"tRNS", body)])
            zoo.put(name, data)
    ground = {0: struct.pack(">H", 3), 2: struct.pack(">HHH", 1, 2, 3), 3: b"\2"}
    ground |= {4: ground[0], 6: ground[2]}
    for colour, body in ground.items():
        raster = zoo.raster(7, 5, SAMPLES[colour], 8)
        zoo.put(f"chunks/bkgd{colour}.png", png_file(raster, colour, 8, before=[(b"bKGD", body)]))
    unicode_text = "Ω≈ç√ 🐙 e\u0301".encode()
    some: dict[str, Chunks] = {
        "gama": [(b"gAMA", struct.pack(">I", 45455))],
        "chrm": [(b"cHRM", struct.pack(">8I", *range(31270, 31278)))],
        "srgb": [(b"sRGB", b"\0")],
        "iccp": [(b"iCCP", b"sRGB\0\0" + zlib.compress(PROFILE))],
        "iccp_broken": [(b"iCCP", b"sRGB\0\0broken")],
        "sbit": [(b"sBIT", b"\5\6\5")],
        "phys": [(b"pHYs", struct.pack(">IIB", 2835, 2835, 1))],
        "phys_ratio": [(b"pHYs", struct.pack(">IIB", 1, 4, 0))],
        "time": [(b"tIME", struct.pack(">HBBBBB", 1999, 12, 31, 23, 59, 60))],
        "text": [(b"tEXt", b"Title\0gr\xfcn"), (b"tEXt", b"Title\0twice"), (b"tEXt", b"A\0")],
        "ztxt": [(b"zTXt", b"Comment\0\0" + zlib.compress(b"long " * 500))],
        "ztxt_bomb": [(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20)))],
        "itxt": [(b"iTXt", b"Author\0\0\0de\0Autor\0" + unicode_text)],
        "itxt_packed": [(b"iTXt", b"Author\0\1\0\0\0" + zlib.compress(unicode_text))],
        "exif": [(b"eXIf", EXIF)],
        "xmp": [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)],
        "splt": [(b"sPLT", b"few\0\x08" + bytes(range(12)))],
        "private": [(b"prIv", b"abc"), (b"vpAg", bytes(9))],
        "suggested": [(b"PLTE", palette(5))],
    }
    for name, found in some.items():
        zoo.put(f"chunks/{name}.png", png_file(zoo.raster(9, 9, 3, 8), 2, 8, before=found))
    indices = zoo.raster(9, 9, 1, 4)
    used = [(b"hIST", struct.pack(">16H", *range(1, 17)))]
    zoo.put("chunks/hist.png", png_file(indices, 3, 4, before=used))
    late = [(b"tEXt", b"Late\0text"), (b"tIME", bytes(7)), (b"prIv", b"z"), (b"eXIf", EXIF)]
    zoo.put("chunks/after.png", png_file(indices, 3, 4, after=late))
    zoo.put("chunks/both.png", png_file(indices, 0, 4, before=some["text"], after=late))


def _broken_pngs(zoo: _Folder) -> None:
    raster = zoo.raster(10, 10, 3, 8)
    whole, stream = png_file(raster, 2, 8), zlib.compress(scanlines(raster, 8))
    start, end = SIGNATURE, chunk(b"IEND", b"")
    rgb, idat = header(10, 10, 8, 2), chunk(b"IDAT", stream)
    damaged = bytearray(whole)
    damaged[whole.index(b"IDAT") + 20] ^= 1
    size = bytearray(whole)
    size[whole.index(b"IDAT") - 2] += 1
    crc = bytearray(whole)
    crc[30] ^= 255
    bomb = chunk(b"IDAT", zlib.compress(bytes(20 << 20), 9))
    text = chunk(b"tEXt", b"A\0b")
    wrong = bytearray(text)
    wrong[-1] ^= 1
    some = {
        "crc_ihdr": bytes(crc),
        "crc_idat": bytes(damaged),
        "crc_text": start + rgb + bytes(wrong) + idat + end,
        "cut_half": whole[: len(whole) // 2],
        "cut_end": whole[:-12],
        "cut_byte": whole[:-1],
        "signature": start,
        "trailing": whole + b"and more",
        "twice": whole + whole,
        "zeros": whole + bytes(16),
        "length": bytes(size),
        "no_idat": start + rgb + end,
        "empty_idat": start + rgb + chunk(b"IDAT", b"") + end,
        "two_ihdr": start + rgb + rgb + idat + end,
        "no_ihdr": start + idat + end,
        "late_ihdr": start + text + rgb + idat + end,
        "huge": start + header(2**31 - 1, 2**31 - 1, 16, 6) + idat + end,
        "large": start + header(15_000, 15_000, 8, 2) + idat + end,
        "larger": start + header(10, 11, 8, 2) + idat + end,
        "smaller": start + header(10, 9, 8, 2) + idat + end,
        "zero_width": start + header(0, 10, 8, 2) + idat + end,
        "bomb": start + rgb + bomb + end,
        "colour_type": start + header(10, 10, 8, 1) + idat + end,
        "depth": start + header(10, 10, 3, 0) + idat + end,
        "rgb4": start + header(10, 10, 4, 2) + idat + end,
        "interlace2": start + header(10, 10, 8, 2, 2) + idat + end,
        "no_plte": start + header(10, 10, 8, 3) + chunk(b"IDAT", zlib.compress(bytes(110))) + end,
        "large_plte": png_file(raster[:, :, :1] // 99, 3, 2, entries=5),
        "odd_plte": png_file(raster, 2, 8, before=[(b"PLTE", b"\1\2\3\4")]),
        "two_plte": png_file(raster[:, :, :1], 3, 8, before=[(b"PLTE", palette(3))]),
        "grey_plte": png_file(raster[:, :, :1], 0, 8, before=[(b"PLTE", palette(3))]),
        "split": start + rgb + idat + text + idat + end,
        "critical": start + rgb + chunk(b"CgBI", b"abcd") + idat + end,
        "filter5": start + rgb + chunk(b"IDAT", zlib.compress(b"\5" + bytes(309))) + end,
        "adler": start + rgb + chunk(b"IDAT", stream[:-1] + b"?") + end,
        "deflated_more": start + rgb + chunk(b"IDAT", stream + b"hidden") + end,
        "not_deflated": start + rgb + chunk(b"IDAT", bytes(310)) + end,
        "end_body": start + rgb + idat + chunk(b"IEND", b"x"),
    }
    for name, data in some.items():
        zoo.put(f"broken/{name}.png", data)
    image = zoo.image("RGB")
    moving = saved(image, "PNG", save_all=True, append_images=[zoo.image("RGB")], duration=50)
    zoo.put("broken/animated.png", moving)
    zoo.put("broken/text.png", b"this is no picture\n")
    zoo.put("png/photo.jpg", png_file(raster, 2, 8))
    zoo.put("png/no_suffix", png_file(raster, 2, 8))
    zoo.put("png/SHOUT.PNG", png_file(raster, 2, 8))


# Other formats


def tiff_file(tags: dict[int, tuple[str, Sequence[int]]], pixels: bytes, order: str = "<") -> bytes:
    """A TIFF of one strip; tags by number: ("H" or "I", values)."""
    tags = tags | {273: ("I", [8]), 279: ("I", [len(pixels)])}
    place = 8 + len(pixels)
    start, more = struct.pack(order + "H", len(tags)), b""
    tail = place + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        body = struct.pack(f"{order}{len(values)}{kind}", *values)
        start += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        if len(body) <= 4:
            start += body.ljust(4, b"\0")
        else:
            start += struct.pack(order + "I", tail + len(more))
            more += body
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", place) + pixels + start + bytes(4) + more


def _layout(raster: Any, bits: int, photometric: int, **extra: Any) -> dict[int, Any]:
    height, width, samples = raster.shape
    found: dict[int, Any] = {256: ("I", [width]), 257: ("I", [height]), 259: ("H", [1])}
    found |= {258: ("H", [bits] * samples), 262: ("H", [photometric]), 277: ("H", [samples])}
    found |= {278: ("I", [height])}
    return found | {int(tag[1:]): value for tag, value in extra.items()}


def _tiffs(zoo: _Folder) -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I", "I;16", "F"):
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            name = f"tiff/{mode.replace(';', '_')}_{compression or 'none'}.tif"
            zoo.put(name, saved(zoo.image(mode), "TIFF", compression=compression))
    rgb = zoo.image("RGB")
    zoo.put("tiff/jpeg.tif", saved(rgb, "TIFF", compression="jpeg"))
    zoo.put("tiff/group4.tif", saved(zoo.image("1"), "TIFF", compression="group4"))
    zoo.put("tiff/dpi.tif", saved(rgb, "TIFF", dpi=(300, 150)))
    zoo.put("tiff/icc.tiff", saved(rgb, "TIFF", icc_profile=PROFILE))
    zoo.put("tiff/pages.tif", saved(rgb, "TIFF", save_all=True, append_images=[rgb]))
    words = {"description": "gr\u00fcn", "software": "zoo", "artist": "nobody"}
    zoo.put("tiff/texts.tif", saved(rgb, "TIFF", **words))
    zoo.put("tiff/turned.tif", saved(rgb, "TIFF", tiffinfo={274: 6}))
    zoo.put("tiff/private.tif", saved(rgb, "TIFF", tiffinfo={65000: "geo"}))
    zoo.put("tiff/predictor.tif", saved(rgb, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}))
    colours = [257 * palette(256)[3 * i + c] for c in range(3) for i in range(256)]
    index = zoo.raster(9, 11, 1, 8)
    for order, name in (("<", "little"), (">", "big")):
        tags = _layout(index, 8, 3, _320=("H", colours))
        data = tiff_file(tags, index.astype(np.uint8).tobytes(), order)
        zoo.put(f"tiff/palette_{name}.tif", data)
        for samples, photometric in ((1, 1), (3, 2), (4, 2)):
            wide = zoo.raster(9, 11, samples, 16)
            tags = _layout(wide, 16, photometric)
            if samples == 4:
                tags[338] = ("H", [2])
            data = tiff_file(tags, wide.astype(order + "u2").tobytes(), order)
            zoo.put(f"tiff/wide{samples}_{name}.tif", data)
    for bits in (1, 2, 4):
        raster = zoo.raster(5, 16, 1, 8)
        colours = [257 * palette(1 << bits)[3 * i + c] for c in range(3) for i in range(1 << bits)]
        tags = _layout(raster, bits, 3, _320=("H", colours))
        data = tiff_file(tags, raster.astype(np.uint8).tobytes()[: 5 * 2 * bits])
        zoo.put(f"tiff/palette{bits}.tif", data)
    for extra in (0, 1, 2):
        raster = zoo.raster(6, 6, 4, 8)
        tags = _layout(raster, 8, 2, _338=("H", [extra]))
        zoo.put(f"tiff/extra{extra}.tif", tiff_file(tags, raster.astype(np.uint8).tobytes()))
    zoo.put("tiff/no_extra.tif", tiff_file(_layout(raster, 8, 2), raster.astype("u1").tobytes()))
    raster = zoo.raster(6, 16, 1, 8)
    for bits in (1, 2, 4, 8):
        for photometric in (0, 1):
            tags, length = _layout(raster, bits, photometric), 6 * 2 * bits
            data = tiff_file(tags, raster.astype(np.uint8).tobytes()[:length])
            zoo.put(f"tiff/photometric{photometric}_{bits}.tif", data)
    raster = zoo.raster(6, 6, 3, 8)
    tags = _layout(raster, 8, 2, _284=("H", [2]), _273=("I", [8]))
    planar = tiff_file(tags, raster.astype("u1").transpose(2, 0, 1).tobytes())
    zoo.put("tiff/planar.tif", planar)
    zoo.put("tiff/huge.tif", tiff_file(tags | {256: ("I", [2**31])}, bytes(9)))


def _webps(zoo: _Folder) -> None:
    rgb, rgba = zoo.image("RGB"), zoo.image("RGBA")
    alpha = Image.fromarray((np.asarray(zoo.image("L")) // 128 * 255).astype(np.uint8))
    rgba.putalpha(alpha)  # colours under full transparency
    some: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb": (rgb, {"lossless": True}),
        "rgba": (rgba, {"lossless": True, "exact": True}),
        "rgba_cleared": (rgba, {"lossless": True, "exact": False}),
        "opaque": (rgb.convert("RGBA"), {"lossless": True}),
        "clear": (Image.new("RGBA", (5, 4), (9, 8, 7, 0)), {"lossless": True, "exact": True}),
        "lossy": (rgb, {"quality": 80}),
        "lossy_alpha": (rgba, {"quality": 80}),
        "icc": (rgb, {"lossless": True, "icc_profile": PROFILE}),
        "exif": (rgb, {"lossless": True, "exif": b"Exif\0\0" + EXIF}),
        "xmp": (rgba, {"lossless": True, "exact": True, "xmp": XMP}),
        "moving": (rgb, {"lossless": True, "save_all": True, "append_images": [rgba]}),
        "one_pixel": (Image.new("RGB", (1, 1), (1, 2, 3)), {"lossless": True}),
    }
    for name, (image, options) in some.items():
        zoo.put(f"webp/{name}.webp", saved(image, "WEBP", **options))


def bmp_file(
    width: int, height: int, bits: int, colours: bytes, rows: bytes, compression: int = 0
) -> bytes:
    """A BMP with a header of 40 bytes; colours: 4 bytes each."""
    offset = 54 + len(colours)
    head = struct.pack("<IiiHHIIii", 40, width, height, 1, bits, compression, len(rows), 0, 0)
    head += struct.pack("<II", len(colours) // 4 if bits <= 8 else 0, 0)
    file = struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset)
    return file + head + colours + rows


def _bmps(zoo: _Folder) -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        zoo.put(f"bmp/{mode}.bmp", saved(zoo.image(mode), "BMP", dpi=(72, 72)))
    for bits in (1, 4, 8):
        stride = (13 * bits + 31) // 32 * 4
        rows = zoo.draw.integers(0, 256, 7 * stride, dtype=np.uint8).tobytes()
        count = 1 << bits
        entries = palette(count)
        coloured = b"".join(entries[3 * i : 3 * i + 3] + b"\0" for i in range(count))
        greys = b"".join(bytes([i * 255 // (count - 1)] * 3) + b"\0" for i in range(count))
        zoo.put(f"bmp/palette{bits}.bmp", bmp_file(13, 7, bits, coloured, rows))
        zoo.put(f"bmp/grey{bits}.bmp", bmp_file(13, 7, bits, greys, rows))
        zoo.put(f"bmp/down{bits}.bmp", bmp_file(13, -7, bits, coloured, rows))
        zoo.put(f"bmp/fourth{bits}.bmp", bmp_file(13, 7, bits, coloured[:-1] + b"\xff", rows))
    few = palette(4)[:9]
    entries = b"".join(few[3 * i : 3 * i + 3] + b"\0" for i in range(3))
    zoo.put("bmp/few.bmp", bmp_file(4, 2, 8, entries, bytes([0, 1, 2, 2, 1, 0, 1, 2])))
    pixels = zoo.raster(3, 5, 4, 8).astype(np.uint8)
    zoo.put("bmp/alpha.bmp", bmp_file(5, 3, 32, b"", pixels.tobytes()))
    pixels[:, :, 3] = 0
    zoo.put("bmp/no_alpha.bmp", bmp_file(5, 3, 32, b"", pixels.tobytes()))
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    zoo.put("bmp/masks.bmp", bmp_file(5, 3, 32, masks, pixels.tobytes(), 3))
    zoo.put("bmp/five_bits.bmp", bmp_file(2, 2, 16, b"", bytes(range(8))))
    zoo.put("bmp/runs.bmp", bmp_file(4, 1, 8, entries, b"\4\1\0\0\0\1", 1))
    core = struct.pack("<2sIHHIIHHHH", b"BM", 38, 0, 0, 26, 12, 3, 1, 1, 24)
    zoo.put("bmp/core.bmp", core + bytes(range(12)))
    fifth = bytearray(saved(zoo.image("RGB"), "BMP"))
    more = struct.pack("<IIII4s", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs") + bytes(64)
    rgba = zoo.raster(3, 5, 4, 8).astype(np.uint8).tobytes()
    fifth = bytearray(bmp_file(5, 3, 32, more, rgba, 3))
    fifth[14:18] = struct.pack("<I", 124)
    zoo.put("bmp/version5.bmp", bytes(fifth))


def _pnms(zoo: _Folder) -> None:
    grey, rgb = zoo.raster(5, 11, 1, 8).astype(np.uint8), zoo.raster(5, 11, 3, 8).astype(np.uint8)
    wide = zoo.raster(5, 11, 1, 16).astype(">u2").tobytes()
    wider = zoo.raster(5, 11, 3, 16).astype(">u2").tobytes()
    words = "\n".join(" ".join(str(v) for v in row) for row in grey[:, :, 0]).encode()
    low = zoo.raster(5, 11, 1, 2).astype(np.uint8).tobytes()
    zoo.put("pnm/p1.pbm", b"P1\n3 2\n1 0 1\n0 1 0\n")
    zoo.put("pnm/p2.pgm", b"P2\n11 5\n255\n" + words + b"\n")
    zoo.put("pnm/p3.ppm", b"P3 1 1 255\n1 2 3\n")
    zoo.put("pnm/p4.pbm", b"P4\n11 5\n" + zoo.draw.integers(0, 256, 10, dtype="u1").tobytes())
    zoo.put("pnm/p4_comment.pbm", b"P4\n# bits\n8 1\n\xa5")
    zoo.put("pnm/p5.pgm", b"P5 11 5 255\n" + grey.tobytes())
    zoo.put("pnm/p5_comment.pgm", "P5 # gr\u00fcn\n11 5\n#two\n255\n".encode() + grey.tobytes())
    zoo.put("pnm/p5_wide.pgm", b"P5\t11\r5\n65535\n" + wide)
    zoo.put("pnm/p5_max1.pgm", b"P5 11 5 1\n" + bytes(v % 2 for v in grey.tobytes()))
    zoo.put("pnm/p5_max3.pgm", b"P5 11 5 3\n" + low)
    zoo.put("pnm/p5_max2.pgm", b"P5 11 5 2\n" + bytes(v % 3 for v in low))
    zoo.put("pnm/p5_max1023.pgm", b"P5 11 5 1023\n" + bytes(b & 3 for b in wide))
    zoo.put("pnm/p5_above.pgm", b"P5 11 5 1\n" + grey.tobytes())
    zoo.put("pnm/p5_spaces.pgm", b"P5 11 5 255  " + grey.tobytes())
    zoo.put("pnm/p6.ppm", b"P6 11 5 255\n" + rgb.tobytes())
    zoo.put("pnm/p6_wide.ppm", b"P6 11 5 65535\n" + wider)
    zoo.put("pnm/p6_max7.ppm", b"P6 1 1 7\n\1\2\3")
    zoo.put("pnm/p6_two.ppm", b"P6 11 5 255\n" + rgb.tobytes() + b"P6 1 1 255\n123")
    zoo.put("pnm/p6.pnm", b"P6 11 5 255\n" + rgb.tobytes())
    zoo.put("pnm/no_numbers.ppm", b"P6 rgb\n")
    zoo.put("pnm/float.pfm", b"Pf\n1 1\n-1.0\n\0\0\0\0")
    for kind, depth, samples in (("RGB", 8, 3), ("RGB_ALPHA", 16, 4), ("GRAYSCALE_ALPHA", 8, 2)):
        head = f"P7\nWIDTH 4\nHEIGHT 3\nDEPTH {samples}\nMAXVAL {(1 << depth) - 1}\n"
        pixels = zoo.raster(3, 4, samples, depth).astype(">u2" if depth == 16 else "u1")
        data = f"{head}TUPLTYPE {kind}\nENDHDR\n".encode() + pixels.tobytes()
        zoo.put(f"pnm/{kind.lower()}.pam", data)
    zoo.put("pnm/xyz.pam", data.replace(b"GRAYSCALE_ALPHA", b"XYZ"))


def _tgas(zoo: _Folder) -> None:
    for mode in ("L", "RGB", "RGBA", "P", "LA", "1"):
        image = zoo.image(mode)
        zoo.put(f"tga/{mode}.tga", saved(image, "TGA"))
        if mode != "1":
            zoo.put(f"tga/{mode}_runs.tga", saved(image, "TGA", compression="tga_rle"))
    rgb = zoo.image("RGB")
    zoo.put("tga/top.tga", saved(rgb, "TGA", orientation=1))
    zoo.put("tga/words.tga", saved(rgb, "TGA", id_section=b"made by hand"))
    zoo.put("tga/binary_words.tga", saved(rgb, "TGA", id_section=b"\xff\xfe\0\1"))
    plain = bytearray(saved(rgb, "TGA"))
    plain[17] |= 0x10
    zoo.put("tga/mirrored.tga", bytes(plain))
    plain[8] = 3
    zoo.put("tga/origin.tga", bytes(plain))
    whole = saved(rgb, "TGA")
    foot = b"TRUEVISION-XFILE.\0"
    body = whole.removesuffix(foot)[:-8] if whole.endswith(foot) else whole
    zoo.put("tga/old.tga", body)
    zoo.put("tga/extension.tga", body + bytes(495) + struct.pack("<II", len(body), 0) + foot)
    zoo.put("tga/trailing.tga", body + b"tail")
    zoo.put("tga/sixteen.tga", struct.pack("<BBB5xHHHHBB", 0, 0, 2, 0, 0, 2, 1, 16, 0) + b"abcd")


def _others(zoo: _Folder) -> None:
    grey, rgb = zoo.image("L"), zoo.image("RGB")
    zoo.put("gif/still.gif", saved(zoo.image("P"), "GIF"))
    zoo.put("gif/moving.gif", saved(rgb, "GIF", save_all=True, append_images=[zoo.image("RGB")]))
    zoo.put("gif/clear.gif", saved(zoo.image("P"), "GIF", transparency=3))
    zoo.put("jpeg/grey.jpg", saved(grey, "JPEG"))
    zoo.put("jpeg/rgb.jpeg", saved(rgb, "JPEG"))
    zoo.put("jpeg/cmyk.jpg", saved(zoo.image("CMYK"), "JPEG"))
    zoo.put("jpeg/progressive.jpg", saved(rgb, "JPEG", progressive=True))
    zoo.put("jpeg/exif.jpg", saved(rgb, "JPEG", exif=b"Exif\0\0" + EXIF, icc_profile=PROFILE))
    zoo.put("jpeg/named.png", saved(rgb, "JPEG"))
    zoo.put("other/icon.ico", saved(rgb, "ICO", sizes=[(16, 16)]))
    zoo.put("other/codestream.jxl", b"\xff\x0a" + bytes(40))
    zoo.put("other/box.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40))
    zoo.put("other/two.j2k.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40))
    zoo.put("other/photo.avif", b"\0\0\0\x20ftypavif" + bytes(40))
    zoo.put("other/old.pcx", saved(rgb, "PCX"))


def _cut(zoo: _Folder) -> None:
    for source in list(zoo.paths):
        if source.stem in ("rgb", "RGB", "RGB_none", "p6", "still", "icon", "basn2_08"):
            data = source.read_bytes()
            for name, part in (("half", data[: len(data) // 2]), ("head", data[:20]), ("no", b"")):
                zoo.put(f"cut/{source.parent.name}_{name}{source.suffix}", part)


def _names(zoo: _Folder) -> None:
    def small() -> bytes:
        return png_file(zoo.raster(4, 4, 1, 8), 0, 8)

    names = ["gr\u00fcn.png", "with space.png", " leading.png", "🐙 octopus.png", ".hidden.png"]
    names += ["..two.png", "A.png", "a.png", "CON.png", "aux", "nul.txt", "trailing dot.", "x.png."]
    names += ["new\nline.png", "tab\t.png", "back\\slash.png", 'quote".png', "a:b.png"]
    names += ["bell\a.png", "delete\x7f.png"]
    names += ["\u00e9" * 123 + ".png", "n" * 255, "-f.png", "*.png", "~.png", "%41.png", "a" * 200]
    names += [unicodedata.normalize("NFD", "gr\u00fcn.png"), "\u202egnp.png", "ß.png", "SS.png"]
    names += ["/".join(f"level{depth}" for depth in range(12)) + "/deep.png", "a.d/b.e/c.f.png"]
    for name in names:
        zoo.put(f"names/{name}", small())
    for raw in (b"latin\xe9.png", b"\xff\xfe", b"cut\xe2\x82.png"):
        zoo.put("names/" + os.fsdecode(raw), small())
    zoo.put("names/clash", b"a file")
    zoo.put("names/pair.bmp", saved(zoo.image("RGB"), "BMP"))
    zoo.put("names/pair.bmp.png", small())
    for empty in ("empty", "nested/empty/inside", "empty.png"):
        (zoo.folder / "folders" / empty).mkdir(parents=True, exist_ok=True)
    raster = zoo.raster(24, 24, 3, 8)
    for copy in range(3):
        zoo.put(f"same/copy{copy}.png", png_file(raster, 2, 8))
    zoo.put("same/stored_otherwise.png", png_file(raster, 2, 8, level=1, interlace=True))
    raster[5, 5, 1] ^= 1
    zoo.put("same/one_pixel.png", png_file(raster, 2, 8))
    zoo.put("same/text0.txt", b"the same text\n" * 40)
    zoo.put("same/text1.txt", b"the same text\n" * 40)


def _no_pictures(zoo: _Folder) -> None:
    zoo.put("files/nothing", b"")
    zoo.put("files/nothing.png", b"")
    zoo.put("files/table.csv", b"a,b\n" + b"1,2\n" * 99)
    zoo.put("files/facts.json", json.dumps({"a": [1, 2, {"b": None}]}).encode())
    for size in (1, 31, 1000, 66_000):
        zoo.put(f"files/random{size}.bin", zoo.draw.bytes(size))
        zoo.put(f"files/text{size}.txt", (b"All work and no play. " * 3001)[:size])
    zoo.put("files/BM.txt", b"BM is how this text begins\n")
    zoo.put("files/P5.txt", b"P5 is how this text begins\n")
    zoo.put("files/fake.tga", b"no picture at all, but a name\n")
    zoo.put("files/zeros.tga", bytes(64))
    zoo.put("files/packed.gz", gzip.compress(b"text" * 100, mtime=0))


def _npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


class Trap:
    """Raises where it is loaded from a pickle."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def _arrays(zoo: _Folder) -> None:
    grey = zoo.raster(4, 8, 6, 8).astype(np.uint8)
    some = {
        "stack": grey,
        "colour": zoo.raster(8, 8, 3, 8).astype(np.uint8),
        "batch": np.stack([zoo.raster(5, 5, 3, 8)] * 3).astype(np.uint8),
        "flat": grey[0],
        "line": grey[0, 0],
        "scalar": np.uint8(7),
        "none": np.zeros((0, 4, 4), np.uint8),
        "thin": np.zeros((4, 0, 4), np.uint8),
        "float": grey.astype(np.float32),
        "wide": grey.astype(np.uint16),
        "signed": grey.astype(np.int8),
        "bool": grey > 9,
        "big_endian": grey.astype(">u2"),
        "fortran": np.asfortranarray(grey),
        "five": grey.reshape(2, 2, 2, 4, 6),
        "record": np.zeros(3, [("a", "u1"), ("b", "f4")]),
        "words": np.array(["a", "bc"]),
    }
    for name, array in some.items():
        zoo.put(f"arrays/{name}.npy", _npy(array))
    zoo.put("arrays/trap.npy", _npy(np.array([Trap()], object), allow_pickle=True))
    zoo.put("arrays/trap.pkl.npy", _npy(grey)[:10] + b"cos\nsystem\n")
    zoo.put("arrays/cut.npy", _npy(grey)[:-5])
    zoo.put("arrays/longer.npy", _npy(grey) + b"tail")
    for name, save in (("plain", np.savez), ("deflated", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, a=grey, b=grey[:, :, :3])  # type: ignore[operator]
        zoo.put(f"arrays/{name}.npz", stream.getvalue())
        zoo.put(f"arrays/{name}_cut.npz", stream.getvalue()[:-30])
    stream = io.BytesIO()
    np.savez(stream, a=grey, b=grey.astype(float))
    zoo.put("arrays/mixed.npz", stream.getvalue())
    idx = struct.pack(">HBBIII", 0, 8, 3, 4, 8, 6) + grey.tobytes()
    zoo.put("arrays/some-idx3-ubyte", idx)
    zoo.put("arrays/some-idx3-ubyte.gz", gzip.compress(idx, mtime=0))
    zoo.put("arrays/cut-idx3-ubyte", idx[:-1])
    zoo.put("arrays/labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, 9) + bytes(range(9)))
    zoo.put("arrays/float-idx3-ubyte", struct.pack(">HBBIII", 0, 13, 3, 1, 1, 1) + bytes(4))


def box(kind: bytes, body: bytes) -> bytes:
    """One box of a JPEG XL container."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def jxl_container(*boxes: tuple[bytes, bytes]) -> bytes:
    """A JPEG XL file of these boxes (type, body), after the two that begin each."""
    brand = (b"ftyp", b"jxl \0\0\0\0jxl ")
    parts = ((b"JXL ", b"\r\n\x87\n"), brand, *boxes)
    return b"".join(box(*part) for part in parts)


def _jxls(zoo: _Folder) -> None:
    if not imagecodecs.JPEGXL.available:
        return

    def encode(pixels: Any, **options: Any) -> bytes:
        return bytes(imagecodecs.jpegxl_encode(pixels, numthreads=1, **options))

    for samples, name in ((1, "grey"), (2, "greyalpha"), (3, "rgb"), (4, "rgba")):
        for depth in (8, 16):
            raster = zoo.raster(19, 26, samples, depth).astype(np.uint16 if depth > 8 else np.uint8)
            pixels = raster[:, :, 0] if samples == 1 else raster
            zoo.put(f"jxl/{name}{depth}.jxl", encode(pixels, effort=3, lossless=True))
            zoo.put(f"jxl/lossy_{name}{depth}.jxl", encode(pixels, effort=3, distance=1.0))
    rgb = zoo.raster(16, 24, 3, 8).astype(np.uint8)
    plain = encode(rgb, effort=7, lossless=True)
    more = [(b"Exif", bytes(4) + EXIF), (b"xml ", XMP)]
    parts = [(b"jxlp", b"\0\0\0\0" + plain[:9]), (b"jxlp", b"\x80\0\0\1" + plain[9:])]
    some = {
        "container": encode(rgb, effort=1, lossless=True, usecontainer=True),
        "metadata": jxl_container((b"jxlc", plain), *more),
        "parts": jxl_container(more[1], parts[0], more[0], parts[1]),
        "parts_out_of_order": jxl_container(*parts[::-1]),
        "part_missing": jxl_container(parts[0]),
        "packed": jxl_container((b"jxlc", plain), (b"brob", b"Exif" + bytes(9))),
        "jpeg": jxl_container((b"jbrd", bytes(9)), (b"jxlc", plain)),
        "unknown": jxl_container((b"jxlc", plain), (b"jumb", bytes(9))),
        "exif_offset": jxl_container((b"jxlc", plain), (b"Exif", b"\0\0\0\1z" + EXIF)),
        "one_pixel": encode(rgb[:1, :1], lossless=True),
        "row": encode(np.tile(rgb[:1], (1, 30, 1)), lossless=True),
        "moving": encode(np.stack([rgb, rgb[::-1]]), lossless=True, photometric="rgb"),
        "float": encode(rgb.astype(np.float32) / 255, lossless=True),
        "ten_bits": encode(rgb.astype(np.uint16), lossless=True, bitspersample=10),
        "trailing": plain + b"tail",
        "truncated": plain[:-1],
    }
    for name, data in some.items():
        zoo.put(f"jxl/{name}.jxl", data)


# Comparison


def is_jxl(data: bytes) -> bool:
    """Whether the file is JPEG XL, bare or in boxes."""
    return data[:2] == b"\xff\x0a" or data[4:8] == b"JXL "


def jxl_boxes(data: bytes) -> dict[bytes, bytes]:
    """The boxes of a sound JPEG XL file, the last of each type."""
    found = {}
    while data and data[:2] != b"\xff\x0a":
        length = int.from_bytes(data[:4], "big") or len(data)
        found[data[4:8]], data = data[8:length], data[length:]
    return found


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, body) of all chunks of a sound PNG; a run of IDAT chunks counts once, without body."""
    found: list[tuple[bytes, bytes]] = []
    start = len(SIGNATURE)
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        entry = (kind, b"" if kind == b"IDAT" else data[start + 8 : start + 8 + length])
        if entry not in found[-1:] or kind != b"IDAT":
            found.append(entry)
        start += 12 + length
    return found


def png_samples(data: bytes) -> tuple[Any, dict[str, Any]]:
    """By pypng: samples (h, w, samples), and depth, colour type, palette and tRNS."""
    reader = png.Reader(bytes=data)
    width, height, rows, _ = reader.read()
    raster = np.array([np.asarray(row) for row in rows]).reshape(height, width, -1)
    facts = {"depth": reader.bitdepth, "colour type": reader.color_type}
    facts |= {"palette": reader.plte, "transparency": reader.trns}
    return raster, facts


def differences(original: Path, restored: Path) -> list[str]:
    """What a careful reader finds different in two files, a line each; empty if nothing.

    A picture that is no PNG may have come back as one. Which bytes a decoder may change is
    settled here without the package: by pypng, Pillow, libtiff, and the file's own bytes.
    """
    before, after = original.read_bytes(), restored.read_bytes()
    if before == after:
        return [] if original.name == restored.name else ["same bytes under another name"]
    if not after.startswith(SIGNATURE):
        return ["other bytes"]
    samples, facts = png_samples(after)
    if before.startswith(SIGNATURE):
        wanted, wanted_facts = png_samples(before)
        found = [f"{k}: {facts[k]} for {v}" for k, v in wanted_facts.items() if facts[k] != v]
        old, new = png_chunks(before), png_chunks(after)
        if old[1:] != new[1:]:
            found.append(f"chunks {[k for k, _ in new]} for {[k for k, _ in old]}")
    else:
        try:
            wanted, found = _other_samples(before, samples, facts), _other_metadata(before, after)
        except (OSError, ValueError) as error:
            return [f"the original cannot be read: {error}"]
    if wanted.shape != samples.shape:
        found.append(f"samples {samples.shape} for {wanted.shape}")
    elif not np.array_equal(wanted, samples):
        found.append(f"{int((wanted != samples).sum())} samples")
    return found


def _other_samples(data: bytes, samples: Any, facts: dict[str, Any]) -> Any:
    """Samples in which the file `data`, no PNG, should have come back in a PNG of these facts."""
    height, width, count = samples.shape
    depth, colour = facts["depth"], facts["colour type"]
    if is_jxl(data):
        found = imagecodecs.jpegxl_decode(data)
        if found.dtype.itemsize * 8 != depth:
            raise ValueError(f"{depth} bits for {found.dtype}")
        return found.reshape(height, width, -1)
    if data[:1] == b"P" and (depth == 16 or data[:2] == b"P7"):
        dtype = ">u2" if depth == 16 else "u1"
        size = height * width * count * (depth // 8)
        return np.frombuffer(data[-size:], dtype).reshape(height, width, count)
    if data[:2] in (b"II", b"MM") and depth == 16:
        with Image.open(io.BytesIO(data)) as image:
            tags = dict(image.tag_v2)  # type: ignore[attr-defined]
        if tags[259] == 1 and len(tags[273]) == 1:
            dtype = "<u2" if data[:1] == b"I" else ">u2"
            found = np.frombuffer(data, dtype, tags[279][0] // 2, tags[273][0])
        else:
            found = imagecodecs.tiff_decode(data)
        return found.reshape(height, width, -1)
    with Image.open(io.BytesIO(data)) as image:
        wanted = {0: ("1", "L", "P"), 2: ("RGB",), 3: ("P",), 4: ("LA",), 6: ("RGBA",)}[colour]
        if image.mode not in wanted:
            raise ValueError(f"colour type {colour} for Pillow's mode {image.mode}")
        if colour == 3 and image.getpalette() is not None:
            entries = np.frombuffer(facts["palette"], np.uint8)
            shown = np.asarray(image.getpalette())[: entries.size]
            if not np.array_equal(entries[: shown.size], shown):
                raise ValueError("another palette")
            return np.asarray(image)[:, :, None]
        grey = colour == 0 and image.mode != "L"
        pixels = np.asarray(image.convert("L") if grey else image).reshape(height, width, -1)
    if depth < 8:  # Pillow stretches to 8 bits
        unit = 255 // ((1 << depth) - 1)
        if (pixels % unit).any():
            raise ValueError(f"more than {depth} bits")
        pixels = pixels // unit
    return pixels


def _other_metadata(before: bytes, after: bytes) -> list[str]:
    if before[:2] == b"P7":
        return []
    if is_jxl(before):
        return _jxl_metadata(jxl_boxes(before), png_chunks(after))
    found = []
    with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
        new.load()
        for name in ("icc_profile", "xmp", "exif"):
            wanted = old.info.get(name)
            if name == "exif" and wanted is not None:
                wanted = wanted.removeprefix(b"Exif\0\0")
            seen = new.info.get(name)
            if name == "exif" and seen is not None:
                seen = seen.removeprefix(b"Exif\0\0")
            if wanted is not None and seen != wanted:
                found.append(name)
        tags = dict(getattr(old, "tag_v2", {}))
        wanted = old.info.get("dpi")
        if wanted and min(wanted) > 0 and (282 in tags or not tags):
            seen = new.info.get("dpi", (0, 0))
            if not np.allclose(wanted, seen, atol=0.02):
                found.append(f"dpi {seen} for {wanted}")
        texts = [tags.get(tag) for tag in (270, 305, 315, 33432)]
        texts.append((old.info.get("id_section") or b"").decode("latin-1").rstrip("\0") or None)
        for text in texts:
            if text is not None and text not in new.info.values():
                found.append(f"text {text!r}")
    return found


def _jxl_metadata(boxes: dict[bytes, bytes], chunks: Chunks) -> list[str]:
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0"
    wanted = [(b"eXIf", boxes[b"Exif"][4:])] if b"Exif" in boxes else []
    wanted += [(b"iTXt", xmp + boxes[b"xml "])] if b"xml " in boxes else []
    return [kind.decode("ascii") for kind, body in wanted if (kind, body) not in chunks]


if __name__ == "__main__":
    print(len(build(Path(sys.argv[1]))), "files")
