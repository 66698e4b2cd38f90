"""`osoa fit`, `validate`, `test`, `predict` and `run`: words handed on to the training side.

Their options are those of configs, too many for argparse to know. This module has the short help,
keeps the options that all commands share to itself, and tells the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from osoa_pl.cli.arguments import add_json, near
from osoa_pl.cli.console import Console, counted, duration
from osoa_pl.errors import OutputExistsError, UsageError

if TYPE_CHECKING:
    from osoa_pl.train.cli import Outcome

LOOP = "osoa"
"""What `osoa run` runs."""

_OPTIONS = """\

run:
  -c, --config FILE        yaml of options; several add up, the later ones win
  --name NAME              the run lies in runs/NAME (default: name of the last FILE)
  --ckpt_path FILE         checkpoint of a run: to resume it, or to measure it
  --seed_everything N      seed of all generators (default: 0)
  --print_config           print every option with its value as yaml, and stop
  --help-all               help of every option, hundreds of lines

model:
  --model.model CLASS      LocalAR, VAE, or a class path
  --model.model.X VALUE    its options, which --model.model.help CLASS lists
  --model.X VALUE          learning_rate, warmup_steps, schedule, exact_epochs, seed, ...

data:
  --data CLASS             MNIST, CIFAR10, ImageFolder, Arrays, ..., or a class path
  --data.X VALUE           root, batch_size, ...: --data.help CLASS lists them

trainer:
  --trainer.X VALUE        max_epochs, gradient_clip_val, accumulate_grad_batches, precision,
                           devices, logger, callbacks, ...: those of Lightning's Trainer
"""
_FIT = """\
Train a model by the code length of its images. A config usually ends with a checkpoint
for `osoa compress --checkpoint`.

examples:
  osoa fit -c configs/fit/debug_local_ar.yaml
  osoa fit -c configs/fit/mnist_vae.yaml --data.root ~/data --trainer.max_epochs 60
  osoa fit -c configs/fit/mnist_vae.yaml --ckpt_path runs/mnist_vae/version_0/checkpoints/last.ckpt
"""
_MEASURE = """\
{what}, in bits/dim by the model
alone: no code is written.

examples:
  osoa {verb} -c configs/fit/mnist_vae.yaml --ckpt_path last.ckpt
  osoa {verb} -c runs/mnist_vae/version_0/config.yaml --ckpt_path last.ckpt
  osoa {verb} -c config.yaml --ckpt_path last.ckpt --data ImageFolder --data.root photos
"""
_RUN = """\
Run a custom loop of the Trainer. The one loop is `osoa`: one-shot online adaptation.

examples:
  osoa run osoa --help
  osoa run osoa --print_config
  osoa run osoa -c config.yaml
"""


LOOP_HELP = """\
usage: osoa run osoa -c CONFIG [OPTIONS]

Compress by one-shot online adaptation on a Trainer: every batch is coded with the
present weights, then learnt from. The archive has the bytes of `osoa compress
--adaptation online`; the curves go to TensorBoard.

examples:
  osoa run osoa -c configs/osoa/demo.yaml
  osoa run osoa --inputs '["photos"]' --output photos.osoa --trainer.logger true
  osoa run osoa -c configs/osoa/demo.yaml --resume true --compare_none true

options:
  -c, --config FILE        yaml of options; several add up, the later ones win
  --inputs LIST            folders, pictures, arrays
  --output ARCHIVE         archive to write
  --checkpoint NAME|PATH   checkpoint to start from (default: default)
  --adaptation HOW         online (default) or none
  --step_size X            of the adaptation (default: 0.001)
  --settings.X N           batch_pixels, first_pixels, first_batches, segment_batches, streams
  --seed N, --embed_checkpoint BOOL, --overwrite BOOL, --threads N, --name NAME
  --resume BOOL            keep what is finished when the run ends early, and continue
  --compare_none BOOL      log also what the checkpoint needs without adaptation
  --trainer.X VALUE        Lightning's Trainer: logger, accelerator, callbacks, profiler, ...;
                           what would change the archive is refused
  --print_config           print every option with its value as yaml, and stop
  --help-all               help of every option
  -q, --quiet; --json; --color WHEN; --traceback
