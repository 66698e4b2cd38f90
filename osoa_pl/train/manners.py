"""How a run of the Trainer behaves at our command line: one line for a mistake, stdout left alone.

Lightning's prints go to stderr, its warnings through our own words, its chatter nowhere.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from osoa_pl.errors import UsageError
from osoa_pl.train.messages import flat

TERMINATED = 143
_NOISE = (
    "does not have many workers",
    "exists and is not empty",
    "outside the 'fit' stage",
    "is smaller than the logging interval",
    "dirpath has changed",
)
"""Warnings that say nothing here."""


@contextmanager
def translated(warn: Callable[[str], None] | None = None) -> Iterator[TextIO]:
    """Run the Trainer inside; what it raises becomes one of our errors. Gives the true stdout.

    Raises UsageError for a misconfiguration, KeyboardInterrupt where Ctrl-C ended the run,
    SystemExit(143) where the system did.
    """
    out = sys.stdout
    try:
        with _manners(warn or _warn):
            yield out
    except MisconfigurationException as error:
        raise UsageError(flat(str(error))) from error
    except SIGTERMException:
        raise SystemExit(TERMINATED) from None
    except SystemExit as done:
        if isinstance(done.__context__, KeyboardInterrupt):  # Lightning makes an exit code 1 of it
            raise KeyboardInterrupt from None
        if done.code:
            raise


def check_configs(words: list[str]) -> list[str]:
    """Files given by -c or --config. Raises UsageError for one that is missing or no yaml."""
    pairs = zip(words, words[1:])
    files = [name for word, name in pairs if word in ("-c", "--config") and name[:1] != "-"]
    files += [word.partition("=")[2] for word in words if word.startswith(("-c=", "--config="))]
    for name in files:
        try:
            found = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{name}: {(error.strerror or str(error)).lower()}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{name}: {_yaml_problem(error)}") from None
        if not isinstance(found, dict):
            kind = "nothing" if found is None else f"a {type(found).__name__}"
            raise UsageError(f"{name}: found {kind}, expected keys with values")
    return files


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return flat(str(error))
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}"


@contextmanager
def _manners(warn: Callable[[str], None]) -> Iterator[None]:
    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        warn(flat(str(message)))

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    interrupt = signal.getsignal(signal.SIGINT)
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        for text in _NOISE:
            warnings.filterwarnings("ignore", f"(?s).*{text}")
        warnings.showwarning = show  # type: ignore[assignment]
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, interrupt)  # ignored by Lightning after a Ctrl-C


def _warn(message: str) -> None:
    sys.stderr.write(f"osoa: warning: {message}\n")
