"""OSOA as a loop of the Trainer: an epoch is a trajectory, a batch is coded and then stepped on.

The order is the algorithm: the coding callback codes batch t with theta_t when the batch starts,
then the optimizer steps. The loop holds both to it. All that decides a byte lies in
`online.session`; options of the Trainer that would change bytes without standing in the archive's
manifest are refused. The only file that names Lightning's underscore classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as given
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils.data import DataLoader

from osoa_pl.api.job import CompressionJob
from osoa_pl.api.part import PartCoder
from osoa_pl.errors import OsoaError, UsageError
from osoa_pl.models.base import Model
from osoa_pl.online.session import CodedBatch, Segment
from osoa_pl.online.trajectory import Trajectory

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
    """The epoch of one trajectory: every batch is coded before its step, and stepped on once."""

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
    options.reload_dataloaders_every_n_epochs = 1  # each trajectory has its own batches


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
    """One compression as a training run, in manual optimisation; an epoch is a trajectory.

    job: open; what an earlier run has finished of it is taken over. The coding callback calls
    `code_batch`; the optimizer `step_batch`.
    """

    trajectory: Trajectory
    """Of the present epoch."""
    channels: int
    """Samples of its pixels."""

    def __init__(self, job: CompressionJob) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.job = job
        self.coded: CodedBatch | None = None
        self.finished: Segment | None = None
        """The segment that the last step ended, if it did."""
        self.batches_done = 0
        self._coder: PartCoder | None = None
        self._steps: dict[int, int] = {}
        self._moves = self._trajectories()
        self.more = self._next()
        """Whether there is a trajectory to run."""

    def _trajectories(self) -> Iterator[Trajectory]:
        for number in range(len(self.job.parts)):
            coder = self.job.coder(number)
            kept = coder.kept_result()
            if kept is not None:
                self.job.take(kept)
                continue
            self._coder = coder
            for moves in coder.moves():
                for move in moves:
                    yield move.trajectory
            self.job.take(coder.keep_result())

    def _next(self) -> bool:
        for trajectory in self._moves:
            self.trajectory, self.channels = trajectory, trajectory.session.model.channels
            if not trajectory.done:
                return True
        return False

    @property
    def first_step(self) -> int:
        """Batches of earlier trajectories of this kind of pixel, for curves that go on."""
        return self._steps.get(self.channels, 0)

    def start_model(self) -> Model:
        """A model like the trajectory's, at theta_0."""
        assert self._coder is not None
        return self._coder.model(self.channels, self.trajectory.policy.weights)

    def configure_optimizers(self) -> ReplayOptimizer:
        """The session's own step."""
        return ReplayOptimizer(self.step_batch)

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of the trajectory's batches that are left; the session reads the pixels."""
        session = self.trajectory.session
        rest = range(session.batches, session.batch_count)
        return DataLoader(rest, batch_size=None)  # type: ignore[arg-type]

    def code_batch(self, number: int) -> CodedBatch:
        """Code the next batch with the present weights. Raises OsoaError for another number."""
        self.coded = self.trajectory.code()
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
        """Step; a segment that the batch ends is kept, and where the run has got to."""
        self.finished = self.trajectory.step()
        self.batches_done += 1

    def on_train_epoch_end(self) -> None:
        """The trajectory is done: go on to the next one, or stop."""
        steps = self.first_step + self.trajectory.session.batch_count
        self._steps[self.channels] = steps
        self.more = self._next()
        if not self.more:
            self.trainer.should_stop = True
