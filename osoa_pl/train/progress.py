"""How far a run is, on stderr: a bar on a terminal, else a line every half minute."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

INTERVAL = 30.0
"""Seconds between plain lines."""
_PER_SECOND = 10


def progress_bar() -> ProgressBar:
    """The one that suits stderr. Lightning's own would print on stdout."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return RichProgressBar(refresh_rate=_PER_SECOND, console_kwargs={"stderr": True})
    return PlainProgress()


class PlainProgress(ProgressBar):
    """One line every `INTERVAL` seconds: epoch, batch, the last bits/dim."""

    def __init__(self, interval: float = INTERVAL) -> None:
        super().__init__()
        self.interval = interval
        self._enabled = True
        self._last = time.monotonic()

    def disable(self) -> None:
        """Say nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Speak again."""
        self._enabled = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell when it is time."""
        last = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        where = f"epoch {trainer.current_epoch + 1}{last}"
        self._tell(trainer, where, batch_idx, [self.total_train_batches])

    def on_validation_batch_end(self, trainer: Trainer, *about: Any) -> None:
        """Tell when it is time; `about`: module, outputs, batch, batch index, loader index."""
        self._tell(trainer, "validating", about[3], trainer.num_val_batches)

    def on_test_batch_end(self, trainer: Trainer, *about: Any) -> None:
        """As `on_validation_batch_end`."""
        self._tell(trainer, "testing", about[3], trainer.num_test_batches)

    def on_predict_batch_end(self, trainer: Trainer, *about: Any) -> None:
        """As `on_validation_batch_end`."""
        self._tell(trainer, "predicting", about[3], trainer.num_predict_batches)

    def _tell(
        self, trainer: Trainer, where: str, batch_idx: int, totals: Sequence[int | float]
    ) -> None:
        now = time.monotonic()
        if not self._enabled or now - self._last < self.interval:
            return
        self._last, total = now, sum(totals)
        line = f"{where}, batch {batch_idx + 1}"
        if total != float("inf"):
            line += f" of {int(total)}"
        for part, name in (
            ("train", "train/bits_per_dim_step"),
            ("validation", "val/bits_per_dim"),
        ):
            if name in trainer.callback_metrics:
                line += f", {part} {trainer.callback_metrics[name].item():.3f} bits/dim"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
