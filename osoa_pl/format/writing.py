"""Writing an archive: members gather in a folder, then are packed in one go."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from osoa_pl.errors import UsageError
from osoa_pl.format.atomic import CHUNK, atomic_file, check_destination, copy_stream, reporting
from osoa_pl.format.layout import (
    DATE,
    FORMAT_VERSION,
    MANIFEST_MEMBER,
    MAX_MANIFEST_BYTES,
    MIMETYPE,
    MIMETYPE_MEMBER,
)

try:  # only POSIX has it: elsewhere two runs on one output are not told apart
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

_MARK = "osoa-partial"
_MARK_TEXT = b"members of an unfinished osoa archive; safe to delete when no osoa command runs\n"
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,150}")


class ArchiveWriter:
    """Context manager that collects members and packs them on `commit`.

    Leaving the block without `commit` removes everything and leaves `path` untouched; with `keep`
    the folder ``NAME.partial`` stays, as it does after a crash, and a writer with `keep` continues
    in it (`adopt`). Raises on entry, before any work: OutputExistsError, UsageError (see
    `check_destination`; a foreign folder ``NAME.partial``; another run that writes the same
    output).
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, keep: bool = False
    ) -> None:
        self._keep = keep
        self.path = check_destination(path, overwrite=overwrite)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._overwrite = overwrite
        self._members: dict[str, Path] = {}
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Self:
        with reporting(self.partial):
            self._replace_leftover()
            self.partial.mkdir(exist_ok=self._keep)
            self._lock = open(self.partial / _MARK, "ab")
            self._lock.truncate(0)
            self._lock.write(_MARK_TEXT)
            self._lock.flush()
            _lock_or_refuse(self._lock, self.partial)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(self._keep)

    def adopt(self, name: str) -> bool:
        """Whether an earlier run left member `name`; it is then a member of this archive too."""
        place = self.partial / _place(name)
        if self._lock is None or not self._keep or not place.is_file():
            return False
        self._members[name] = place
        return True

    def read(self, name: str) -> bytes:
        """The bytes of a member that has been added or adopted."""
        return self._members[name].read_bytes()

    def read_note(self, name: str) -> bytes | None:
        """What `write_note` kept under this name, in this run or an earlier one."""
        place = self.partial / f"note~{name}"
        return place.read_bytes() if place.is_file() else None

    def write_note(self, name: str, data: bytes) -> None:
        """Keep `data` beside the members until the archive is packed; it is no part of it."""
        with atomic_file(self.partial / f"note~{name}", overwrite=True) as file:
            file.write(data)

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
        if self._lock is None:
            raise UsageError(f"{self.path}: the archive writer is not open")
        if name in self._members or name in (MIMETYPE_MEMBER, MANIFEST_MEMBER):
            raise UsageError(f"{self.path}: member {name} exists already")
        if not name or len(name.encode("utf-8", "surrogatepass")) > 0xFFFF or "\0" in name:
            raise UsageError(f"{self.path}: {name!r} cannot name a member")
        place = self.partial / _place(name)
        with atomic_file(place, overwrite=True) as file:
            yield file
        self._members[name] = place

    def commit(self, manifest: Mapping[str, Any]) -> None:
        """Pack all members under the final name and remove the ``.partial`` folder.

        `manifest` must be JSON; its key ``format`` is set to the version written here.
        """
        if self._lock is None:
            raise UsageError(f"{self.path}: the archive writer is not open")
        content = {**manifest, "format": FORMAT_VERSION}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        if len(text) > MAX_MANIFEST_BYTES:
            raise UsageError(f"{self.path}: manifest of {len(text)} bytes is too large")
        with (
            atomic_file(self.path, overwrite=self._overwrite) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as pack,
        ):
            _pack(pack, MIMETYPE_MEMBER, len(MIMETYPE), io.BytesIO(MIMETYPE))
            _pack(pack, MANIFEST_MEMBER, len(text), io.BytesIO(text.encode("ascii")))
            for name, place in self._members.items():
                with open(place, "rb") as member:
                    _pack(pack, name, place.stat().st_size, member)
        self._close()

    def _replace_leftover(self) -> None:
        if not os.path.lexists(self.partial):
            return
        mark = self.partial / _MARK
        if self.partial.is_symlink() or not mark.is_file():
            raise UsageError(
                f"{self.partial}: in the way, and not left by an interrupted run",
                hint="move it away or choose another output",
            )
        with open(mark, "rb") as file:
            _lock_or_refuse(file, self.partial)
            if self._keep:
                return
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


def _pack(pack: zipfile.ZipFile, name: str, size: int, content: BinaryIO) -> None:
    info = zipfile.ZipInfo(name, DATE)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    info.file_size = size  # lets zipfile choose zip64 fields only for members that need them
    with pack.open(info, "w") as member:
        while chunk := content.read(CHUNK):
            member.write(chunk)


def _place(name: str) -> str:
    # Flat and unique on any file system, also where case does not count.
    if _PLAIN_NAME.fullmatch(name) and "~" not in name:
        return "m~" + name.replace("/", "~")
    return "h~" + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _lock_or_refuse(file: BinaryIO, partial: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{partial}: another run is writing this archive") from None
    except OSError:  # a file system without locks
        return


def _remove_partial(partial: Path) -> None:
    # The mark goes last: a removal cut short still leaves a folder known as ours.
    for entry in partial.iterdir():
        if entry.name != _MARK:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    (partial / _MARK).unlink(missing_ok=True)
    partial.rmdir()
