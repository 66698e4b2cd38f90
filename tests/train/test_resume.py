"""A run that was stopped goes on to the weights of one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from small_training import arrays, module, trainer, weights

from osoa_pl.train.module import DensityModule

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")


def fit(
    images_file: Path, folder: Path, resume: Path | None = None, workers: int = 0, **options: Any
) -> tuple[Trainer, DensityModule]:
    """Four epochs of three steps, a checkpoint after each step, averaged weights at the end."""
    callbacks = [
        ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(folder, "end-{epoch}", every_n_epochs=1, save_top_k=-1),
        EMAWeightAveraging(decay=0.7, use_buffers=False),
    ]
    trained = module(exact_epochs=2, **options)
    ran = trainer(folder, max_epochs=4, enable_checkpointing=True, callbacks=callbacks)
    data = arrays(images_file, workers=workers)
    ran.fit(trained, datamodule=data, ckpt_path=resume)
    return ran, trained


@pytest.mark.parametrize(
    "name",
    [
        "step=1.ckpt",  # in the middle of a native epoch
        "step=3.ckpt",  # at the end of one, before its validation
        "step=6.ckpt",  # the exact form comes next
        "step=8.ckpt",  # in the middle of an exact epoch
        "end-epoch=0.ckpt",
        "end-epoch=1.ckpt",
        "end-epoch=2.ckpt",
    ],
)
def test_weights_are_the_same(images_file: Path, tmp_path: Path, name: str) -> None:
    ran, whole = fit(images_file, tmp_path / "whole")
    again, resumed = fit(images_file, tmp_path / "again", tmp_path / "whole" / name)
    assert torch.equal(weights(whole), weights(resumed))
    assert again.global_step == ran.global_step == 12
    assert torch.equal(
        again.callback_metrics["val/bits_per_dim"], ran.callback_metrics["val/bits_per_dim"]
    )
    last = "end-epoch=3.ckpt"
    one, two = (torch.load(tmp_path / run / last, weights_only=True) for run in ("whole", "again"))
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])
    moments = [saved["optimizer_states"][0]["state"][0] for saved in (one, two)]
    assert all(torch.equal(moments[0][name], moments[1][name]) for name in moments[0])
    assert one["lr_schedulers"] == two["lr_schedulers"]
