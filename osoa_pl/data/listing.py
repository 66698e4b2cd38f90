"""From the inputs of a command to a list of files with their names in the archive.

The order is natural (``img2`` before ``img10``) and depends on names alone, not on the file
system. Symbolic links are followed only to files inside the folder that was given; the rest, and
what is neither file nor folder, is skipped with a reason.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from osoa_pl.data.files import describe
from osoa_pl.data.tars import is_tar, unpack
from osoa_pl.errors import UsageError
from osoa_pl.format.names import fold, numbered, parents, portable_name
from osoa_pl.types import STREAM

_Listed = tuple[str, str, bool, int]
"""Path, name as it was given, whether it is a folder, time of change or 0."""

_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class Found:
    """A file or folder on the disk, and its entry in the archive."""

    path: str
    name: str
    """In the archive: sound on every system."""
    given: bytes = b""
    """The name's own bytes, where `name` differs."""
    mtime: int = 0
    """ns since 1970; 0 where it is not known."""
    folder: bool = False


@dataclass
class Listing:
    """Files and folders in coding order, and what was left out."""

    entries: list[Found] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason)."""
    renamed: list[tuple[str, str]] = field(default_factory=list)
    """(path, the portable name that it gets in the archive)."""


def natural_key(name: str) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Sort key of a relative POSIX path: folders part by part, numbers by value, case last.

    >>> sorted(["img10", "img2", "Img3"], key=natural_key)
    ['img2', 'Img3', 'img10']
    """
    parts = tuple(
        tuple(int(run) if index % 2 else run.casefold() for index, run in enumerate(runs))
        for runs in (_DIGITS.split(part) for part in name.split("/"))
    )
    return parts, name


def list_files(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    exclude: Sequence[str | os.PathLike[str]] = (),
    times: bool = True,
) -> Listing:
    """Files of folders (recursively), the folders themselves, and single files.

    One folder: names are relative to it. Several inputs: each folder's names start with its base
    name, files have their base name. Names that not every system can hold are changed
    (`renamed`). Files and folders in `exclude` are left out without a word where they lie inside a
    folder: outputs of the run are no inputs. Without `times`, folders that hold anything are left
    out too. Raises UsageError for a missing input, an input in `exclude`, equal names, or nothing
    to read.
    """
    if not inputs:
        raise UsageError("no input given")
    listing = Listing()
    outputs = frozenset(Path(path).resolve() for path in exclude)
    found: list[_Listed] = []
    for entry in inputs:
        path = Path(entry)
        if path.resolve() in outputs:
            raise UsageError(f"{describe(path)}: is both an input and the output")
        if path.is_dir():
            prefix = "" if len(inputs) == 1 else path.resolve().name + "/"
            if prefix:
                found.append((os.fspath(path), prefix[:-1], True, 0))
            found += _walk(path, path.resolve(), prefix, listing, outputs)
        elif path.is_file():
            found.append((os.fspath(path), path.name, False, 0))
        elif os.path.lexists(path):
            raise UsageError(f"{describe(path)}: neither a file nor a folder")
        else:
            raise UsageError(f"{describe(path)}: no such file or folder")
    found = _in_order(found, inputs)
    if not times:
        holding = {name.rpartition("/")[0] for _, name, _, _ in found}
        found = [entry for entry in found if not entry[2] or entry[1] not in holding]
    else:
        found = [(path, name, folder, _mtime(path)) for path, name, folder, _ in found]
    _name(found, listing)
    return listing


def list_inputs(
    inputs: Sequence[str | os.PathLike[str]],
    workspace: Path,
    *,
    exclude: Sequence[str | os.PathLike[str]] = (),
    times: bool = True,
) -> Listing:
    """As `list_files`, but tars among the inputs are unpacked into `workspace`: their members are
    listed. ``-``: a tar on standard input.

    The names of a tar's members start with its base name where there are several inputs.
    """
    packed = [entry for entry in inputs if os.fspath(entry) == STREAM or is_tar(entry)]
    plain = [entry for entry in inputs if entry not in packed]
    if not packed:
        return list_files(inputs, exclude=exclude, times=times)
    listing = Listing()
    found: list[_Listed] = []
    outputs = frozenset(Path(path).resolve() for path in exclude)
    for number, entry in enumerate(packed):
        if Path(entry).resolve() in outputs:
            raise UsageError(f"{describe(entry)}: is both an input and the output")
        stream = os.fspath(entry) == STREAM
        label = "stdin" if stream else re.sub(r"\.(tar(\.\w+)?|tgz)$", "", Path(entry).name)
        prefix = "" if len(inputs) == 1 else label + "/"
        place = workspace / f"tar-{number}"
        place.mkdir()
        members = unpack(sys.stdin.buffer if stream else entry, place)
        for path, name, mtime in members.files:
            os.utime(path, ns=(mtime, mtime))  # a run that resumes must find the same time
            found.append((os.fspath(path), prefix + name, False, mtime if times else 0))
        found += [
            ("", prefix + name, True, mtime if times else 0) for name, mtime in members.folders
        ]
        listing.skipped += [(f"{describe(entry)}: {name}", why) for name, why in members.skipped]
    if plain:
        others = list_files(plain, exclude=exclude, times=times)
        alone = len(plain) == 1 and Path(plain[0]).is_dir()
        prefix = Path(plain[0]).resolve().name + "/" if alone else ""
        found += [(f.path, prefix + _given_name(f), f.folder, f.mtime) for f in others.entries]
        listing.skipped += others.skipped
    found = _in_order(found, inputs)
    _name(found, listing)
    return listing


