"""`osoa`: the tree of commands; errors become one line and an exit code.

Only the standard library and the error tree are loaded here, so that help is instant; a command
imports what it needs when it runs.

Exit codes: 0 done; 1 failed; 2 bad usage; 3 done, some inputs skipped; 4 not an archive, damaged
or newer; 5 checkpoint missing or wrong; 6 this machine cannot repeat the arithmetic; 7 output
exists; 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType

import osoa_pl
from osoa_pl.cli import bench, compress, decompress, doctor, info, listing, training, verify
from osoa_pl.cli.arguments import Parser, add_common, near
from osoa_pl.cli.console import Console, drop_output, reopen_streams
from osoa_pl.errors import OsoaError, UsageError

COMMANDS: dict[str, ModuleType | training.HandedOn] = {
    "compress": compress,
    "decompress": decompress,
    "verify": verify,
    "list": listing,
    "info": info,
    "bench": bench,
    **training.VERBS,
    "doctor": doctor,
}
INTERRUPTED = 130

_ABOUT = """\
Lossless compression of image collections with a model that adapts while it codes.

examples:
  osoa compress photos/ -o photos.osoa
  osoa verify photos.osoa
  osoa decompress photos.osoa -o restored/
"""
_CODES = """\
exit codes: 0 done; 1 failed; 2 bad usage; 3 done, some inputs skipped; 4 not an
archive, damaged or newer; 5 checkpoint missing or wrong; 6 this machine cannot
repeat the arithmetic; 7 output exists; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. `argv`: the arguments, by default those of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    reopen_streams()
    console = Console(use_json="--json" in words)
    show_traceback = "--traceback" in words
    with suppress(ValueError):  # only the main thread may; training handles it in its own way
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run(words, console)
        console.flush()
        return code
    except KeyboardInterrupt:
        return _failed(console, "interrupted", None, INTERRUPTED, show_traceback)
    except BrokenPipeError:
        drop_output()
        return 1
    except OsoaError as error:
        return _failed(console, str(error), error.hint, error.exit_code, show_traceback)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        reason = error.strerror or str(error) or type(error).__name__
        message = f"{where}{reason[:1].lower()}{reason[1:]}"
        return _failed(console, message, None, 1, show_traceback)
    except MemoryError:
        return _failed(console, "not enough memory", None, 1, show_traceback)
    except Exception as error:
        message = f"unexpected {type(error).__name__}: {error}"
        hint = None if show_traceback else "this is a bug; --traceback shows where it arose"
        return _failed(console, message, hint, 1, show_traceback)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _failed(
    console: Console, message: str, hint: str | None, code: int, show_traceback: bool
) -> int:
    try:
        if show_traceback:
            console.raw_error(traceback.format_exc())
        console.error(" ".join(message.split("\n")), hint, code)
    except OSError:  # stdout is full or gone; the code still tells
        drop_output()
    return code


def _run(words: list[str], console: Console) -> int:
    parser, commands = _tree()
    at = _check_words(words, parser, commands)
    handed: list[str] = []
    if at is not None and words[at] in training.VERBS:
        verb, known = training.VERBS[words[at]], commands[words[at]].option_names()
        own, handed = verb.divide(words[at + 1 :], known)
        words = [*words[: at + 1], *own]
    try:
        arguments = parser.parse_args(words, argparse.Namespace(words=handed))
    except SystemExit as done:  # help and --version have been printed
        return int(done.code or 0)
    console.quiet, console.color = arguments.quiet, arguments.color
    console.json = getattr(arguments, "json", False)
    code: int = COMMANDS[arguments.command].run(arguments, console)
    return code


def _tree() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(prog="osoa", usage="osoa COMMAND [OPTIONS]", description=_ABOUT, epilog=_CODES)
    tree = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", prog="osoa")
    commands: dict[str, Parser] = {}
    for name, module in COMMANDS.items():
        commands[name] = tree.add_parser(
            name, usage=module.USAGE, description=module.DESCRIPTION, help=module.SUMMARY
        )
        module.configure(commands[name])
        add_common(commands[name])
    add_common(parser, nested=False)
    version = f"osoa {osoa_pl.__version__}"
    parser.add_argument("--version", action="version", version=version, help="show the version")
    return parser, commands


def _check_words(words: Sequence[str], parser: Parser, commands: dict[str, Parser]) -> int | None:
    """Name the near neighbours of a misspelt command or long option, before argparse sees it.

    Returns where the command stands, if there is one. What follows one that hands its words on is
    not looked at.
    """
    known, command = parser.option_names(), ""
    before, at = "", None
    for index, word in enumerate(words):
        if word == "--":
            break
        if word.startswith("--"):
            name = word.partition("=")[0]
            if name not in known:
                where = f"osoa {command}".strip()
                raise UsageError(
                    f"unknown option {name!r}{near(name, known)}",
                    hint=f"`{where} --help` lists the options",
                )
        elif not word.startswith("-") and not command and before != "--color":
            if word not in commands:
                raise UsageError(
                    f"unknown command {word!r}{near(word, list(commands))}",
                    hint="`osoa --help` lists the commands",
                )
            command, at = word, index
            if command in training.VERBS:
                break
            known = commands[word].option_names()
        before = word
    helped = {"-h", "--help", "--version"}.intersection(words)
    if not command and not helped:
        raise UsageError("no command given", hint="`osoa --help` lists the commands")
    return at
