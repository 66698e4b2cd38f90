"""PNG: every mode round-trips, here and by pypng; chunks come back verbatim; bombs do not burst."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from osoa_pl.data import images, png, scanlines
from osoa_pl.errors import InputError
from osoa_pl.types import MODES, Mode

SIZES = [(1, 1), (1, 17), (17, 1), (3, 5), (9, 8), (40, 33)]
PROFILE = zoo.PROFILE


def drawn(mode: Mode, height: int, width: int, seed: int = 0) -> Any:
    """Smooth and noisy rows in turn, so that every filter is chosen."""
    generator = np.random.default_rng(seed)
    top = (1 << mode.depth) - 1
    noise = generator.integers(0, top + 1, (height, width, mode.samples))
    smooth = np.add.outer(np.arange(height), np.arange(width))[:, :, None] * 3 + noise // (top + 1)
    found = np.where(np.arange(height)[:, None, None] % 3 == 0, noise, smooth % (top + 1))
    return found.astype(np.uint16 if mode.depth == 16 else np.uint8)


def palette_of(mode: Mode) -> bytes:
    return png.chunk(b"PLTE", zoo.palette(1 << mode.depth)) if mode.colour_type == 3 else b""


def read(data: bytes) -> tuple[images.Picture, Any]:
    picture = images.inspect(data, "png")
    return picture, images.decode(data, picture)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", MODES)
def test_every_mode_comes_back(name: str, height: int, width: int) -> None:
    mode = MODES[name]
    raster, before = drawn(mode, height, width), palette_of(mode)
    data = png.encode(raster, name, before)
    picture, found = read(data)
    assert picture == images.Picture("png", name, height, width, before)
    assert found.dtype == raster.dtype and found.flags.c_contiguous
    assert np.array_equal(found, raster)
    samples, facts = zoo.png_samples(data)
    assert np.array_equal(samples, raster)
    assert (facts["depth"], facts["colour type"]) == (mode.depth, mode.colour_type)


@given(
    name=st.sampled_from(sorted(MODES)),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 1 << 30),
    interlace=st.booleans(),
    filters=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
def test_foreign_files_are_read(
    name: str,
    height: int,
    width: int,
    seed: int,
    interlace: bool,
    filters: list[int],
    cuts: list[int],
) -> None:
    mode = MODES[name]
    raster = drawn(mode, height, width, seed)
    data = zoo.png_file(
        raster.astype(np.int64),
        mode.colour_type,
        mode.depth,
        interlace=interlace,
        filters=filters,
        pieces=cuts,
    )
    picture, found = read(data)
    assert picture.mode == name and np.array_equal(found, raster)
    assert np.array_equal(zoo.png_samples(data)[0], raster)


def test_filters_pay_off() -> None:
    mode = MODES["rgb16"]
    steps = np.random.default_rng(3).integers(0, 9, (64, 64, 3))
    raster = steps.cumsum(axis=0).cumsum(axis=1).astype(np.uint16)
    rows = scanlines.pack(raster, mode)
    unfiltered = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes(), 6)
    assert len(png.encode(raster, "rgb16")) < len(unfiltered) * 0.8


def test_blocks_of_rows_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanlines, "_BLOCK_BYTES", 100)
    for name in ("rgb16", "grey2", "palette8"):
        raster = drawn(MODES[name], 33, 21)
        data = png.encode(raster, name, palette_of(MODES[name]))
        assert np.array_equal(read(data)[1], raster)
        assert np.array_equal(zoo.png_samples(data)[0], raster)


def test_chunks_come_back_verbatim() -> None:
    info = PngInfo()
    info.add_text("Title", "a" * 50)
    info.add(b"prIV", b"private", after_idat=True)
    raster, stream = drawn(MODES["rgb8"], 9, 13), io.BytesIO()
    options: dict[str, Any] = {"icc_profile": PROFILE, "dpi": (96, 96), "transparency": (1, 2, 3)}
    Image.fromarray(raster).save(stream, "PNG", pnginfo=info, **options)
    found = png.structure(stream.getvalue())
    kinds = [kind for kind, *_ in png.chunks(found.before)]
    assert {b"iCCP", b"pHYs", b"tEXt", b"tRNS"} <= set(kinds)
    assert [kind for kind, *_ in png.chunks(found.after)] == [b"prIV"]
    again = png.encode(raster, "rgb8", found.before, found.after)
    assert png.structure(again) == found
    png.check_metadata(found.before)
    with pytest.raises(ValueError, match="IDAT"):
        png.check_metadata(png.chunk(b"IDAT", b""))


@pytest.mark.parametrize("name", ["grey2", "grey8", "grey16", "rgb8", "rgb16"])
def test_transparent_colours_are_not_folded(name: str) -> None:
    mode = MODES[name]
    raster = drawn(mode, 6, 7)
    clear = png.chunk(b"tRNS", b"".join(struct.pack(">H", v) for v in raster[0, 0]))
    picture, found = read(png.encode(raster, name, clear))
    assert picture.mode == name and picture.before == clear and np.array_equal(found, raster)


def test_indices_beyond_the_palette_are_kept() -> None:
    raster = drawn(MODES["palette8"], 5, 5)
    before = png.chunk(b"PLTE", b"\1\2\3")
    assert np.array_equal(read(png.encode(raster, "palette8", before))[1], raster)


@pytest.mark.parametrize(
    ("raster", "mode", "before", "reason"),
    [
        (np.full((2, 2, 1), 4, np.uint8), "grey2", b"", "more than 2 bits"),
        (np.zeros((2, 2, 1), np.uint8), "grey16", b"", "expected samples of grey16"),
        (np.zeros((2, 2, 3), np.uint8), "grey8", b"", "expected samples of grey8"),
        (np.zeros((2, 2, 1), np.uint8), "palette4", b"", "no palette"),
        (np.zeros((2, 2, 1), np.uint8), "grey8", png.chunk(b"PLTE", b"123"), "too many"),
        (np.zeros((2, 2, 1), np.uint8), "palette1", png.chunk(b"PLTE", bytes(9)), "wrong size"),
        (np.zeros((2, 2, 1), np.uint8), "grey8", b"junk", "cut off"),
    ],
)
def test_encode_refuses(raster: Any, mode: str, before: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        png.encode(raster, mode, before)


def test_bombs_do_not_burst() -> None:
    bomb = zlib.compress(bytes(64 << 20), 9)
    parts = (zoo.header(100, 100, 8, 2), zoo.chunk(b"IDAT", bomb), zoo.chunk(b"IEND", b""))
    data = zoo.SIGNATURE + b"".join(parts)
    promise = (zoo.header(15_000, 15_000, 16, 6), *parts[1:])
    small = (promise[0], zoo.chunk(b"IDAT", bomb[:1000]), promise[2])
    tracemalloc.start()
    try:
        for found in (data, zoo.SIGNATURE + b"".join(small)):
            with pytest.raises(InputError, match="more pixel data|cut off"):
                images.decode(found, images.inspect(found, "png"))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_import_is_light() -> None:
    code = (
        "import sys; import osoa_pl.data.images; "
        "sys.exit(bool({'numba', 'torch', 'imagecodecs'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
