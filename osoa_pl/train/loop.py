"""OSOA as a loop of the Trainer: an epoch is a shard, a batch is coded and then stepped on.

The order is the algorithm: the coding callback codes batch t with theta_t when the batch starts,
then the optimizer steps. The loop holds both to it. All that decides a byte lies in
`online.session`; options of the Trainer that would change bytes without standing in the archive's
manifest are refused. The only file that names Lightning's underscore classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as given
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils.data import DataLoader

from osoa_pl.api.job import CompressionJob, JobShard
from osoa_pl.errors import OsoaError, UsageError
from osoa_pl.format import segment as segment_format
from osoa_pl.online.auto import ShardRecord
from osoa_pl.online.plan import batches
from osoa_pl.online.policy import Policy
from osoa_pl.online.session import CodedBatch, Segment, Session

_CHANGING_CALLBACKS = (
    given.StochasticWeightAveraging,
    given.WeightAveraging,
    given.GradientAccumulationScheduler,
    given.EarlyStopping,
    given.Timer,
    given.BatchSizeFinder,
    given.LearningRateFinder,
    given.ModelPruning,
    given.BaseFinetuning,
)


class OSOALoop(_TrainingEpochLoop):
    """The epoch of one shard: every batch is coded before its step, and stepped on once."""

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One batch. Raises OsoaError where it was not coded, or not stepped on."""
        module = self.trainer.lightning_module
        assert isinstance(module, OSOAModule)
        before = module.batches_done
        super().advance(data_fetcher)
        if module.batches_done != before + 1:
            raise OsoaError(f"batch {before} was not coded and stepped on: a callback intervened")


def install(trainer: Trainer) -> None:
    """Put the loop into a trainer. Raises UsageError for options that would change bytes."""
    refuse_changes(trainer)
    loop = OSOALoop(trainer)
    loop.val_loop = trainer.fit_loop.epoch_loop.val_loop
    trainer.fit_loop.epoch_loop = loop
    options: Any = trainer  # Lightning sets these attributes without declaring them
    options.reload_dataloaders_every_n_epochs = 1  # each shard has its own batches


def refuse_changes(trainer: Trainer) -> None:
    """Raises UsageError for an option of the Trainer that changes the trajectory."""
    options: Any = trainer
    wrong: dict[str, tuple[Any, Any]] = {
        "gradient_clip_val": (trainer.gradient_clip_val or 0, 0),
        "accumulate_grad_batches": (trainer.accumulate_grad_batches, 1),
        "precision": (trainer.precision, "32-true"),
        "max_steps": (trainer.max_steps, -1),
        "limit_train_batches": (trainer.limit_train_batches, 1.0),
        "overfit_batches": (options.overfit_batches, 0.0),
        "fast_dev_run": (options.fast_dev_run, False),
        "devices": (trainer.world_size, 1),
    }
    found = [f"{key} {value}" for key, (value, neutral) in wrong.items() if value != neutral]
    found += [type(c).__name__ for c in options.callbacks if isinstance(c, _CHANGING_CALLBACKS)]
    if found:
        raise UsageError(
            f"trainer: {', '.join(found)} would change the archive without standing in it",
            hint="the step of a batch is set by adaptation, step_size and settings",
        )


class ReplayOptimizer(torch.optim.Optimizer):
    """The session's step in the clothes of an optimizer, so that the Trainer counts it."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__([torch.zeros(1)], {})
        self._move = step

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """From theta_t to theta_t+1 on the batch just coded."""
        self._move()


class OSOAModule(LightningModule):
    """One compression as a training run, in manual optimisation.

    job: open; policies: a new policy for each shard; state: where a run that is continued got to
    (`CompressionJob.finished`). The coding callback calls `code_batch`; the optimizer `step_batch`.
    """

    def __init__(
        self,
        job: CompressionJob,
        policies: Callable[[], Policy],
        state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.job, self._policies = job, policies
        self.records: list[ShardRecord] = []
        self.coded: CodedBatch | None = None
        self.finished: Segment | None = None
        """The segment that the last step ended, if it did."""
        self.batches_done = 0
        self._first_shard, self._snapshot = 0, None
        if state is not None:
            self._first_shard, self._snapshot = int(state["shard"]), state["snapshot"]
            if state["snapshot"]["batches"] == self._count(job.shards[self._first_shard]):
                self._first_shard, self._snapshot = self._first_shard + 1, None
            for number, kept in enumerate(state["records"]):
                self._adopt(job.shards[number], kept)

    def _count(self, shard: JobShard) -> int:
        return sum(1 for _ in batches(shard.shapes, self.job.settings))

    def _adopt(self, shard: JobShard, kept: dict[str, Any]) -> None:
        """Take a shard's finished segments over; one that has ended enters the manifest."""
        record = ShardRecord.restore(self._policies(), kept)
        for index, size in enumerate(record.sizes):
            self.job.adopt_segment(shard, index, size)
        self.records.append(record)
        if shard.number < self._first_shard:
            self.job.finish_shard(shard, record)

    @property
    def shards_left(self) -> int:
        """Epochs to run."""
        return len(self.job.shards) - self._first_shard

    @property
    def shard(self) -> JobShard:
        """The shard of the present epoch."""
        return self.job.shards[self._first_shard + self.current_epoch]

    def configure_optimizers(self) -> ReplayOptimizer:
        """The session's own step."""
        return ReplayOptimizer(self.step_batch)

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of the shard's batches that are left; pixels are read by the session."""
        self._begin()
        rest = range(self.session.batches, self._count(self.shard))
        return DataLoader(rest, batch_size=None)  # type: ignore[arg-type]

    def _begin(self) -> None:
        shard = self.shard
        self.session: Session = self.job.session(shard, self._policies(), measure=True)
        self.session.begin(self.job.images(shard))
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            self.session.restore(snapshot)
        if len(self.records) <= shard.number:
            self.records.append(ShardRecord(self.session.policy))

    def code_batch(self, number: int) -> CodedBatch:
        """Code the next batch with the present weights. Raises OsoaError for another number."""
        self.coded = self.session.code()
        if self.coded is None or self.coded.number != number:
            raise OsoaError(f"batch {number} does not come next")
        return self.coded

    def training_step(self, batch: int, batch_idx: int) -> None:
        """One move of the optimizer."""
        if self.coded is None:
            raise OsoaError(f"batch {batch} is not coded: the coding callback is missing")
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()

    def step_batch(self) -> None:
        """Step; where the batch ends a segment, write it and note where the run has got to."""
        self.finished = self.session.step()
        self.batches_done += 1
        if self.finished is None:
            return
        record, segment = self.records[self.shard.number], self.finished
        data = segment_format.pack(segment.header, segment.streams)
        self.job.add_segment(self.shard, segment.header.segment, data)
        record.note(segment, len(data))
        self.job.keep(
            {
                "shard": self.shard.number,
                "snapshot": self.session.snapshot(),
                "records": [r.to_dict() for r in self.records],
            }
        )

    def on_train_epoch_end(self) -> None:
        """The shard is done."""
        self.job.finish_shard(self.shard, self.records[self.shard.number])
