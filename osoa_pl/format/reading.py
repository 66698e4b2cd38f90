"""Reading an archive, whatever its bytes are: found sound, or refused with one of our errors."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from osoa_pl.errors import ArchiveError, DamagedArchiveError, OsoaError, UsageError
from osoa_pl.format.layout import (
    FORMAT_VERSION,
    LOCAL_HEADER_BYTES,
    MANIFEST_MEMBER,
    MAX_MANIFEST_BYTES,
    MIMETYPE,
    MIMETYPE_MEMBER,
)

_ZIP64_FIELD = 20
_HEAD = MIMETYPE_MEMBER.encode() + MIMETYPE
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,  # of struct, unicode, json and a seek to a negative place too
    OverflowError,
    NotImplementedError,  # zip features that we never write
    RuntimeError,  # "encrypted", and a recursion too deep
    MemoryError,
    LookupError,
)


class ArchiveReader:
    """Context manager over an archive; opening reads the directory and the manifest only.

    `source` is a path or a seekable binary file (left open). Whatever the bytes are, only
    ArchiveError (not an archive, newer) or DamagedArchiveError (names the member) is raised;
    UsageError for a path that does not exist.
    """

    manifest: dict[str, Any]

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        if isinstance(source, (str, os.PathLike)):
            self._owned, self.label = True, os.fspath(source)
            self._file = _open_binary(self.label)
        else:
            self._owned, self.label = False, str(getattr(source, "name", "archive"))
            self._file = source
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, where it was opened here."""
        if self._owned:
            self._file.close()

    def names(self) -> list[str]:
        """Member names in their order in the file, ``mimetype`` and the manifest included."""
        return list(self._members)

    def size(self, name: str) -> int:
        """Bytes of member `name`."""
        return self._member(name).file_size

    @property
    def total_size(self) -> int:
        """Bytes of the whole archive."""
        return self._total

    def read(self, name: str) -> bytes:
        """Bytes of member `name`, its checksum verified."""
        member = self._member(name)
        with self._damage(name):
            return self._zip.read(member)

    def open(self, name: str) -> BinaryIO:
        """Binary stream over member `name`; the checksum is verified when its end is read."""
        member = self._member(name)
        with self._damage(name):
            return cast(BinaryIO, _MemberStream(self, name, self._zip.open(member)))

    def _open(self) -> None:
        try:
            self._total = self._file.seek(0, io.SEEK_END)
            self._file.seek(0)
            head = self._file.read(LOCAL_HEADER_BYTES + len(_HEAD))
        except (OSError, ValueError, AttributeError) as error:
            raise ArchiveError(f"{self.label}: cannot be read: {error}") from error
        ours = head[LOCAL_HEADER_BYTES:] == _HEAD
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _DAMAGE as error:
            if ours:
                raise DamagedArchiveError(
                    f"{self.label}: the directory at the end is missing or damaged "
                    f"(truncated after {self._total} bytes?)"
                ) from error
            raise ArchiveError(f"{self.label}: not an osoa archive") from error
        if MIMETYPE_MEMBER not in self._zip.NameToInfo or not ours:
            raise ArchiveError(f"{self.label}: not an osoa archive")
        self._members = self._checked_members()
        if self.read(MIMETYPE_MEMBER) != MIMETYPE:
            raise ArchiveError(f"{self.label}: not an osoa archive")
        self.manifest = self._read_manifest()

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        end = 0
        for member in sorted(self._zip.infolist(), key=lambda info: info.header_offset):
            name, where = member.filename, f"{self.label}: member {member.filename!r}"
            if name in members:
                raise DamagedArchiveError(f"{where} appears twice")
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
                raise DamagedArchiveError(f"{where} is compressed or encrypted, expected stored")
            start = member.header_offset + LOCAL_HEADER_BYTES + len(name.encode("utf-8", "replace"))
            if member.compress_size != member.file_size or start + member.file_size > self._total:
                raise DamagedArchiveError(
                    f"{where} claims {member.file_size} bytes in a file of {self._total}"
                )
            self._check_gap(end, member.header_offset, where)
            end = start + member.file_size
            members[name] = member
        self._check_gap(end, self._zip.start_dir, f"{self.label}: the directory")
        return members

    def _check_gap(self, end: int, start: int, where: str) -> None:
        # Members stand side by side, so one that vanished from a damaged directory leaves a gap.
        # A zip64 field is the only thing that a member's header may hold beside its name.
        if not 0 <= start - end <= _ZIP64_FIELD:
            raise DamagedArchiveError(f"{where} starts at byte {start}, expected {end}")

    def _read_manifest(self) -> dict[str, Any]:
        if self.size(MANIFEST_MEMBER) > MAX_MANIFEST_BYTES:
            raise DamagedArchiveError(f"{self.label}: member '{MANIFEST_MEMBER}' is too large")
        where = f"{self.label}: member '{MANIFEST_MEMBER}'"
        text = self.read(MANIFEST_MEMBER)
        try:
            manifest = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DamagedArchiveError(f"{where} is not JSON") from error
        if not isinstance(manifest, dict):
            raise DamagedArchiveError(f"{where} is not a JSON object")
        version = manifest.get("format")
        if type(version) is not int or version < 1:
            raise DamagedArchiveError(f"{where} has no format version")
        if version > FORMAT_VERSION:
            raise ArchiveError(
                f"{self.label}: made by a newer version: format {version}, "
                f"this version reads up to {FORMAT_VERSION}"
            )
        return manifest

    def _member(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._members[name]
        except KeyError:
            raise DamagedArchiveError(f"{self.label}: member {name!r} is missing") from None

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except OsoaError:
            raise
        except _DAMAGE as error:
            raise DamagedArchiveError(f"{self.label}: member {name!r} is damaged") from error


class _MemberStream(io.RawIOBase):
    """Read-only stream over one member that speaks our errors."""

    def __init__(self, archive: ArchiveReader, name: str, stream: Any) -> None:
        super().__init__()
        self._archive, self._name, self._stream = archive, name, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with self._archive._damage(self._name):
            data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def require(manifest: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """Value of a manifest's `key`, checked to be of type `kind` (bool is not an int here).

    Raises DamagedArchiveError naming `where` and the key.
    """
    value = manifest.get(key)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        found = "nothing" if value is None else type(value).__name__
        raise DamagedArchiveError(
            f"{where}: manifest key '{key}': found {found}, expected {kind.__name__}"
        )
    return value


def _open_binary(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ArchiveError(f"{path}: is a folder, not an osoa archive") from error
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {error.strerror or error}") from error
