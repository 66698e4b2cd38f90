"""Files that an archive holds byte for byte, wherever in it they stand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import BinaryIO

from osoa_pl.api.members import file_block_member
from osoa_pl.data import files
from osoa_pl.format.blocks import BlockInfo, BlockPlace, BlockReader
from osoa_pl.format.container import ArchiveReader
from osoa_pl.types import Item


class StoredFiles:
    """The items of kind ``file``: members of their own, pieces of blocks, or copies of either.

    Raises DamagedArchiveError where the blocks do not hold what the items say.
    """

    def __init__(
        self, reader: ArchiveReader, blocks: Sequence[BlockInfo], items: Sequence[Item]
    ) -> None:
        self._reader, self._items = reader, items
        self._blocks = BlockReader(blocks, self._read, f"{reader.label}: packed files")
        self._places: dict[int, BlockPlace] = {}
        for index, item in enumerate(items):
            if item.kind == "file" and item.codec == "block" and item.same == -1:
                self._places[index] = self._blocks.place(item.size)
        self._blocks.end()

    def open(self, index: int) -> BinaryIO:
        """Stream over a file's bytes as they are in the archive (`files.decode_file` undoes it)."""
        same = self._items[index].same
        target = index if same == -1 else same
        if target in self._places:
            return io.BytesIO(self._blocks.read(self._places[target]))
        return self._reader.open(files.member_name(self._items[target]))

    def _read(self, block: int) -> bytes:
        return self._reader.read(file_block_member(block))
