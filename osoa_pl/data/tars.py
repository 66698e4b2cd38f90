"""Tar files as inputs and outputs: unpacked into numbered files, written member by member.

Names in a tar are labels here: nothing is ever written outside the folder that is given, and
what is neither file nor folder is skipped with a reason. A tar without its end mark is refused,
because it may have lost members; so is compressed data whose checksum is wrong.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Self, cast

from osoa_pl.errors import ArchiveError, InputError, OsoaError, reason
from osoa_pl.format.atomic import CHUNK, reporting
from osoa_pl.format.places import (
    STDIN,
    STDOUT,
    Place,
    binary_stdin,
    binary_stdout,
    destination,
    open_source,
    writing_stream,
)
from osoa_pl.types import STREAM

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_MAGICS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd"}
_PAX_TIME = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]*))?")
_MAX_NS = 1 << 63
_DAMAGE = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,  # of tarfile, for header fields that are missing
    RecursionError,
    MemoryError,
)


@dataclass
class Unpacked:
    """What a tar held, in its order."""

    files: list[tuple[Path, str, int]] = field(default_factory=list)
    """(where it is now, name in the tar, modification time in ns; 0 if unknown)."""
    folders: list[tuple[str, int]] = field(default_factory=list)
    """(name in the tar, modification time in ns)."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(name in the tar, reason)."""


def is_tar(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a file that is named like a tar and, where not compressed, is one."""
    place = Path(path)
    name = place.name.casefold()
    try:
        if name.endswith(_COMPRESSED):
            return place.is_file()
        if not name.endswith(".tar") or not place.is_file():
            return False
        with open(place, "rb") as file:
            block = file.read(tarfile.BLOCKSIZE)
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return len(block) == tarfile.BLOCKSIZE and not any(block)  # the end mark: an empty tar
    except (OSError, ValueError):
        return False
    return True


def unpack(source: Place, folder: str | os.PathLike[str]) -> Unpacked:
    """Write the files of a tar to ``folder/000001`` and on, reading `source` once, front to back.

    `source` is a path, a URL, ``-`` or a binary file; .gz, .bz2, .xz and, where Python can, .zst
    are known by their first bytes. Of equal names the last wins. Raises InputError for what is
    not a tar, truncated or damaged.
    """
    with ExitStack() as stack:
        stream: BinaryIO
        if isinstance(source, str) and source == STREAM:
            stream, label = binary_stdin(), STDIN
        elif isinstance(source, (str, os.PathLike)):
            try:
                stream, label, _ = open_source(source)
            except ArchiveError as error:
                raise InputError(str(error)) from error
            stack.callback(stream.close)
        else:
            stream, label = source, _label(source)
        return _Unpacking(label, Path(folder)).run(stream)


class _Unpacking:
    def __init__(self, label: str, folder: Path) -> None:
        self._label, self._folder = label, folder
        self._count = 0
        self._files: dict[str, tuple[Path, int]] = {}
        self._folders: dict[str, int] = {}
        self._skipped: list[tuple[str, str]] = []

    def run(self, stream: BinaryIO) -> Unpacked:
        with self._reading():
            plain = _decompressed(stream, self._label)
            archive = tarfile.open(  # noqa: SIM115
                fileobj=cast(IO[bytes], plain), mode="r|", tarinfo=_Member
            )
        while True:
            with self._reading():
                member = archive.next()
                _forget(archive)
            if member is None:
                break
            self._take(archive, member)
        with self._reading():
            while plain.read(CHUNK):  # what compressed data ends with is its checksum
                pass
        files = [(path, name, mtime) for name, (path, mtime) in self._files.items()]
        return Unpacked(files, list(self._folders.items()), self._skipped)

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = _relative(member.name)
        if name is None:
            self._skipped.append((member.name, "unsafe path"))
        elif member.isdir():
            if name:
                self._folders[name] = _mtime_ns(member)
        elif not name:
            self._skipped.append((member.name, "unsafe path"))
        elif member.isreg():
            self._put(name, self._extract(archive, member), _mtime_ns(member))
        elif member.islnk():
            self._link(name, member)
        else:
            self._skipped.append((name, _kind(member)))

    def _extract(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Path:
        with self._reading():
            content = archive.extractfile(member)
        if content is None:
            raise InputError(f"{self._label}: member {member.name!r} has no content")
        place = self._next()
        with reporting(place), open(place, "xb") as file:
            while chunk := self._read(content):
                file.write(chunk)
        return place

    def _read(self, content: IO[bytes]) -> bytes:
        with self._reading():
            return content.read(CHUNK)

    def _link(self, name: str, member: tarfile.TarInfo) -> None:
        target = _relative(member.linkname)
        if target is None or target not in self._files:
            self._skipped.append((name, "hard link to nothing in the tar"))
        elif target != name:  # to itself: the file was named twice when the tar was made
            path, mtime = self._files[target]
            place = self._next()
            with reporting(place):
                try:
                    os.link(path, place)  # no bytes, however many links there are
                except OSError:
                    shutil.copyfile(path, place)
            self._put(name, place, mtime)

    def _put(self, name: str, place: Path, mtime: int) -> None:
        earlier = self._files.pop(name, None)
        if earlier is not None:
            self._skipped.append((name, "replaced by a later member"))
            with reporting(earlier[0]):
                earlier[0].unlink()
        self._files[name] = (place, mtime)

    def _next(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count:06d}"

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except _Broken as error:
            raise InputError(f"{self._label}: {error}") from error
        except OsoaError:
            raise
        except _DAMAGE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{self._label}: not a tar file, or a damaged one: {reason}"
            ) from error


class _Broken(Exception):
    pass


class _Member(tarfile.TarInfo):
    """tarfile takes a broken header for the end of the file; here only the end mark is one."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        at = archive.offset
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            reason = "truncated: the end mark of the tar is missing" if at else "empty, not a tar"
            raise _Broken(reason) from error
        except tarfile.HeaderError as error:
            reason = f"damaged or truncated tar: {error} at byte {at}" if at else "not a tar file"
            raise _Broken(reason) from error


class _Prefixed(io.RawIOBase):
    """A stream some of whose first bytes have been read already."""

    def __init__(self, head: bytes, stream: BinaryIO, label: str) -> None:
        super().__init__()
        self._head, self._stream, self._label = head, stream, label

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data, self._head = self._head[: len(view)], self._head[len(view) :]
        if not data:
            data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)


