"""The coding callback: codes each batch before its step, and shows the code lengths.

Logged for each batch, under the kind of pixel (`grey/...`, `rgb/...`), at the batch's number
(counted on through the trajectories of that kind):
`bits_per_dim/theoretical` (ideal length of the integer intervals; for latent models the negative
ELBO), `bits_per_dim/actual` (what the message grew by; known when the segment ends),
`bits_per_dim/none` (the checkpoint without adaptation, on request), `images_per_second`,
`distance_from_start` (Euclidean, of the weights from theta_0); and for each segment
`bits_per_dim/gross` (all segments so far, headers and initial bits included) and `initial_bits`.
"""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from osoa_pl.models.base import Model
from osoa_pl.models.zoo import KINDS
from osoa_pl.online.session import CodedBatch
from osoa_pl.train.loop import OSOAModule

_COMPARED_NOISE = 0x0BA5E


class CodingCallback(Callback):
    """Codes batch t with theta_t in `on_train_batch_start`.

    Args:
        compare_none: also log what the checkpoint without adaptation would need, batch by batch;
            one more forward pass each.
    """

    def __init__(self, compare_none: bool = False) -> None:
        super().__init__()
        self.compare_none = compare_none
        self._samples: list[int] = []
        self._coded_samples = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A new trajectory: theta_0 again."""
        module = _osoa(pl_module)
        self._kind, self._first = KINDS[module.channels], module.first_step
        self._start: Model = module.start_model()
        self._samples = []
        self._coded_samples = sum(module.trajectory.record.pixels) * module.channels

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Code the batch with the present weights."""
        self._began = time.perf_counter()
        _osoa(pl_module).code_batch(int(batch))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the batch, and the segment where it was the last one of it."""
        module = _osoa(pl_module)
        coded = module.coded
        assert coded is not None
        seconds = time.perf_counter() - self._began
        samples = coded.batch.pixels * module.channels
        self._samples.append(samples)
        weights = module.trajectory.session.model.parameters
        found = {
            "bits_per_dim/theoretical": coded.ideal_bits / samples,
            "images_per_second": len(coded.batch.table) / seconds,
            "distance_from_start": float((weights - self._start.parameters).norm()),
        }
        if self.compare_none:
            found["bits_per_dim/none"] = self._plain(coded) / samples
        self._log(trainer, found, coded.number)
        if module.finished is not None:
            self._log_segment(trainer, module, coded.number)

    def _plain(self, coded: CodedBatch) -> float:
        bits = self._start.bits(coded.batch, _COMPARED_NOISE, coded.number)
        self._start.stepped()
        return bits

    def _log_segment(self, trainer: Trainer, module: OSOAModule, last: int) -> None:
        segment, record = module.finished, module.trajectory.record
        assert segment is not None
        first = last + 1 - len(segment.batch_bits)
        for number, (bits, samples) in enumerate(zip(segment.batch_bits, self._samples)):
            self._log(trainer, {"bits_per_dim/actual": bits / samples}, first + number)
        self._coded_samples += sum(self._samples)
        self._samples = []
        found = {"bits_per_dim/gross": 8 * sum(record.sizes) / self._coded_samples}
        if segment.initial_bits:
            found["initial_bits"] = segment.initial_bits
        self._log(trainer, found, last)

    def _log(self, trainer: Trainer, metrics: dict[str, float], step: int) -> None:
        named = {f"{self._kind}/{name}": value for name, value in metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, self._first + step)


def _osoa(module: LightningModule) -> OSOAModule:
    assert isinstance(module, OSOAModule)
    return module
