"""`osoa run osoa`: a compression as a run of the Trainer, with its curves in TensorBoard.

The archive is the one that `osoa compress` writes with the same options, byte for byte.
"""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger

from osoa_pl.api.job import CompressionJob, CompressResult, JobOptions
from osoa_pl.errors import UsageError
from osoa_pl.train.cli import RUNS
from osoa_pl.train.coding import CodingCallback
from osoa_pl.train.loop import OSOAModule, install
from osoa_pl.train.manners import check_configs, translated
from osoa_pl.train.messages import explain
from osoa_pl.train.progress import progress_bar


@dataclass
class OSOAOptions:
    """What is compressed, and how; the keys of a config beside `trainer`.

    Args:
        inputs: Folders, pictures and arrays, as for `osoa compress`.
        output: Archive to write.
        checkpoint: Name or path of the checkpoint to start from.
        adaptation: online (a step after each batch) or none.
        step_size: Of the adaptation.
        seed: Of the rounding noise.
        settings: Sizes that differ from what suits the checkpoint: batch_pixels, first_pixels,
            first_batches, segment_batches, streams.
        shard: Images that are coded as one trajectory (default: some 50 MB of samples).
        times: Keep times of change, and folders.
        model_only: Code every picture through the model, also where something else is smaller.
        embed_checkpoint: Put the checkpoint into the archive.
        overwrite: Replace an archive that is there already.
        resume: Continue a run that ended early.
        compare_none: Log also what the checkpoint would need without adaptation.
        threads: Threads of the model; the bytes do not depend on it.
        name: The run lies in runs/NAME (default: name of the archive).
    """

    inputs: list[str] = field(default_factory=list)
    output: str = ""
    checkpoint: str = "base"
    adaptation: Literal["online", "none"] = "online"
    step_size: float = 1e-3
    seed: int = 0
    settings: dict[str, int] = field(default_factory=dict)
    shard: int | None = None
    times: bool = True
    model_only: bool = False
    embed_checkpoint: bool = False
    overwrite: bool = False
    resume: bool = False
    compare_none: bool = False
    threads: int | None = None
    name: str | None = None

    def job_options(self, device: str) -> JobOptions:
        """The same for a job."""
        return JobOptions(
            checkpoint=self.checkpoint, embed_checkpoint=self.embed_checkpoint,
            adaptation=self.adaptation, step_size=self.step_size, seed=self.seed,
            settings=self.settings, shard=self.shard, times=self.times,
            model_only=self.model_only, device=device, threads=self.threads,
            overwrite=self.overwrite, resume=self.resume, measure=True,
        )  # fmt: skip


def compress_with_trainer(options: OSOAOptions, trainer: Trainer) -> CompressResult:
    """Compress by the OSOA loop on a Trainer; the same bytes as `osoa_pl.compress`.

    The Trainer's max_epochs is ignored; its other options must leave the trajectory alone
    (UsageError). A CodingCallback is added where there is none.
    """
    install(trainer)
    cuda = isinstance(trainer.accelerator, CUDAAccelerator)
    job_options = options.job_options("cuda" if cuda else "cpu")
    job = CompressionJob(options.inputs, options.output, job_options)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(one, CodingCallback) for one in callbacks):
        callbacks.insert(0, CodingCallback(options.compare_none))
    with job:
        module = OSOAModule(job)
        if module.more:
            trainer.fit_loop.max_epochs = -1  # the module stops after its last trajectory
            trainer.fit(module)
        result = job.commit()
    for logger in trainer.loggers:
        logger.log_metrics({"archive/bits_per_dim": result.bits_per_dim}, 0)
        logger.finalize("success")
    return result


def run(
    words: list[str], *, quiet: bool = False, warn: Callable[[str], None] | None = None
) -> tuple[str, CompressResult] | None:
    """Run with the words after `osoa run osoa`: (archive, result), None after help and the like.

    Raises OsoaError for a mistake, KeyboardInterrupt where Ctrl-C ended the run.
    """
    check_configs(words)
    parser = _parser()
    keys = [action.dest for action in parser._actions if action.option_strings]
    with translated(warn) as out:
        try:
            with redirect_stdout(out):
                config = parser.parse_args(words)
        except ArgumentError as error:
            raise explain(str(error), "run osoa", keys) from error
        options = OSOAOptions(**_own(config))
        missing = [key for key in ("inputs", "output") if not getattr(options, key)]
        if missing:
            raise UsageError(f"{' and '.join(missing)}: not given", hint="`osoa run osoa --help`")
        trainer = _trainer(parser, config, options, quiet)
        if trainer.loggers and trainer.log_dir:  # what the run used, beside its curves
            folder = Path(trainer.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(parser.dump(config), encoding="utf-8")
        result = compress_with_trainer(options, trainer)
        return options.output, result
    return None


def _parser() -> LightningArgumentParser:
    parser = LightningArgumentParser(
        description="One-shot online adaptation on a Trainer.", exit_on_error=False,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("-c", "--config", action="config", help="yaml of options")
    parser.add_class_arguments(OSOAOptions, None, fail_untyped=False)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults(
        {
            "trainer.logger": False,
            "trainer.enable_checkpointing": False,
            "trainer.enable_model_summary": False,
        }
    )
    return parser


def _own(config: Namespace) -> dict[str, Any]:
    return {key: config[key] for key in OSOAOptions.__dataclass_fields__}


def _trainer(
    parser: LightningArgumentParser, config: Namespace, options: OSOAOptions, quiet: bool
) -> Trainer:
    given = parser.instantiate_classes(config).trainer.as_dict()
    folder = Path(
        given["default_root_dir"] or Path(RUNS, options.name or Path(options.output).stem)
    )
    given["default_root_dir"] = str(folder)
    if given["logger"] is True:
        given["logger"] = TensorBoardLogger(folder.parent, folder.name)
    callbacks = given["callbacks"] or []
    given["callbacks"] = list(callbacks) if isinstance(callbacks, list) else [callbacks]
    if quiet:
        given["enable_progress_bar"] = False
    elif not any(isinstance(one, ProgressBar) for one in given["callbacks"]):
        given["callbacks"].append(progress_bar())
    return Trainer(**given)
