"""`fit`, `validate`, `test` and `predict`: Lightning's command line with our manners.

A mistake costs one line, nothing of Lightning's goes to stdout, and what a run writes lies in its
folder `runs/NAME`. Given up: messages of Lightning below the rank of a warning.
"""

from __future__ import annotations

import time
import warnings
import zipfile
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.loggers import TensorBoardLogger

from osoa_pl import __version__
from osoa_pl.errors import CheckpointError, OsoaError, UsageError
from osoa_pl.train.callbacks import CheckpointExport
from osoa_pl.train.manners import check_configs, translated
from osoa_pl.train.messages import explain
from osoa_pl.train.module import DensityModule
from osoa_pl.train.progress import progress_bar

RUNS = "runs"
CLASSES = (
    "osoa_pl.datamodules",
    "osoa_pl.models.local_ar_density",
    "osoa_pl.models.vae_density",
    "osoa_pl.train.callbacks",
)
"""Modules to import for their classes, which configs then name without them."""
_CHECKPOINT_WORDS = ("best", "last", "hpc")


@dataclass
class Outcome:
    """What a verb did. metrics: name -> value; bits_per_dim: of each image (predict alone)."""

    verb: str
    folder: str
    seconds: float
    epochs: int = 0
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    bits_per_dim: list[float] = field(default_factory=list)
    exported: list[str] = field(default_factory=list)


def run(
    arguments: list[str], *, quiet: bool = False, warn: Callable[[str], None] | None = None
) -> Outcome | None:
    """Run a verb with what follows it; None where there is nothing to tell.

    That is after help and --print_config, and in all processes of a run but the first. Raises
    OsoaError for a mistake, KeyboardInterrupt where Ctrl-C ended the run, SystemExit(143) where
    the system did.
    """
    with translated(warn) as out:
        return TrainingCLI(arguments, quiet=quiet, out=out).outcome
    return None


class TrainingCLI(LightningCLI):
    """Runs one verb when it is made; `outcome` tells what came of it."""

    outcome: Outcome | None = None

    def __init__(self, arguments: list[str], *, quiet: bool, out: TextIO) -> None:
        self.quiet, self.out = quiet, out
        self.parsers: list[LightningArgumentParser] = []
        self.began = time.monotonic()
        for module in CLASSES:
            import_module(module)
        super().__init__(
            DensityModule,
            LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=ConfigFile,
            trainer_defaults={"logger": False, "enable_model_summary": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=arguments,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the parameters of the trainer's methods that are not options."""
        common = {"model", "datamodule", "dataloaders", "verbose", "return_predictions"}
        return {
            "fit": {"model", "datamodule", "train_dataloaders", "val_dataloaders"},
            **{verb: common for verb in ("validate", "test", "predict")},
        }

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises its errors and takes options by their full names alone."""
        made = [f"osoa_pl=={__version__}", f"lightning=={metadata.version('lightning')}"]
        options = {"exit_on_error": False, "allow_abbrev": False, "dump_header": made}
        return super().init_parser(**{**kwargs, **options})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """--name."""
        parser.add_argument(
            "--name", type=str | None, default=None,
            help=f"The run lies in {RUNS}/NAME (default: name of the last config file).",
        )  # fmt: skip
        self.parsers.append(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; raises UsageError, CheckpointError. Help and --print_config go to stdout."""
        words = [str(word) for word in args] if isinstance(args, list) else []
        verb = words[0] if words else ""
        keys = self._keys().get(verb, [])
        self.configs = check_configs(words)
        try:
            with redirect_stdout(self.out):
                self.config = parser.parse_args(words)
        except ArgumentError as error:
            raise explain(str(error), verb, keys) from error
        _check_checkpoint(verb, self.config[verb].get("ckpt_path"))

    def _keys(self) -> dict[str, list[str]]:
        return {
            verb: [action.dest for action in parser._actions if action.option_strings]
            for verb, parser in zip(self.subcommands(), self.parsers, strict=True)
        }

    def before_instantiate_classes(self) -> None:
        """Point the run to its folder."""
        options = self.config[self.subcommand]
        if options.trainer.default_root_dir is None:
            named = [options.name, *(Path(path).stem for path in reversed(self.configs))]
            kind = options.model.model.class_path.rpartition(".")[2]
            name = next((name for name in named if name), kind)
            options.trainer.default_root_dir = str(Path(RUNS, name))

    def instantiate_classes(self) -> None:
        """Make model, data and trainer; raises UsageError for what a class refuses."""
        try:
            super().instantiate_classes()
        except OsoaError:
            raise
        except ValueError as error:  # jsonargparse's, around what the class has said
            raise explain(str(error), str(self.subcommand), []) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with a progress bar for stderr, and TensorBoard for `logger: true`."""
        given = self.config_init[self.subcommand].trainer
        callbacks = given.callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if not any(isinstance(one, ProgressBar) for one in callbacks):
            if self.quiet:
                kwargs["enable_progress_bar"] = False
            elif given.enable_progress_bar is not False:
                callbacks.append(progress_bar())
        if given.logger is True:
            folder = Path(given.default_root_dir)
            kwargs["logger"] = TensorBoardLogger(folder.parent, folder.name)
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def after_fit(self) -> None:
        """Tell how it went."""
        trainer = self.trainer
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        exports = [one for one in callbacks if isinstance(one, CheckpointExport)]
        self._tell(
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            metrics={name: float(x) for name, x in trainer.callback_metrics.items()},
            exported=[str(one.path) for one in exports if one.exported],
        )

    def validate(self, **options: Any) -> None:
        """Measure on the validation part; Lightning's table is left out."""
        self._measured(self.trainer.validate(verbose=False, **options))

    def test(self, **options: Any) -> None:
        """Measure on the test part."""
        self._measured(self.trainer.test(verbose=False, **options))

    def predict(self, **options: Any) -> None:
        """Measure every image. Raises UsageError for a run of several processes."""
        if self.trainer.world_size > 1:
            raise UsageError(f"predict: found {self.trainer.world_size} processes, expected 1")
        found: Any = self.trainer.predict(**options)
        self._tell(bits_per_dim=torch.cat(found).tolist() if found else [])

    def _measured(self, found: Sequence[Mapping[str, float]]) -> None:
        if not found or not found[0]:
            raise UsageError(f"{self.subcommand}: the data has no images for it")
        self._tell(metrics=dict(found[0]))

    def _tell(self, **facts: Any) -> None:
        trainer = self.trainer
        if trainer.is_global_zero:
            folder = trainer.loggers[0].log_dir if trainer.loggers else None
            seconds = time.monotonic() - self.began
            where = str(folder or trainer.default_root_dir)
            self.outcome = Outcome(str(self.subcommand), where, seconds, **facts)


class ConfigFile(SaveConfigCallback):
    """Saves what the run used beside its logs: config.yaml, or config-2.yaml where that is there.

    A measurement without a logger leaves nothing behind.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose a name that is free, then save."""
        if stage != "fit" and not trainer.loggers:
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asked for in all processes
        number = 1
        while not self.already_saved and (folder / self.config_filename).exists():
            number += 1
            self.config_filename = f"config-{number}.yaml"
        super().setup(trainer, pl_module, stage)


def _check_checkpoint(verb: str, path: str | None) -> None:
    """Raises CheckpointError where a path is no checkpoint of Lightning; warns of none at all."""
    if path is None:
        if verb != "fit":
            warnings.warn("no --ckpt_path given: the weights are the model's first", stacklevel=2)
    elif path not in _CHECKPOINT_WORDS and "://" not in path:
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such file")
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path}: not a checkpoint of Lightning, or cut short")
