"""Exported checkpoints, averaged weights, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from small_training import Recorder, arrays, module, trainer, weights
from torch.utils.data import DataLoader

import osoa_pl
from osoa_pl.errors import OutputExistsError, UsageError
from osoa_pl.models import zoo
from osoa_pl.models.checkpoint import read
from osoa_pl.models.local_ar_density import LocalAR
from osoa_pl.models.vae_density import VAE
from osoa_pl.train.callbacks import CheckpointExport, PictureLogger


def exported_weights(path: Path) -> torch.Tensor:
    return zoo.build(read(str(path)), 3)[0].parameters


def test_what_was_trained_compresses_and_comes_back(images_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "small.safetensors"
    trained = module(exact_epochs=1)
    export = CheckpointExport(path, batches=2, batch_images=4)
    trainer(tmp_path, max_epochs=8, callbacks=[export]).fit(trained, datamodule=arrays(images_file))
    assert export.exported and [p.name for p in path.parent.iterdir()] == ["small.safetensors"]
    assert torch.equal(exported_weights(path), trained.density.flat.detach())
    images = np.load(images_file)
    options: dict[str, Any] = {"adaptation": "online", "threads": 1}
    archive = tmp_path / "a.osoa"
    result = osoa_pl.compress(images, archive, checkpoint=str(path), **options)
    restored = osoa_pl.decompress(archive, checkpoint=str(path))
    assert all(np.array_equal(a, b) for a, b in zip(images, restored, strict=True))
    untrained = module()
    export.path = tmp_path / "untrained.safetensors"
    export.export(untrained.density, DataLoader(torch.from_numpy(images), batch_size=4))
    worse = osoa_pl.compress(images, tmp_path / "b.osoa", checkpoint=str(export.path), **options)
    assert result.bits_per_dim < worse.bits_per_dim


def test_a_latent_model_compresses_and_comes_back(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((24, 6, 6, 1)) < np.linspace(0, 1, 6)[:, None]
    images = pixels.astype(np.uint8)
    np.save(tmp_path / "bits.npy", images)
    path = tmp_path / "small.safetensors"
    trained = module(VAE(6, 6, hidden=8, latent=3), exact_epochs=1)
    callbacks = [CheckpointExport(path, batches=2, batch_images=8)]
    data = arrays(tmp_path / "bits.npy", batch_size=8)
    trainer(tmp_path, max_epochs=3, callbacks=callbacks).fit(trained, datamodule=data)
    archive = tmp_path / "a.osoa"
    osoa_pl.compress(images, archive, checkpoint=str(path), adaptation="online", threads=1)
    restored = osoa_pl.decompress(archive, checkpoint=str(path))
    assert all(np.array_equal(a, b) for a, b in zip(images, restored, strict=True))


@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_are_exported(images_file: Path, tmp_path: Path, first: bool) -> None:
    path = tmp_path / "mean.safetensors"
    means: list[torch.Tensor] = []

    class Mean(Callback):
        """The mean by hand, over the weights after each step."""

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *about: Any) -> None:
            now = weights(pl_module)
            means.append(means[-1] + 0.5 * (now - means[-1]) if means else now)

    average = EMAWeightAveraging(decay=0.5, use_buffers=False)
    callbacks: list[Callback] = [average, CheckpointExport(path, batches=1)]
    trained = module(exact_epochs=1)
    ran = trainer(tmp_path, callbacks=[Mean(), *(callbacks if first else callbacks[::-1])])
    ran.fit(trained, datamodule=arrays(images_file))
    flat = trained.density.flat.detach()
    assert torch.allclose(flat, means[-1][: flat.numel()], atol=1e-6)
    assert torch.equal(exported_weights(path), flat)


def test_averaging_measures_the_mean_and_trains_on(images_file: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class Look(Callback):
        def on_validation_batch_end(self, trainer: Any, pl_module: Any, *about: Any) -> None:
            seen.append(weights(pl_module))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(weights(pl_module))

    free, averaged = module(exact_epochs=-1), module(exact_epochs=-1)
    trainer(tmp_path, max_epochs=3, callbacks=[Look()]).fit(free, datamodule=arrays(images_file))
    last = seen[-1]
    seen.clear()
    callbacks = [EMAWeightAveraging(decay=0.5, use_buffers=False), Look()]
    trainer(tmp_path, max_epochs=3, callbacks=callbacks).fit(
        averaged, datamodule=arrays(images_file)
    )
    assert torch.equal(seen[-1], last)  # what is stepped is untouched
    assert not torch.equal(seen[-2], last)  # what is measured is the mean
    scales = slice(averaged.density.flat.numel(), None)
    assert torch.equal(seen[-2][scales], last[scales])  # scales of the grid are no mean


def test_calibration_batches(tmp_path: Path) -> None:
    """Stored order, batches of the size asked for; a last one that is smaller is left out."""
    images = torch.arange(10, dtype=torch.uint8).repeat_interleave(48).reshape(10, 4, 4, 3)
    loader = DataLoader(images, batch_size=4, shuffle=True)  # type: ignore[arg-type]
    sizes: list[list[int]] = []

    class Counting(LocalAR):
        def calibrate(self, batches: Any, seed: int = 0) -> torch.Tensor:
            kept = [batch[:, 0, 0, 0].tolist() for batch in batches]
            sizes.extend(kept)
            return torch.ones_like(self.flat)

    def found(batches: int, batch_images: int | None) -> list[list[int]]:
        sizes.clear()
        path = tmp_path / "x.safetensors"
        CheckpointExport(path, batches, batch_images, overwrite=True).export(
            Counting(3, 8, 1, 2), loader
        )
        return list(sizes)

    assert found(2, 3) == [[0, 1, 2], [3, 4, 5]]
    assert found(9, 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found(1, None) == [list(range(10))]  # 8192 pixels hold them all
    for batch in list(found(3, 5)):
        assert len(batch) == 5


def test_a_file_that_is_there_is_refused_at_the_start(images_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"precious")
    recorder = Recorder()
    ran = trainer(tmp_path, callbacks=[CheckpointExport(path)])
    with pytest.raises(OutputExistsError, match=r"a\.safetensors: exists already"):
        ran.fit(module(recorder), datamodule=arrays(images_file))
    assert not recorder.seen and path.read_bytes() == b"precious"
    for wrong in ({"path": "a.ckpt"}, {"path": "a.safetensors", "batches": 0}):
        with pytest.raises(UsageError):
            CheckpointExport(**wrong)  # type: ignore[arg-type]


def test_a_finished_run_has_nothing_to_export(images_file: Path, tmp_path: Path) -> None:
    """Resumed at its end it takes no step, and the averaged weights never come into place."""
    ran = trainer(tmp_path)
    ran.fit(module(), datamodule=arrays(images_file))
    ran.save_checkpoint(tmp_path / "end.ckpt")
    again = trainer(tmp_path, callbacks=[CheckpointExport(tmp_path / "a.safetensors")])
    with pytest.raises(UsageError, match="nothing was trained: .* step 6"):
        again.fit(module(), datamodule=arrays(images_file), ckpt_path=tmp_path / "end.ckpt")
    assert not (tmp_path / "a.safetensors").exists()


def test_pictures_in_tensorboard(
    images_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawn(Recorder):
        def pictures(self, images: torch.Tensor, key: int) -> dict[str, torch.Tensor]:
            return {"negatives": 255 - images}

    shown: list[tuple[str, tuple[int, ...], int]] = []

    def add_image(self: object, name: str, grid: torch.Tensor, step: int) -> None:
        assert grid.dtype == torch.uint8
        shown.append((name, tuple(grid.shape), step))

    logger = TensorBoardLogger(tmp_path, "run")
    monkeypatch.setattr(type(logger.experiment), "add_image", add_image)
    ran = trainer(
        tmp_path, max_epochs=3, logger=logger, log_every_n_steps=1,
        callbacks=[PictureLogger(every_n_epochs=2, images=2)],
    )  # fmt: skip
    ran.fit(module(Drawn()), datamodule=arrays(images_file))
    assert shown == [("pictures/negatives", (3, 10, 18), step) for step in (3, 9)]
    with pytest.raises(UsageError, match="every_n_epochs 0"):
        PictureLogger(every_n_epochs=0)
