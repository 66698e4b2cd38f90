"""One segment of an archive: a header that says what it must decode to, and its code words.

Layout, little-endian: 64 bytes of header, then `stream_count` uint32 lengths in words, then the
streams' uint32 words one after the other.

======  =====  ==========================================================
offset  bytes  field
======  =====  ==========================================================
0       4      magic ``OSEG``
4       2      version (1)
6       2      number of streams
8       4      shard index
12      4      segment index within the shard
16      4      index of the first batch
20      4      number of batches
24      16     BLAKE2b-128 of the segment's pixels in coding order
40      16     BLAKE2b-128 of the adaptive state after the segment
56      4      CRC-32 of the streams' bytes
60      4      CRC-32 of bytes 0-59 and of the stream lengths
======  =====  ==========================================================
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osoa_pl.errors import DamagedArchiveError, UsageError

MAGIC = b"OSEG"
VERSION = 1
DIGEST_BYTES = 16

_FIELDS = struct.Struct("<4sHHIIII16s16sI")
_CRC = struct.Struct("<I")
_FIXED = _FIELDS.size + _CRC.size
_MAX_U32 = 0xFFFFFFFF


@dataclass(frozen=True)
class SegmentHeader:
    """What a segment is and what decoding it must give."""

    shard: int
    segment: int
    first_batch: int
    batch_count: int
    pixel_digest: bytes
    """16 bytes: BLAKE2b-128 of the segment's pixels in coding order."""
    state_digest: bytes
    """16 bytes: BLAKE2b-128 of the adaptive state after the segment."""
    stream_words: tuple[int, ...] = ()
    """uint32 words of each stream; filled in by `pack`."""


def pack(header: SegmentHeader, streams: Sequence[NDArray[np.uint32]]) -> bytes:
    """Bytes of a segment member.

    `streams`: uint32 (words,) each; at most 65535 of them. Raises UsageError for fields out of
    range, other dtypes or dimensions.
    """
    for stream in streams:
        if stream.dtype != np.uint32 or stream.ndim != 1:
            raise UsageError(
                f"stream: found {stream.dtype} {stream.shape}, expected uint32 (words,)"
            )
    words = tuple(len(stream) for stream in streams)
    if header.stream_words not in ((), words):
        raise UsageError(f"stream lengths: found {words}, header says {header.stream_words}")
    if len(words) > 0xFFFF or any(count > _MAX_U32 for count in words):
        raise UsageError(f"{len(words)} streams of up to {max(words)} words do not fit a segment")
    numbers = (header.shard, header.segment, header.first_batch, header.batch_count)
    if not all(0 <= number <= _MAX_U32 for number in numbers):
        raise UsageError(f"segment indices {numbers} out of range 0..{_MAX_U32}")
    digests = (header.pixel_digest, header.state_digest)
    if any(len(digest) != DIGEST_BYTES for digest in digests):
        raise UsageError(f"segment digests: expected {DIGEST_BYTES} bytes each")
    payload = b"".join(stream.astype("<u4", copy=False).tobytes() for stream in streams)
    fields = _FIELDS.pack(MAGIC, VERSION, len(words), *numbers, *digests, zlib.crc32(payload))
    lengths = np.array(words, "<u4").tobytes()
    return fields + _CRC.pack(zlib.crc32(lengths, zlib.crc32(fields))) + lengths + payload


def unpack(data: bytes, where: str) -> tuple[SegmentHeader, list[NDArray[np.uint32]]]:
    """Header and streams (read-only uint32 views of `data`) of a segment member.

    Raises DamagedArchiveError naming `where` for any inconsistency.
    """
    if len(data) < _FIXED:
        raise DamagedArchiveError(f"{where}: {len(data)} bytes are too few for a segment")
    fields = _FIELDS.unpack_from(data)
    magic, version, stream_count = fields[:3]
    if magic != MAGIC:
        raise DamagedArchiveError(f"{where}: not a segment")
    if version != VERSION:
        raise DamagedArchiveError(f"{where}: segment version {version}, expected {VERSION}")
    start = _FIXED + 4 * stream_count
    if len(data) < start:
        raise DamagedArchiveError(f"{where}: cut off within its stream lengths")
    lengths = data[_FIXED:start]
    found = zlib.crc32(lengths, zlib.crc32(data[: _FIELDS.size]))
    if found != _CRC.unpack_from(data, _FIELDS.size)[0]:
        raise DamagedArchiveError(f"{where}: header fails its checksum")
    words = tuple(int(count) for count in np.frombuffer(lengths, "<u4"))
    if len(data) - start != 4 * sum(words):
        raise DamagedArchiveError(
            f"{where}: found {len(data) - start} bytes of code words, expected {4 * sum(words)}"
        )
    if zlib.crc32(memoryview(data)[start:]) != fields[9]:
        raise DamagedArchiveError(f"{where}: code words fail their checksum")
    streams = []
    for count in words:
        view = np.frombuffer(data, "<u4", count, start)
        streams.append(view.astype(np.uint32, copy=False))
        start += 4 * count
    shard, segment, first_batch, batch_count, pixel_digest, state_digest = fields[3:9]
    header = SegmentHeader(
        shard, segment, first_batch, batch_count, pixel_digest, state_digest, words
    )
    return header, streams
