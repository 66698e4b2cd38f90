"""Segments: round trip, and every flipped bit or cut is an error that names the place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osoa_pl.errors import DamagedArchiveError, UsageError
from osoa_pl.format.segment import SegmentHeader, pack, unpack

HEADER = SegmentHeader(1, 2, 3, 4, bytes(range(16)), bytes(range(16, 32)))
U32 = st.integers(0, 2**32 - 1)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    numbers=st.tuples(U32, U32, U32, U32),
    lengths=st.lists(st.integers(0, 40), max_size=5),
    seed=U32,
)
def test_round_trip(numbers: tuple[int, int, int, int], lengths: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    streams = [generator.integers(0, 2**32, count, dtype=np.uint32) for count in lengths]
    header = SegmentHeader(*numbers, generator.bytes(16), generator.bytes(16))
    data = pack(header, streams)
    assert len(data) == 64 + 4 * len(lengths) + 4 * sum(lengths)
    found, words = unpack(data, "s")
    assert found.stream_words == tuple(lengths)
    assert pack(found, words) == data
    for given_words, found_words in zip(streams, words, strict=True):
        assert found_words.dtype == np.uint32
        assert np.array_equal(given_words, found_words)


def test_every_flip_and_cut_is_found() -> None:
    data = pack(HEADER, [np.arange(5, dtype=np.uint32), np.arange(3, dtype=np.uint32)])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedArchiveError, match="segment 7"):
            unpack(bytes(damaged), "segment 7")
    for length in range(len(data)):
        with pytest.raises(DamagedArchiveError, match="segment 7"):
            unpack(data[:length], "segment 7")
    with pytest.raises(DamagedArchiveError):
        unpack(data + b"\0\0\0\0", "segment 7")


def test_misuse() -> None:
    words = np.zeros(3, np.uint32)
    with pytest.raises(UsageError):
        pack(HEADER, [words.astype(np.int64)])
    with pytest.raises(UsageError):
        pack(SegmentHeader(1, 2, 3, 4, b"", bytes(16)), [words])
    with pytest.raises(UsageError):
        pack(SegmentHeader(-1, 2, 3, 4, bytes(16), bytes(16)), [words])
    with pytest.raises(UsageError):
        pack(SegmentHeader(1, 2, 3, 4, bytes(16), bytes(16), (4,)), [words])