def _decompressed(stream: BinaryIO, label: str) -> BinaryIO:
    head = b""
    while len(head) < 6 and (more := stream.read(6 - len(head))):
        head += more
    plain = cast(BinaryIO, io.BufferedReader(_Prefixed(head, stream, label), CHUNK))
    kind = next((kind for magic, kind in _MAGICS.items() if head.startswith(magic)), "")
    if kind == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=plain))
    if kind == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(plain))
    if kind == "xz":
        return cast(BinaryIO, lzma.LZMAFile(plain))
    if kind == "zstd":
        try:
            from compression import zstd  # type: ignore[import-not-found]
        except ImportError as error:
            raise InputError(
                f"{label}: zstd is read with Python 3.14 or newer, this is "
                f"{sys.version_info.major}.{sys.version_info.minor}",
                hint="decompress it with `zstd -d` first",
            ) from error
        return cast(BinaryIO, zstd.ZstdFile(plain))
    return plain


def _relative(name: str) -> str | None:
    # Normalised; empty for the folder that was packed itself, None for what leaves it.
    if name.startswith("/") or "\0" in name:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return "symbolic link"
    if member.isfifo():
        return "pipe"
    if member.ischr() or member.isblk():
        return "device"
    return f"unknown type {member.type!r}"


def _mtime_ns(member: tarfile.TarInfo) -> int:
    text = member.pax_headers.get("mtime", "")
    exact = _PAX_TIME.fullmatch(text)
    if exact is not None:
        sign, seconds, fraction = exact.groups()
        found = int(seconds) * 10**9 + int((fraction or "").ljust(9, "0")[:9])
        found = -found if sign else found
    else:
        try:
            found = int(member.mtime) * 10**9
        except (ValueError, OverflowError):
            return 0
    return found if abs(found) < _MAX_NS else 0


def _label(stream: BinaryIO) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) and name else "tar"


class TarOutput:
    """Context manager that writes a tar (PAX): equal input, equal bytes.

    To a path or URL it appears whole when the block ends well, or not at all; to ``-`` or a
    binary file it is written as it comes, and a block that fails leaves it without its end mark.
    """

    def __init__(self, target: Place, overwrite: bool = False) -> None:
        self._stack = ExitStack()
        self._stream: BinaryIO | None = None
        self._destination = None
        if isinstance(target, str) and target == STREAM:
            self._stream, self.label = binary_stdout(), STDOUT
        elif isinstance(target, (str, os.PathLike)):
            self._destination = destination(target, overwrite=overwrite)
            self.label = self._destination.label
        else:
            self._stream, self.label = target, _label(target)

    def __enter__(self) -> Self:
        file = self._stream
        if self._destination is not None:
            file = self._stack.enter_context(self._destination.packing())
        assert file is not None
        self._file = _Counted(file, self.label)
        self._tar = tarfile.TarFile(
            fileobj=cast(IO[bytes], self._file), mode="w", format=tarfile.PAX_FORMAT
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if kind is None:
                self._tar.close()
                self._file.flush()
            else:
                self._stack.__exit__(kind, error, trace)

    def add_file(self, name: str, path: str | os.PathLike[str], mtime_ns: int = 0) -> None:
        """Add the file `path` as `name`; `mtime_ns` is 0 if unknown."""
        try:
            content = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise OsoaError(f"{path}: cannot be read: {reason(error)}") from error
        with content:
            info = _info(name, mtime_ns)
            info.size = os.fstat(content.fileno()).st_size
            try:
                self._tar.addfile(info, content)
            except BrokenPipeError:
                raise
            except OSError as error:  # tarfile's own, for a file that shrinks meanwhile
                raise OsoaError(f"{path}: cannot be read: {reason(error)}") from error
            _forget(self._tar)

    def add_folder(self, name: str, mtime_ns: int = 0) -> None:
        """Add a folder."""
        info = _info(name, mtime_ns)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(info)
        _forget(self._tar)


class _Counted:
    """What tarfile needs of a file that it writes, for streams that cannot tell."""

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file, self._label, self._written = file, label, 0

    def write(self, data: bytes) -> int:
        with writing_stream(self._label):
            self._file.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        with writing_stream(self._label):
            self._file.flush()


def _forget(archive: Any) -> None:
    archive.members = []  # tarfile would keep all that it has seen


def _info(name: str, mtime_ns: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    seconds, rest = divmod(mtime_ns, 10**9)
    info.mtime = seconds
    if rest:
        sign, (whole, fraction) = "-" * (mtime_ns < 0), divmod(abs(mtime_ns), 10**9)
        info.pax_headers = {"mtime": f"{sign}{whole}.{fraction:09d}".rstrip("0")}
    return info
