"""Where archives come from and go to: paths, URLs that fsspec knows, standard streams, files.

fsspec is imported only for URLs. What it raises, or the library behind it, becomes one line.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import stat
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from osoa_pl.errors import ArchiveError, OsoaError, OutputExistsError, UsageError, reason
from osoa_pl.format.atomic import CHUNK, atomic_file, check_destination, copy_stream, reporting
from osoa_pl.types import STREAM

Place = str | os.PathLike[str] | BinaryIO
Check = Callable[[Path], None]

_AHEAD = 1 << 18  # bytes that a small read of a URL fetches, for the small reads behind it
STDIN, STDOUT = "standard input", "standard output"

_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]+://")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
# A put to these is atomic by itself, and a rename would be a second upload.
_OBJECT_STORES = frozenset(
    ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "obs", "tos", "hf")
)
_READ_ONLY = frozenset(("http", "https"))


def is_url(text: object) -> bool:
    """Whether `text` reads ``scheme://``; a single letter is a drive, not a scheme.

    >>> [is_url(text) for text in ("s3://bucket/a.osoa", "C://a.osoa", "a.osoa", "-")]
    [True, False, False, False]
    """
    return isinstance(text, str) and _URL.match(text) is not None


class Destination(ABC):
    """A place for one new file that appears whole or not at all."""

    label: str
    """The place as messages name it."""
    partial: Path
    """Folder for unfinished members."""
    temporary = False
    """Whether `partial` lies among the system's temporary files, which everybody can write."""
    resumable = True
    """Whether a later run finds the same `partial`."""

    @abstractmethod
    def packing(self, check: Check | None = None) -> AbstractContextManager[BinaryIO]:
        """Seekable binary file that goes to the place when the block ends well.

        `check` gets the path of the finished file first; what it raises stops the rest.
        """


def destination(target: Place, *, overwrite: bool) -> Destination:
    """The destination `target`, checked before any work.

    Raises as `check_destination` and, for a URL, UsageError for one that fsspec cannot serve and
    OutputExistsError; UsageError for standard output that is a terminal.
    """
    if isinstance(target, str) and target == STREAM:
        return _Stream(binary_stdout(), STDOUT)
    if isinstance(target, str) and is_url(target):
        system, path = _file_system(target)
        if _is_local(system):
            return _File(path, overwrite, hide(target))
        return _Remote(target, system, path, overwrite)
    if isinstance(target, (str, os.PathLike)):
        return _File(target, overwrite, os.fspath(target))
    return _Stream(target, _file_name(target))


class _File(Destination):
    def __init__(self, path: str | os.PathLike[str], overwrite: bool, label: str) -> None:
        self._path, self._overwrite = check_destination(path, overwrite=overwrite), overwrite
        self.label = label
        self.partial = self._path.with_name(self._path.name + ".partial")

    def packing(self, check: Check | None = None) -> AbstractContextManager[BinaryIO]:
        return atomic_file(self._path, overwrite=self._overwrite, check=check)


class _Sent(Destination):
    """A file that is packed among the system's temporary files, then sent."""

    temporary = True

    @contextmanager
    def packing(self, check: Check | None = None) -> Iterator[BinaryIO]:
        path: Path | None = None
        try:
            with reporting(Path(tempfile.gettempdir())):
                descriptor, name = tempfile.mkstemp(prefix="osoa-", suffix=".osoa")
                path = Path(name)
                with os.fdopen(descriptor, "w+b") as file:
                    yield file
            if check is not None:
                check(path)
            self._send(path)
        finally:
            if path is not None:
                with suppress(OSError):
                    path.unlink()

    @abstractmethod
    def _send(self, path: Path) -> None:
        """Bring the packed file to its place."""


class _Stream(_Sent):
    resumable = False

    def __init__(self, stream: BinaryIO, label: str) -> None:
        self._stream, self.label = stream, label
        self.partial = Path(tempfile.gettempdir(), f"osoa-{secrets.token_hex(12)}.partial")

    def _send(self, path: Path) -> None:
        with open(path, "rb") as packed, writing_stream(self.label):
            copy_stream(packed, self._stream)
            self._stream.flush()


class _Remote(_Sent):
    def __init__(self, url: str, system: Any, path: str, overwrite: bool) -> None:
        self.label, self._system, self._path = hide(url), system, path
        self._overwrite = overwrite
        owner = os.getuid() if hasattr(os, "getuid") else 0
        digest = hashlib.blake2b(f"{owner} {url}".encode(), digest_size=12).hexdigest()
        self.partial = Path(tempfile.gettempdir(), f"osoa-{digest}.partial")
        if not _READ_ONLY.isdisjoint(_protocols(system)):
            raise UsageError(f"{self.label}: such a place can be read but not written")
        self._check()

    def _check(self) -> None:
        with _remote(self.label, "written"):
            folder, exists = self._system.isdir(self._path), self._system.exists(self._path)
        if folder or self._path.endswith("/"):
            raise UsageError(f"{self.label}: is a folder, expected a file name")
        if exists and not self._overwrite:
            raise OutputExistsError(f"{self.label}: exists already", hint="overwrite it with -f")

    def _send(self, path: Path) -> None:
        self._check()
        system, protocols = self._system, _protocols(self._system)
        if not _OBJECT_STORES.isdisjoint(protocols):
            with _remote(self.label, "written"):
                system.put_file(str(path), self._path)
            return
        folder, slash, _ = self._path.rpartition("/")
        hidden = f"{folder}{slash}.osoa-{secrets.token_hex(8)}"
        try:
            with _remote(self.label, "written"):
                system.put_file(str(path), hidden)
                system.mv(hidden, self._path)
        except BaseException:
            with suppress(Exception):
                system.rm_file(hidden)
            raise


