"""What happens beside the training: a checkpoint for the codec at its end, pictures to look at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.utils import make_grid

from osoa_pl.arith.noise import derive_key
from osoa_pl.errors import OsoaError, UsageError
from osoa_pl.format.atomic import atomic_file, check_destination
from osoa_pl.models.density import Density
from osoa_pl.models.family import find
from osoa_pl.models.zoo import KINDS, pack
from osoa_pl.online.plan import BatchSettings
from osoa_pl.train.module import DensityModule, images_of


class CheckpointExport(Callback):
    """Writes the checkpoint that `osoa compress --checkpoint PATH` takes, when training has ended.

    The averaged weights are written where EMAWeightAveraging is used. The activation scales and
    the optimizer's first moments are measured on training images in their stored order.

    Args:
        path: File to write, NAME.safetensors; its folder is made where it is missing.
        batches: Batches to measure on.
        batch_images: Images in such a batch; by default what adaptation will put into one.
        overwrite: Replace a file that is there already; otherwise it is refused at the start.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        batches: int = 24,
        batch_images: int | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        if self.path.suffix != ".safetensors":
            raise UsageError(f"path: found {self.path}, expected a name ending in .safetensors")
        if batches < 1 or (batch_images is not None and batch_images < 1):
            raise UsageError(
                f"found {batches} batches of {batch_images} images, expected 1 or more of each"
            )
        self.batches, self.batch_images, self.overwrite = batches, batch_images, overwrite
        self.exported = False
        self._trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse early what could not be written in the end. Raises OsoaError."""
        if stage == "fit" and trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            check_destination(self.path, overwrite=self.overwrite)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that there were steps."""
        self._trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate and write, in one process.

        Every callback's `on_train_end` has run by now, so that the averaged weights are in place
        whatever the order of the callbacks; and the weights are back on the CPU.
        """
        if not self._trained:
            raise UsageError(
                f"nothing was trained: the checkpoint is at step {trainer.global_step}, the end",
                hint="set --trainer.max_epochs higher",
            )
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.is_global_zero and not trial:
            self.export(density_of(pl_module), trainer.train_dataloader)

    def export(self, density: Density, loader: Any) -> None:
        """Measure on images of `loader`, then write. Raises UsageError, OsoaError."""
        moments = density.calibrate(self._images(density, loader))
        entry = (
            density.config,
            density.flat.detach().clone(),
            density.activation_max.clone(),
            moments,
        )
        data = pack({KINDS[density.config.channels]: entry}, family=density.family)
        with atomic_file(self.path, overwrite=self.overwrite) as file:
            file.write(data)
        self.exported = True

    def _images(self, density: Density, loader: Any) -> Iterator[Tensor]:
        """`batches` times uint8 (batch_images, h, w, c), on the CPU; fewer where there are less."""
        budget = BatchSettings(**find(density.family).settings).batch_pixels
        pending, left = None, self.batches
        for images in _in_order(loader):
            if pending is not None and pending.shape[1:] == images.shape[1:]:
                images = torch.cat([pending, images])
            size = self.batch_images or max(1, budget // (images.shape[1] * images.shape[2]))
            while left and len(images) >= size:
                yield images[:size]
                images, left = images[size:], left - 1
            if not left:
                return
            pending = images
        if pending is not None and left == self.batches:  # not even one whole batch
            yield pending


class PictureLogger(Callback):
    """Shows the model's pictures of the first validation images in TensorBoard, as `pictures/NAME`.

    Without a TensorBoard logger, or where the model has no pictures, it does nothing.

    Args:
        every_n_epochs: Epochs from one look to the next.
        images: Number of images to look at.
    """

    def __init__(self, every_n_epochs: int = 1, images: int = 16) -> None:
        super().__init__()
        if every_n_epochs < 1 or images < 1:
            raise UsageError(
                f"found every_n_epochs {every_n_epochs} and images {images}, expected 1 or more"
            )
        self.every_n_epochs, self.images = every_n_epochs, images

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw in the middle of the validation: there the averaged weights are in place."""
        due = trainer.current_epoch % self.every_n_epochs == 0 and not trainer.sanity_checking
        loggers = [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]
        if batch_idx or dataloader_idx or not (due and loggers and trainer.is_global_zero):
            return
        pictures = draw(density_of(pl_module), images_of(batch)[: self.images])
        for logger in loggers:
            for name, grid in pictures.items():
                logger.experiment.add_image(f"pictures/{name}", grid, trainer.global_step)


@torch.no_grad()
def draw(density: Density, images: Tensor) -> dict[str, Tensor]:
    """Name -> grid uint8 (3, H, W) of the pictures that the model makes of uint8 (n, h, w, c)."""
    found = density.pictures(images, derive_key(0, 0))
    return {name: make_grid(x.permute(0, 3, 1, 2).cpu()) for name, x in found.items()}


def density_of(module: LightningModule) -> Density:
    """What a module trains. Raises UsageError where it is not a DensityModule."""
    if not isinstance(module, DensityModule):
        raise UsageError(f"found a {type(module).__name__}, expected a DensityModule")
    return module.density


def _in_order(loader: Any) -> Iterable[Tensor]:
    """Batches of a loader, unshuffled where its data set can be asked by number."""
    if isinstance(loader, DataLoader) and hasattr(loader.dataset, "__getitem__"):
        loader = DataLoader(
            loader.dataset, batch_size=loader.batch_size or 1, collate_fn=loader.collate_fn
        )
    try:
        batches = iter(loader)
    except TypeError:
        raise OsoaError(f"cannot read images from a {type(loader).__name__}") from None
    return (images_of(batch).cpu() for batch in batches)
