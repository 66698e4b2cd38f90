"""JPEG XL: what is taken comes back exactly, what is lossy or only perhaps exact is refused."""

from __future__ import annotations

import io
import itertools
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zoo
from PIL import Image

from osoa_pl.data import images, jxl, png
from osoa_pl.errors import InputError
from osoa_pl.types import MODES

pytestmark = pytest.mark.skipif(
    not imagecodecs.JPEGXL.available, reason="imagecodecs without JPEG XL"
)
SIZES = [(1, 1), (1, 500), (300, 1), (8, 8), (16, 24), (17, 23), (64, 32), (257, 9), (130, 260)]
NAMES = {1: "grey", 2: "greyalpha", 3: "rgb", 4: "rgba"}


def raster(height: int, width: int, samples: int, depth: int, kind: int = 0) -> Any:
    draw = np.random.default_rng([height, width, samples, depth, kind])
    shape, top = (height, width, samples), (1 << depth) - 1
    found = draw.integers(0, top + 1, shape)
    if kind == 1:  # smooth
        found = np.clip(np.cumsum(found % 7 - 3, axis=1) + top // 2, 0, top)
    if kind == 2:  # few colours
        found = found % 3 * (top // 2)
    return found.astype(np.uint16 if depth == 16 else np.uint8)


def encoded(pixels: Any, **options: Any) -> bytes:
    if pixels.dtype == np.uint16 and options.get("lossless"):
        # libjxl 0.11.2 writes beyond its buffers where it packs noise of 16 bits with effort 1
        options["effort"] = max(2, options.get("effort", 5))
    if pixels.shape[2] > 2:
        options["photometric"] = "rgb"
    elif pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return bytes(imagecodecs.jpegxl_encode(pixels, numthreads=1, **options))


def taken(data: bytes) -> tuple[images.Picture, Any]:
    assert images.sniff(data[:32]) == "jxl"
    picture = images.inspect(data, "jxl")
    return picture, images.decode(data, picture)


@pytest.mark.parametrize("effort", range(1, 10))
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("samples", NAMES)
def test_exact_samples(samples: int, depth: int, effort: int) -> None:
    for number, (height, width) in enumerate(SIZES):
        if samples == 2 and height < 3:  # imagecodecs takes them for a picture of another shape
            continue
        pixels = raster(height, width, samples, depth, number % 3)
        data = encoded(pixels, effort=effort, lossless=True, usecontainer=number % 2 == 0)
        picture, found = taken(data)
        assert picture.mode == f"{NAMES[samples]}{depth}"
        assert found.dtype == pixels.dtype and np.array_equal(found, pixels)
        again = png.encode(found, picture.mode, picture.before, picture.after)
        assert np.array_equal(zoo.png_samples(again)[0], pixels)


def test_every_value_at_every_place_of_the_dither() -> None:
    # libjxl adds ordered noise of 32x32 to what it rounds to 8 bits: less than half a step
    for step in range(0, 256, 5):
        pixels = (np.arange(32 * 32 * 3).reshape(32, 32, 3) * 7 + step).astype(np.uint8)
        assert np.array_equal(taken(encoded(pixels, lossless=True, effort=1))[1], pixels)
    wide = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256, 1)
    assert np.array_equal(taken(encoded(wide, lossless=True, effort=1))[1], wide)


LOSSY: list[dict[str, Any]] = [
    *({"distance": distance} for distance in (0.01, 0.1, 1.0, 15.0)),
    *({"level": level} for level in (0, 50, 90, 99, 100)),
    *({"distance": 0.0, "lossless": False}, {"distance": 1.0, "decodingspeed": 4}),
]


@pytest.mark.parametrize("options", LOSSY, ids=str)
def test_lossy_files_are_refused(options: dict[str, Any]) -> None:
    cases = itertools.product(NAMES, (8, 16), (1, 4, 7), [(9, 13), (16, 24), (64, 300)])
    for number, (samples, depth, effort, (height, width)) in enumerate(cases):
        pixels = raster(height, width, samples, depth, number % 3)
        data = encoded(pixels, effort=effort, usecontainer=number % 2 == 0, **options)
        with pytest.raises(InputError, match="^lossy JPEG XL$"):
            images.inspect(data, "jxl")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_files_of_another_encoder(mode: str) -> None:
    pytest.importorskip("pillow_jxl")
    pixels = raster(21, 34, len(mode) if mode != "I;16" else 1, 16 if mode == "I;16" else 8, 1)
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    for effort, own, boxes in itertools.product((1, 4, 7), (False, True), (False, True)):
        options = {"effort": effort, "use_original_profile": own, "use_container": boxes}
        data = zoo.saved(image, "JXL", lossless=True, **options)
        assert np.array_equal(taken(data)[1], pixels)
        for quality in (50, 99):
            with pytest.raises(InputError, match="lossy"):
                images.inspect(zoo.saved(image, "JXL", quality=quality, **options), "jxl")


PIXELS = raster(12, 15, 3, 8, 1)


def test_metadata() -> None:
    plain = encoded(PIXELS, lossless=True)
    boxes = [(b"Exif", bytes(4) + zoo.EXIF), (b"xml ", zoo.XMP)]
    parts = [(b"jxlp", struct.pack(">I", n) + plain[9 * n : 9 * n + 9]) for n in range(3)]
    parts.append((b"jxlp", struct.pack(">I", 3 | 1 << 31) + plain[27:]))
    last = struct.pack(">I4s", 0, b"jxlc") + plain  # to the end of the file
    long = struct.pack(">I4sQ", 1, b"jxlc", 16 + len(plain)) + plain
    level = (b"jxll", b"\x05")
    for data in (
        zoo.jxl_container(level, (b"jxlc", plain), *boxes),
        zoo.jxl_container(boxes[1], parts[0], boxes[0], *parts[1:]),
        zoo.jxl_container(*boxes) + last,
        zoo.jxl_container(*boxes) + long,
    ):
        picture, found = taken(data)
        assert np.array_equal(found, PIXELS)
        with Image.open(io.BytesIO(png.encode(found, "rgb8", picture.before))) as restored:
            assert restored.info["exif"].removeprefix(b"Exif\0\0") == zoo.EXIF
            assert restored.info["xmp"] == zoo.XMP


def test_colours_are_told() -> None:
    chunks = [kind for kind, *_ in png.chunks(taken(encoded(PIXELS, lossless=True))[0].before)]
    assert chunks == [b"sRGB"]
    data = encoded(raster(5, 6, 3, 16), lossless=True)  # linear, says imagecodecs
    before = {kind: body for kind, body, *_ in png.chunks(taken(data)[0].before)}
    assert set(before) == {b"gAMA", b"cHRM"} and before[b"gAMA"] == struct.pack(">I", 100_000)


def test_boxes_that_are_refused() -> None:
    plain = (b"jxlc", encoded(PIXELS, lossless=True))
    one = (b"jxlp", b"\x80\0\0\0" + plain[1])
    cases = [
        ("JPEG in JPEG XL", zoo.jxl_container((b"jbrd", b"abc"), plain)),
        ("packed metadata", zoo.jxl_container(plain, (b"brob", b"Exifabc"))),
        ("box b'jumb'", zoo.jxl_container(plain, (b"jumb", b""))),
        ("unusual Exif", zoo.jxl_container(plain, (b"Exif", zoo.EXIF))),
        ("unusual Exif", zoo.jxl_container(plain, (b"Exif", b"\0\0"))),
        ("repeated", zoo.jxl_container(plain, plain)),
        ("repeated", zoo.jxl_container((b"xml ", b"a"), plain, (b"xml ", b"a"))),
        ("out of order", zoo.jxl_container(plain, one)),
        ("out of order", zoo.jxl_container(one, one)),
        ("repeated", zoo.jxl_container(one, plain)),
        ("out of order", zoo.jxl_container((b"jxlp", b"\x80\0\0"), plain)),
        ("no codestream", zoo.jxl_container((b"jxlp", b"\0\0\0\0" + plain[1]))),
        ("no codestream", zoo.jxl_container()),
        ("no codestream", jxl.CONTAINER + zoo.box(*plain)),
        ("cut off", zoo.jxl_container(plain)[:-1]),
        ("cut off", zoo.jxl_container(plain) + b"tail"),
        ("cut off", zoo.jxl_container(plain) + b"\0\0\0\7xml "),
    ]
    for reason, data in cases:
        with pytest.raises(InputError, match=reason):
            images.inspect(data, "jxl")


# The headers of a picture of 24x16 pixels, 8-bit RGB, sRGB: (name, number, bits)
HEADERS = [
    *[("small", 1, 1), ("height", 1, 5), ("ratio", 0, 3), ("width", 2, 5)],
    *[("default", 0, 1), ("extra", 0, 1), ("float", 0, 1), ("depth", 0, 2), ("sixteen", 0, 1)],
    *[("channels", 0, 2), ("xyb", 0, 1), ("srgb", 1, 1), ("extensions", 0, 2), ("custom", 1, 1)],
    ("align", 0, 0),
    *[("vardct", 0, 1), ("type", 0, 2), ("modular", 1, 1), ("flags", 0, 2), ("ycbcr", 0, 1)],
    *[("upsampling", 0, 2), ("group", 1, 2), ("passes", 0, 2), ("crop", 0, 1), ("blend", 0, 2)],
    *[("last", 1, 1), ("name", 0, 2), ("filters", 0, 1), ("gab", 0, 1), ("epf", 0, 2)],
    *[("filters_more", 0, 2), ("frame_more", 0, 2), ("permuted", 0, 1)],
    *[("align", 0, 0), ("section", 5 << 2, 12), ("align", 0, 0)],
]
ALPHA = [(0, 1), (0, 2), (0, 3), (0, 2), (0, 2), (0, 1)]


def crafted(*more: tuple[str, int, int], **changed: int) -> bytes:
    """A file of these headers, some numbers changed and some bits inserted after others."""
    number, place = 0, 0
    for name, value, count in HEADERS:
        fields = [(changed.get(name, value), count)]
        fields += [(extra, bits) for after, extra, bits in more if after == name]
        if name == "align":
            fields = [(0, -place % 8)]
        for found, bits in fields:
            number |= found << place
            place += bits
    return b"\xff\x0a" + number.to_bytes(place // 8, "little") + b"12345"


def with_alpha(fields: list[tuple[int, int]], **changed: int) -> bytes:
    more = [("channels", *field) for field in fields]
    more += [("upsampling", 0, 2), ("blend", 0, 2)]
    return crafted(*more, channels=1, **changed)


def colours(*fields: tuple[int, int]) -> bytes:
    return crafted(*(("srgb", *field) for field in fields), srgb=0)


SRGB = [(0, 1), (0, 2), (1, 2), (1, 2), (0, 1), (2, 2), (11, 4)]


def test_crafted_headers_are_taken() -> None:
    found = images.inspect(crafted(), "jxl")
    assert (found.mode, found.height, found.width) == ("rgb8", 16, 24)
    assert images.inspect(with_alpha([(1, 1)]), "jxl").mode == "rgba8"
    assert images.inspect(with_alpha(ALPHA), "jxl").mode == "rgba8"
    wide = crafted(("depth", 15, 6), depth=3)
    assert images.inspect(wide, "jxl").mode == "rgb16"
    plain = crafted(("extra", 0, 3), *[("extra", 0, 1)] * 3, ("srgb", 1, 1), extra=1)
    assert images.inspect(plain, "jxl").mode == "rgb8"
    for intent, fields in enumerate([[(0, 2)], [(1, 2)], [(2, 2), (0, 4)], [(2, 2), (1, 4)]]):
        picture = images.inspect(colours(*SRGB, *fields), "jxl")
        assert picture.before == png.chunk(b"sRGB", bytes([intent]))
    grey = colours(*SRGB[:1], (1, 2), *SRGB[2:3], *SRGB[4:], (1, 2))
    assert images.inspect(grey, "jxl").mode == "grey8"
    for ratio, width in enumerate((16, 19, 21, 24, 28, 20, 32), 1):
        assert jxl._size(jxl._Bits(crafted(ratio=ratio), 16)) == (16, width)


CRAFTED = [
    ("lossy", crafted(default=1)),
    ("turned", crafted(("extra", 5, 3), extra=1)),
    ("size beside", crafted(("extra", 0, 3), ("extra", 1, 1), extra=1)),
    ("preview", crafted(("extra", 0, 4), ("extra", 1, 1), extra=1)),
    ("animated", crafted(("extra", 0, 5), ("extra", 1, 1), extra=1)),
    ("tone", crafted(("extra", 0, 6), extra=1, extensions=0)),
    ("float", crafted(float=1)),
    ("10-bit", crafted(depth=1)),
    ("1-bit", crafted(("depth", 0, 6), depth=3)),
    ("extra channels", crafted(("channels", 0, 4), channels=2)),
    ("extra channels", with_alpha([*ALPHA[:-1], (1, 1)])),  # associated
    ("extra channels", with_alpha([ALPHA[0], (1, 2), *ALPHA[2:]])),  # depth
    ("extra channels", with_alpha([*ALPHA[:3], (1, 2), *ALPHA[4:]])),  # of a lower resolution
    ("10-bit", with_alpha([ALPHA[0], ALPHA[1], (2, 3), *ALPHA[3:]])),
    ("lossy", crafted(xyb=1)),
    ("ICC", colours((1, 1), (0, 2))),
    ("neither", colours((0, 1), (2, 2), (0, 4))),
    ("other than sRGB", colours(*SRGB[:3], (2, 2), (7, 4), *SRGB[4:], (1, 2))),  # BT.2100
    ("other than sRGB", colours(*SRGB[:4], (1, 1), (45, 24), (1, 2))),  # a gamma
    ("other than sRGB", colours(*SRGB[:5], (2, 2), (14, 4), (1, 2))),  # PQ
    ("other than sRGB", colours(*SRGB, (2, 2), (2, 4))),  # no such intent
    ("other than sRGB", colours(*SRGB[:5], (2, 2), (6, 4), (0, 2))),  # linear, perceptual
    ("uncertain", crafted(extensions=1)),
    ("uncertain", crafted(custom=0)),
    ("lossy", crafted(vardct=1)),
    ("several frames", crafted(type=2)),
    ("lossy", crafted(modular=0)),
    *[("uncertain", crafted(flags=flags)) for flags in (1, 2, 3)],
    ("lossy", crafted(ycbcr=1)),
    ("lossy", crafted(upsampling=1)),
    ("uncertain", crafted(passes=1)),
    ("not its canvas", crafted(crop=1)),
    ("uncertain", crafted(blend=2)),
    ("several frames", crafted(last=0)),
    ("uncertain", crafted(name=1)),
    ("lossy", crafted(filters=1)),
    ("lossy", crafted(gab=1)),
    ("lossy", crafted(epf=1)),
    ("uncertain", crafted(filters_more=1)),
    ("uncertain", crafted(frame_more=1)),
    ("truncated", crafted(section=6 << 2)),
    ("after the end", crafted(section=4 << 2)),
    ("truncated", crafted()[:9]),
    ("bits set", crafted()[:5] + bytes([crafted()[5] | 0x80]) + crafted()[6:]),
]


@pytest.mark.parametrize(("reason", "data"), CRAFTED)
def test_crafted_headers_are_refused(reason: str, data: bytes) -> None:
    with pytest.raises(InputError, match=reason):
        images.inspect(data, "jxl")


def test_large_pictures_end_where_the_file_ends() -> None:
    pixels = raster(20, 2100, 1, 8, 1)  # libjxl permutes the sections of such pictures
    data = encoded(pixels, lossless=True, effort=2)
    assert jxl._headers(data).size is None and np.array_equal(taken(data)[1], pixels)
    for other in (data + b"\0", data[:-1], data[:-40]):
        with pytest.raises(InputError):
            taken(other)
    small = encoded(PIXELS, lossless=True)
    for other in (small + b"\0", small[:-1], small[:9], b"\xff\x0a"):
        with pytest.raises(InputError):
            images.inspect(other, "jxl")


def test_bombs_are_not_decoded() -> None:
    flat = encoded(np.zeros((2000, 2000, 1), np.uint8), lossless=True, effort=1)
    assert taken(flat)[1].shape == (2000, 2000, 1)
    flat = encoded(np.zeros((2200, 2000, 3), np.uint8), lossless=True, effort=1)
    with pytest.raises(InputError, match="few bytes"):
        images.inspect(flat, "jxl")


def test_without_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(PIXELS, lossless=True)
    monkeypatch.setattr(imagecodecs.JPEGXL, "available", False)
    with pytest.raises(InputError, match="^JPEG XL$"):
        images.inspect(data, "jxl")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(InputError, match="^JPEG XL$"):
        images.inspect(data, "jxl")


def test_zoo_is_taken_or_refused(tmp_path: Path) -> None:
    sound = {f"{name}{depth}" for name in NAMES.values() for depth in (8, 16)}
    sound |= {"container", "metadata", "parts", "one_pixel", "row"}
    seen = set()
    for path in zoo.build(tmp_path):
        if path.parent.name != "jxl":
            continue
        try:
            picture, found = taken(path.read_bytes())
        except InputError:
            continue
        seen.add(path.stem)
        restored = tmp_path / "restored.png"
        restored.write_bytes(png.encode(found, picture.mode, picture.before, picture.after))
        assert zoo.differences(path, restored) == []
        found[0, 0, 0] ^= 1
        restored.write_bytes(png.encode(found, picture.mode))
        assert "1 samples" in zoo.differences(path, restored)
        if path.stem in ("metadata", "parts"):
            assert zoo.differences(path, restored)[:2] == ["eXIf", "iTXt"]
    assert seen == sound


def damage(seed: int, count: int) -> None:
    """Read `count` damaged files; anything but InputError is raised."""
    draw = np.random.default_rng(seed)
    seeds = [
        encoded(raster(*size, samples, depth, 1), lossless=True, effort=effort, usecontainer=boxes)
        for size, samples, depth in [((1, 1), 1, 8), ((17, 23), 3, 8), ((9, 300), 4, 16)]
        for effort, boxes in [(1, False), (3, True), (7, False)]
    ]
    for _ in range(count):
        data = bytearray(seeds[draw.integers(len(seeds))])
        for _ in range(draw.choice((1, 1, 2, 8))):
            place = draw.integers(min(len(data), draw.choice((24, 80, 10**6))))
            data[place] = draw.choice((0, 255, data[place] ^ 1 << draw.integers(8)))
        if draw.random() < 0.1:
            data = data[: draw.integers(len(data))]
        try:
            source = images.sniff(bytes(data[:32]))
            if source == "jxl":
                picture, found = taken(bytes(data))
                assert found.shape[2] == MODES[picture.mode].samples
        except InputError as error:
            assert len(str(error).splitlines()) == 1


def test_damaged_files_are_refused_or_read() -> None:
    # in a process of its own, for the decoder is not ours
    code = "import sys; sys.path[:0] = sys.argv[1:]; import test_jxl; test_jxl.damage(3, 2000)"
    folder = Path(__file__).parent
    arguments = [sys.executable, "-c", code, str(folder), str(folder.parent)]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_images_do_not_import_codecs() -> None:
    code = "import sys, osoa_pl.data.images; print('imagecodecs' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
