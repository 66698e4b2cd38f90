"""Reading an archive, whatever its bytes are: found sound, or refused with one of our errors."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self, cast

from osoa_pl.errors import ArchiveError, DamagedArchiveError, OsoaError, reason
from osoa_pl.format.atomic import CHUNK
from osoa_pl.format.layout import (
    FORMAT_VERSION,
    LOCAL_HEADER_BYTES,
    MANIFEST_MEMBER,
    MAX_MANIFEST_BYTES,
    MIMETYPE,
    MIMETYPE_MEMBER,
    ZIP64_FIELD_BYTES,
)
from osoa_pl.format.places import Place, open_source
from osoa_pl.format.salvage import DAMAGE, Entry, decoded_name, salvage

_HEAD = MIMETYPE_MEMBER.encode() + MIMETYPE
_LOCAL = struct.Struct("<4s22xHH")
_KEEP_GOING = "`osoa decompress --keep-going` writes what is intact"


class ArchiveReader:
    """Context manager over an archive; opening reads the directory and the manifest only.

    `source` is a path, a URL, ``-`` for standard input (`places`) or a binary file (left open).
    Whatever the bytes are, only ArchiveError (not an archive, newer) or DamagedArchiveError
    (names the member) is raised; UsageError for a path that does not exist.

    With `recover` an archive whose directory, or whose structure, is damaged is opened too: its
    members are then those that a scan of the whole file finds with the right checksum, and
    `damage` says so. The manifest must be among them.
    """

    manifest: dict[str, Any]
    version: int
    """The format version that the archive names."""
    damage: str | None = None
    """What was wrong with the structure of an archive opened with `recover`."""

    def __init__(self, source: Place, *, recover: bool = False) -> None:
        self._file, self.label, self._owned = open_source(source)
        self._recover = recover
        self._starts: dict[str, int] = {}
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
        return self._member(name).size

    def offset(self, name: str) -> int:
        """Byte of the file at which the data of member `name` start."""
        member = self._member(name)
        with self._damage(name):
            return self._start(name, member)

    @property
    def total_size(self) -> int:
        """Bytes of the whole archive."""
        return self._total

    def read(self, name: str) -> bytes:
        """Bytes of member `name`, its checksum verified."""
        member = self._member(name)
        with self._damage(name):
            self._file.seek(self._start(name, member))
            data = self._file.read(member.size)
            if len(data) != member.size or zlib.crc32(data) != member.crc:
                self._fail(name, member)
            return data

    def open(self, name: str) -> BinaryIO:
        """Binary stream over member `name`; the checksum is verified when its end is read."""
        member = self._member(name)
        with self._damage(name):
            self._start(name, member)
        return cast(BinaryIO, _MemberStream(self, name, member))

    def _open(self) -> None:
        try:
            self._total = self._file.seek(0, io.SEEK_END)
            self._file.seek(0)
            head = self._file.read(LOCAL_HEADER_BYTES + len(_HEAD))
        except (OSError, ValueError, AttributeError) as error:
            raise ArchiveError(f"{self.label}: cannot be read: {reason(error)}") from error
        if not isinstance(head, bytes):
            raise ArchiveError(f"{self.label}: cannot be read: the file is not opened as binary")
        ours = head[LOCAL_HEADER_BYTES:] == _HEAD
        try:
            self._open_as_it_should_be(ours)
        except ArchiveError as error:
            if not self._recover or getattr(self, "version", 0) > FORMAT_VERSION:
                raise
            self._salvage(str(error).removeprefix(f"{self.label}: "), ours)

    def _open_as_it_should_be(self, ours: bool) -> None:
        try:
            directory = zipfile.ZipFile(self._file)
        except OsoaError:
            raise
        except DAMAGE as error:
            if ours:
                self._truncated(error)
            raise ArchiveError(f"{self.label}: not an osoa archive") from error
        if ours and all(info.header_offset for info in directory.filelist):
            self._truncated()  # and what was found belongs to an archive inside this one
        if not ours:
            raise ArchiveError(f"{self.label}: not an osoa archive")
        if MIMETYPE_MEMBER not in directory.NameToInfo:
            self._broken(f"member '{MIMETYPE_MEMBER}' is missing")
        self._members = self._checked_members(directory)
        if self.read(MIMETYPE_MEMBER) != MIMETYPE:
            raise ArchiveError(f"{self.label}: not an osoa archive")
        self.manifest = self._read_manifest()
        if self._recover:
            for name, member in self._members.items():
                with self._damage(name):
                    self._start(name, member)

    def _checked_members(self, directory: zipfile.ZipFile) -> dict[str, Entry]:
        members: dict[str, Entry] = {}
        end, last = 0, None
        for member in sorted(directory.infolist(), key=lambda info: info.header_offset):
            name, where = member.filename, f"member {member.filename!r}"
            if name in members:
                self._broken(f"{where} appears twice")
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
                self._broken(f"{where} is compressed or encrypted, expected stored")
            start = member.header_offset + LOCAL_HEADER_BYTES + len(name.encode("utf-8", "replace"))
            if member.compress_size != member.file_size or start + member.file_size > self._total:
                self._broken(f"{where} claims {member.file_size} bytes in a file of {self._total}")
            self._check_gap(end, member.header_offset, where)
            if last is not None:
                members[last] = members[last]._replace(limit=member.header_offset)
            end, last = start + member.file_size, name
            members[name] = Entry(
                member.header_offset, None, member.file_size, member.CRC, directory.start_dir
            )
        self._check_gap(end, directory.start_dir, "the directory")
        return members

    def _check_gap(self, end: int, start: int, where: str) -> None:
        # Members stand side by side, so one that vanished from a damaged directory leaves a gap.
        # A zip64 field is the only thing that a member's header may hold beside its name.
        if not 0 <= start - end <= ZIP64_FIELD_BYTES:
            self._broken(f"{where} starts at byte {start}, expected {end}")

    def _truncated(self, error: Exception | None = None) -> NoReturn:
        raise DamagedArchiveError(
            f"{self.label}: the directory at the end is missing or damaged "
            f"(truncated after {self._total} bytes?)",
            hint=_KEEP_GOING,
        ) from error

    def _broken(self, what: str) -> NoReturn:
        raise DamagedArchiveError(f"{self.label}: {what}", hint=_KEEP_GOING)

    def _salvage(self, reason: str, ours: bool) -> None:
        self._starts.clear()
        try:
            self._members = salvage(self._file, self._total)
        except OsoaError:
            raise
        except DAMAGE as error:
            raise DamagedArchiveError(f"{self.label}: cannot be scanned: {error}") from error
        if MANIFEST_MEMBER not in self._members:
            if ours:
                raise DamagedArchiveError(
                    f"{self.label}: {reason}; and member '{MANIFEST_MEMBER}' is missing or damaged"
                )
            raise ArchiveError(f"{self.label}: not an osoa archive")
        self.manifest = self._read_manifest()
        reason, found = reason if ours else "its first bytes are damaged", len(self._members)
        self.damage = f"{reason}; {found} member{'s' * (found != 1)} found by scanning"

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
        self.version = version
        if version > FORMAT_VERSION:
            raise ArchiveError(
                f"{self.label}: made by a newer version: format {version}, "
                f"this version reads up to {FORMAT_VERSION}"
            )
        return manifest

    def _member(self, name: str) -> Entry:
        try:
            return self._members[name]
        except KeyError:
            raise DamagedArchiveError(f"{self.label}: member {name!r} is missing") from None

    def _start(self, name: str, member: Entry) -> int:
        if member.start is not None:
            return member.start
        if name not in self._starts:
            self._starts[name] = self._start_by_header(name, member)
        return self._starts[name]

    def _start_by_header(self, name: str, member: Entry) -> int:
        self._file.seek(member.header)
        header = self._file.read(LOCAL_HEADER_BYTES)
        if len(header) == LOCAL_HEADER_BYTES:
            signature, name_bytes, extra_bytes = _LOCAL.unpack(header)
            start: int = member.header + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
            found = self._file.read(name_bytes)
            if (
                signature == b"PK\3\4"
                and start + member.size == member.limit
                and decoded_name(header, found) == name
            ):
                return start
        raise DamagedArchiveError(
            f"{self.label}: member {name!r}: its header at byte {member.header} is damaged",
            hint=_KEEP_GOING,
        )

    def _fail(self, name: str, member: Entry) -> NoReturn:
        start = self._start(name, member)
        where = f"bytes {start} to {start + member.size - 1}" if member.size else f"byte {start}"
        raise DamagedArchiveError(f"{self.label}: member {name!r} ({where}) fails its checksum")

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except OsoaError:
            raise
        except DAMAGE as error:
            raise DamagedArchiveError(f"{self.label}: member {name!r} is damaged") from error


class _MemberStream(io.RawIOBase):
    """Read-only stream over one member that speaks our errors."""

    def __init__(self, archive: ArchiveReader, name: str, member: Entry) -> None:
        super().__init__()
        self._archive, self._name, self._member = archive, name, member
        self._done, self._crc = 0, 0
        self._check()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        archive, count = self._archive, min(len(view), self._member.size - self._done)
        if not count:
            return 0
        with archive._damage(self._name):
            archive._file.seek(archive._start(self._name, self._member) + self._done)
            data = archive._file.read(count)
            if not data:
                archive._fail(self._name, self._member)
        view[: len(data)] = data
        self._done, self._crc = self._done + len(data), zlib.crc32(data, self._crc)
        self._check()
        return len(data)

    def readall(self) -> bytes:
        chunks = []
        while chunk := self.read(CHUNK):
            chunks.append(chunk)
        return b"".join(chunks)

    def _check(self) -> None:
        if self._done == self._member.size and self._crc != self._member.crc:
            self._archive._fail(self._name, self._member)


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