"""


@dataclass(frozen=True)
class HandedOn:
    """A command whose words argparse does not judge; attributes as of a command's module."""

    verb: str
    SUMMARY: str
    DESCRIPTION: str
    USAGE: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """The options that this side knows."""
        if self.verb != "run":
            add_json(parser.add_argument_group("output"))

    def divide(self, words: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
        """(words for this side, words to hand on) of those after the command.

        known: the options of this side. After `run osoa`, -q, --json and --help are the loop's.
        """
        kept = set(known)
        if self.verb == "run" and LOOP in words:
            kept = {"--color", "--traceback"}
        own: list[str] = []
        handed: list[str] = []
        before = ""
        for word in words:
            name = word.partition("=")[0]
            (own if name in kept or before == "--color" else handed).append(word)
            before = word
        return own, handed

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        """Hand the words on; the exit code."""
        words: list[str] = arguments.words
        if self.verb == "run":
            return _run_loop(words, console)
        from osoa_pl.train.cli import run

        words = ["--help" if word == "--help-all" else word for word in words]
        outcome = run([self.verb, *words], quiet=arguments.quiet, warn=console.warning)
        if outcome is not None:
            _tell(outcome, console)
        return 0


FIT = HandedOn("fit", "train a model", _FIT + _OPTIONS, "osoa fit -c CONFIG [OPTIONS]")
VALIDATE, TEST, PREDICT = (
    HandedOn(
        verb,
        summary,
        _MEASURE.format(verb=verb, what=what) + _OPTIONS,
        f"osoa {verb} -c CONFIG --ckpt_path FILE [OPTIONS]",
    )
    for verb, summary, what in (
        ("validate", "measure a model on validation images", "Measure the validation part"),
        ("test", "measure a model on test images", "Measure the test part"),
        ("predict", "measure each test image", "Measure each image of the test part, a line each"),
    )
)
RUN = HandedOn("run", "run a loop: osoa", _RUN, f"osoa run {LOOP} [OPTIONS]")
VERBS = {command.verb: command for command in (FIT, VALIDATE, TEST, PREDICT, RUN)}

_MEASURED = ("epochs", "steps", "exported")
_NOT_TOLD = {
    "fit": ("bits_per_dim",),
    "validate": (*_MEASURED, "bits_per_dim"),
    "test": (*_MEASURED, "bits_per_dim"),
    "predict": (*_MEASURED, "metrics"),
}


def _run_loop(words: list[str], console: Console) -> int:
    if not words:
        raise UsageError(f"no loop given (expected {LOOP})", hint="`osoa run --help` shows more")
    if words[0] != LOOP:
        raise UsageError(f"unknown loop {words[0]!r}{near(words[0], [LOOP])} (expected {LOOP})")
    words = words[1:]
    own = [word for word in words if word in ("-q", "--quiet", "--json", "-h", "--help")]
    console.json, console.quiet = (
        "--json" in own,
        console.quiet or bool({"-q", "--quiet"} & set(own)),
    )
    if {"-h", "--help"}.intersection(own):
        console.result(LOOP_HELP.rstrip())
        return 0
    from osoa_pl.cli.compress import tell
    from osoa_pl.train.osoa import run

    rest = ["--help" if word == "--help-all" else word for word in words if word not in own]
    try:
        done = run(rest, quiet=bool(console.quiet), warn=console.warning)
    except OutputExistsError as error:
        raise OutputExistsError(str(error), hint="overwrite it with --overwrite true") from None
    return 0 if done is None else tell(*done, console)


def _tell(outcome: Outcome, console: Console) -> None:
    if console.json:
        facts = asdict(outcome)
        for name in _NOT_TOLD[outcome.verb]:
            del facts[name]
        console.emit("summary", **facts, exit_code=0)
    elif outcome.verb == "predict":
        for rate in outcome.bits_per_dim:
            console.result(f"{rate:.4f}")
    elif outcome.verb != "fit":
        for name, value in outcome.metrics.items():
            console.result(f"{name} {value:.4f}")
    console.note(closing_line(outcome))


def closing_line(outcome: Outcome) -> str:
    """Folder, length, rates and files of a finished run."""
    if outcome.verb != "fit":
        what = counted(len(outcome.bits_per_dim), "image") + ", " if outcome.bits_per_dim else ""
        return f"{outcome.verb}: {what}{duration(outcome.seconds)}"
    length = f"{counted(outcome.epochs, 'epoch')}, {counted(outcome.steps, 'step')}"
    rates = [
        f"{part} {outcome.metrics[name]:.4f} bits/dim"
        for part, name in (("train", "train/bits_per_dim"), ("validation", "val/bits_per_dim"))
        if name in outcome.metrics
    ]
    line = f"{outcome.folder}: {length}, {duration(outcome.seconds)}"
    return "; ".join([line, *rates, *(f"checkpoint {path}" for path in outcome.exported)])
