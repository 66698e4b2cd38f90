"""What is found damaged, where a reader is to go on."""

from __future__ import annotations

from collections.abc import Iterable

from osoa_pl.errors import DamagedArchiveError


class Problems:
    """Takes errors: keeps them, each once, where it is to go on, and raises them where not."""

    def __init__(self, keep_going: bool, known: Iterable[str] = ()) -> None:
        self.keep_going = keep_going
        self.found = list(known)

    def bear(self, error: DamagedArchiveError) -> None:
        """Note the error and go on, or raise it."""
        if not self.keep_going:
            raise error
        self.add([str(error)])

    def add(self, found: Iterable[str]) -> None:
        """Keep what is not known yet."""
        self.found += [text for text in dict.fromkeys(found) if text not in self.found]
