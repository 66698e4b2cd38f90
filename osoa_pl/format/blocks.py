"""Blocks of plain bytes: planes and small files one after the other, xz over all of them.

What is small or repeats costs least beside its likes. A block is one .xz stream, or the bytes as
they are where that is no smaller; the manifest tells its size before and after. A piece of bytes
never crosses into another block, so a block holds `BLOCK_BYTES` or one larger piece.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from osoa_pl.errors import DamagedArchiveError

BLOCK_BYTES = 16 << 20
MAX_BLOCK_BYTES = 1 << 30
_MEMORY_LIMIT = 256 << 20
_STEP = 1 << 20
_PROBE_BYTES = 1 << 20

Settings = tuple[int, int, int]
"""Of LZMA: lc, lp, pb. Bits of the byte before and of the place that the next byte's context has,
and bits of the place that a match's has."""
FILE_SETTINGS: tuple[Settings, ...] = ((3, 0, 2),)
"""Those of xz itself."""
PLANE_SETTINGS: tuple[Settings, ...] = ((3, 0, 2), (3, 0, 0), (2, 2, 2))
"""Samples are bytes without alignment, or four to a pixel."""


@dataclass(frozen=True)
class BlockInfo:
    """Sizes of one block, in bytes."""

    raw_bytes: int
    coded_bytes: int


def encode(raw: bytes, settings: Sequence[Settings] = FILE_SETTINGS) -> bytes:
    """One block: the smallest of .xz under `settings` and `raw`; the latter told by its size.

    Of a large block its beginning tells which settings are best.
    """
    probe = raw[:_PROBE_BYTES]
    tried = [(_pack(probe, each), each) for each in settings]
    coded, best = min(tried, key=lambda way: len(way[0]))
    if len(raw) > len(probe):
        coded = _pack(raw, best)
    return coded if len(coded) < len(raw) else raw


def _pack(raw: bytes, settings: Settings) -> bytes:
    size = max(1 << 12, 1 << (len(raw) - 1).bit_length()) if raw else 1 << 12
    dictionary = min(size, BLOCK_BYTES)
    preset = 9 | lzma.PRESET_EXTREME
    lc, lp, pb = settings
    filters = [
        {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary, "lc": lc, "lp": lp,
         "pb": pb}
    ]  # fmt: skip
    return lzma.compress(raw, check=lzma.CHECK_CRC32, filters=filters)


def decode(data: bytes, info: BlockInfo, where: str) -> bytes:
    """The raw bytes of a block. Raises DamagedArchiveError naming `where`; memory is bounded."""
    if len(data) != info.coded_bytes:
        raise DamagedArchiveError(f"{where}: {len(data)} bytes, expected {info.coded_bytes}")
    if info.coded_bytes == info.raw_bytes:
        return data
    packer = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT)
    parts, found = [], 0
    try:
        while not packer.eof and found <= info.raw_bytes:
            part = packer.decompress(data, _STEP)
            if not part and not packer.eof:
                raise DamagedArchiveError(f"{where}: is cut off")
            data = b""
            parts.append(part)
            found += len(part)
    except (lzma.LZMAError, EOFError) as error:
        raise DamagedArchiveError(f"{where}: does not decompress") from error
    if found != info.raw_bytes or packer.unused_data:
        raise DamagedArchiveError(f"{where}: does not hold {info.raw_bytes} bytes")
    return b"".join(parts)


class BlockWriter:
    """Gathers pieces and hands finished blocks to `sink`, in order."""

    def __init__(
        self,
        sink: Callable[[int, bytes], None],
        block_bytes: int = BLOCK_BYTES,
        *,
        settings: Sequence[Settings] = FILE_SETTINGS,
    ) -> None:
        self._sink, self._limit, self._settings = sink, block_bytes, settings
        self._held = bytearray()
        self.infos: list[BlockInfo] = []

    def add(self, piece: bytes) -> None:
        """Append one piece."""
        if self._held and len(self._held) + len(piece) > self._limit:
            self.finish()
        self._held += piece

    def finish(self) -> None:
        """Close the last block."""
        if not self._held:
            return
        coded = encode(bytes(self._held), self._settings)
        self._sink(len(self.infos), coded)
        self.infos.append(BlockInfo(len(self._held), len(coded)))
        self._held.clear()


@dataclass(frozen=True)
class BlockPlace:
    """Where a piece stands."""

    block: int
    start: int
    size: int


class BlockReader:
    """Pieces of known sizes, located in the order in which they were added and read in any.

    read: bytes of block number i. One block is in memory at a time.
    """

    def __init__(
        self, infos: Sequence[BlockInfo], read: Callable[[int], bytes], where: str
    ) -> None:
        self._infos, self._read, self._where = infos, read, where
        self._block, self._start = 0, 0
        self._loaded: tuple[int, bytes] | None = None
        self._damaged: dict[int, str] = {}

    def place(self, size: int) -> BlockPlace:
        """Where the next piece of `size` bytes stands; nothing is read for it.

        Raises DamagedArchiveError where the blocks do not hold it.
        """
        if not size:
            return BlockPlace(0, 0, 0)
        while self._block < len(self._infos) and self._start == self._infos[self._block].raw_bytes:
            self._block, self._start = self._block + 1, 0
        if self._block == len(self._infos):
            raise DamagedArchiveError(f"{self._where}: too few blocks")
        whole, found = (
            self._infos[self._block].raw_bytes,
            BlockPlace(self._block, self._start, size),
        )
        if whole > BLOCK_BYTES and size != whole:
            raise DamagedArchiveError(f"{self._where}: block {self._block} is too large")
        self._start += size
        if self._start > whole:
            raise DamagedArchiveError(f"{self._where}: block {self._block} ends early")
        return found

    def read(self, place: BlockPlace) -> bytes:
        """The bytes of a piece. Raises DamagedArchiveError."""
        if not place.size:
            return b""
        if self._loaded is None or self._loaded[0] != place.block:
            self._loaded = None
            self._loaded = place.block, self._load(place.block)
        return self._loaded[1][place.start : place.start + place.size]

    def _load(self, block: int) -> bytes:
        if block in self._damaged:  # thousands of pieces may ask for it
            raise DamagedArchiveError(self._damaged[block])
        try:
            where = f"{self._where}: block {block}"
            return decode(self._read(block), self._infos[block], where)
        except DamagedArchiveError as error:
            self._damaged[block] = str(error)
            raise

    def end(self) -> None:
        """Raises DamagedArchiveError where bytes are left over after the last piece."""
        left = self._infos[self._block :]
        if sum(info.raw_bytes for info in left) != self._start:
            raise DamagedArchiveError(f"{self._where}: blocks have bytes left over")
