"""What an archive's parts are made of, and how it may be coded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from osoa_pl.data.collection import Entry
from osoa_pl.data.files import describe
from osoa_pl.data.planes import Planes
from osoa_pl.errors import InputError, reason
from osoa_pl.types import MODES, Form, Item, Mode, form_of


@dataclass(frozen=True, slots=True)
class Piece:
    """Pictures of one entry that belong to one part."""

    entry: Entry
    index: int
    """Of the entry in the collection."""
    number: int
    """Of the first picture here, among all of the collection."""
    position: int
    """Samples of all pictures before the entry."""
    begin: int
    count: int
    """Pictures begin .. begin + count - 1 of the entry."""

    @property
    def whole(self) -> bool:
        """Whether these are all pictures of the entry."""
        return self.count == self.entry.item.count

    @property
    def mode(self) -> Mode:
        """Of its pictures."""
        return MODES[self.entry.item.mode]

    def form(self, transform: str) -> Form:
        """What a transform makes of its pictures."""
        return form_of(self.entry.item.mode, transform)

    def pictures(self, transform: str = "") -> Iterator[Planes]:
        """The planes of each picture."""
        return self.entry.planes(self.begin, self.count, transform)


@dataclass(frozen=True, slots=True)
class Choice:
    """How the pictures of a piece are coded, and what the alternatives cost in bytes."""

    letters: str
    """See `Item.coded`."""
    reference: int = -1
    plain: tuple[int, ...] = ()
    """Of each plane, were it coded as its letter says if that is ``d``, plain otherwise."""
    original: int | None = None
    """The file as it is; None where pixels are called for, or the pixels cannot cost more."""
    metadata: int = 0
    kept: bool = False
    """The file is kept as it is."""
    transform: str = ""
    """See `Item.transform`."""


def check_unchanged(entries: Iterable[Entry]) -> None:
    """Raises InputError for a file that is not what it was when it was listed.

    Files are read several times: one that changes in between would come back as a mixture.
    """
    for entry in entries:
        if not isinstance(entry.origin, str):
            continue
        try:
            status = os.stat(entry.origin)
        except OSError as error:
            place = describe(entry.origin)
            raise InputError(f"{place}: cannot be read: {reason(error)}") from error
        if (status.st_size, status.st_mtime_ns) != (entry.size, entry.stamp):
            raise InputError(f"{describe(entry.origin)}: changed while it was read")


def even_limit(items: Iterable[Item], most: int) -> int:
    """Samples of a part such that as few parts as `most` samples allow are about equally large."""
    own = [item for item in items if item.count and item.same == -1]
    total = sum(item.raw_bytes for item in own)
    even = -(-total // max(1, -(-total // most)))
    largest = max((item.raw_bytes // item.count for item in own), default=0)
    return min(most, even + largest)
