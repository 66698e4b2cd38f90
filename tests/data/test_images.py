"""Picture files: what is coded as pixels comes back exactly, all else is refused with a reason."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from osoa_pl.data import images, png
from osoa_pl.errors import InputError

GENERATOR = np.random.default_rng(1)
RGB = GENERATOR.integers(0, 256, (9, 13, 3), dtype=np.uint8)
GREY = GENERATOR.integers(0, 256, (9, 13), dtype=np.uint8)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(pixels: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


def inspected(data: bytes) -> images.Picture:
    source = images.sniff(data)
    assert source is not None
    return images.inspect(data, source)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("BMP", {"dpi": (100, 200)}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw", "dpi": (72, 72), "icc_profile": PROFILE}),
        ("TIFF", {"compression": "tiff_adobe_deflate", "description": "some text"}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": True, "icc_profile": PROFILE, "xmp": b"<x/>"}),
    ],
)
@pytest.mark.parametrize("pixels", [RGB, GREY], ids=["rgb", "grey"])
def test_exact_pixels(kind: str, options: dict[str, Any], pixels: Any) -> None:
    if kind == "WEBP" and pixels is GREY:
        pytest.skip("WebP has no grey")
    data = encoded(pixels, kind, **options)
    picture = inspected(data)
    assert (picture.height, picture.width, picture.channels) == (9, 13, 3 if pixels is RGB else 1)
    decoded = images.decode(data, picture)
    assert np.array_equal(decoded, pixels.reshape(decoded.shape))
    again = png.encode(decoded, picture.before, picture.after)
    with Image.open(io.BytesIO(again)) as restored:
        assert np.array_equal(np.asarray(restored), pixels)
        assert restored.info.get("icc_profile") == options.get("icc_profile")
        if "dpi" in options:
            assert restored.info["dpi"] == pytest.approx(options["dpi"], rel=1e-3)
        if "description" in options:
            assert restored.info["Description"] == options["description"]
        if "xmp" in options:
            assert restored.info["xmp"] == options["xmp"]


def test_png_chunks_come_back_verbatim() -> None:
    info = PngInfo()
    info.add_text("Title", "a" * 50)
    info.add(b"prIV", b"private", after_idat=True)
    data = encoded(
        RGB, "PNG", pnginfo=info, icc_profile=PROFILE, dpi=(96, 96), transparency=(1, 2, 3)
    )
    found = png.structure(data)
    kinds = [kind for kind, *_ in png.chunks(found.before)]
    assert {b"iCCP", b"pHYs", b"tEXt", b"tRNS"} <= set(kinds)
    assert [kind for kind, *_ in png.chunks(found.after)] == [b"prIV"]
    again = png.encode(RGB, found.before, found.after)
    assert png.structure(again) == found
    png.check_metadata(found.before)
    with pytest.raises(ValueError, match="IDAT"):
        png.check_metadata(png.chunk(b"IDAT", b""))


def wide(pixels: Any) -> Any:
    return pixels.astype(np.uint16) * 257


def png16_rgb() -> bytes:
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    body = zlib.compress(b"\0" + bytes(12))
    parts = (png.chunk(b"IHDR", header), png.chunk(b"IDAT", body), png.chunk(b"IEND", b""))
    return png.SIGNATURE + b"".join(parts)


RGBA = np.dstack([RGB, GREY])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(RGB, "PNG", "P"), "palette image"),
        (encoded(RGBA, "PNG"), "alpha"),
        (encoded(GREY, "PNG", "1"), "1-bit"),
        (encoded(GREY, "PNG", "LA"), "grey with alpha"),
        (encoded(wide(GREY), "PNG"), "16-bit"),
        (png16_rgb(), "16-bit"),
        (encoded(RGB, "PNG", save_all=True, append_images=[Image.fromarray(RGB // 2)]), "animated"),
        (encoded(RGB, "PNG") + b"x", "cut off"),
        (encoded(RGB, "JPEG"), "jpeg"),
        (encoded(GREY, "GIF"), "gif"),
        (encoded(RGB, "WEBP", quality=90), "lossy WebP"),
        (encoded(RGBA, "WEBP", lossless=True), "alpha"),
        (encoded(RGB, "WEBP", lossless=True)[:-4], "truncated"),
        (encoded(RGB, "TIFF", "P"), "palette image"),
        (encoded(RGB, "TIFF", "CMYK"), "CMYK"),
        (encoded(RGB, "TIFF", compression="jpeg"), "TIFF"),
        (encoded(RGB, "TIFF", tiffinfo={274: 6}), "tag 274"),
        (encoded(RGB, "TIFF", tiffinfo={65000: "geo"}), "tag 65000"),
        (
            encoded(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
            "several pages",
        ),
        (encoded(RGB, "BMP", "P"), "palette image"),
        (encoded(RGBA, "BMP"), "32-bit BMP"),
        (encoded(RGB, "BMP") + b"abc", "after the end"),
        (encoded(GREY, "PPM", "1"), "bitmap"),
        (b"P5 2 2 100\n\1\2\3\4", "maximum of 100"),
        (b"P5 2 2 255\n\1\2\3", "truncated"),
        (b"P5 2 2 255\n\1\2\3\4P5", "after the end"),
        (b"P2 1 1 255\n7", "plain-text"),
        (b"P5 0 0 255\n", "no pixels"),
        (b"P5 99999 99999 255\n", "truncated"),
        (b"P5 9999999999 1 255\n", "absurd"),
    ],
)
def test_reasons(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        inspected(data)


def test_ppm_comments_are_kept() -> None:
    data = b"P5 # made by hand\n2 # two\n1 255\n\7\x09"
    picture = inspected(data)
    assert images.decode(data, picture).tolist() == [[[7], [9]]]
    with Image.open(io.BytesIO(png.encode(images.decode(data, picture), picture.before))) as found:
        assert found.info["Comment"] == " made by hand\n two"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_broken_files_are_refused_or_read(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(RGB, kind, **options)
    generator = random.Random(4)
    for trial in range(200):
        damaged = bytearray(data)
        if trial % 2:
            damaged = damaged[: generator.randrange(16, len(data))]
        else:
            damaged[generator.randrange(16, len(data))] ^= 1 << generator.randrange(8)
        source = images.sniff(bytes(damaged))
        try:
            images.decode(bytes(damaged), images.inspect(bytes(damaged), str(source)))
        except InputError as error:
            assert "\n" not in str(error)


def test_interlaced_and_large() -> None:
    # Adam7 of a 1x1 image is its first pass alone.
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)
    body = zlib.compress(b"\0\x2a")
    parts = (png.chunk(b"IHDR", header), png.chunk(b"IDAT", body), png.chunk(b"IEND", b""))
    data = png.SIGNATURE + b"".join(parts)
    assert images.decode(data, inspected(data)).tolist() == [[[42]]]
    limit = Image.MAX_IMAGE_PIXELS
    large = encoded(np.zeros((9000, 10000), np.uint8), "PNG", compress_level=1)
    assert images.decode(large, inspected(large)).shape == (9000, 10000, 1)
    assert limit == Image.MAX_IMAGE_PIXELS
    bomb = struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 0, 0, 0, 0)
    parts = (png.chunk(b"IHDR", bomb), png.chunk(b"IDAT", body), png.chunk(b"IEND", b""))
    with pytest.raises(InputError, match="too many"):
        inspected(png.SIGNATURE + b"".join(parts))
