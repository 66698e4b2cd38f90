"""A run that is cut off and resumed sees the batches that an uncut run sees, no more, no less."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
from fake_files import LIGHTNING_WARNINGS, Recorder, gather, images
from lightning.pytorch import Callback, Trainer

from osoa_pl.datamodules import Arrays, ResumableLoader
from osoa_pl.datamodules.draws import below
from osoa_pl.errors import InputError, UsageError

pytestmark = [pytest.mark.filterwarnings(line) for line in LIGHTNING_WARNINGS]
EPOCHS, BATCHES = 3, 5


class Cut(Exception):
    """The end of a run, as an exception that no one catches."""


class Cutter(Callback):
    """Saves a checkpoint in hook `moment` of batch `number` of epoch 1, then ends the run."""

    def __init__(self, moment, number, path):
        self._number, self._path = number, path
        setattr(self, moment, self._cut)

    def _cut(self, trainer, module, *rest):
        place = trainer.current_epoch, trainer.fit_loop.batch_idx
        if place == (1, self._number) and not trainer.sanity_checking:
            trainer.save_checkpoint(self._path)
            raise Cut


class Randomised(Arrays):
    """Arrays whose training images get a random value in a corner: draws must resume, too."""

    def view(self, part):
        return blot if part == "train" else None


def blot(image, key):
    image = image.copy()
    image[0, 0, 0] = below(key, [256])[0]
    return image


@pytest.fixture
def module(tmp_path):
    np.save(tmp_path / "all.npy", images(4 * BATCHES - 1 + 6, 4, 4, 3))

    def build(**options):
        defaults = {"root": tmp_path, "train_file": "all.npy", "validation": 3, "batch_size": 4}
        return Randomised(**(defaults | options))

    return build


def fit(data, path=None, callbacks=(), **options):
    """(epoch, batch) of every step of a run over `data`, resumed from `path`."""
    model = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **({"max_epochs": EPOCHS} | options),
    )
    with suppress(Cut):
        trainer.fit(model, datamodule=data, ckpt_path=path)
    return model.seen


@pytest.mark.parametrize("limit", [{}, {"max_epochs": -1, "max_steps": EPOCHS * BATCHES}])
@pytest.mark.parametrize(
    ("moment", "number", "done"),
    [
        ("on_train_batch_end", 0, 1),
        ("on_train_batch_end", 2, 3),
        ("on_train_batch_end", BATCHES - 1, BATCHES),
        ("on_train_batch_start", 2, 2),  # the batch is handed out, its step not taken
        ("on_validation_end", 1, 2),
        ("on_validation_end", 3, 4),
    ],
)
def test_a_resumed_run_sees_the_batches_of_an_uncut_one(
    module, tmp_path, moment, number, done, limit
):
    options = {"val_check_interval": 2, **limit}
    whole = fit(module(), **options)
    assert [epoch for epoch, _ in whole] == [e for e in range(EPOCHS) for _ in range(BATCHES)]
    assert len({batch for _, batch in whole}) == EPOCHS * BATCHES

    path = tmp_path / "cut.ckpt"
    start = fit(module(), callbacks=[Cutter(moment, number, path)], **options)
    assert len(start) == BATCHES + done
    rest = fit(module(), path, **options)
    assert start + rest == whole


@pytest.mark.parametrize("moment", ["on_validation_end", "on_train_epoch_end"])
def test_resuming_between_epochs(module, tmp_path, moment):
    # With max_steps, Lightning's loop counts an epoch too many after on_train_epoch_end.
    path = tmp_path / "cut.ckpt"
    start = fit(module(), callbacks=[Cutter(moment, BATCHES - 1, path)])
    assert start + fit(module(), path) == fit(module())


@pytest.mark.parametrize("limit", [{"limit_train_batches": 3}, {"accumulate_grad_batches": 2}])
def test_resuming_where_the_trainer_takes_part_of_the_batches(module, tmp_path, limit):
    path = tmp_path / "cut.ckpt"
    start = fit(module(), callbacks=[Cutter("on_train_batch_end", 1, path)], **limit)
    assert start + fit(module(), path, **limit) == fit(module(), **limit)


def test_resuming_twice_in_an_epoch(module, tmp_path):
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    seen = fit(module(), callbacks=[Cutter("on_train_batch_end", 0, first)])
    seen += fit(module(), first, callbacks=[Cutter("on_train_batch_end", 2, second)])
    assert seen + fit(module(), second) == fit(module())


def test_worker_processes_change_nothing(module, tmp_path):
    path = tmp_path / "cut.ckpt"
    whole = fit(module())
    start = fit(module(workers=2), callbacks=[Cutter("on_train_batch_end", 2, path)])
    assert start + fit(module(workers=2), path) == whole


def test_skipped_images_are_not_read(module):
    data = module()
    loader = data.train_dataloader()
    batches = list(loader)
    state = loader.state_dict() | {"batches": 3}

    resumed = module().train_dataloader()
    read = []
    stored = resumed.dataset.images

    class Watched:
        def __len__(self):
            return len(stored)

        def __getitem__(self, index):
            read.append(index)
            return stored[index]

    resumed.dataset.images = Watched()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(resumed) == BATCHES
    rest = list(resumed)
    assert len(read) == 4 + 3
    assert all(torch.equal(a, b) for a, b in zip(rest, batches[3:], strict=True))
    assert resumed.state_dict()["batches"] == BATCHES
    assert len(list(resumed)) == BATCHES  # the state is spent


def test_the_state_counts_batches_handed_out(module):
    loader = module().train_dataloader()
    assert loader.state_dict()["batches"] == 0
    batches = iter(loader)
    assert loader.state_dict()["batches"] == 0
    next(batches), next(batches)
    assert loader.state_dict() == {
        "epoch": 0, "batches": 2, "batch_size": 4, "images": 19, "replicas": 1, "seed": 0,
    }  # fmt: skip


def test_other_batches_cannot_be_resumed_in_mid_epoch(module):
    state = module().train_dataloader().state_dict() | {"batches": 2}
    loader = module(batch_size=8).train_dataloader()
    loader.load_state_dict(state)
    with pytest.raises(UsageError, match="epoch 0: found batch_size 8, expected 4 as in"):
        next(iter(loader))
    loader.load_state_dict(state | {"epoch": 7})  # at an epoch's end there is nothing to skip
    assert len(list(loader)) == 3
    with pytest.raises(UsageError, match="state of a data loader: found other, expected epoch, "):
        loader.load_state_dict({"other": 1})


def test_an_epoch_is_shuffled_by_seed_and_epoch(module):
    def epoch(number, **options):
        loader = module(**options).train_dataloader()
        loader.sampler.set_epoch(number)
        return gather(loader)

    assert np.array_equal(epoch(1), epoch(1))
    assert np.array_equal(epoch(1), epoch(1, batch_size=19))
    assert not np.array_equal(epoch(0), epoch(1))
    assert not np.array_equal(epoch(1, seed=4), epoch(1, seed=5))
    in_order = module().images("train")
    pixels = sorted(image[1:].tobytes() for image in epoch(1))
    assert pixels == sorted(in_order[index][1:].tobytes() for index in range(len(in_order)))


def test_processes_share_the_training_images(module):
    class Place:
        def __init__(self, rank):
            self.distributed_sampler_kwargs = {"num_replicas": 2, "rank": rank}

    seen = []
    for rank in range(2):
        data = module(limit=18)
        data.trainer = Place(rank)
        loader = data.train_dataloader()
        loader.progress = None
        seen += [image.tobytes() for image in gather(loader)]
    alone = gather(module(limit=18).train_dataloader())
    assert sorted(seen) == sorted(image.tobytes() for image in alone)
    assert loader.state_dict()["replicas"] == 2


def test_overfitting_reads_in_order(module):
    message = "You requested to overfit but enabled train dataloader shuffling"
    with pytest.warns(UserWarning, match=message):
        seen = fit(module(), overfit_batches=2, limit_val_batches=0)
    assert len(seen) == 2 * EPOCHS
    assert len({batch for _, batch in seen}) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_while_reading_is_one_line(module, workers):
    loader = module(workers=workers).train_dataloader()
    loader.dataset._view = fail
    assert isinstance(loader, ResumableLoader)
    with pytest.raises(InputError, match=r"^cat.png: broken$"):
        next(iter(loader))


def fail(image, key):
    raise InputError("cat.png: broken")
