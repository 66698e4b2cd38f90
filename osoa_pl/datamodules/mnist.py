"""MNIST and Fashion-MNIST: 28x28 grey, 60,000 images to train and 10,000 to test.

Source: LeCun, Cortes, Burges, *The MNIST database*; Xiao, Rasul, Vollgraf, arXiv:1708.07747.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from osoa_pl.arith.noise import uniform
from osoa_pl.datamodules.base import ImageDataModule, Part
from osoa_pl.datamodules.loader import Images, View
from osoa_pl.datamodules.stored import download, find, locate, read_array
from osoa_pl.errors import InputError


def binarise(images: NDArray[np.uint8], key: int) -> NDArray[np.uint8]:
    """Pixels drawn as 1 with probability x / 255, else 0; the same shape, uint8.

    The draws depend on `key` and the number of pixels alone; 0 stays 0 and 255 becomes 1.

    >>> binarise(np.array([[[0, 255, 128, 128]]], np.uint8), key=3)
    array([[[0, 1, 1, 0]]], dtype=uint8)
    """
    draws: NDArray[np.float32] = uniform(key, images.size).numpy().reshape(images.shape)
    return (draws * np.float32(255) < images).astype(np.uint8)


class MNIST(ImageDataModule):
    """Handwritten digits, 28x28 grey: the files train-images-idx3-ubyte and t10k-images-idx3-ubyte.

    They are looked for, gz or not, in `root`, root/MNIST/raw and root/mnist; the labels are not
    needed. Validation images are the last ones of the training part.

    Args:
        binarise: Draw every pixel as 1 with probability x / 255, else 0: anew every epoch in
            training, once and for all by `seed` in evaluation.
        download: Fetch the files with torchvision where they are not found.
    """

    data_set: ClassVar[str] = "MNIST"
    folders: ClassVar[tuple[str, ...]] = ("", "MNIST/raw", "mnist")

    def __init__(self, *, binarise: bool = False, download: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.binarise = binarise
        self.download = download

    def prepare_data(self) -> None:
        """Download where that is asked for and a file is missing."""
        if self.download and None in (find(self._places(), _names(p)) for p in ("train", "t10k")):
            download(self.data_set, self.root)

    def train_images(self) -> Images:
        return self._read("train")

    def test_images(self) -> Images:
        return self._read("t10k")

    def view(self, part: Part) -> View | None:
        return binarise if self.binarise else None

    def _read(self, prefix: str) -> NDArray[np.uint8]:
        path = locate(self.data_set, self._places(), _names(prefix), "--data.download true")
        images = read_array(path)
        if images.shape[1:] != (28, 28, 1):
            height, width, channels = images.shape[1:]
            raise InputError(
                f"{path}: found images of {height}x{width}x{channels}, expected 28x28x1"
            )
        return images

    def _places(self) -> list[Path]:
        return [self.root / folder for folder in self.folders]


class FashionMNIST(MNIST):
    """Articles of clothing, 28x28 grey, in files named as those of MNIST.

    They are looked for, gz or not, in `root`, root/FashionMNIST/raw and root/fashion; the labels
    are not needed. Validation images are the last ones of the training part.
    """

    data_set: ClassVar[str] = "FashionMNIST"
    folders: ClassVar[tuple[str, ...]] = ("", "FashionMNIST/raw", "fashion")


def _names(prefix: str) -> tuple[str, str]:
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-images-idx3-ubyte.gz"
