"""A density as a LightningModule: loss in bits/dim, Adam, learning rates, native then exact.

Every number that a step needs is a function of the options, the step and the batch: noise comes
from (seed, step, process), never from a generator's state, so a run that resumes has the weights
of one that was never stopped. Given up: the loss is looked at in every step, which on an
accelerator waits for it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from osoa_pl.arith.noise import derive_key
from osoa_pl.errors import CheckpointError, OsoaError, UsageError
from osoa_pl.models.density import Density, Form

Schedule = Literal["constant", "cosine"]
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
_STATE = "osoa_pl"


class DensityModule(LightningModule):
    """Trains a density by the code length of its images.

    Batches are uint8 (n, h, w, c), or a tuple that starts with one. Logged, in bits/dim:
    `train/bits_per_dim` (mean of an epoch), `train/bits_per_dim_step`, `val/bits_per_dim`,
    `test/bits_per_dim`; and `learning_rate`. Raises UsageError for options out of range.

    Args:
        model: The density to train, for example LocalAR or VAE.
        learning_rate: Step size of Adam after the warm-up.
        betas: Decay of Adam's two moments.
        eps: Added to the root of Adam's second moment.
        weight_decay: Decoupled weight decay (AdamW).
        warmup_steps: Steps in which the learning rate rises linearly from 0.
        schedule: What follows the warm-up: constant, or cosine to the end of the run.
        final_fraction: Share of the learning rate that is left at the end of the cosine.
        exact_epochs: Number of last epochs in the exact form, so that the weights learn the grid
            on which they will code; the epochs before have the form of `model`. 0: none, -1: all.
        seed: Of the noise in the loss; evaluation draws the same in every epoch.
    """

    def __init__(
        self,
        model: Density,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 200,
        schedule: Schedule = "cosine",
        final_fraction: float = 0.0,
        exact_epochs: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        wanted: list[tuple[str, Any, bool, str]] = [
            ("learning_rate", learning_rate, 0 < learning_rate < math.inf, "a number above 0"),
            ("betas", betas, all(0 <= beta < 1 for beta in betas), "two numbers from 0 to below 1"),
            ("eps", eps, 0 < eps < math.inf, "a number above 0"),
            ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more"),
            ("warmup_steps", warmup_steps, warmup_steps >= 0, "0 or more"),
            ("schedule", schedule, schedule in ("constant", "cosine"), "constant or cosine"),
            ("final_fraction", final_fraction, 0 <= final_fraction <= 1, "0 to 1"),
            ("exact_epochs", exact_epochs, exact_epochs >= -1, "-1 or more"),
            ("seed", seed, 0 <= seed < 1 << 32, "0 to 2^32 - 1"),
        ]
        problems = [f"{n}: found {v}, expected {limit}" for n, v, good, limit in wanted if not good]
        if problems:
            raise UsageError("; ".join(problems))
        self.density = model
        self.learning_rate, self.betas, self.eps = learning_rate, betas, eps
        self.weight_decay, self.warmup_steps = weight_decay, warmup_steps
        self.schedule, self.final_fraction = schedule, final_fraction
        self.exact_epochs, self.seed = exact_epochs, seed
        self.own_form: Form = model.form
        self._steps = 0
        # weighted by samples: the last batch of an epoch may be smaller, images may differ in size
        self.train_rate = MeanMetric(nan_strategy="error")
        self.val_rate = MeanMetric(nan_strategy="error")
        self.test_rate = MeanMetric(nan_strategy="error")

    def setup(self, stage: str) -> None:
        """Check what the trainer was told. Raises UsageError."""
        trainer = self.trainer
        if trainer.precision not in PRECISIONS:
            raise UsageError(
                f"trainer.precision: found {trainer.precision}, expected one of "
                f"{', '.join(PRECISIONS)}: the weights stay float32"
            )
        if stage == "fit" and self.exact_epochs > 0 and trainer.max_epochs in (None, -1):
            raise UsageError(
                f"exact_epochs: found {self.exact_epochs} without trainer.max_epochs, expected 0, "
                "-1 or a known last epoch"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, and a learning rate that is a function of the step."""
        optimizer = AdamW(
            self.density.parameters(),
            lr=self.learning_rate,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
        scheduler = LambdaLR(optimizer, self._share)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Learn how long the run is. Raises UsageError where the cosine needs an end.

        Asked for earlier, in `configure_optimizers`, Lightning would make the training loader
        before it has read where a resumed one stood, and never tell it.
        """
        total = self.trainer.estimated_stepping_batches
        if math.isfinite(total):
            self._steps = int(total)
        elif self.schedule == "cosine":
            raise UsageError(
                "schedule: found cosine without trainer.max_epochs or max_steps, expected constant "
                "or a known last step"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Switch the form; where the exact one begins, let the activation scales meet the data."""
        self._choose_form()
        begins = batch_idx == 0 and self.current_epoch == self._first_exact_epoch()
        if begins and self.own_form != "exact":
            # Native steps leave the scales as they were. Done here and not in `training_step`: DDP
            # copies the buffers of rank 0 to the others when it calls that one.
            self.density.calibrate([images_of(batch).cpu()], self.seed)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean code length of the batch in bits/dim, 0-dim float32."""
        images, trainer = images_of(batch), self.trainer
        part = batch_idx % trainer.accumulate_grad_batches  # of the batches of one optimizer step
        key = derive_key(self.seed, self.global_step, self.global_rank + trainer.world_size * part)
        loss = self.bits_per_dim(images, key)
        if not torch.isfinite(loss):
            raise OsoaError(
                f"step {self.global_step}: the loss is {loss.item()} bits/dim",
                hint="try a smaller model.learning_rate or trainer.gradient_clip_val 1",
            )
        self._record(self.train_rate, "train/bits_per_dim", loss, images)
        self.log("train/bits_per_dim_step", loss.detach(), on_epoch=False, prog_bar=True)
        self.log("learning_rate", trainer.optimizers[0].param_groups[0]["lr"], on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure a batch."""
        self._evaluate(self.val_rate, "val/bits_per_dim", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measure a batch."""
        self._evaluate(self.test_rate, "test/bits_per_dim", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """bits/dim of each image by itself, float32 (n,)."""
        self._choose_form()
        key = derive_key(self.seed, batch_idx)
        images = images_of(batch).split(1)
        return torch.stack([self.bits_per_dim(x, derive_key(key, i)) for i, x in enumerate(images)])

    def bits_per_dim(self, images: Tensor, key: int) -> Tensor:
        """Mean code length of uint8 (n, h, w, c) by the present form, 0-dim float32."""
        if self.density.form == "native":
            return self.density(images, key).float()  # type: ignore[no-any-return]
        # autocast would round the operands; the coder's threads know nothing of inference mode
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(self.training),
            torch.autocast(images.device.type, enabled=False),
        ):
            return self.density(images, key)  # type: ignore[no-any-return]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which model the weights belong to."""
        checkpoint[_STATE] = self._about()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises CheckpointError where the weights are another model's."""
        found, expected = checkpoint.get(_STATE), self._about()
        if found != expected:
            raise CheckpointError(f"checkpoint of the model {found}, expected {expected}")

    def _about(self) -> dict[str, Any]:
        return {"family": self.density.family, **self.density.config.to_dict()}

    def _evaluate(self, rate: MeanMetric, name: str, batch: Any, batch_idx: int) -> None:
        self._choose_form()
        images = images_of(batch)
        loss = self.bits_per_dim(images, derive_key(self.seed, batch_idx))
        self._record(rate, name, loss, images)

    def _record(self, rate: MeanMetric, name: str, loss: Tensor, images: Tensor) -> None:
        rate.update(loss.detach(), weight=images.numel())
        self.log(name, rate, on_step=False, on_epoch=True, batch_size=len(images))

    def _first_exact_epoch(self) -> int | None:
        """Number of the first exact epoch of the run, None where there is none."""
        if self.exact_epochs == 0:
            return None
        last = self.trainer.max_epochs or 0
        return 0 if self.exact_epochs < 0 else max(0, last - self.exact_epochs)

    def _choose_form(self) -> None:
        # before each batch, since Lightning does not start an epoch that it takes up in the middle
        form = self.own_form
        if self.exact_epochs and self.trainer.state.fn != "fit":
            form = "exact"
        else:
            first = self._first_exact_epoch()
            if first is not None and self.current_epoch >= first:
                form = "exact"
        if self.density.form != form:
            self.density.form = form

    def _share(self, step: int) -> float:
        """Share of `learning_rate` in a step."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant" or step == 0:
            return 1.0
        length = max(1, self._steps - self.warmup_steps)
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup_steps) / length)))
        return self.final_fraction + (1 - self.final_fraction) * left


def images_of(batch: Any) -> Tensor:
    """The images of a batch. Raises UsageError unless they are uint8 (n, h, w, c)."""
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.dim() != 4:
        found = (
            f"{images.dtype} {tuple(images.shape)}"
            if isinstance(images, Tensor)
            else type(images).__name__
        )
        raise UsageError(f"data: found batches of {found}, expected uint8 tensors (n, h, w, c)")
    return images
