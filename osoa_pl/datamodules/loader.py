"""From stored images to batches, in an order that can be taken up again in mid-epoch.

Order and augmentation of training images depend on (seed, epoch, index) alone, whatever the
worker processes, so resuming needs two numbers: the epoch and the batches already handed out.
Given up: worker processes start with an epoch's first batch, not ahead of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from osoa_pl.arith.noise import derive_key
from osoa_pl.errors import OsoaError, UsageError

View = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""(stored image uint8 (h, w, c), key of its draws) -> what a batch gets of it, uint8 (h, w, c)."""

_STATE = ("epoch", "batches", "batch_size", "images", "replicas", "seed")


class Images(Protocol):
    """Stored images by number, each uint8 (h, w, c); an array uint8 (n, h, w, c) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


class ViewedImages(Dataset[NDArray[np.uint8]]):
    """Images as a batch gets them: uint8 (h, w, c) by index, or by (epoch, index).

    The draws of `view` come from (`key`, epoch, index); without an epoch, from epoch 0.
    """

    def __init__(self, images: Images, view: View | None, key: int) -> None:
        self.images = images
        self._view = view
        self._key = key

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> NDArray[np.uint8]:
        epoch, number = index if isinstance(index, tuple) else (0, index)
        image = self.images[number]
        if self._view is None:
            return image
        return self._view(image, derive_key(self._key, epoch, number))


def stack(images: list[NDArray[np.uint8]]) -> Tensor:
    """uint8 (n, h, w, c) of n images (h, w, c)."""
    return torch.from_numpy(np.stack(images))


class EpochSampler(DistributedSampler[Any]):
    """Shuffled (epoch, index) pairs of this process: worker processes learn the epoch from them.

    The order depends on seed, epoch and the number of processes. `skip` leaves out that many
    from the start; the length stays that of the whole epoch.
    """

    skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        return ((epoch, index) for index in islice(super().__iter__(), self.skip, None))


class ImageLoader(DataLoader[NDArray[np.uint8]]):
    """Batches uint8 (n, h, w, c). An OsoaError of a worker process keeps its one line."""

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except OsoaError as error:
            lines = str(error).strip().splitlines()
            if len(lines) < 2:
                raise
            name = f"{type(error).__module__}.{type(error).__qualname__}: "
            raise type(error)(lines[-1].removeprefix(name)) from None  # not the worker's traceback


class ResumableLoader(ImageLoader):
    """Training batches whose state is the epoch and the number of batches handed out.

    The loops of Lightning save and load it (`state_dict`, `load_state_dict`). They ask for an
    iterator before they tell the sampler its epoch, hence everything waits for the first batch:
    batches are skipped, unread, where that batch is of the epoch that the state names; in any
    other epoch the state is spent. A loader whose sampler was replaced (`overfit_batches`) starts
    its epoch anew.
    """

    handed_out = 0
    """Batches of the current epoch so far, the skipped ones included."""

    progress: Callable[[], tuple[int, int]] | None = None
    """The training loop's (batches taken, batches trained on) of the epoch, where there is one."""

    _epoch = 0
    _resume: Mapping[str, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """Where to go on: after the last batch that was trained on."""
        if self._resume is not None:  # no batch since
            return dict(self._resume)
        return {"epoch": self._epoch, "batches": self._trained(), **self._facts()}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on there. Raises UsageError where it is not the state of such a loader."""
        if set(state_dict) != set(_STATE):
            raise UsageError(
                f"state of a data loader: found {', '.join(map(str, state_dict)) or 'nothing'}, "
                f"expected {', '.join(_STATE)}"
            )
        self._resume = dict(state_dict)

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        sampler = self.sampler
        skip = 0
        if isinstance(sampler, EpochSampler):
            self._epoch = sampler.epoch
            skip = self._done_before(sampler.epoch)
            sampler.skip = skip * (self.batch_size or 1)
        self._resume, self.handed_out = None, skip
        for batch in super().__iter__():
            self.handed_out += 1
            yield batch

    def _done_before(self, epoch: int) -> int:
        """Batches of `epoch` to leave out. Raises UsageError where the epoch's batches differ."""
        state = self._resume
        if state is None or state["epoch"] != epoch or state["batches"] == 0:
            return 0
        for name, found in self._facts().items():
            if found != state[name]:
                raise UsageError(
                    f"resuming in the middle of epoch {epoch}: found {name} {found}, "
                    f"expected {state[name]} as in the checkpoint"
                )
        return state["batches"]

    def _facts(self) -> dict[str, int]:
        sampler = self.sampler
        replicas, seed = 1, 0
        if isinstance(sampler, EpochSampler):
            replicas, seed = sampler.num_replicas, sampler.seed
        return {
            "batch_size": self.batch_size or 1,
            "images": len(self.dataset),  # type: ignore[arg-type]
            "replicas": replicas,
            "seed": seed,
        }

    def _trained(self) -> int:
        # A checkpoint written while a batch is in the works (on an exception, in a hook before
        # the step) must see that batch again, as the loop's own counters do.
        if self.progress is not None:
            taken, trained = self.progress()
            if taken == self.handed_out == trained + 1:
                return trained
        return self.handed_out
