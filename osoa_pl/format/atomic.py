"""Files that appear whole under their final name, or not at all.

A new file is written beside its destination under a hidden name, flushed to the disk and
renamed; a failure leaves the destination as it was. Renaming inside one folder is atomic on
POSIX and on Windows (`os.replace`).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from osoa_pl.errors import OsoaError, OutputExistsError, UsageError, reason

CHUNK = 1 << 20
"""Bytes moved at a time: copies of any size need no more memory than this."""
_mask = threading.Lock()
"""Held while the process's umask is not its own."""


def check_destination(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Path of an output file that may be written, checked before any work.

    Raises UsageError for a missing parent folder or a destination that is a folder or a device
    (renaming would replace it), OutputExistsError for an existing file unless `overwrite`.
    """
    destination = Path(path)
    try:
        return _checked(destination, overwrite)
    except OsoaError:
        raise
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise UsageError(f"{destination}: cannot write: {reason(error)}") from error


def _checked(destination: Path, overwrite: bool) -> Path:
    if "\0" in str(destination):
        raise UsageError(f"{str(destination)!r}: cannot name a file")
    if destination.is_dir():
        raise UsageError(f"{destination}: is a folder, expected a file name")
    if destination.exists() and not destination.is_file():
        raise UsageError(f"{destination}: is a device or a pipe, expected a file name")
    if not destination.parent.is_dir():
        raise UsageError(f"{destination}: folder {destination.parent} does not exist")
    if os.path.lexists(destination) and not overwrite:
        raise OutputExistsError(f"{destination}: exists already", hint="overwrite it with -f")
    return destination


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut, where the system offers it."""
    with suppress(OSError):  # Windows cannot open a folder; the rename itself is still atomic
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into one line that names it."""
    try:
        yield
    except OsoaError:
        raise
    except OSError as error:
        raise OsoaError(f"{path}: cannot write: {reason(error)}") from error


@contextmanager
def atomic_file(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    sync: bool = True,
    check: Callable[[Path], None] | None = None,
) -> Iterator[BinaryIO]:
    """Binary file that takes its name `path` when the block ends without an exception.

    `sync` flushes file and folder to the disk before returning. `check` gets the path of the
    closed file before it takes its name; what it raises leaves the destination as it was. Raises
    as `check_destination`, and OsoaError where the system refuses to write.
    """
    destination = check_destination(path, overwrite=overwrite)
    temporary: str | None = None
    try:
        with reporting(destination):
            descriptor, temporary = temporary_beside(destination)
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        if check is not None:
            check(Path(temporary))
        with reporting(destination):
            publish(temporary, destination, overwrite=overwrite)
            temporary = None
            if sync:
                sync_folder(destination.parent)
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def temporary_beside(destination: Path) -> tuple[int, str]:
    """Descriptor and path of a new hidden file in the folder of `destination`."""
    return tempfile.mkstemp(prefix=".osoa-", dir=destination.parent)


def publish(temporary: str, destination: Path, *, overwrite: bool) -> None:
    """Give a finished `temporary_beside` its final name, with the usual permissions."""
    os.chmod(temporary, 0o666 & ~_umask())
    check_destination(destination, overwrite=overwrite)
    os.replace(temporary, destination)


def copy_stream(source: BinaryIO, destination: BinaryIO) -> int:
    """Copy all that is left of `source` in chunks; number of bytes copied."""
    copied = 0
    while chunk := source.read(CHUNK):
        destination.write(chunk)
        copied += len(chunk)
    return copied


def _umask() -> int:
    # The mask can only be read by setting it; mkstemp made the file private (0600).
    with _mask:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask
