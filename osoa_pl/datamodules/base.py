"""What all data modules share: their options, their parts, their loaders.

Every batch is a uint8 tensor (n, h, w, c), c in 1, 3, without labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import distributed

from osoa_pl.arith.noise import derive_key
from osoa_pl.datamodules.draws import Stream, permutation
from osoa_pl.datamodules.loader import (
    EpochSampler,
    ImageLoader,
    Images,
    ResumableLoader,
    View,
    ViewedImages,
    stack,
)
from osoa_pl.errors import UsageError

Part = Literal["train", "validation", "test"]

_STAGES: dict[str, tuple[Part, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("test",),
}


@dataclass(frozen=True)
class Selection:
    """Some of `images`, in the order of `indices`."""

    images: Images
    indices: Sequence[int] | NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.images[int(self.indices[index])]


class ImageDataModule(LightningDataModule, ABC):
    """Base of the data modules.

    Training batches are shuffled by (seed, epoch) and resume in mid-epoch; the others come in
    the order of the files. `predict` gives the test part. Raises UsageError for options out of
    range.

    Args:
        root: Folder to look for data in.
        batch_size: Images in a batch (of each process).
        workers: Processes that read images ahead; 0 reads them in the main process.
        seed: Decides order, augmentation and what is held out.
        validation: Number of training images held out for a part that the data does not have.
        limit: Train on the first so many training images only; all where it is not given.
    """

    draws_held_out = False
    """Whether `seed` decides which training images are held out; else they are the last ones."""

    def __init__(
        self,
        *,
        root: str | Path = "data",
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
        validation: int = 5000,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self.validation = validation
        self.limit = limit
        self._parts: dict[Part, Images] = {}
        check(
            ("batch_size", batch_size, batch_size >= 1, "1 or more"),
            ("workers", workers, workers >= 0, "0 or more"),
            ("seed", seed, 0 <= seed < 1 << 32, "0 to 2^32 - 1"),
            ("validation", validation, validation >= 0, "0 or more"),
            ("limit", limit, limit is None or limit >= 1, "1 or more"),
        )

    @abstractmethod
    def train_images(self) -> Images:
        """Images of the training part, those to be held out included."""

    def validation_images(self) -> Images:
        """Images of the validation part; not called where `held_out` names it."""
        raise NotImplementedError

    def test_images(self) -> Images:
        """Images of the test part; not called where `held_out` names it."""
        raise NotImplementedError

    def held_out(self) -> tuple[Part, ...]:
        """Parts that the data does not have, taken from the training part."""
        return ("validation",)

    def view(self, part: Part) -> View | None:
        """What a batch gets of a stored image (a crop, say); None: the image itself."""
        return None

    def setup(self, stage: str) -> None:
        """Open what `stage` (fit, validate, test, predict) needs. Raises as `images`."""
        for part in _STAGES[stage]:
            self.images(part)

    def images(self, part: Part) -> Images:
        """Stored images of a part, each uint8 (h, w, c) before its view; opened once.

        Raises OsoaError where files are missing or broken, or `validation` holds out all.
        """
        if part not in self._parts:
            if part != "train" and part not in self.held_out():
                reader = self.validation_images if part == "validation" else self.test_images
                self._parts[part] = reader()
            else:
                self._divide()
        return self._parts[part]

    def dataset(self, part: Part) -> ViewedImages:
        """Images of a part as batches get them."""
        key = derive_key(self.seed, Stream[part.upper()])
        return ViewedImages(self.images(part), self.view(part), key)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches uint8 (n, h, w, c) of this process; their state is saved and loaded."""
        dataset = self.dataset("train")
        replicas, rank = self._place()
        loader = ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(
                dataset, num_replicas=replicas, rank=rank, shuffle=True, seed=self.seed
            ),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=stack,
        )
        loader.progress = self._progress
        return loader

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """Batches uint8 (n, h, w, c) in file order; an empty list where nothing is held out."""
        dataset = self.dataset("validation")
        return self._in_order(dataset) if len(dataset) else []

    def test_dataloader(self) -> ImageLoader:
        """Batches uint8 (n, h, w, c) in file order. Raises UsageError where there is no image."""
        dataset = self.dataset("test")
        if not len(dataset):
            raise UsageError(
                "no test part: the data has none and no image is held out",
                hint="hold some out with --data.validation",
            )
        return self._in_order(dataset)

    def predict_dataloader(self) -> ImageLoader:
        """As `test_dataloader`."""
        return self.test_dataloader()

    def _in_order(self, dataset: ViewedImages) -> ImageLoader:
        return ImageLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=stack,
        )

    def _divide(self) -> None:
        """Hold out `validation` images for each part that is missing; `limit` cuts the rest."""
        images, missing = self.train_images(), self.held_out()
        total, size = len(images), self.validation
        if total <= size * len(missing):
            twice = " twice (validation and test)" if len(missing) > 1 else ""
            raise UsageError(
                f"validation: found {size} images to hold out{twice}, "
                f"expected fewer than the {total} of the training part",
                hint="set --data.validation",
            )
        order: Sequence[int] | NDArray[np.int64] = range(total - 1, -1, -1)
        if self.draws_held_out:
            order = permutation(derive_key(self.seed, Stream.DIVISION), total)
        for number, part in enumerate(missing):
            self._parts[part] = Selection(images, np.sort(order[number * size :][:size]))
        left = np.sort(order[len(missing) * size :])
        self._parts["train"] = Selection(images, left[: self.limit])

    def _place(self) -> tuple[int, int]:
        """(processes that share the data, number of this one)."""
        if self.trainer is not None:
            place = self.trainer.distributed_sampler_kwargs
            return (place["num_replicas"], place["rank"]) if place else (1, 0)
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_world_size(), distributed.get_rank()
        return 1, 0

    def _progress(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        current: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return current.ready, current.processed


def check(*options: tuple[str, object, bool, str]) -> None:
    """Each (name, value, whether it is sound, what is expected). Raises UsageError naming all."""
    problems = [
        f"{name}: found {value}, expected {expected}"
        for name, value, sound, expected in options
        if not sound
    ]
    if problems:
        raise UsageError("; ".join(problems))
