"""Files stored byte for byte: raw, or in xz where that saves at least 2 %; small ones in blocks."""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from osoa_pl.errors import DamagedArchiveError, InputError
from osoa_pl.format.atomic import CHUNK
from osoa_pl.types import FileCodec, Item

_TINY = 4 << 10
_SMALL = 64 << 10
_WHOLE = 4 << 20
_SAMPLE = 256 << 10
_MEMORY_LIMIT = 192 << 20


def choose_codec(path: Path) -> FileCodec:
    """Codec for the file: exact up to 4 MiB, from three samples of 256 KiB beyond.

    Small files stand in blocks, where they share what repeats; what xz does not shrink is a member
    of its own, so that any ZIP tool takes it out.
    """
    size = path.stat().st_size
    if size <= _TINY:
        return "block"
    with open(path, "rb") as file:
        if size <= _WHOLE:
            samples = [file.read()]
        else:
            samples = []
            for start in (0, (size - _SAMPLE) // 2, size - _SAMPLE):
                file.seek(start)
                samples.append(file.read(_SAMPLE))
    before = sum(map(len, samples))
    after = sum(len(lzma.compress(sample, check=lzma.CHECK_CRC32)) for sample in samples)
    if after > before * 0.98:
        return "raw"
    return "block" if size <= _SMALL else "xz"


def member_name(item: Item) -> str:
    """Archive member of a stored file that stands in no block."""
    return f"files/{item.name}" if item.codec == "raw" else f"xz/{item.name}.xz"


def encode_file(path: Path, item: Item, destination: BinaryIO) -> None:
    """Write the member of the stored file `item`, read from `path` in chunks.

    Raises InputError where the file cannot be read or is not the size it was.
    """
    packer = lzma.LZMACompressor(check=lzma.CHECK_CRC32) if item.codec == "xz" else None
    size = 0
    try:
        file = open(path, "rb")  # noqa: SIM115 errors of reading and of writing are told apart
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            destination.write(packer.compress(chunk) if packer else chunk)
    if packer:
        destination.write(packer.flush())
    if size != item.size:
        raise InputError(f"{path}: changed while it was read: {size} bytes, expected {item.size}")


def decode_file(member: BinaryIO, item: Item, destination: BinaryIO) -> None:
    """Write the file that `member` holds; memory and size are bounded whatever it contains.

    Raises DamagedArchiveError naming the file.
    """
    size = 0
    for chunk in _plain(member, item):
        size += len(chunk)
        if size > item.size:
            break
        destination.write(chunk)
    if size != item.size:
        found = f"more than {item.size}" if size > item.size else str(size)
        raise DamagedArchiveError(f"{item.name}: found {found} bytes, expected {item.size}")


def _plain(member: BinaryIO, item: Item) -> Iterator[bytes]:
    if item.codec != "xz":
        while chunk := member.read(CHUNK):
            yield chunk
        return
    packer = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT)
    try:
        while not packer.eof:
            data = member.read(CHUNK) if packer.needs_input else b""
            if packer.needs_input and not data:
                raise DamagedArchiveError(f"{item.name}: its xz member is cut off")
            yield packer.decompress(data, CHUNK)
    except lzma.LZMAError as error:
        raise DamagedArchiveError(f"{item.name}: its xz member is damaged") from error
    if packer.unused_data or member.read(1):
        raise DamagedArchiveError(f"{item.name}: data after its xz member")


def describe(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed, also where its bytes are not Unicode."""
    return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