def open_source(source: Place) -> tuple[BinaryIO, str, bool]:
    """Seekable binary file over `source`, its name in messages, whether it is ours to close.

    Of a URL only the ranges that are read are fetched, where the server can do that; standard
    input (``-``) and files that cannot seek are copied to an anonymous temporary file first.
    Raises UsageError for what does not exist, ArchiveError for a path that cannot be read,
    OsoaError for a URL that cannot.
    """
    if isinstance(source, str) and source == STREAM:
        return spooled(binary_stdin(), STDIN), STDIN, True
    if isinstance(source, str) and is_url(source):
        return _open_url(source), hide(source), True
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source)), os.fspath(source), True
    name = _file_name(source)
    try:
        seekable = source.seekable()
    except (AttributeError, ValueError) as error:
        raise ArchiveError(f"{name}: cannot be read: {reason(error)}") from error
    return (source, name, False) if seekable else (spooled(source, name), name, True)


def spooled(stream: IO[bytes], label: str) -> BinaryIO:
    """Anonymous temporary file with all that is left of `stream`, at its start."""
    with reporting(Path(tempfile.gettempdir())):
        file = cast(BinaryIO, tempfile.TemporaryFile(prefix="osoa-"))  # noqa: SIM115
    try:
        while True:
            try:
                chunk = stream.read(CHUNK)
            except (OSError, ValueError) as error:
                raise OsoaError(f"{label}: cannot be read: {reason(error)}") from error
            if not chunk:
                break
            with reporting(Path(tempfile.gettempdir())):
                file.write(chunk)
        with reporting(Path(tempfile.gettempdir())):
            file.seek(0)
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    return file


def binary_stdin() -> BinaryIO:
    """Standard input as bytes; UsageError where it is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("refusing to read an archive from a terminal")
    return sys.stdin.buffer


def binary_stdout() -> BinaryIO:
    """Standard output as bytes; UsageError where it is a terminal."""
    if sys.stdout is None or sys.stdout.isatty():
        raise UsageError("refusing to write an archive to a terminal")
    return sys.stdout.buffer


@contextmanager
def writing_stream(label: str) -> Iterator[None]:
    """`reporting` for a stream; a reader that has gone away stays a BrokenPipeError."""
    try:
        yield
    except (OsoaError, BrokenPipeError):
        raise
    except (OSError, ValueError) as error:
        raise OsoaError(f"{label}: cannot write: {reason(error)}") from error


def hide(url: str) -> str:
    """`url` for messages: without the password that it may hold."""
    return _PASSWORD.sub(r"\1:***@", url)


def temporary_is_foreign(folder: Path) -> bool:
    """Whether a folder among the system's temporary files is not safe to use as our own."""
    status = folder.lstat()
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return not stat.S_ISDIR(status.st_mode) or not mine


class _RemoteFile(io.RawIOBase):
    """A file of fsspec that speaks our errors."""

    def __init__(self, file: Any, label: str) -> None:
        super().__init__()
        self._file, self._label = file, label

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with _remote(self._label, "read"):
            data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset < 0:
            raise ValueError("negative seek")  # the caller's damage, not the network's
        with _remote(self._label, "read"):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        with _remote(self._label, "read"):
            return int(self._file.tell())

    def close(self) -> None:
        with suppress(Exception):
            self._file.close()
        super().close()


def _open_url(url: str) -> BinaryIO:
    label = hide(url)
    system, path = _file_system(url)
    if _is_local(system):
        return _open_path(path)
    with _remote(label, "read"):  # no isdir: of http it would read the whole file
        file = system.open(path, "rb", block_size=_AHEAD)
        seekable = file.seekable()
        if seekable and not _READ_ONLY.isdisjoint(_protocols(system)):
            seekable = _serves_ranges(file)
            if not seekable:
                file.close()
                file = system.open(path, "rb", block_size=0)
    remote = cast(BinaryIO, _RemoteFile(file, label))
    if seekable:
        return remote
    with remote:
        return spooled(remote, label)


def _serves_ranges(file: Any) -> bool:
    try:
        file.seek(-1, io.SEEK_END)
        file.read(1)
        file.seek(0)
    except (ValueError, OSError):
        return False
    return True


def _open_path(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ArchiveError(f"{path}: is a folder, expected a file") from error
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {reason(error)}") from error
    except ValueError as error:  # a NUL in the name
        raise UsageError(f"{path!r}: cannot name a file") from error


def _file_system(url: str) -> tuple[Any, str]:
    label = hide(url)
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        from fsspec.registry import known_implementations  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(
            f"{label}: URLs need the package fsspec", hint="`pip install fsspec`"
        ) from error
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        scheme = re.split("::|://", url, maxsplit=1)[0]
        package = known_implementations.get(scheme, {}).get("class", "").split(".")[0]
        raise UsageError(
            f"{label}: a package is missing: {_line(error)}",
            hint=None if package in ("", "fsspec") else f"`pip install {package}`",
        ) from error
    except ValueError as error:
        raise UsageError(f"{label}: {_line(error)}") from error
    except Exception as error:
        raise OsoaError(f"{label}: cannot be opened: {_line(error)}") from error
    return system, str(path)


def _protocols(system: Any) -> tuple[str, ...]:
    names = system.protocol
    return (names,) if isinstance(names, str) else tuple(names)


def _is_local(system: Any) -> bool:
    return "file" in _protocols(system)


@contextmanager
def _remote(label: str, done: str) -> Iterator[None]:
    try:
        yield
    except OsoaError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"{label}: no such file") from error
    except Exception as error:  # of any library: botocore, aiohttp, paramiko
        raise OsoaError(f"{label}: cannot be {done}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join((reason(error) or type(error).__name__).split())


def _file_name(file: object) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name else "archive"
