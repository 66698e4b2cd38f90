"""Collections of small squares cut from pictures, as the SET32, SET64 and SET128 of the paper.

Source: Zhang, Zhang, Carlucci, Li, *OSOA*, NeurIPS 2021, arXiv:2111.01662.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from osoa_pl.arith.noise import derive_key
from osoa_pl.datamodules.base import ImageDataModule, check
from osoa_pl.datamodules.draws import Stream, below, permutation
from osoa_pl.datamodules.folder import Pictures
from osoa_pl.datamodules.loader import Images
from osoa_pl.datamodules.stored import read_array
from osoa_pl.errors import InputError, UsageError


def sample_crops(
    source: str | Path, *, count: int, side: int, channels: Literal[1, 3] = 3, seed: int = 0
) -> NDArray[np.uint8]:
    """uint8 (count, side, side, channels): squares cut from the pictures of `source`.

    `source`: a folder of pictures (converted to `channels`) or an array file (npy, npz, IDX).
    Pictures are visited in an order drawn by `seed`, one square each, round after round. The
    squares of a picture lie on a grid at a drawn offset, so that no pixel is taken twice. A
    smaller `count` gives the first squares of a larger one. Raises UsageError for options out of
    range or more squares than the pictures hold, InputError where these cannot be read.
    """
    _check(count, side, channels)
    images, shapes = _open(Path(source), channels, side)
    cells = [(height // side) * (width // side) for height, width in shapes]
    if count > sum(cells):
        raise UsageError(
            f"{source}: count: found {count} squares of {side}x{side} asked for, "
            f"expected at most {sum(cells)} from {len(images)} pictures"
        )
    turns = permutation(derive_key(seed, Stream.CROPS), len(images)).tolist()
    wanted: dict[int, list[int]] = {}
    taken = turn = 0
    while taken < count:
        for picture in turns:
            if taken < count and cells[picture] > turn:
                wanted.setdefault(picture, []).append(taken)
                taken += 1
        turn += 1
    crops = np.empty((count, side, side, channels), np.uint8)
    for picture, places in wanted.items():
        image = images[picture]
        corners = _corners(shapes[picture], side, derive_key(seed, Stream.CROPS, picture))
        for place, (top, left) in zip(places, corners):
            crops[place] = image[top : top + side, left : left + side]
    return crops


class ImageCrops(ImageDataModule):
    """A collection of squares cut from the pictures of one folder or array file.

    Test and predict give the whole collection in the order in which it was drawn; training gives
    it shuffled, less the last `validation` squares.

    Args:
        root: Folder of pictures (sub-folders included), or one npy, npz or IDX file.
        count: Number of squares.
        side: Side of a square in pixels.
        channels: 1 turns colour into grey, 3 grey into colour; an array file must have as many.
        validation: Number of squares held out of training.
    """

    def __init__(
        self,
        *,
        root: str | Path = "data",
        count: int = 1000,
        side: int = 32,
        channels: Literal[1, 3] = 3,
        validation: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(root=root, validation=validation, **options)
        _check(count, side, channels)
        self.count = count
        self.side = side
        self.channels = channels
        self._collection: NDArray[np.uint8] | None = None

    def collection(self) -> NDArray[np.uint8]:
        """The squares, uint8 (count, side, side, channels); cut once. Raises as `sample_crops`."""
        if self._collection is None:
            self._collection = sample_crops(
                self.root,
                count=self.count,
                side=self.side,
                channels=self.channels,
                seed=self.seed,
            )
        return self._collection

    def train_images(self) -> Images:
        return self.collection()

    def test_images(self) -> Images:
        return self.collection()


def _check(count: int, side: int, channels: int) -> None:
    check(
        ("count", count, count > 0, "1 or more"),
        ("side", side, side > 0, "1 or more"),
        ("channels", channels, channels in (1, 3), "1 or 3"),
    )


def _open(source: Path, channels: int, side: int) -> tuple[Images, list[tuple[int, int]]]:
    """(pictures, (height, width) of each)."""
    if not source.is_file():
        pictures = Pictures(source, channels, side)
        return pictures, pictures.shapes
    images = read_array(source)
    height, width, found = images.shape[1:]
    if found != channels:
        raise InputError(
            f"{source}: found images of {found} channels, expected {channels}",
            hint=f"--data.channels {found}",
        )
    return images, [(height, width)] * len(images)


def _corners(shape: tuple[int, int], side: int, key: int) -> list[tuple[int, int]]:
    """(top, left) of every square of a picture (height, width), in the order of taking."""
    rows, columns = shape[0] // side, shape[1] // side
    top, left = below(key, [shape[0] % side + 1, shape[1] % side + 1])
    order = permutation(derive_key(key, 0), rows * columns).tolist()
    return [(top + cell // columns * side, left + cell % columns * side) for cell in order]
