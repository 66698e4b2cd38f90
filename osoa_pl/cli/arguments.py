"""Options that commands share, and an argument parser whose mistakes cost one line."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from osoa_pl.errors import UsageError

MOST_JOBS = 4
"""Processes that are started without being asked for."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print its usage and exit."""

    def __init__(self, **options: Any) -> None:
        if sys.version_info >= (3, 14):
            options.setdefault("color", False)
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Raise UsageError(message) with the command's help as the hint."""
        raise UsageError(message, hint=f"`{self.prog} --help` shows how it is used")

    def option_names(self) -> list[str]:
        """All long and short options."""
        return [name for action in self._actions for name in action.option_strings]


def near(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'compress'?``, or nothing where no known word is near."""
    found = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def one_of(*names: str) -> Callable[[str], str]:
    """Argument type: one of `names`."""

    def choice(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(
                f"unknown value {text!r} (expected {', '.join(names)}){near(text, names)}"
            )
        return text

    return choice


def whole(low: int, high: int) -> Callable[[str], int]:
    """Argument type: an integer from `low` to `high`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"found {text!r}, expected a whole number from {low} to {high}"
            )
        return value

    return number


def positive(text: str) -> float:
    """Argument type: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 0")
    return value


def add_common(parser: argparse.ArgumentParser, *, nested: bool = True) -> None:
    """-h, -q, --color, --traceback; `nested`: keep what was given before the command."""
    default: Any = argparse.SUPPRESS if nested else None
    group = parser.add_argument_group("common options")
    group.add_argument("-h", "--help", action="help", help="show this text")
    group.add_argument(
        "-q", "--quiet", action="store_true", default=default or False,
        help="no progress and no closing line",
    )  # fmt: skip
    group.add_argument(
        "--color", type=one_of("auto", "always", "never"), default=default or "auto",
        metavar="WHEN", help="auto (a terminal without NO_COLOR), always or never",
    )  # fmt: skip
    group.add_argument(
        "--traceback", action="store_true", default=default or False,
        help="show where in the program an error arose",
    )  # fmt: skip


def add_json(parser: Any) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="JSON on stdout, one object a line")


def add_jobs(parser: Any) -> None:
    """--jobs."""
    parser.add_argument(
        "-j", "--jobs", type=whole(1, 1024), default=min(os.cpu_count() or 1, MOST_JOBS),
        metavar="N",
        help="shards at a time, a process of some 1 GB each (default: as there are cores, at most "
        f"{MOST_JOBS}); the bytes do not depend on it",
    )  # fmt: skip


def add_machine(parser: Any) -> None:
    """--threads and --device."""
    parser.add_argument(
        "--threads", type=whole(1, 1024), metavar="N",
        help="threads (default: all cores, shared by the jobs); the bytes do not depend on it",
    )  # fmt: skip
    parser.add_argument(
        "--device", type=one_of("cpu", "cuda"), default="cpu", metavar="cpu|cuda",
        help="where the model runs (default: cpu)",
    )  # fmt: skip


def add_checkpoint(parser: Any) -> None:
    """--checkpoint for commands that decode."""
    parser.add_argument(
        "--checkpoint", metavar="NAME|PATH",
        help="checkpoint to use (default: the one the archive names)",
    )  # fmt: skip
