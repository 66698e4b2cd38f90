"""Picture files: what is coded as pixels comes back exactly, all else is refused with a reason."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osoa_pl.data import images, png
from osoa_pl.errors import InputError
from osoa_pl.types import MODES

GENERATOR = np.random.default_rng(1)
RGB = GENERATOR.integers(0, 256, (9, 13, 3), dtype=np.uint8)
GREY = GENERATOR.integers(0, 256, (9, 13), dtype=np.uint8)
RGBA = np.dstack([RGB, GREY // 128 * 255])
WIDE = GREY.astype(np.uint16) * 257
PROFILE = zoo.PROFILE


def encoded(pixels: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    picture = Image.fromarray(pixels)
    return zoo.saved(picture.convert(mode) if mode else picture, kind, **options)


def inspected(data: bytes, suffix: str = "") -> images.Picture:
    source = images.sniff(data[:32], suffix)
    assert source is not None
    return images.inspect(data, source)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("BMP", {"dpi": (100, 200)}),
        ("PPM", {}),
        ("TGA", {}),
        ("TGA", {"compression": "tga_rle"}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw", "dpi": (72, 72), "icc_profile": PROFILE}),
        ("TIFF", {"compression": "tiff_adobe_deflate", "description": "some text"}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("WEBP", {"lossless": True, "exact": True, "icc_profile": PROFILE, "xmp": b"<x/>"}),
    ],
)
@pytest.mark.parametrize("pixels", [RGB, GREY, RGBA, WIDE], ids=["rgb", "grey", "rgba", "wide"])
def test_exact_pixels(kind: str, options: dict[str, Any], pixels: Any) -> None:
    if kind == "WEBP" and pixels.ndim == 2:
        pytest.skip("WebP has no grey")
    if (kind in ("BMP", "PPM") and pixels is RGBA) or (kind in ("BMP", "TGA") and pixels is WIDE):
        pytest.skip("Pillow writes no such file")
    data = encoded(pixels, kind, **options)
    picture = inspected(data, ".tga" if kind == "TGA" else "")
    mode = MODES[picture.mode]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    assert (picture.height, picture.width, mode.samples) == (9, 13, samples)
    decoded = images.decode(data, picture)
    assert decoded.dtype == pixels.dtype and np.array_equal(decoded, pixels.reshape(9, 13, -1))
    again = png.encode(decoded, picture.mode, picture.before, picture.after)
    assert np.array_equal(zoo.png_samples(again)[0], decoded)
    with Image.open(io.BytesIO(again)) as restored:
        restored.load()
        assert restored.info.get("icc_profile") == options.get("icc_profile")
        if "dpi" in options:
            assert restored.info["dpi"] == pytest.approx(options["dpi"], rel=1e-3)
        if "description" in options:
            assert restored.info["Description"] == options["description"]
        if "xmp" in options:
            assert restored.info["xmp"] == options["xmp"]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("samples", "mode"), [(3, "rgb16"), (4, "rgba16")])
def test_wide_tiffs_keep_16_bits(samples: int, mode: str, order: str) -> None:
    raster = GENERATOR.integers(0, 1 << 16, (5, 7, samples), dtype=np.uint16)
    tags = {256: ("I", [7]), 257: ("I", [5]), 258: ("H", [16] * samples), 259: ("H", [1])}
    tags |= {262: ("H", [2]), 277: ("H", [samples]), 278: ("I", [5])}
    tags |= {338: ("H", [2])} if samples == 4 else {}
    data = zoo.tiff_file(tags, raster.astype(order + "u2").tobytes(), order)  # type: ignore[arg-type]
    picture = inspected(data)
    assert picture.mode == mode and np.array_equal(images.decode(data, picture), raster)


REASONS = [
    (encoded(RGB, "PNG", save_all=True, append_images=[Image.fromarray(RGB // 2)]), "animated"),
    (encoded(RGB, "PNG") + b"x", "cut off"),
    (encoded(RGB, "JPEG"), "JPEG"),
    (encoded(GREY, "GIF"), "GIF"),
    (b"\xff\x0a" + bytes(30), "JPEG XL"),
    (encoded(RGB, "WEBP", quality=90), "lossy WebP"),
    (encoded(RGBA, "WEBP", quality=90), "lossy WebP"),
    (encoded(RGB, "WEBP", lossless=True)[:-4], "truncated"),
    (encoded(RGB, "TIFF", "P"), "palette of 16 bits"),
    (encoded(RGB, "TIFF", "CMYK"), "CMYK"),
    (encoded(GREY, "TIFF", "F"), "float"),
    (encoded(GREY, "TIFF", "I"), "signed integers"),
    (encoded(RGB, "TIFF", compression="jpeg"), "TIFF with lossy"),
    (encoded(RGB, "TIFF", tiffinfo={274: 6}), "tag 274"),
    (encoded(RGB, "TIFF", tiffinfo={65000: "geo"}), "tag 65000"),
    (encoded(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]), "several pages"),
    (encoded(RGBA, "BMP"), "32-bit BMP"),
    (encoded(RGB, "BMP") + b"abc", "after the end"),
    (b"P5 2 2 100\n\1\2\3\4", "maximum of 100"),
    (b"P5 2 2 1\n\1\2\0\1", "above the maximum"),
    (b"P5 2 2 255\n\1\2\3", "truncated"),
    (b"P5 2 2 255\n\1\2\3\4P5", "after the end"),
    (b"P5 2 2 255#\n\1\2\3\4", "no space"),
    (b"P2 1 1 255\n7", "plain-text"),
    (b"P1 1 1\n1", "plain-text"),
    (b"P5 0 0 255\n", "no pixels"),
    (b"P5 99999 99999 255\n", "truncated"),
    (b"P5 9999999999 1 255\n", "absurd"),
]


@pytest.mark.parametrize(("data", "reason"), REASONS, ids=[reason for _, reason in REASONS])
def test_reasons(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        inspected(data)


def test_sniff_knows_names_and_texts() -> None:
    assert images.sniff(bytes(32)) is None and images.sniff(bytes(32), ".tga") is None
    tga = encoded(RGB, "TGA")
    assert images.sniff(tga[:32]) is None and images.sniff(tga[:32], ".TGA") == "tga"
    assert images.sniff(b"BM is how a text may begin, and go on") is None
    assert images.sniff(b"P5 is how a text may begin, and go on") is None


def test_ppm_comments_are_kept() -> None:
    data = b"P5 # made by hand\n2 # two\n1 255\n\7\x09"
    picture = inspected(data)
    pixels = images.decode(data, picture)
    assert pixels.tolist() == [[[7], [9]]]
    with Image.open(io.BytesIO(png.encode(pixels, picture.mode, picture.before))) as found:
        assert found.info["Comment"] == " made by hand\n two"


def test_bitmaps_look_the_same() -> None:
    data = b"P4 3 2\n\xa0\x40"
    picture = inspected(data)
    assert picture.mode == "grey1"
    assert images.decode(data, picture)[:, :, 0].tolist() == [[0, 1, 0], [1, 0, 1]]


def test_decode_wants_what_inspect_saw() -> None:
    data = encoded(RGB, "PNG")
    picture = inspected(data)
    for other in (encoded(GREY, "PNG"), encoded(RGB[:5], "PNG"), data[:-1], b""):
        with pytest.raises(InputError):
            images.decode(other, picture)


def test_large_and_too_large() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    plain = np.zeros((9000, 10000), np.uint8)
    for kind, options in (("PNG", {"compress_level": 1}), ("TIFF", {"compression": "packbits"})):
        large = encoded(plain, kind, **options)
        assert images.decode(large, inspected(large)).shape == (9000, 10000, 1)
    assert limit == Image.MAX_IMAGE_PIXELS
    bomb = struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0\x2a")
    parts = (png.chunk(b"IHDR", bomb), png.chunk(b"IDAT", body), png.chunk(b"IEND", b""))
    with pytest.raises(InputError, match="too many"):
        inspected(png.SIGNATURE + b"".join(parts))
    runs = struct.pack("<BBB5xHHHHBB", 0, 0, 10, 0, 0, 16_000, 16_000, 24, 0) + bytes(999)
    with pytest.raises(InputError, match="truncated"):
        inspected(runs, ".tga")


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return zoo.build(tmp_path_factory.mktemp("zoo"))


def test_zoo_comes_back_or_is_refused(animals: list[Path], tmp_path: Path) -> None:
    modes, sources, refused = set(), set(), 0
    for path in animals:
        data = path.read_bytes()
        source = images.sniff(data[:32], path.suffix)
        if source is None:
            continue
        try:
            picture = images.inspect(data, source)
            raster = images.decode(data, picture)
        except InputError as error:
            assert len(str(error).splitlines()) == 1, path
            refused += 1
            continue
        restored = tmp_path / path.name if path.suffix == ".png" else tmp_path / "restored.png"
        restored.write_bytes(png.encode(raster, picture.mode, picture.before, picture.after))
        found = zoo.differences(path, restored)
        assert found in ([], ["same bytes under another name"]), path
        modes.add(picture.mode)
        sources.add(picture.source)
    assert modes == set(MODES) and sources == {"png", "webp", "tiff", "bmp", "ppm", "tga", "jxl"}
    assert refused > 60


def test_sound_pngs_of_the_zoo_are_taken(animals: list[Path]) -> None:
    for path in animals:
        if path.parent.name in ("png", "chunks"):
            data = path.read_bytes()
            assert images.decode(data, images.inspect(data, "png")).size


def test_zoo_is_the_same_each_time(animals: list[Path], tmp_path: Path) -> None:
    again = zoo.build(tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in animals]
    assert len(again) >= 170 and sum(path.stat().st_size for path in again) < 4 << 20
    assert len({path.stat().st_mtime_ns for path in again}) == len(again)


def test_differences_are_seen(tmp_path: Path) -> None:
    raster = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    text = png.chunk(b"tEXt", b"A\0b")
    one.write_bytes(png.encode(raster, "rgb8", text))
    other.write_bytes(png.encode(raster, "rgb8"))
    assert "chunks" in zoo.differences(one, other)[0]
    other.write_bytes(png.encode(raster ^ np.eye(5, 4, dtype=np.uint8)[:, :, None], "rgb8", text))
    assert zoo.differences(one, other) == ["12 samples"]
    other.write_bytes(png.encode(raster.astype(np.uint16), "rgb16", text))
    assert zoo.differences(one, other)[0] == "depth: 16 for 8"
    other.write_bytes(b"")
    assert zoo.differences(one, other) == ["other bytes"]
    scan = tmp_path / "scan.tif"
    scan.write_bytes(encoded(raster, "TIFF"))
    other.write_bytes(png.encode(raster, "rgb8"))
    assert zoo.differences(scan, other) == []
    other.write_bytes(png.encode(raster[::-1], "rgb8"))
    assert "samples" in zoo.differences(scan, other)[0]


def quietly(data: bytes, source: str) -> None:
    """Read or refuse `data`: no other error, no warning, one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = images.inspect(data, source)
            raster = images.decode(data, picture)
        except InputError as error:
            assert len(str(error).splitlines()) == 1
            return
    assert raster.shape == (picture.height, picture.width, MODES[picture.mode].samples)
    png.encode(raster, picture.mode, picture.before, picture.after)


