"""From the inputs of a command to a list of files with their names in the archive.

The order is natural (``img2`` before ``img10``) and depends on names alone, not on the file
system. Symbolic links are followed only to files inside the folder that was given; the rest, and
what is neither file nor folder, is skipped with a reason.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osoa_pl.data.files import describe
from osoa_pl.errors import UsageError
from osoa_pl.format.names import fold, parents, portable_name

_DIGITS = re.compile(r"([0-9]+)")


@dataclass
class Listing:
    """Files in coding order, and what was left out."""

    files: list[tuple[Path, str]] = field(default_factory=list)
    """(path, name in the archive)."""
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
) -> Listing:
    """Files of folders (recursively) and single files.

    One folder: names are relative to it. Several inputs: each folder's names start with its base
    name, files have their base name. Names that not every system can hold are changed
    (`renamed`). Files and folders in `exclude` are left out without a word where they lie inside a
    folder: outputs of the run are no inputs. Raises UsageError for a missing input, an input in
    `exclude`, equal names, or nothing to read.
    """
    if not inputs:
        raise UsageError("no input given")
    listing = Listing()
    outputs = frozenset(Path(path).resolve() for path in exclude)
    found: list[tuple[Path, str]] = []
    for entry in inputs:
        path = Path(entry)
        if path.resolve() in outputs:
            raise UsageError(f"{describe(path)}: is both an input and the output")
        if path.is_dir():
            prefix = "" if len(inputs) == 1 else path.resolve().name + "/"
            files = _walk(path, path.resolve(), listing, outputs)
            found += [(file, prefix + file.relative_to(path).as_posix()) for file in files]
        elif path.is_file():
            found.append((path, path.name))
        elif os.path.lexists(path):
            raise UsageError(f"{describe(path)}: neither a file nor a folder")
        else:
            raise UsageError(f"{describe(path)}: no such file or folder")
    found.sort(key=lambda pair: natural_key(pair[1]))
    for (first, name), (second, other) in zip(found, found[1:], strict=False):
        if name == other:
            raise UsageError(
                f"{describe(first)} and {describe(second)} would both be named {describe(name)}"
            )
    if not found:
        raise UsageError(f"{', '.join(map(describe, inputs))}: no files to read")
    _name(found, listing)
    return listing


def _walk(folder: Path, root: Path, listing: Listing, outputs: frozenset[Path]) -> Iterable[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        listing.skipped.append((describe(folder), f"cannot be read: {error.strerror}"))
        return
    for entry in entries:
        path = folder / entry.name
        if outputs and path.resolve() in outputs:
            continue
        if entry.is_symlink():
            problem = _link_problem(path, root)
            if problem is None:
                yield path
            else:
                listing.skipped.append((describe(path), problem))
        elif entry.is_dir():
            yield from _walk(path, root, listing, outputs)
        elif entry.is_file():
            yield path
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


def _name(found: Sequence[tuple[Path, str]], listing: Listing) -> None:
    # Sound names are given away first: only what is unsound or comes second is renamed.
    plans = [(path, name, portable_name(name)) for path, name in found]
    taken: set[str] = set()
    folders: set[str] = set()

    def clashes(folded: str) -> bool:
        return folded in taken or folded in folders or not taken.isdisjoint(parents(folded))

    chosen: dict[int, str] = {}
    order = sorted(range(len(plans)), key=lambda index: plans[index][1] != plans[index][2])
    for index in order:
        wanted = plans[index][2]
        name, attempt = wanted, 1
        while clashes(fold(name)):
            attempt += 1
            name = _numbered(wanted, attempt)
        taken.add(fold(name))
        folders.update(parents(fold(name)))
        chosen[index] = name
    for index, (path, name, _) in enumerate(plans):
        listing.files.append((path, chosen[index]))
        if chosen[index] != name:
            listing.renamed.append((describe(path), chosen[index]))


def _numbered(name: str, attempt: int) -> str:
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.rpartition(".")
    if not stem:
        stem, dot, suffix = base, "", ""
    return f"{folder}{slash}{stem}~{attempt}{dot}{suffix}"
