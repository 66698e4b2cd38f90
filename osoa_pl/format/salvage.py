"""Finding the members of a damaged archive from the header before each of them.

One pass from the first byte to the last: headers are found by their signature, so that inserted
and missing bytes cost only the members that they hit, and a member counts only where its
checksum is right. Members of archives that are stored inside a damaged member are passed over.
A directory that can still be read adds members whose header is damaged. The checksum does not
cover a member's name: one that is damaged gives a member that nobody asks for.

Time is linear in the size of the file, whatever its bytes: checksums are taken of at most
`CHECKED` times its bytes, by the scan and by what the directory adds.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from bisect import bisect_right
from typing import BinaryIO, NamedTuple

from osoa_pl.errors import OsoaError
from osoa_pl.format.atomic import CHUNK
from osoa_pl.format.layout import (
    LOCAL_HEADER_BYTES,
    MANIFEST_MEMBER,
    MIMETYPE,
    MIMETYPE_MEMBER,
    ZIP64_FIELD_BYTES,
)
from osoa_pl.format.names import MAX_NAME_BYTES

CHECKED = 4

_HEADER = struct.Struct("<4sHHHHHIIIHH")
# What the writer writes, not all that ZIP allows: other ZIP files are inputs like any other.
_SIGNATURE = re.compile(
    rb"PK\x03\x04[\x14\x2d]\0\0[\0\x08]\0\0\0\0\x21\0"  # version, flags, method, time, 1980-01-01
    rb"|PK\x05\x06\0\0\0\0"
)
_SIGNATURE_BYTES = 14
_END = b"PK\5\6"
_END_RECORD = struct.Struct("<12xII2x")
_NEIGHBOURS = (b"PK\3\4", b"PK\1\2")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_UTF8 = 0x800
_MAX_NAME_BYTES = MAX_NAME_BYTES + 64  # a name of ours and the folder that its member lies in
_HEAD_BYTES = 512  # an archive whose head stands behind them lies in another one


DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,  # of unicode, json and a seek to a negative place too
    OverflowError,
    NotImplementedError,  # zip features that we never write
    RuntimeError,  # "encrypted", and a recursion too deep
    MemoryError,
    LookupError,
    struct.error,
    TypeError,
)
"""What zipfile and its like raise over bytes that are wrong."""


class Entry(NamedTuple):
    """Where a member stands; offsets and sizes in bytes."""

    header: int
    start: int | None
    """Of its data; None where only the header tells."""
    size: int
    crc: int
    limit: int
    """Where what follows starts."""


def salvage(file: BinaryIO, total: int) -> dict[str, Entry]:
    """Members of an archive of `total` bytes by `scan` and, where it can be trusted, by its
    directory; in their order in the file.
    """
    listed = _listed(file)
    ranges = sorted(listed.values())
    headers = [entry.header for entry in ranges]
    found: dict[str, Entry] = {}
    for name, entry in scan(file, total).items():
        place = bisect_right(headers, entry.header) - 1
        around = ranges[place] if place >= 0 and entry.header < ranges[place].limit else entry
        # What the directory knows in neither this place nor this form lies inside a member.
        if around[1:] == entry[1:] or (name in listed and listed[name][2:4] == entry[2:4]):
            found[name] = entry
    budget = CHECKED * total
    for name, entry in listed.items():
        if found.get(name) == entry or entry.size > budget:
            continue
        budget -= entry.size
        if intact(file, entry):
            found[name] = entry
    return dict(sorted(found.items(), key=lambda pair: pair[1].limit))


def _forget_inner(file: BinaryIO, found: dict[str, Entry], position: int) -> None:
    # The end of an archive whose head is lost: what it says of its start tells what it held.
    record, manifest = _at(file, position, _END_RECORD.size), found.get(MANIFEST_MEMBER)
    if len(record) < _END_RECORD.size or manifest is None:
        return
    directory_bytes, directory_start = _END_RECORD.unpack(record)
    begin = position - directory_bytes - directory_start
    if begin <= _HEAD_BYTES:
        return
    # Bytes inserted before it make the end of the archive itself look like that. It names our
    # manifest.
    directory = _at(file, position - directory_bytes, min(directory_bytes, _HEAD_BYTES))
    if struct.pack("<III", manifest.crc, manifest.size, manifest.size) in directory:
        return
    while found and next(reversed(found.values())).header >= begin:
        found.popitem()


def _listed(file: BinaryIO) -> dict[str, Entry]:
    try:
        directory = zipfile.ZipFile(file)
    except OsoaError:  # of a URL that cannot be read
        raise
    except DAMAGE:
        return {}
    infos = sorted(directory.infolist(), key=lambda info: info.header_offset)
    # A directory that does not start with the file, or does not end it, is that of another archive.
    if not infos or infos[0].header_offset or directory.comment:
        return {}
    members: dict[str, Entry] = {}
    again: set[str] = set()
    limits = [*(info.header_offset for info in infos[1:]), directory.start_dir]
    for info, limit in zip(infos, limits, strict=True):
        # Members stand without gaps: what follows tells where this one ends.
        start = limit - info.file_size
        if info.filename in members:
            again.add(info.filename)
        sound = info.filename and info.filename == info.orig_filename  # no NUL that cuts it
        if sound and start > info.header_offset and not info.compress_type:
            members[info.filename] = Entry(
                info.header_offset, start, info.file_size, info.CRC, limit
            )
    return {name: entry for name, entry in members.items() if name not in again}


def scan(file: BinaryIO, total: int) -> dict[str, Entry]:
    """Members with a right checksum in `file` of `total` bytes, in their order; the first of a
    name counts.
    """
    window = _Window(file, total)
    found: dict[str, Entry] = {}
    budget, position, depth = CHECKED * total, 0, 0
    seen, after_mimetype = False, -1
    while (position := window.find(position)) < total:
        if window.at(position, 4) == _END:
            if depth:
                depth -= 1
            else:
                _forget_inner(file, found, position)
            position += 4
            continue
        header = _header(window, position, total)
        if header is None:
            position += 4
            continue
        name, entry = header
        at_head = not seen and position <= _HEAD_BYTES
        if name == MIMETYPE_MEMBER and entry.size == len(MIMETYPE):
            depth += not at_head  # an archive inside a member that is damaged
            after_mimetype = entry.limit
        else:
            depth += name == MANIFEST_MEMBER and not at_head and position != after_mimetype
            seen = True
        if entry.limit <= total and entry.size <= budget:
            budget -= entry.size
            if intact(file, entry):
                if not depth and (at_head or name != MANIFEST_MEMBER):
                    found.setdefault(name, entry)
                position = entry.limit
                continue
        # Damaged in place: the next header stands where it should. Else all inside may be one.
        in_place = entry.limit < total and _at(file, entry.limit, 4) in _NEIGHBOURS
        position = entry.limit if in_place else entry.limit - entry.size
    return found


def intact(file: BinaryIO, entry: Entry) -> bool:
    """Whether the bytes of a member whose `start` is known have its checksum."""
    return checksum(file, entry.start or 0, entry.size) == entry.crc


def checksum(file: BinaryIO, start: int, size: int) -> int | None:
    """CRC-32 of a range of bytes, taken in chunks; None where the file ends before it."""
    file.seek(start)
    crc = 0
    while size:
        chunk = file.read(min(size, CHUNK))
        if not chunk:
            return None
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def decoded_name(header: bytes, name: bytes) -> str:
    """The name that stands behind a member's `header`; raises ValueError for one that is none."""
    utf8 = _HEADER.unpack(header)[2] & _UTF8
    return name.decode("utf-8" if utf8 else "cp437")


