"""Transforms of pictures: undone exactly, and refused where they do not fit."""

from __future__ import annotations

import io

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from osoa_pl.data import transforms, yuv
from osoa_pl.data.planes import deinterleave, interleave, picture_of, planes_of, split
from osoa_pl.types import MODES, Step, form_of

GENERATOR = np.random.default_rng(5)


def random(height: int, width: int, samples: int, top: int = 256) -> np.ndarray:
    dtype = np.uint8 if top <= 256 else np.uint16
    return GENERATOR.integers(0, top, (height, width, samples), dtype=dtype)


def sprite(samples: int = 4) -> np.ndarray:
    """Alpha of all values; black where it is 0, and elsewhere too; 1, 2, 3 is nowhere."""
    picture = random(9, 7, samples) | 1
    picture[:3, :, -1] = 255
    picture[3:5] = 0
    picture[0, 0, :-1] = 0
    return picture


@pytest.mark.parametrize(
    ("mode", "transform", "shapes"),
    [
        ("rgb8", "grey", [1]), ("rgb16", "grey", [1, 1]), ("rgba8", "grey", [1, 1]),
        ("rgba16", "grey alpha:0102", [1, 1]), ("rgba8", "alpha:07", [3]),
        ("greyalpha8", "alpha:07", [1]), ("greyalpha16", "alpha:0102", [1, 1]),
    ],
)  # fmt: skip
def test_fewer_samples(mode: str, transform: str, shapes: list[int]) -> None:
    form, samples = form_of(mode, transform), MODES[mode].samples
    picture = random(5, 4, samples, 1 << MODES[mode].depth)
    if samples > 2 and "grey" in transform:
        picture[:, :, 1:3] = picture[:, :, :1]
    if "alpha" in transform:
        picture[:, :, -1] = 0x0102 if MODES[mode].depth == 16 else 7
    planes = planes_of(picture, form)
    assert [plane.shape for plane in planes] == [(5, 4, c) for c in shapes]
    assert form.shapes(5, 4) == tuple(plane.shape for plane in planes)
    np.testing.assert_array_equal(picture_of(planes, form), picture, strict=True)
    for sample in range(samples):
        other = picture.copy()
        other[-1, -1, sample] ^= 1
        step = form.steps[0].name
        if step == "grey" and sample == 3:
            continue
        if step == "alpha" and sample < samples - 1:
            continue
        with pytest.raises(ValueError, match=step):
            planes_of(other, form)


@pytest.mark.parametrize(("mode", "key"), [("rgba8", "020406:000000"), ("greyalpha8", "02:00")])
def test_a_colour_for_what_cannot_be_seen(mode: str, key: str) -> None:
    picture = sprite(MODES[mode].samples)
    form = form_of(mode, f"key:{key}")
    colours, alpha = planes_of(picture, form)
    assert (colours[3:5] == list(form.steps[0].values[0])).all()
    assert not alpha[:5].any() and alpha[5:].any()
    np.testing.assert_array_equal(picture_of([colours, alpha], form), picture, strict=True)
    hard = form_of(mode, f"key:{key} alpha:00")
    (colours,) = planes_of(picture[:5], hard)
    np.testing.assert_array_equal(picture_of([colours], hard), picture[:5], strict=True)
    for place, value in (((3, 0), 1), ((8, 0), form.steps[0].values[0])):
        other = picture.copy()
        other[place][:-1] = list(value) if isinstance(value, bytes) else value
        with pytest.raises(ValueError, match="key"):
            planes_of(other, form)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]))
def test_any_keyed_picture_has_an_original(seed: int, colours: int) -> None:
    """Whatever an archive says decodes to something, and a sound one to the original."""
    generator = np.random.default_rng(seed)
    coded = generator.integers(0, 3, (4, 5, colours + 1), dtype=np.uint8) * 127
    step = Step("key", (bytes(coded[0, 0, :-1]), bytes(colours)))
    found = transforms.undo(coded, step)
    assert found.shape == coded.shape and found.dtype == np.uint8


LUMA = [*(Step("yuv420", (bytes([matrix]),)) for matrix in range(4)), Step("jfif")]


