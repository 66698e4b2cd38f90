"""Your own arrays of images: npy, npz and IDX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osoa_pl.datamodules.base import ImageDataModule, Part
from osoa_pl.datamodules.loader import Images
from osoa_pl.datamodules.stored import read_array
from osoa_pl.errors import InputError


class Arrays(ImageDataModule):
    """Images of array files: uint8 (n, h, w) or (n, h, w, c) with c in 1, 3.

    npy files are mapped, not read; npz and IDX files (gz or not) are held in memory. For each
    file that is not given, `validation` images drawn by `seed` are held out of the training
    images.

    Args:
        root: Folder that relative paths start from.
        train_file: Training images.
        validation_file: Validation images.
        test_file: Test images.
        key: Array to take from an npz; where there is only one, its name does not matter.
        validation: Number of training images held out for a file that is not given.
    """

    draws_held_out = True

    def __init__(
        self,
        *,
        train_file: str | Path,
        validation_file: str | Path | None = None,
        test_file: str | Path | None = None,
        key: str = "images",
        root: str | Path = ".",
        validation: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(root=root, validation=validation, **options)
        self.key = key
        self._files: dict[Part, str | Path | None] = {
            "train": train_file,
            "validation": validation_file,
            "test": test_file,
        }

    def held_out(self) -> tuple[Part, ...]:
        return tuple(part for part, file in self._files.items() if file is None)

    def train_images(self) -> Images:
        return self._read("train")

    def validation_images(self) -> Images:
        return self._read("validation")

    def test_images(self) -> Images:
        return self._read("test")

    def _read(self, part: Part) -> NDArray[np.uint8]:
        path = self.root / (self._files[part] or "")
        if not path.is_file():
            raise InputError(f"{path}: no such file", hint=f"set --data.{part}_file")
        return read_array(path, self.key)
