"""A folder of pictures, decoded when they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osoa_pl.data.images import SUFFIXES
from osoa_pl.data.listing import list_files
from osoa_pl.datamodules.base import ImageDataModule, Part, check
from osoa_pl.datamodules.draws import below
from osoa_pl.datamodules.loader import Images, View
from osoa_pl.errors import InputError, OsoaError

log = logging.getLogger(__name__)

_PARTS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


class Pictures:
    """Pictures of a folder and its sub-folders in natural order, each uint8 (h, w, `channels`).

    Colour becomes grey (ITU-R 601 luma) and grey becomes colour as `channels` asks for; alpha is
    dropped. Sizes are read from the headers at once, pixels when they are asked for. Pictures
    smaller than `smallest` pixels on a side, or of 16 bits and more, are left out with one logged
    count. Raises InputError where a picture is broken, or none is left; UsageError where the
    folder is missing.
    """

    def __init__(self, folder: Path, channels: int, smallest: int = 1) -> None:
        self._mode = "L" if channels == 1 else "RGB"
        self.paths: list[Path] = []
        self.shapes: list[tuple[int, int]] = []
        """(height, width) of each picture."""
        left_out = 0
        for found in list_files([folder]).entries:
            path = Path(found.path)
            if found.folder or path.suffix.lower() not in SUFFIXES:
                continue
            with _opened(path) as image:
                (width, height), mode = image.size, image.mode
            if min(width, height) < smallest or mode[0] in "IF":
                left_out += 1
                continue
            self.paths.append(path)
            self.shapes.append((height, width))
        if not self.paths:
            what = f"{left_out} are smaller or not of 8 bits" if left_out else "found none at all"
            raise InputError(f"{folder}: no picture of at least {smallest}x{smallest}; {what}")
        if left_out:
            log.warning(
                "%s: %d of %d pictures left out: smaller than %dx%d or not of 8 bits",
                *(folder, left_out, left_out + len(self.paths), smallest, smallest),
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        with _opened(self.paths[index]) as image:
            plain = image.convert("RGBA") if image.mode == "P" else image  # P may hold alpha
            pixels = np.asarray(plain.convert(self._mode))
        return pixels.reshape(*pixels.shape[:2], -1)


@dataclass(frozen=True)
class Crop:
    """A square of `side` pixels (None: all of the image): drawn in training, else the centre.

    `flip`: mirror half of the training images, left to right.
    """

    side: int | None
    flip: bool
    training: bool

    def __call__(self, image: NDArray[np.uint8], key: int) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        rows = height if self.side is None else self.side
        columns = width if self.side is None else self.side
        top, left, mirror = (height - rows) // 2, (width - columns) // 2, 0
        if self.training:
            top, left, mirror = below(key, [height - rows + 1, width - columns + 1, 2])
        square = image[top : top + rows, left : left + columns]
        return square[:, ::-1] if self.flip and mirror else square


class ImageFolder(ImageDataModule):
    """Any pictures below `root`, sub-folders included, in natural order.

    Where root/train is a folder, the parts are root/train, root/val (or valid, validation) and
    root/test; a missing test part is the validation part, a missing validation part is held out.
    Else all pictures are one set, of which images drawn by `seed` are held out for validation and
    as many for the test.

    Args:
        channels: 1 turns colour into grey, 3 grey into colour.
        crop: Side in pixels of a square: drawn anew every epoch in training, the centre in
            evaluation; smaller pictures are left out. Not given: whole pictures of one size.
        flip: Mirror half of the training images, drawn anew every epoch.
        validation: Number of training images held out for a part that the data does not have.
    """

    draws_held_out = True

    def __init__(
        self,
        *,
        channels: Literal[1, 3] = 3,
        crop: int | None = None,
        flip: bool = False,
        validation: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(validation=validation, **options)
        check(
            ("channels", channels, channels in (1, 3), "1 or 3"),
            ("crop", crop, crop is None or crop > 0, "1 or more"),
        )
        self.channels = channels
        self.crop = crop
        self.flip = flip

    def held_out(self) -> tuple[Part, ...]:
        if self._folder("train") is None:
            return "validation", "test"
        return () if self._folder("validation") else ("validation",)

    def train_images(self) -> Images:
        return self._read(self._folder("train") or self.root)

    def validation_images(self) -> Images:
        return self._read(self._folder("validation") or self.root)

    def test_images(self) -> Images:
        folder = self._folder("test")
        return self.images("validation") if folder is None else self._read(folder)

    def view(self, part: Part) -> View | None:
        if self.crop is None and not self.flip:
            return None
        return Crop(self.crop, self.flip, training=part == "train")

    def _folder(self, part: Part) -> Path | None:
        """The part's own folder; none where the root is not divided."""
        if part != "train" and self._folder("train") is None:
            return None
        folders = (self.root / name for name in _PARTS[part])
        return next((folder for folder in folders if folder.is_dir()), None)

    def _read(self, folder: Path) -> Pictures:
        pictures = Pictures(folder, self.channels, self.crop or 1)
        if self.crop is None:
            for path, shape in zip(pictures.paths, pictures.shapes):
                if shape != pictures.shapes[0]:
                    (height, width), (rows, columns) = shape, pictures.shapes[0]
                    raise InputError(
                        f"{path}: found {width}x{height} pixels, expected {columns}x{rows} as "
                        f"{pictures.paths[0].name}",
                        hint="cut squares from pictures of many sizes with --data.crop",
                    )
        return pictures


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except OsoaError:
        raise
    except Exception as error:  # decoders raise what they like on broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image: {reason}") from error
