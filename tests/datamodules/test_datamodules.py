"""What all data modules share: options, their help, and a Trainer that runs every stage."""

from __future__ import annotations

import inspect
import pickle
import sys

import numpy as np
import pytest
from fake_files import LIGHTNING_WARNINGS, Recorder, gather, images
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI

from osoa_pl import datamodules
from osoa_pl.datamodules import Arrays, ImageDataModule
from osoa_pl.datamodules.draws import below, permutation
from osoa_pl.errors import UsageError

MODULES = [
    kind
    for kind in vars(datamodules).values()
    if inspect.isclass(kind) and issubclass(kind, ImageDataModule) and kind is not ImageDataModule
]


def test_all_are_here():
    assert len(MODULES) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: found 0, expected 1 or more"),
        ({"workers": -1}, "workers: found -1, expected 0 or more"),
        ({"seed": -1}, "seed: found -1, expected 0 to 2^32 - 1"),
        ({"seed": 1 << 32}, "seed: found 4294967296, expected 0 to 2^32 - 1"),
        ({"validation": -1}, "validation: found -1, expected 0 or more"),
        ({"limit": 0}, "limit: found 0, expected 1 or more"),
        ({"batch_size": -2, "limit": -3}, "batch_size: found -2, expected 1 or more; limit: "
                                          "found -3, expected 1 or more"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", MODULES)
def test_options_out_of_range(kind, options, message):
    needed = {"train_file": "a.npy"} if kind is Arrays else {}
    with pytest.raises(UsageError) as caught:
        kind(**needed, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", MODULES)
def test_help_explains_every_option_once(kind, capsys):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--data.help=osoa_pl.datamodules.{kind.__name__}"])
    shown = capsys.readouterr().out.split("Help for")[1]
    words = " ".join(shown.split())
    for name in ("root", "batch_size", "workers", "seed", "validation", "limit"):
        start = words.index(f"--data.{name} ")
        assert words.count(f"--data.{name} ") == 1
        assert words[start:].split()[2][0].isupper()  # its line of help, not its type
    assert "(type: int, default: 64)" in words


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_command_line_builds_a_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["osoa"])
    np.save(tmp_path / "a.npy", images(9, 4, 4))
    given = {"train_file": "a.npy", "validation": 2, "batch_size": 3, "root": str(tmp_path)}
    data = {"class_path": "osoa_pl.datamodules.Arrays", "init_args": given}
    trainer = {"logger": False, "accelerator": "cpu", "enable_checkpointing": False}
    cli = LightningCLI(
        Recorder,
        ImageDataModule,
        subclass_mode_data=True,
        run=False,
        seed_everything_default=False,
        args={"data": data, "trainer": trainer},
    )
    assert gather(cli.datamodule.train_dataloader()).shape == (5, 4, 4, 1)


@pytest.mark.filterwarnings(LIGHTNING_WARNINGS[0])
@pytest.mark.filterwarnings(LIGHTNING_WARNINGS[1])
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
@pytest.mark.parametrize("held_out", [0, 3])
def test_a_trainer_runs_every_stage(tmp_path, held_out):
    pixels = images(9, 4, 4, 3)
    np.save(tmp_path / "a.npy", pixels)
    data = Arrays(
        train_file="a.npy", test_file="a.npy", root=tmp_path, validation=held_out, batch_size=4
    )
    options = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, **options
    )
    model = Recorder()
    trainer.fit(model, datamodule=data)
    assert len(model.seen) == 2 * (3 if held_out == 0 else 2)
    assert len(model.validated) == (0 if held_out == 0 else 3)  # once before training
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.test(model, datamodule=data, verbose=False)
    predicted = trainer.predict(model, datamodule=data)
    assert np.array_equal(np.concatenate(predicted), pixels)


def test_datasets_travel_to_worker_processes(tmp_path):
    np.save(tmp_path / "a.npy", images(9, 4, 4, 3))
    data = Arrays(train_file="a.npy", root=tmp_path, validation=2)
    again = pickle.loads(pickle.dumps(data.dataset("train")))
    assert np.array_equal(again[1, 2], data.dataset("train")[1, 2])


def test_draws_are_fixed_for_ever():
    assert permutation(1, 10).tolist() == [7, 4, 9, 6, 2, 0, 3, 8, 1, 5]
    assert sorted(permutation(2, 1000)) == list(range(1000))
    assert permutation(3, 0).tolist() == []
    draws = np.array([below(key, [6, 1])[0] for key in range(3000)])
    assert np.bincount(draws, minlength=6).min() > 400 and draws.max() == 5
