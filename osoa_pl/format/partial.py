"""The folder in which an archive gathers before it is packed, as several processes see it.

There is no lock here: every file appears whole or not at all, so processes that write different
names never disturb each other, and of two that write one name the last wins.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from osoa_pl.errors import OsoaError, reason
from osoa_pl.format.atomic import atomic_file, reporting, sync_folder

_PLAIN_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._/-]{0,149}[a-z0-9_-])?")
_PLAIN, _HASHED, _TEMPORARY = "m~", "h~", ".osoa-"


class PartialFolder:
    """Named byte strings in one flat folder; each call is one line of error or a success.

    Names may be any text. Plain ones (lower case, digits, ``._/-``) can be listed, the others are
    kept under a hash.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def write(self, name: str, data: bytes) -> None:
        """Keep `data` under `name`, on the disk when this returns; replaces what was there."""
        with self.create(name) as file:
            file.write(data)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Binary file that becomes `name` when the block ends well."""
        self._require()
        try:
            with atomic_file(self._place(name), overwrite=True) as file:
                yield file
        except OsoaError:
            self._require()
            raise

    def read(self, name: str) -> bytes | None:
        """The bytes under `name`; None where there are none."""
        try:
            return self._place(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(name, error) from error

    def open(self, name: str) -> BinaryIO:
        """Binary file over what is under `name`; OsoaError where there is nothing."""
        try:
            return open(self._place(name), "rb")
        except OSError as error:
            raise self._unreadable(name, error) from error

    def has(self, name: str) -> bool:
        """Whether something is kept under `name`."""
        return self._place(name).is_file()

    def size(self, name: str) -> int:
        """Bytes under `name`; OsoaError where there is nothing."""
        try:
            return self._place(name).stat().st_size
        except OSError as error:
            raise self._unreadable(name, error) from error

    def remove(self, name: str) -> None:
        """Forget `name`, if it is there."""
        with reporting(self.path):
            self._place(name).unlink(missing_ok=True)

    def rename(self, old: str, new: str) -> None:
        """Keep under `new` what is under `old`; replaces what was there."""
        try:
            os.replace(self._place(old), self._place(new))
        except FileNotFoundError as error:
            raise self._unreadable(old, error) from error
        except OSError as error:
            raise OsoaError(f"{self.path}: cannot write: {reason(error)}") from error
        sync_folder(self.path)

    def names(self, prefix: str = "") -> list[str]:
        """Plain names that start with `prefix`, sorted."""
        self._require()
        with reporting(self.path):
            found = os.listdir(self.path)
        plain = (entry[len(_PLAIN) :].replace("~", "/") for entry in found if entry[:2] == _PLAIN)
        return sorted(name for name in plain if name.startswith(prefix))

    def sweep(self) -> None:
        """Remove what writers that were killed left half-written."""
        with reporting(self.path):
            left = [entry for entry in os.listdir(self.path) if entry.startswith(_TEMPORARY)]
        for entry in left:
            with suppress(OSError):
                (self.path / entry).unlink()

    def _place(self, name: str) -> Path:
        # Flat and unique on any file system, also where case does not count.
        if _PLAIN_NAME.fullmatch(name):
            return self.path / (_PLAIN + name.replace("/", "~"))
        encoded = name.encode("utf-8", "surrogatepass")
        return self.path / (_HASHED + hashlib.blake2b(encoded, digest_size=16).hexdigest())

    def _require(self) -> None:
        if not self.path.is_dir():
            raise OsoaError(f"{self.path}: this folder of unfinished members has vanished")

    def _unreadable(self, name: str, error: OSError) -> OsoaError:
        self._require()
        if isinstance(error, FileNotFoundError):
            return OsoaError(f"{self.path}: {name!r} has vanished")
        return OsoaError(f"{self.path}: {name!r} cannot be read: {reason(error)}")
