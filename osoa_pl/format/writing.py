"""Writing an archive: members gather in a folder, then are packed in one go."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from osoa_pl.errors import OsoaError, OutputExistsError, UsageError, reason
from osoa_pl.format.atomic import CHUNK, copy_stream, reporting
from osoa_pl.format.layout import (
    DATE,
    FORMAT_VERSION,
    MANIFEST_MEMBER,
    MAX_MANIFEST_BYTES,
    MIMETYPE,
    MIMETYPE_MEMBER,
)
from osoa_pl.format.partial import PartialFolder
from osoa_pl.format.places import Place, destination, temporary_is_foreign

try:  # only POSIX has it: elsewhere two runs on one output are not told apart
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

_MARK = "osoa-partial"
_MARK_TEXT = b"members of an unfinished osoa archive; safe to delete when no osoa command runs\n"
_NOTES = "notes/"
_PATIENCE = 2.0
"""Seconds in which the workers of a run that was killed have ended, too."""


WORK = "part-"
"""Names in the folder that begin so are finished work, which is not thrown away unasked."""


class ArchiveWriter:
    """Context manager that collects members and packs them on `commit`.

    `path` is a path, a URL, ``-`` for standard output or a binary file (`places`). Members lie in
    `folder`, where other processes may put them too (`adopt`). Leaving the block without `commit`
    leaves the destination untouched and removes the folder, unless `keep` is set: then it stays,
    as it does after a crash, and a writer with `resume` continues in it. Without `resume` a
    leftover of ours is replaced; one with finished work (`WORK`) only where it is to `overwrite`.
    Raises on entry, before any work: OutputExistsError, UsageError (see `check_destination`; a
    foreign folder ``NAME.partial``; another run that writes the same output).
    """

    keep: bool = False

    def __init__(self, path: Place, *, overwrite: bool = False, resume: bool = False) -> None:
        self._destination = destination(path, overwrite=overwrite)
        self.label = self._destination.label
        if resume and not self._destination.resumable:
            raise UsageError(f"{self.label}: an archive that goes to a stream cannot be resumed")
        self._resume, self._overwrite = resume, overwrite
        self.folder = PartialFolder(self._destination.partial)
        self._members: dict[str, str] = {}  # name -> name in the folder
        self._lock: BinaryIO | None = None

    @property
    def lock(self) -> tuple[int, ...]:
        """Descriptor of the lock on `folder`, for processes that write there: while one of them
        lives, no other run does. Empty where the system has no such locks.
        """
        return () if self._lock is None or fcntl is None else (self._lock.fileno(),)

    @property
    def partial(self) -> Path:
        """Path of `folder`."""
        return self.folder.path

    def __enter__(self) -> Self:
        with reporting(self.partial):
            self._replace_leftover()
            mode = 0o700 if self._destination.temporary else 0o777
            self.partial.mkdir(mode, exist_ok=self._resume)
            try:
                self._lock = open(self.partial / _MARK, "ab")
            except OSError:  # without its mark the folder would be taken for somebody else's
                with suppress(OSError):
                    self.partial.rmdir()
                raise
            try:
                _lock_or_refuse(self._lock, self.partial)
                self._lock.truncate(0)
                self._lock.write(_MARK_TEXT)
                self._lock.flush()
                self.folder.sweep()
            except BaseException:
                with suppress(OSError):
                    self._lock.close()
                self._lock = None
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(self.keep and self._destination.resumable)

    def adopt(self, name: str, kept: str | None = None) -> bool:
        """Whether `folder` holds `kept` (default: `name`), from this run, another process or an
        earlier run; it is then the member `name`.
        """
        self._check_name(name)
        if not self.folder.has(kept or name):
            return False
        self._members[name] = kept or name
        return True

    def read(self, name: str) -> bytes:
        """The bytes of a member that has been added or adopted."""
        with self.folder.open(self._members.get(name, name)) as file:
            return file.read()

    def read_note(self, name: str) -> bytes | None:
        """What `write_note` kept under this name, in this run or an earlier one."""
        return self.folder.read(_NOTES + name)

    def write_note(self, name: str, data: bytes) -> None:
        """Keep `data` beside the members until the archive is packed; it is no part of it."""
        self.folder.write(_NOTES + name, data)

    def add(self, name: str, data: bytes) -> None:
        """Store `data` as member `name`."""
        with self.create(name) as file:
            file.write(data)

    def add_file(self, name: str, source: str | os.PathLike[str]) -> None:
        """Copy the file `source` into member `name`, in chunks."""
        with open(source, "rb") as content, self.create(name) as file:
            copy_stream(content, file)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Binary file whose content becomes member `name` when the block ends well."""
        self._check_name(name)
        if name in self._members:
            raise UsageError(f"{self.label}: member {name} exists already")
        with self.folder.create(name) as file:
            yield file
        self._members[name] = name

    def commit(
        self,
        manifest: Mapping[str, Any],
        *,
        order: Sequence[str] | None = None,
        check: Callable[[Path], None] | None = None,
        version: int = FORMAT_VERSION,
    ) -> int:
        """Pack all members under the final name and remove the ``.partial`` folder.

        `manifest` must be JSON; its key ``format`` is set to `version`. Members in
        `order` come first, in that order; the rest follow as they were added. `check` gets the
        path of the packed file while it is hidden; what it raises keeps it from being published.
        Returns the archive's bytes.
        """
        self._check_open()
        content = {**manifest, "format": version}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        if len(text) > MAX_MANIFEST_BYTES:
            raise UsageError(f"{self.label}: manifest of {len(text)} bytes is too large")
        names = self._ordered(order or ())
        with self._destination.packing(check) as file:
            self._pack(file, text.encode("ascii"), names)
            total = file.seek(0, io.SEEK_END)
        self._close()
        return total

    def _ordered(self, order: Sequence[str]) -> list[str]:
        first = dict.fromkeys(order)
        if len(first) < len(order):
            raise UsageError(f"{self.label}: a member stands twice in the order")
        for name in first:
            if name not in self._members:
                raise UsageError(f"{self.label}: {name!r} is ordered but is no member")
        return [*first, *(name for name in self._members if name not in first)]

    def _pack(self, file: BinaryIO, manifest: bytes, names: Sequence[str]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as pack:
            _pack_member(pack, MIMETYPE_MEMBER, len(MIMETYPE), io.BytesIO(MIMETYPE))
            _pack_member(pack, MANIFEST_MEMBER, len(manifest), io.BytesIO(manifest))
            for name in names:
                with self.folder.open(self._members[name]) as member:
                    size = os.fstat(member.fileno()).st_size
                    _pack_member(pack, name, size, member)

    def _check_open(self) -> None:
        if self._lock is None:
            raise UsageError(f"{self.label}: the archive writer is not open")

    def _check_name(self, name: str) -> None:
        self._check_open()
        if name in (MIMETYPE_MEMBER, MANIFEST_MEMBER) or name.startswith(_NOTES):
            raise UsageError(f"{self.label}: the name {name} is taken")
        if not name or len(name.encode("utf-8", "surrogatepass")) > 0xFFFF or "\0" in name:
            raise UsageError(f"{self.label}: {name!r} cannot name a member")

    def _replace_leftover(self) -> None:
        if not os.path.lexists(self.partial):
            return
        mark = self.partial / _MARK
        foreign = self._destination.temporary and temporary_is_foreign(self.partial)
        if self.partial.is_symlink() or foreign or not mark.is_file():
            raise UsageError(
                f"{self.partial}: in the way, and not left by an interrupted run",
                hint="move it away or choose another output",
            )
        with open(mark, "rb") as file:
            _lock_or_refuse(file, self.partial)
            if self._resume:
                return
            if not self._overwrite and self.folder.names(WORK):
                raise OutputExistsError(
                    f"{self.partial}: keeps what an earlier run has finished",
                    hint="go on with --resume, or begin anew with -f",
                )
            if fcntl is not None:  # Windows cannot remove a file that is open
                _remove_partial(self.partial)
        if fcntl is None:
            _remove_partial(self.partial)

    def _close(self, keep: bool = False) -> None:
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        if keep:
            lock.close()
            return
        if fcntl is None:  # Windows cannot remove a file that is open
            lock.close()
        # Elsewhere the lock goes last, so that no other run can have taken the folder over.
        with suppress(OSError):
            _remove_partial(self.partial)
        lock.close()


def _pack_member(pack: zipfile.ZipFile, name: str, size: int, content: BinaryIO) -> None:
    info = zipfile.ZipInfo(name, DATE)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    info.file_size = size  # lets zipfile choose zip64 fields only for members that need them
    with pack.open(info, "w") as member:
        while chunk := _read(content, name):
            member.write(chunk)


def _read(content: BinaryIO, name: str) -> bytes:
    try:
        return content.read(CHUNK)
    except OSError as error:
        raise OsoaError(f"member {name}: cannot be read: {reason(error)}") from error


def _lock_or_refuse(file: BinaryIO, partial: Path) -> None:
    if fcntl is None:
        return
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UsageError(f"{partial}: another run is writing this archive") from None
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return


def _remove_partial(partial: Path) -> None:
    # The mark goes last: a removal cut short, or one that a worker of ours that still writes gets
    # in the way of, leaves a folder known as ours.
    for attempt in range(3):
        for entry in partial.iterdir():
            if entry.name != _MARK:
                with suppress(FileNotFoundError):
                    if entry.is_dir() and not entry.is_symlink():
                        shutil.rmtree(entry)
                    else:
                        entry.unlink()
        (partial / _MARK).unlink(missing_ok=True)
        try:
            partial.rmdir()
            return
        except OSError:
            (partial / _MARK).write_bytes(_MARK_TEXT)
            if attempt == 2:
                raise
