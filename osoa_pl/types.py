"""Small frozen dataclasses that cross the borders between rooms (standard library only)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal, NamedTuple

ItemKind = Literal["image", "array", "file", "folder"]
FileCodec = Literal["raw", "xz", "block"]

STREAM = "-"
"""Standard input or output in the place of a path."""

ARITHMETIC_VERSION = 1
"""Archives name it and readers refuse another; it changes with any bit of the arithmetic."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What a pixel is made of, in the terms of PNG, and how it is cut into planes of bytes.

    A decoded picture is uint8 (h, w, samples), or uint16 where `depth` is 16; samples of fewer
    than 8 bits, and indices into a palette, stand as whole numbers in a byte each.
    """

    name: str
    colour_type: int
    """PNG: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""
    depth: int
    """Bits of a sample: 1, 2, 4, 8 or 16."""
    planes: tuple[int, ...]
    """Channels of each plane: colour, then alpha; of 16 bits the high bytes, then the low ones."""

    @property
    def samples(self) -> int:
        """Samples of a pixel."""
        return {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[self.colour_type]

    @property
    def plain(self) -> bool:
        """8-bit grey or RGB: one plane that is the picture."""
        return self.depth == 8 and self.colour_type in (0, 2)


MODES = {
    mode.name: mode
    for mode in (
        *(Mode(f"grey{depth}", 0, depth, (1,)) for depth in (1, 2, 4, 8)),
        Mode("grey16", 0, 16, (1, 1)),
        Mode("rgb8", 2, 8, (3,)),
        Mode("rgb16", 2, 16, (3, 3)),
        *(Mode(f"palette{depth}", 3, depth, (1,)) for depth in (1, 2, 4, 8)),
        Mode("greyalpha8", 4, 8, (1, 1)),
        Mode("greyalpha16", 4, 16, (1, 1, 1, 1)),
        Mode("rgba8", 6, 8, (3, 1)),
        Mode("rgba16", 6, 16, (3, 3, 1, 1)),
    )
}
"""By name."""


def mode_of(colour_type: int, depth: int) -> Mode | None:
    """The mode of a PNG with these two numbers, or None where there is none."""
    found = (m for m in MODES.values() if (m.colour_type, m.depth) == (colour_type, depth))
    return next(found, None)


class Step(NamedTuple):
    """One reversible change of a picture; `osoa_pl.data.transforms` says what each does."""

    name: str
    values: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        return ":".join((self.name, *(value.hex() for value in self.values)))


STEPS = ("grey", "key", "alpha", "yuv420", "jfif")
"""In the order in which a transform may have them, each once."""
_LUMA = ("yuv420", "jfif")
"""Steps that make planes of luma and chroma; nothing follows them."""
MATRICES = 4
"""Of ``yuv420``; see `osoa_pl.data.yuv`."""
_STEP = re.compile(r"([a-z0-9]+)((?::(?:[0-9a-f]{2})+)*)")


@dataclass(frozen=True, slots=True)
class Form:
    """What planes are cut from: a picture as it is, or what the steps of a transform make of it."""

    mode: Mode
    """After the steps; of luma and chroma that before."""
    steps: tuple[Step, ...] = ()

    @property
    def luma(self) -> bool:
        """Whether the planes are luma and two of chroma, not the colours of `mode`."""
        return bool(self.steps) and self.steps[-1].name in _LUMA

    @property
    def halved(self) -> bool:
        """Whether the planes of chroma are half as high and wide (rounded up)."""
        return bool(self.steps) and self.steps[-1].name == "yuv420"

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each plane."""
        return (1, 1, 1) if self.luma else self.mode.planes

    def shapes(self, height: int, width: int) -> tuple[tuple[int, int, int], ...]:
        """(height, width, channels) of each plane of a picture of this size."""
        if self.halved:
            chroma = (height + 1) // 2, (width + 1) // 2, 1
            return (height, width, 1), chroma, chroma
        return tuple((height, width, channels) for channels in self.channels)


@lru_cache(1 << 12)
def form_of(mode: str, transform: str = "") -> Form:
    """The form that the steps of `transform`, with spaces between, give to pictures of `mode`.

    Raises ValueError for steps that are unknown, out of order, or not for such pictures.

    >>> form_of("rgba8", "key:000001:000000 alpha:00").channels
    (3,)
    """
    found, steps = MODES[mode], []
    for text in transform.split(" ") if transform else ():
        match = _STEP.fullmatch(text)
        if match is None or match[1] not in STEPS:
            raise ValueError(f"unknown transform {text[:80]!r}")
        values = tuple(bytes.fromhex(value) for value in match[2].split(":")[1:])
        steps.append(Step(match[1], values))
        after, before = _after(found, steps[-1]), [step.name for step in steps[:-1]]
        late = any(STEPS.index(n) >= STEPS.index(match[1]) or n in _LUMA for n in before)
        if after is None or late:
            raise ValueError(f"transform {text[:80]!r} of {mode} pictures")
        found = after
    return Form(found, tuple(steps))


def _after(mode: Mode, step: Step) -> Mode | None:
    """The mode of what a step makes of pictures of a mode, or None where it is not for them."""
    sizes = [len(value) for value in step.values]
    alpha = mode.colour_type in (4, 6)
    if step.name == "grey" and mode.colour_type in (2, 6) and not sizes:
        return mode_of(mode.colour_type - 2, mode.depth)
    if step.name == "key" and alpha and mode.depth == 8 and sizes == [mode.samples - 1] * 2:
        return mode
    if step.name == "alpha" and alpha and sizes == [mode.depth // 8]:
        return mode_of(mode.colour_type - 4, mode.depth)
    if step.name == "yuv420" and mode.name == "rgb8" and sizes == [1]:
        return mode if step.values[0][0] < MATRICES else None
    if step.name == "jfif" and mode.name == "rgb8" and not sizes:
        return mode
    return None


class Plane(NamedTuple):
    """A plane of a picture: its sides, and how it is coded."""

    height: int
    width: int
    channels: int
    letter: str
    """See `Item.coded`."""

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.height * self.width * self.channels


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of an archive's table: what was given, and how it comes back.

    ``image``: one picture file (or one array of a Python caller). ``array``: one uint8 array
    holding `count` pictures; an ``npz`` with k members is k consecutive items that share `name`
    and differ in `key`. ``file``: anything else, stored byte for byte. ``folder``: a folder.
    """

    name: str
    """Relative POSIX path that every system can hold; unique but for the members of one ``npz``."""
    kind: ItemKind
    source: str = ""
    """image: png, webp, tiff, bmp, ppm, tga, jxl; array: npy, npz, idx; file: empty."""
    mode: str = ""
    """Of an image or array: a name of `MODES`; arrays have those of 8 bits, no palette."""
    height: int = 0
    width: int = 0
    shape: tuple[int, ...] = ()
    """Array to restore: (n, h, w), (n, h, w, c), (h, w, c) or (h, w); empty for picture files."""
    key: str = ""
    """Member name inside an ``npz``, without ``.npy``."""
    deflated: bool = False
    """An ``npz`` member that was compressed, and is again when written."""
    before: bytes = b""
    """Verbatim PNG chunks to stand between IHDR and the first IDAT."""
    after: bytes = b""
    """Verbatim PNG chunks to stand between the last IDAT and IEND."""
    coded: str = ""
    """How each plane is coded: ``m`` by the model, ``p`` plain, ``d`` plain as the difference to
    `reference`; empty stands for ``m`` throughout. ``i`` throughout: plain, pixel by pixel with
    the samples of all planes side by side."""
    reference: int = -1
    """Number of the picture (images and pictures of arrays counted together) for ``d``."""
    transform: str = ""
    """Steps that make of each picture what its planes are cut from (see `form_of`); the decoder
    undoes them."""
    same: int = -1
    """Index of an earlier item whose pixels or bytes these are; nothing is coded again."""
    size: int = 0
    """A file's size in bytes."""
    codec: FileCodec = "raw"
    """``block``: the file stands among the plain planes of its part."""
    mtime: int = 0
    """Time of the last change in ns since 1970; 0 where it is not kept."""
    given: bytes = b""
    """The name's own bytes, where `name` had to change to suit every system."""

    @property
    def count(self) -> int:
        """Number of pictures: 0 for files and folders, 1 for an image."""
        if not self.mode:
            return 0
        if self.kind == "image":
            return 1
        return prod(self.shape) // (self.height * self.width * MODES[self.mode].samples)

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes of each of its pictures."""
        if not self.mode:
            return ()
        shapes = form_of(self.mode, self.transform).shapes(self.height, self.width)
        letters = self.coded or "m" * len(shapes)
        return tuple(Plane(*s, x) for s, x in zip(shapes, letters, strict=True))

    @property
    def raw_bytes(self) -> int:
        """Bytes of the pictures' samples, or of the stored file."""
        if not self.mode:
            return self.size
        return self.count * self.height * self.width * sum(MODES[self.mode].planes)

    @property
    def output_name(self) -> str:
        """Relative POSIX path under which the entry is written back.

        >>> Item("a/b.webp", "image", "webp", "rgb8", 8, 8).output_name
        'a/b.webp.png'
        """
        if self.kind == "image" and not self.name.lower().endswith(".png"):
            return self.name + ".png"
        if self.kind == "array" and self.source == "idx" and self.name.lower().endswith(".gz"):
            return self.name[:-3]
        return self.name
