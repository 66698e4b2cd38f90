"""Array files (npy, npz, IDX) as streams of images: one image in memory at a time."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from osoa_pl.errors import InputError
from osoa_pl.format.atomic import CHUNK, copy_stream
from osoa_pl.format.items import array_layout
from osoa_pl.format.names import name_problem
from osoa_pl.types import MODES, Item

IDX_MAGIC = b"\0\0\x08\x03"
"""IDX: two zero bytes, type 8 (unsigned byte), 3 dimensions."""

_DATE = (1980, 1, 1, 0, 0, 0)
_BROKEN = (
    *(OSError, EOFError, ValueError, RuntimeError, LookupError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True)
class ArrayFacts:
    """One uint8 array of images inside a file."""

    source: str
    shape: tuple[int, ...]
    key: str = ""
    deflated: bool = False
    digest: bytes = b""
    """SHA-256 of the pixels, where they were read."""


def inspect(path: Path, *, verify: bool) -> list[ArrayFacts] | None:
    """Arrays of the file, or None where it is no npy, npz or IDX file.

    `verify` reads it to its end (checksums of npz members, length of compressed files, digests).
    Raises InputError whose message is the reason for storing the file as it is.
    """
    with open(path, "rb") as file:
        head = file.read(8)
    suffix = path.name.lower()
    if head[:6] == b"\x93NUMPY":
        reader = _inspect_npy
    elif head[:4] == b"PK\x03\x04" and suffix.endswith(".npz"):
        reader = _inspect_npz
    elif head[:4] == IDX_MAGIC or (head[:2] == b"\x1f\x8b" and suffix.endswith(".gz")):
        reader = _inspect_idx
    else:
        return None
    try:
        found = reader(path)
        if verify:
            for index, facts in enumerate(found):
                with _pixels(path, facts) as stream:
                    digest = _expect_end(stream, prod(facts.shape))
                found[index] = replace(facts, digest=digest)
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"cannot be read as an array: {error}") from error
    return found


def images(
    path: Path, item: Item, begin: int = 0, count: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """`count` uint8 images (h, w, c) of an array item, from number `begin`, read one by one.

    Raises InputError naming the path where the file is not what it was when scanned.
    """
    facts = ArrayFacts(item.source, item.shape, item.key, item.deflated)
    size = item.height * item.width * MODES[item.mode].samples
    try:
        with _pixels(path, facts) as stream:
            _skip(stream, begin * size)
            left = item.count - begin
            for _ in range(left if count is None else min(count, left)):
                data = _read_exactly(stream, size)
                image = np.frombuffer(data, np.uint8)
                yield image.reshape(item.height, item.width, -1)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be read as an array: {error}") from error


def header(item: Item) -> bytes:
    """Bytes that stand before the pixels of an npy (also inside npz) or IDX file."""
    if item.source == "idx":
        return IDX_MAGIC + struct.pack(">3I", *item.shape)
    stream = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": item.shape}
    npy.write_array_header_1_0(stream, description)
    return stream.getvalue()


def write_npz(file: BinaryIO, members: Mapping[str, tuple[Path, bool]]) -> None:
    """Pack npy files into an npz: key -> (npy file, deflate it); equal input, equal bytes."""
    with zipfile.ZipFile(file, "w") as pack:
        for key, (path, deflated) in members.items():
            info = zipfile.ZipInfo(key + ".npy", _DATE)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
            info.file_size = path.stat().st_size
            with open(path, "rb") as content, pack.open(info, "w") as member:
                copy_stream(content, cast(BinaryIO, member))


def _inspect_npy(path: Path) -> list[ArrayFacts]:
    with open(path, "rb") as file:
        shape = _npy_shape(file)
        size = path.stat().st_size - file.tell()
    if size != prod(shape):
        raise InputError("truncated array" if size < prod(shape) else "data after the array")
    return [ArrayFacts("npy", shape)]


def _inspect_npz(path: Path) -> list[ArrayFacts]:
    found: list[ArrayFacts] = []
    with zipfile.ZipFile(path) as pack:
        names = pack.namelist()
        if not names or len(set(names)) != len(names) or pack.comment:
            raise InputError("an npz file with unusual members")
        for info in pack.infolist():
            key = info.filename.removesuffix(".npy")
            if key == info.filename or "/" in key or name_problem(key) is not None:
                raise InputError(f"an npz file with member {info.filename!r}")
            with pack.open(info) as stream:
                shape = _npy_shape(cast(BinaryIO, stream))
                if info.file_size - stream.tell() != prod(shape):
                    raise InputError("truncated array or data after it")
            found.append(ArrayFacts("npz", shape, key, info.compress_type != zipfile.ZIP_STORED))
    return found


def _inspect_idx(path: Path) -> list[ArrayFacts]:
    with _open_idx(path) as file:
        head = file.read(16)
        if len(head) < 16 or head[:4] != IDX_MAGIC:
            raise InputError("not an image")
        shape = struct.unpack(">3I", head[4:])
        if array_layout(shape) is None:
            raise InputError(f"array {shape} holds no images")
        _expect_end(file, prod(shape))
    return [ArrayFacts("idx", shape)]


def _npy_shape(file: BinaryIO) -> tuple[int, ...]:
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise InputError(f"npy version {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        try:
            shape, fortran, dtype = readers[version](file)
        except (SyntaxError, tokenize.TokenError) as error:  # numpy parses broken headers as Python
            raise InputError("cannot be read as an array: broken header") from error
    if dtype != np.uint8:
        raise InputError(f"{dtype} array, expected uint8")
    if fortran:
        raise InputError("array in Fortran order")
    if array_layout(shape) is None:
        raise InputError(f"array {shape} holds no images of 1 to 4 channels")
    return tuple(int(side) for side in shape)


@contextmanager
def _open_idx(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file) as stream:
                yield cast(BinaryIO, stream)
        else:
            yield file


@contextmanager
def _pixels(path: Path, facts: ArrayFacts) -> Iterator[BinaryIO]:
    """Stream at the first pixel of the array, its header checked against `facts`."""
    if facts.source == "idx":
        with _open_idx(path) as file:
            if file.read(16) != IDX_MAGIC + struct.pack(">3I", *facts.shape):
                raise InputError("changed since it was scanned")
            yield file
        return
    with open(path, "rb") as file:
        if facts.source == "npy":
            _check_shape(file, facts)
            yield file
            return
        with zipfile.ZipFile(file) as pack, pack.open(facts.key + ".npy") as stream:
            _check_shape(cast(BinaryIO, stream), facts)
            yield cast(BinaryIO, stream)


def _check_shape(file: BinaryIO, facts: ArrayFacts) -> None:
    if _npy_shape(file) != facts.shape:
        raise InputError("changed since it was scanned")


def _skip(stream: BinaryIO, size: int) -> None:
    if isinstance(stream, io.BufferedReader):
        stream.seek(size, io.SEEK_CUR)
        return
    while size:  # a compressed stream
        size -= len(_read_exactly(stream, min(CHUNK, size)))


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    while len(data) < size:  # a stream may give less than asked
        more = stream.read(size - len(data))
        if not more:
            raise InputError("array ends early")
        data += more
    return data


def _expect_end(stream: BinaryIO, size: int) -> bytes:
    """SHA-256 of the `size` bytes that are left."""
    left, digest = size, hashlib.sha256()
    while data := stream.read(min(CHUNK, left + 1)):
        left -= len(data)
        digest.update(data)
        if left < 0:
            raise InputError("data after the array")
    if left:
        raise InputError("truncated array")
    return digest.digest()
