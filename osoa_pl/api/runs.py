"""Runs over an archive's pictures: where one has got to, and what it will meet again."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Self

import numpy as np

from osoa_pl.api.decoding import Place
from osoa_pl.data.planes import Planes
from osoa_pl.types import Item


@dataclass(frozen=True)
class Cursor:
    """A run over a part's pictures, from number `begun`, that gives number `reached` next."""

    part: int
    begun: int
    reached: int
    run: Iterator[tuple[Place, Planes | None]]


class Spool:
    """Pictures that come again later, on the disk."""

    def __init__(self, items: set[int]) -> None:
        self._items = items
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed on exit)
        self._places: dict[Place, tuple[int, Any, tuple[int, ...]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def put(self, index: int, number: int, picture: np.ndarray) -> None:
        """Keep a picture, if it will be asked for."""
        if index in self._items:
            at = self._file.seek(0, io.SEEK_END)
            self._file.write(np.ascontiguousarray(picture).data)
            self._places[index, number] = at, picture.dtype, picture.shape

    def get(self, item: Item, number: int) -> np.ndarray:
        """A picture of the item that `item` copies."""
        at, dtype, shape = self._places[item.same, number]
        self._file.seek(at)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self._file.read(size), dtype).reshape(shape)