def _in_order(found: list[_Listed], inputs: Sequence[str | os.PathLike[str]]) -> list[_Listed]:
    """Sorted by name. Raises UsageError where two have one name, or there is nothing."""
    if not found:
        raise UsageError(f"{', '.join(map(describe, inputs))}: no files to read")
    found.sort(key=lambda entry: natural_key(entry[1]))
    for (first, name, *_), (second, other, *_) in pairwise(found):
        if name == other:
            raise UsageError(
                f"{describe(first)} and {describe(second)} would both be named {describe(name)}"
            )
    return found


def _given_name(found: Found) -> str:
    return found.given.decode("utf-8", "surrogateescape") if found.given else found.name


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0  # reading it will tell


def _walk(
    folder: Path, root: Path, prefix: str, listing: Listing, outputs: frozenset[Path]
) -> Iterable[_Listed]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        listing.skipped.append((describe(folder), f"cannot be read: {error.strerror}"))
        return
    for entry in entries:
        path = folder / entry.name
        if outputs and path.resolve() in outputs:
            continue
        name = prefix + entry.name
        if entry.is_symlink():
            problem = _link_problem(path, root)
            if problem is None:
                yield entry.path, name, False, 0
            else:
                listing.skipped.append((describe(path), problem))
        elif entry.is_dir():
            yield entry.path, name, True, 0
            yield from _walk(path, root, name + "/", listing, outputs)
        elif entry.is_file():
            yield entry.path, name, False, 0
        else:
            listing.skipped.append((describe(path), _special(path)))


def _link_problem(path: Path, root: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "symbolic link to nothing"
    if not target.is_relative_to(root):
        return "symbolic link out of the folder"
    if not target.is_file():
        return "symbolic link to a folder"
    return None


def _special(path: Path) -> str:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "not a regular file")


def _name(found: Sequence[_Listed], listing: Listing) -> None:
    # Sound names are given away first: only what is unsound or comes second is renamed.
    plans = [portable_name(name) for _, name, _, _ in found]
    taken: set[str] = set()
    folders: set[str] = set()

    def clashes(folded: str, folder: bool) -> bool:
        return folded in taken or folded in (own_folders if folder else folders)

    own_folders: set[str] = set()
    chosen: dict[int, str] = {}
    order = sorted(range(len(plans)), key=lambda index: found[index][1] != plans[index])
    for index in order:
        wanted, folder = _beside(plans[index], taken), found[index][2]
        name, attempt = wanted, 1
        while clashes(fold(name), folder):
            attempt += 1
            name = _numbered(wanted, attempt)
        (own_folders if folder else taken).add(fold(name))
        folders.update(parents(fold(name)))
        if folder:
            folders.add(fold(name))
        chosen[index] = name
    for index, (path, name, folder, mtime) in enumerate(found):
        given = b"" if chosen[index] == name else name.encode("utf-8", "surrogateescape")
        listing.entries.append(Found(path, chosen[index], given, mtime, folder))
        if given and not folder:
            listing.renamed.append((describe(path), chosen[index]))


def _beside(name: str, taken: Container[str]) -> str:
    """`name`, with numbers for those of its folders whose names are files' by now."""
    *folders, base = name.split("/")
    path = ""
    for part in folders:
        folder, attempt = path + part, 1
        while fold(folder) in taken:
            attempt += 1
            folder = _numbered(path + part, attempt)
        path = folder + "/"
    return path + base


def _numbered(name: str, attempt: int) -> str:
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{numbered(base, attempt)}"
