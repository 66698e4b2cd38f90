"""The error tree: every error a user can cause owns its message and its exit code.

Each class also derives from the builtin that a Python caller would expect, so that
``except ValueError`` and ``except OsoaError`` both work.
"""

from __future__ import annotations


class OsoaError(Exception):
    """Base of all errors raised on purpose; `hint` is a sure next step, where there is one."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def reason(error: BaseException) -> str:
    """The system's words for an error, without its number and the file that messages name."""
    return str(getattr(error, "strerror", None) or error)


class UsageError(OsoaError, ValueError):
    """Wrong options, names or values given by the caller."""

    exit_code = 2


class InputError(OsoaError, ValueError):
    """An input that cannot be read or is not what it claims to be."""

    exit_code = 1


class CoderError(OsoaError, ValueError):
    """Entropy coder misuse or an exhausted message: zero frequency, wrong shape, empty stack."""

    exit_code = 1


class ArchiveError(OsoaError, ValueError):
    """Not an archive, or of a newer format."""

    exit_code = 4


class DamagedArchiveError(ArchiveError):
    """An archive whose bytes or pixels fail a check; the message names the member or segment."""


class CheckpointError(OsoaError, LookupError):
    """A checkpoint is missing, or is not the one an archive names."""

    exit_code = 5


class PortabilityError(OsoaError, RuntimeError):
    """This machine cannot repeat the arithmetic that the archive needs."""

    exit_code = 6


class OutputExistsError(OsoaError, FileExistsError):
    """The output is already there and overwriting was not asked for."""

    exit_code = 7


class InterruptedRun(OsoaError):
    """Ctrl-C or a signal ended a run."""

    exit_code = 130
