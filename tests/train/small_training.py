"""A very small training: model, arrays, trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from osoa_pl.datamodules import Arrays
from osoa_pl.models.local_ar_density import LocalAR
from osoa_pl.train.module import DensityModule


class Recorder(LocalAR):
    """Remembers the key and form of each loss."""

    def __init__(self, **options: Any) -> None:
        super().__init__(3, 8, 1, 2, **options)
        self.seen: list[tuple[bool, str, int]] = []

    def forward(self, images: torch.Tensor, key: int) -> torch.Tensor:
        self.seen.append((self.training, self.form, key))
        return super().forward(images, key)

    def trained(self) -> list[tuple[str, int]]:
        """(form, key) of the training losses."""
        return [(form, key) for training, form, key in self.seen if training]

    def measured(self) -> list[tuple[str, int]]:
        """(form, key) of the other losses."""
        return [(form, key) for training, form, key in self.seen if not training]


def write_images(folder: Path, count: int = 14, side: int = 6) -> Path:
    """A file of smooth pictures with a little noise, uint8 (count, side, side, 3)."""
    rng = np.random.default_rng(0)
    n, y, x, c = np.mgrid[:count, :side, :side, :3]
    images = 8 * n + 5 * y + 3 * x + 20 * c + rng.integers(0, 6, n.shape)
    np.save(folder / "images.npy", images.astype(np.uint8))
    return folder / "images.npy"


def arrays(file: Path, **options: Any) -> Arrays:
    """12 images to train on in 3 batches, 2 held out for validation unless `options` differ."""
    options = {"validation": 2, "batch_size": 4, "test_file": file, **options}
    return Arrays(train_file=file, **options)


def module(density: LocalAR | None = None, **options: Any) -> DensityModule:
    """A fresh model of fixed first weights."""
    options = {"learning_rate": 0.01, "warmup_steps": 2, **options}
    return DensityModule(density or LocalAR(3, 8, 1, 2), **options)


def trainer(folder: Path, **options: Any) -> Trainer:
    """A quiet trainer of 2 epochs that writes below `folder`."""
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    options = {"max_epochs": 2, "num_sanity_val_steps": 0, **quiet, **options}
    return Trainer(accelerator="cpu", default_root_dir=folder, **options)


def weights(module: DensityModule) -> torch.Tensor:
    """A copy of the weights and activation scales."""
    density = module.density
    return torch.cat([density.flat.detach(), density.activation_max]).clone()
