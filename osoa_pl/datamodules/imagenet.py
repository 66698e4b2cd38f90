"""Downsampled ImageNet, 32x32 and 64x64 RGB: 1,281,167 images to train, 50,000 to validate.

Held in memory as they are stored: 3.9 GB (32x32) or 15.7 GB (64x64) to train; `limit` opens only
the files it needs. Source: Chrabaszcz, Loshchilov, Hutter, arXiv:1707.08819.
"""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from osoa_pl.datamodules.base import ImageDataModule, Part
from osoa_pl.datamodules.loader import Images
from osoa_pl.datamodules.stored import Planar, locate, read_batch

_FILES = 10


class _Downsampled(ImageDataModule, ABC):
    side: ClassVar[int]

    def held_out(self) -> tuple[Part, ...]:
        return ()

    def train_images(self) -> Images:
        batches: list[NDArray[np.uint8]] = []
        for number in range(1, _FILES + 1):
            batches.append(self._read(f"train_data_batch_{number}"))
            if self.limit is not None and sum(map(len, batches)) >= self.limit:
                break
        return Planar(batches, self.side)

    def validation_images(self) -> Images:
        return Planar([self._read("val_data")], self.side)

    def test_images(self) -> Images:
        return self.images("validation")

    def _read(self, name: str) -> NDArray[np.uint8]:
        what = f"ImageNet {self.side}x{self.side}"
        hint = f"get Imagenet{self.side} (train and val) from https://image-net.org/download"
        return read_batch(locate(what, self._places(), [name, f"{name}.npz"], hint), self.side)

    def _places(self) -> list[Path]:
        """`root` and the folders in it that are named as the official archives."""
        start = f"imagenet{self.side}"
        inside = sorted(self.root.iterdir()) if self.root.is_dir() else []
        named = [path for path in inside if path.is_dir() and path.name.lower().startswith(start)]
        return [self.root, *named]


class ImageNet32(_Downsampled):
    """Downsampled ImageNet, 32x32 RGB: train_data_batch_1 to 10 and val_data, pickles or npz.

    They are looked for in `root` and in its folders named Imagenet32 and so on. The official
    validation images serve as validation and as test part; `validation` is not used.
    """

    side: ClassVar[int] = 32


class ImageNet64(_Downsampled):
    """Downsampled ImageNet, 64x64 RGB: train_data_batch_1 to 10 and val_data, pickles or npz.

    They are looked for in `root` and in its folders named Imagenet64 and so on. The official
    validation images serve as validation and as test part; `validation` is not used.
    """

    side: ClassVar[int] = 64