def _header(window: _Window, position: int, total: int) -> tuple[str, Entry] | None:
    header = window.at(position, LOCAL_HEADER_BYTES)
    if len(header) < LOCAL_HEADER_BYTES:
        return None
    fields = _HEADER.unpack(header)
    crc, packed, size, name_bytes, extra_bytes = fields[6:]
    if not 0 < name_bytes <= _MAX_NAME_BYTES or packed != size:
        return None
    if extra_bytes not in (0, ZIP64_FIELD_BYTES):
        return None
    behind = window.at(position + LOCAL_HEADER_BYTES, name_bytes + extra_bytes)
    if len(behind) < name_bytes + extra_bytes or _CONTROL.search(behind, 0, name_bytes):
        return None
    if extra_bytes:
        kind, length, size, packed = struct.unpack("<HHQQ", behind[name_bytes:])
        if (kind, length) != (1, ZIP64_FIELD_BYTES - 4) or packed != size:
            return None
    try:
        name = decoded_name(header, behind[:name_bytes])
    except ValueError:
        return None
    start = position + LOCAL_HEADER_BYTES + len(behind)
    return name, Entry(position, start, size, crc, start + size)


class _Window:
    """A stretch of the file in memory, so that small steps cost no new reads."""

    def __init__(self, file: BinaryIO, total: int) -> None:
        self._file, self._total = file, total
        self._base, self._data = 0, b""

    def at(self, position: int, size: int) -> bytes:
        """`size` bytes from `position`; fewer at the end of the file."""
        size = max(0, min(size, self._total - position))
        if not self._base <= position <= position + size <= self._base + len(self._data):
            self._load(position, size)
        begin = position - self._base
        return self._data[begin : begin + size]

    def find(self, position: int) -> int:
        """The next signature at or behind `position`; the size of the file if there is none."""
        while position < self._total:
            self.at(position, _SIGNATURE_BYTES)
            match = _SIGNATURE.search(self._data, position - self._base)
            if match is not None:
                return self._base + match.start()
            end = self._base + len(self._data)
            if end >= self._total or not self._data:
                break
            position = max(end - _SIGNATURE_BYTES + 1, position + 1)
        return self._total

    def _load(self, position: int, size: int) -> None:
        self._file.seek(position)
        chunks, wanted = [], max(size, CHUNK)
        while wanted and (chunk := self._file.read(wanted)):
            chunks.append(chunk)
            wanted -= len(chunk)
        self._base, self._data = position, b"".join(chunks)
