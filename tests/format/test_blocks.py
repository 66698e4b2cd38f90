"""Blocks of plain bytes: pieces come back in any order, and damage is one line."""

from __future__ import annotations

import lzma
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osoa_pl.errors import DamagedArchiveError
from osoa_pl.format.blocks import (
    BLOCK_BYTES,
    BlockInfo,
    BlockReader,
    BlockWriter,
    decode,
    encode,
)

TEXT = b"All that repeats costs least beside its likes. " * 60
PIECES = st.lists(st.binary(max_size=40) | st.integers(0, 90).map(bytes), max_size=12)


def written(pieces: list[bytes], limit: int) -> tuple[list[BlockInfo], list[bytes]]:
    found: list[bytes] = []

    def sink(index: int, data: bytes) -> None:
        assert index == len(found)
        found.append(data)

    writer = BlockWriter(sink, limit)
    for piece in pieces:
        writer.add(piece)
    writer.finish()
    writer.finish()
    return writer.infos, found


def reader(infos: list[BlockInfo], blocks: list[bytes] | None = None) -> BlockReader:
    return BlockReader(infos, (blocks or []).__getitem__, "part 0")


@given(PIECES, st.integers(1, 128), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_round_trip(pieces: list[bytes], limit: int, draw: random.Random) -> None:
    infos, blocks = written(pieces, limit)
    assert [info.coded_bytes for info in infos] == [len(block) for block in blocks]
    assert all(0 < info.coded_bytes <= info.raw_bytes for info in infos)
    assert sum(info.raw_bytes for info in infos) == sum(map(len, pieces))
    largest = max((len(piece) for piece in pieces), default=0)
    assert all(info.raw_bytes <= max(limit, largest) for info in infos)
    found = reader(infos, blocks)
    places = [found.place(len(piece)) for piece in pieces]
    found.end()
    order = list(range(len(pieces)))
    draw.shuffle(order)
    assert all(found.read(places[index]) == pieces[index] for index in order)


@given(st.binary(max_size=2000) | st.integers(0, 9000).map(bytes))
@settings(max_examples=40)
def test_one_block(raw: bytes) -> None:
    coded = encode(raw)
    assert len(coded) <= len(raw)
    assert decode(coded, BlockInfo(len(raw), len(coded)), "block") == raw


def test_pieces_share_what_repeats() -> None:
    infos, blocks = written([TEXT] * 20, 1 << 20)
    assert len(infos) == 1
    assert len(blocks[0]) < len(encode(TEXT)) + 200
    assert lzma.decompress(blocks[0]) == TEXT * 20


def test_blocks_are_read_when_needed() -> None:
    infos, blocks = written([TEXT, b"", TEXT[::-1], TEXT], len(TEXT))
    read: list[int] = []

    def fetch(index: int) -> bytes:
        read.append(index)
        return blocks[index]

    found = BlockReader(infos, fetch, "part 0")
    places = [found.place(size) for size in (len(TEXT), 0, 7, len(TEXT) - 7, len(TEXT))]
    assert read == []
    assert found.read(places[1]) == b""
    assert found.read(places[3]) == TEXT[::-1][7:]
    assert found.read(places[2]) == TEXT[::-1][:7]
    assert found.read(places[4]) == TEXT
    assert read == [1, 2]


def damaged(data: bytes, raw_bytes: int = len(TEXT)) -> str:
    with pytest.raises(DamagedArchiveError) as caught:
        decode(data, BlockInfo(raw_bytes, len(data)), "part 3: block 1")
    assert str(caught.value).startswith("part 3: block 1: ")
    return str(caught.value)


def test_damage() -> None:
    coded = encode(TEXT)
    with pytest.raises(DamagedArchiveError, match=f"{len(coded)} bytes, expected 5"):
        decode(coded, BlockInfo(len(TEXT), 5), "block")
    for end in range(len(coded)):
        damaged(coded[:end])
    for place in range(len(coded)):
        changed = bytearray(coded)
        changed[place] ^= 1 << place % 8
        damaged(bytes(changed))
    for more in (b"x", bytes(4), coded):
        damaged(coded + more)
    for size in (0, 1, len(TEXT) - 1, len(TEXT) + 1, 1 << 40):
        assert "does not hold" in damaged(coded, size)
    assert "cut off" in damaged(coded[:-1])
    assert "does not decompress" in damaged(b"no xz at all")
    old = lzma.compress(TEXT, lzma.FORMAT_ALONE)
    assert "does not decompress" in damaged(old)


def test_hostile_blocks_cost_little_memory() -> None:
    bomb = lzma.compress(bytes(96 << 20), preset=0, check=lzma.CHECK_CRC32)
    coded = bytearray(encode(TEXT))
    assert coded[14:16] == b"\x21\x01"  # LZMA2 and one byte, the size of its dictionary
    coded[16] = 40
    coded[20:24] = zlib.crc32(coded[12:20]).to_bytes(4, "little")
    for data, size in ((bomb, 1000), (bomb, 1 << 20), (bytes(coded), len(TEXT))):
        tracemalloc.start()
        try:
            damaged(data, size)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 8 << 20


def test_places_beyond_the_blocks() -> None:
    infos = [BlockInfo(10, 10), BlockInfo(0, 0), BlockInfo(5, 5)]
    found = reader(infos)
    with pytest.raises(DamagedArchiveError, match="block 0 ends early"):
        found.place(11)
    found = reader(infos)
    found.place(4)
    with pytest.raises(DamagedArchiveError, match="block 0 ends early"):
        found.place(7)
    found = reader(infos)
    found.place(10)
    with pytest.raises(DamagedArchiveError, match="left over"):
        found.end()
    assert found.place(5).block == 2
    found.end()
    with pytest.raises(DamagedArchiveError, match="part 0: too few blocks"):
        found.place(1)
    empty = reader([])
    assert empty.read(empty.place(0)) == b""
    empty.end()


def test_damaged_block_is_named() -> None:
    infos, blocks = written([TEXT, TEXT[::-1]], 10)
    found = reader(infos, [blocks[0], blocks[1][::-1]])
    first, second = found.place(len(TEXT)), found.place(len(TEXT))
    assert found.read(first) == TEXT
    with pytest.raises(DamagedArchiveError, match="part 0: block 1: does not decompress"):
        found.read(second)
    assert found.read(first) == TEXT


def test_a_damaged_block_is_read_once():
    coded = encode(bytes(range(256)) * 40)
    asked = []

    def read(index: int) -> bytes:
        asked.append(index)
        return coded[:-1] + b"!"

    reader = BlockReader([BlockInfo(10240, len(coded))], read, "x")
    places = [reader.place(1024) for _ in range(10)]
    for place in places:
        with pytest.raises(DamagedArchiveError, match="block 0"):
            reader.read(place)
    assert asked == [0]


def test_a_large_block_holds_one_piece():
    large = BLOCK_BYTES + 2
    reader = BlockReader([BlockInfo(large, large)] * 2, lambda index: bytes(large), "x")
    assert len(reader.read(reader.place(large))) == large
    with pytest.raises(DamagedArchiveError, match="too large"):
        reader.place(BLOCK_BYTES + 1)
