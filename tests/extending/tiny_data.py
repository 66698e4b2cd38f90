"""A data set in one file, the template of docs/extending.md: raw grey pictures of 12x12 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from osoa_pl.datamodules.base import ImageDataModule, Part
from osoa_pl.datamodules.loader import Images, View
from osoa_pl.datamodules.stored import locate
from osoa_pl.errors import InputError

SIDE = 12


class RawPictures(ImageDataModule):
    """The files train.raw and test.raw in `root`: grey pictures of 12x12, one after the other.

    Validation images are the last ones of the training part.

    Args:
        turn: Turn training pictures upside down by chance.
    """

    def __init__(self, *, turn: bool = False, validation: int = 4, **options: Any) -> None:
        super().__init__(validation=validation, **options)
        self.turn = turn

    def train_images(self) -> Images:
        return self._read("train.raw")

    def test_images(self) -> Images:
        return self._read("test.raw")

    def view(self, part: Part) -> View | None:
        return turned if self.turn and part == "train" else None

    def _read(self, name: str) -> NDArray[np.uint8]:
        path = locate("RawPictures", [self.root], [name], "set --data.root")
        size = path.stat().st_size
        if not size or size % SIDE**2:
            raise InputError(f"{path}: found {size} bytes, expected a multiple of {SIDE**2}")
        return np.memmap(path, np.uint8, "r", shape=(size // SIDE**2, SIDE, SIDE, 1))


def turned(image: NDArray[np.uint8], key: int) -> NDArray[np.uint8]:
    """The image, or with half a chance upside down; `key` names the draw."""
    return image[::-1] if key % 2 else image