STARTS = {
    "png": png.SIGNATURE + zoo.header(3, 2, 8, 3, 1),
    "webp": b"RIFF\x40\0\0\0WEBPVP8L",
    "tiff": b"II*\0\x08\0\0\0",
    "bmp": b"BM" + bytes(12) + b"\x28\0\0\0",
    "ppm": b"P5\n",
    "tga": b"\0\0\x0a" + bytes(9),
}


@pytest.mark.parametrize("source", STARTS)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(source: str, data: bytes) -> None:
    quietly(data, source)
    quietly(STARTS[source] + data, source)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "bmp", "pnm", "tga", "chunks"])
def test_mutated_files_are_refused_or_read(
    kind: str, animals: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    generator = random.Random(4)
    files = [path for path in animals if path.parent.name == kind]
    for trial in range(400):
        path = generator.choice(files)
        data = bytearray(path.read_bytes())
        source = images.sniff(bytes(data[:32]), path.suffix)
        for _ in range(generator.choice((1, 1, 2, 8))):
            data[generator.randrange(min(len(data), generator.choice((60, 10**6))))] = (
                generator.choice((0, 1, 255, generator.randrange(256)))
            )
        if trial % 3 == 0:
            data = data[: generator.randrange(len(data))]
        if source is not None:
            quietly(bytes(data), source)
    assert capfd.readouterr() == ("", "")


def test_mutated_chunks_with_sound_checksums(animals: list[Path]) -> None:
    generator = random.Random(5)
    files = [path for path in animals if path.parent.name in ("png", "chunks")]
    for _ in range(400):
        data = generator.choice(files).read_bytes()
        parts = [(kind, bytearray(body)) for kind, body, *_ in png.chunks(data, 8)]
        _, body = generator.choice(parts)
        if body:
            body[generator.randrange(len(body))] ^= 1 << generator.randrange(8)
        if generator.random() < 0.2:
            generator.shuffle(parts)
        found = b"".join(png.chunk(kind, bytes(body)) for kind, body in parts)
        quietly(png.SIGNATURE + found, "png")
