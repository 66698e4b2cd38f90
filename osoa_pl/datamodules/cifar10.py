"""CIFAR-10: 32x32 RGB, 50,000 images to train and 10,000 to test.

Source: Krizhevsky, *Learning multiple layers of features from tiny images*, 2009.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osoa_pl.datamodules.base import ImageDataModule, Part
from osoa_pl.datamodules.loader import Images
from osoa_pl.datamodules.stored import Planar, download, find, locate, read_array, read_batch
from osoa_pl.errors import InputError

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_ARRAY = "cifar10.npz"


class CIFAR10(ImageDataModule):
    """Photographs of ten kinds of things, 32x32 RGB: the pickles of the Python version, or an npz.

    The pickles data_batch_1 to data_batch_5 and test_batch are looked for in `root` and
    root/cifar-10-batches-py, then root/cifar10.npz, with one array `images`; `root` may also name
    the npz itself. Validation images are the last ones of the training part; an npz has no test
    part, so that as many images before them are held out for it.

    Args:
        download: Fetch the pickles with torchvision where nothing is found.
    """

    def __init__(self, *, download: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.download = download

    def prepare_data(self) -> None:
        """Download where that is asked for and nothing is found."""
        missing = None in (find(self._places(), [name]) for name in (*_TRAIN, _TEST))
        if self.download and missing and self._array() is None:
            download("CIFAR10", self.root)

    def held_out(self) -> tuple[Part, ...]:
        return ("validation",) if self._array() is None else ("validation", "test")

    def train_images(self) -> Images:
        path = self._array()
        if path is None:
            return Planar([self._read(name) for name in _TRAIN], 32)
        images = read_array(path)
        if images.shape[1:] != (32, 32, 3):
            raise InputError(f"{path}: found array {images.shape}, expected (n, 32, 32, 3)")
        return images

    def test_images(self) -> Images:
        return Planar([self._read(_TEST)], 32)

    def _read(self, name: str) -> NDArray[np.uint8]:
        hint = f"--data.download true, or put a {_ARRAY} with an array images there"
        return read_batch(locate("CIFAR-10", self._places(), [name], hint), 32)

    def _array(self) -> Path | None:
        """The npz, where it is to be used: `root` itself, or in `root` without any pickle."""
        if self.root.is_file():
            return self.root
        pickled = find(self._places(), [*_TRAIN, _TEST])
        return find([self.root], [_ARRAY]) if pickled is None else None

    def _places(self) -> list[Path]:
        return [self.root, self.root / "cifar-10-batches-py"]