def luma_and_chroma(
    step: Step, height: int, width: int, light: tuple[int, int], chroma: tuple[int, int]
) -> list[np.ndarray]:
    half = (height + 1) // 2, (width + 1) // 2
    sides = (height, width) if step.name == "jfif" else half
    luma = GENERATOR.integers(*light, (height, width, 1), dtype=np.uint8)
    return [luma, *(GENERATOR.integers(*chroma, (*sides, 1), dtype=np.uint8) for _ in "uv")]


@pytest.mark.parametrize("step", LUMA, ids=str)
@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (5, 7), (6, 3), (300, 4)])
def test_luma_and_chroma(step: Step, sides: tuple[int, int]) -> None:
    """What is never clamped comes back as it was; what often is, as something equal."""
    form = form_of("rgb8", str(step))
    planes = luma_and_chroma(step, *sides, (60, 190), (110, 150))
    picture = yuv.join(planes, step)
    found = planes_of(picture, form)
    assert form.shapes(*sides) == tuple(plane.shape for plane in found)
    for ours, theirs in zip(found, planes, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    np.testing.assert_array_equal(picture_of(found, form), picture, strict=True)
    if min(sides) > 1:
        other = GENERATOR.integers(1, 255, picture.shape, dtype=np.uint8)
        with pytest.raises(ValueError, match="not a picture"):
            planes_of(other, form)
    if max(sides) < 10:
        picture = yuv.join(luma_and_chroma(step, *sides, (0, 256), (90, 165)), step)
        found = planes_of(picture, form)
        np.testing.assert_array_equal(picture_of(found, form), picture, strict=True)


@pytest.mark.parametrize("step", LUMA, ids=str)
def test_what_takes_too_long_is_no_such_picture(step: Step) -> None:
    picture = yuv.join(luma_and_chroma(step, 200, 300, (0, 256), (0, 256)), step)
    with pytest.raises(ValueError, match="not a picture"):
        planes_of(picture, form_of("rgb8", str(step)))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_what_was_a_jpeg(subsampling: int) -> None:
    file = io.BytesIO()
    Image.fromarray(fakes.picture(61, 45, 3)).save(file, "JPEG", subsampling=subsampling)
    picture, form = np.asarray(Image.open(file)), form_of("rgb8", "jfif")
    planes = planes_of(picture, form)
    np.testing.assert_array_equal(picture_of(planes, form), picture, strict=True)


SWSCALE = [
    [
        [[178, 0, 0], [255, 177, 178], [0, 179, 0], [0, 254, 0]],
        [[207, 0, 0], [255, 147, 148], [28, 255, 29], [0, 208, 0]],
    ],
    [
        [[173, 0, 0], [255, 168, 167], [0, 173, 0], [13, 237, 13]],
        [[198, 0, 0], [255, 143, 142], [38, 255, 38], [0, 198, 0]],
    ],
    [
        [[200, 0, 0], [255, 203, 174], [0, 140, 0], [0, 215, 0]],
        [[229, 0, 0], [255, 173, 144], [10, 244, 22], [0, 169, 0]],
    ],
    [
        [[192, 0, 0], [255, 189, 164], [0, 138, 0], [0, 202, 7]],
        [[217, 0, 0], [255, 164, 139], [21, 227, 32], [0, 163, 0]],
    ],
]  # fmt: skip


def test_what_swscale_makes() -> None:
    """Pixels that ffmpeg made (libswscale 9.5, yuv420p and yuvj420p to rgb24, x86)."""
    luma = np.array([[16, 235, 81, 145], [41, 210, 170, 106]], np.uint8)
    u, v = np.array([[90, 54]], np.uint8), np.array([[240, 34]], np.uint8)
    planes = [plane[:, :, None] for plane in (luma, u, v)]
    found = [yuv.join(planes, step).tolist() for step in LUMA[:4]]
    assert found == SWSCALE


def test_planes_side_by_side() -> None:
    for mode in ("rgba8", "greyalpha16", "rgba16"):
        planes = split(random(3, 4, MODES[mode].samples, 1 << MODES[mode].depth), MODES[mode])
        beside = interleave(planes)
        assert beside.shape == (3, 4, sum(MODES[mode].planes))
        for ours, theirs in zip(deinterleave(beside, MODES[mode].planes), planes, strict=True):
            np.testing.assert_array_equal(ours, theirs, strict=True)
    rgba = random(3, 4, 4)
    np.testing.assert_array_equal(interleave(split(rgba, MODES["rgba8"])), rgba)
