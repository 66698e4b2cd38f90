"""The algorithm: code batch t with theta_t, step on it, go on; and its mirror for decoding.

One loop (`Session._run`) holds the trajectory for both directions. It differs only in the coder it
is given: the encoder's `code` turns known pixels into intervals, the decoder's `code` fills the
pixels in. Pushes happen at a segment's end, last symbol first, because rANS is a stack.
Every segment carries a digest of its pixels and of the adaptive state after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from osoa_pl.arith.engines import check_rounding
from osoa_pl.arith.optim import state_digest
from osoa_pl.coding.rans_numba import flatten_lane, push_sequence, unflatten_lane
from osoa_pl.errors import CoderError, DamagedArchiveError, InputError, PortabilityError
from osoa_pl.format.segment import SegmentHeader
from osoa_pl.models.base import DirectModel, StreamDecoder
from osoa_pl.models.features import RADIUS, TileBatch, fill_tile, make_batch
from osoa_pl.online.plan import BatchSettings, Tile, segments
from osoa_pl.online.policy import Policy

_BASE_STATE = 1 << 31


@dataclass(frozen=True)
class Segment:
    """One coded segment and what it cost."""

    header: SegmentHeader
    streams: list[np.ndarray]
    pixels: int
    ideal_bits: float
    """Sum of -log2(frequency) over the segment's symbols; 0 when decoding."""

    @property
    def code_bytes(self) -> int:
        """Bytes of the code words."""
        return 4 * sum(len(words) for words in self.streams)


class _Coder(Protocol):
    def code(self, batch: TileBatch, tiles: Sequence[Tile]) -> None: ...


class _Encoder:
    """Fills batches from the images and collects each stream's intervals."""

    def __init__(self, model: DirectModel, images: Iterator[np.ndarray], streams: int) -> None:
        self._model, self._images, self._streams = model, images, streams
        self._image = np.zeros((0, 0, 0), np.uint8)
        self._number = -1
        self.begin()

    def begin(self) -> None:
        self._starts: list[list[np.ndarray]] = [[] for _ in range(self._streams)]
        self._frequencies: list[list[np.ndarray]] = [[] for _ in range(self._streams)]
        self.ideal_bits = 0.0

    def _rows(self, tile: Tile) -> np.ndarray:
        if tile.image != self._number:
            image = next(self._images, None)
            if image is None:
                raise InputError(f"image {tile.image} is missing: fewer images than announced")
            self._image, self._number = image, tile.image
        expected = (tile.width, self._model.channels)
        found = self._image.shape
        if found[1:] != expected or found[0] < tile.row + tile.height:
            raise InputError(f"image {tile.image} has shape {found}, not the announced one")
        if self._image.dtype != np.uint8:
            raise InputError(f"image {tile.image}: {self._image.dtype} (expected uint8)")
        return self._image[tile.row : tile.row + tile.height]

    def code(self, batch: TileBatch, tiles: Sequence[Tile]) -> None:
        for index, tile in enumerate(tiles):
            fill_tile(batch, index, self._rows(tile))
        start, frequency = self._model.intervals(batch)
        for stream in range(min(self._streams, len(tiles))):
            order = self._model.order(batch, stream, self._streams)
            self._starts[stream].append(start[order].reshape(-1))
            self._frequencies[stream].append(frequency[order].reshape(-1))
        bits = self._model.precision - np.log2(frequency)
        self.ideal_bits += float(bits.sum(dtype=np.float64))

    def finish(self) -> list[np.ndarray]:
        """The segment's streams, uint32 words; empty for a stream without symbols."""
        out = []
        for starts, frequencies in zip(self._starts, self._frequencies, strict=True):
            if not starts:
                out.append(np.zeros(0, np.uint32))
                continue
            head, words = push_sequence(
                np.concatenate(starts), np.concatenate(frequencies), self._model.precision
            )
            out.append(flatten_lane(head, words))
        self.begin()
        return out


class _Decoder:
    """Pops batches from a segment's streams."""

    def __init__(self, model: DirectModel, where: str, streams: Sequence[np.ndarray]) -> None:
        self._model, self._where = model, where
        heads = np.full(len(streams), _BASE_STATE, np.uint64)
        tails: list[np.ndarray] = []
        for index, words in enumerate(streams):
            tail = words
            if len(words):
                try:
                    heads[index], tail, _ = unflatten_lane(words)
                except CoderError as error:
                    raise DamagedArchiveError(f"{where}: stream {index}: {error}") from None
            tails.append(tail)
        sizes = np.array([len(tail) for tail in tails], np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        words = np.concatenate(tails).astype(np.uint32) if tails else np.zeros(0, np.uint32)
        self._decoder = StreamDecoder(heads, words, offsets, sizes)

    def code(self, batch: TileBatch, tiles: Sequence[Tile]) -> None:
        try:
            enough = self._model.decode(batch, self._decoder)
        except CoderError as error:
            raise DamagedArchiveError(f"{self._where}: {error}") from None
        if not enough:
            raise DamagedArchiveError(f"{self._where}: ran out of code words")

    def finish(self) -> None:
        """Every stream must be back at the state in which its encoder began."""
        if self._decoder.sizes.any() or (self._decoder.heads != _BASE_STATE).any():
            raise DamagedArchiveError(f"{self._where}: code words are left over")


class Session:
    """The trajectory of one shard, in either direction; use an instance once.

    model: at theta_0, changed in place. shapes: (height, width) of the shard's images.
    watch: called after each batch with its number of pixels (progress).
    Raises PortabilityError where this process does not round as IEEE-754 does by default.
    """

    def __init__(
        self,
        model: DirectModel,
        policy: Policy,
        second_moment: Tensor,
        shapes: Iterable[tuple[int, int]],
        settings: BatchSettings,
        *,
        seed: int = 0,
        shard: int = 0,
        watch: Callable[[int], None] | None = None,
    ) -> None:
        check_rounding()
        self._model, self._policy = model, policy
        self._shapes, self._settings, self._shard = shapes, settings, shard
        self._watch = watch
        self._context: np.ndarray | None = None
        policy.start(model, second_moment, seed)

    def _run(
        self, batches: Iterable[Sequence[Tile]], coder: _Coder
    ) -> Iterator[tuple[Sequence[Tile], TileBatch]]:
        """The trajectory over one segment: code, hand over, step."""
        for tiles in batches:
            contexts = [self._context if tile.row else None for tile in tiles]
            batch = make_batch([(t.height, t.width) for t in tiles], self._model.channels, contexts)
            coder.code(batch, tiles)
            self._context = batch.padded(len(tiles) - 1)[-RADIUS:].copy()
            yield tiles, batch
            self._policy.adapt(batch)
            if self._watch is not None:
                self._watch(batch.pixels)

    def _state_digest(self) -> bytes:
        return state_digest(*self._model.state(), *self._policy.state())

    def encode(self, images: Iterable[np.ndarray]) -> Iterator[Segment]:
        """Code images uint8 [h, w, c], in the order of `shapes`, segment by segment.

        Raises InputError where an image is not of the announced shape.
        """
        coder = _Encoder(self._model, iter(images), self._settings.streams)
        first = 0
        for index, batches in enumerate(segments(self._shapes, self._settings)):
            count, pixels, digest = 0, 0, hashlib.blake2b(digest_size=16)
            for _, batch in self._run(batches, coder):
                for number in range(len(batch.table)):
                    digest.update(batch.tile(number).tobytes())
                count, pixels = count + 1, pixels + batch.pixels
            bits = coder.ideal_bits
            streams = coder.finish()
            header = SegmentHeader(
                self._shard, index, first, count, digest.digest(), self._state_digest()
            )
            first += count
            yield Segment(header, streams, pixels, bits)

    def decode(
        self, coded: Iterable[tuple[SegmentHeader, list[np.ndarray]]], name: str = "archive"
    ) -> Iterator[np.ndarray]:
        """The images uint8 [h, w, c] of the segments, in order, each after its digest was checked.

        Raises DamagedArchiveError or PortabilityError naming the segment; images of the segments
        before it have been handed out by then, wrong ones never are.
        """
        source = iter(coded)
        first = 0
        parts: list[np.ndarray] = []
        for index, batches in enumerate(segments(self._shapes, self._settings)):
            where = f"{name}: shard {self._shard}, segment {index}"
            header, streams = next(source, (None, []))
            if header is None:
                raise DamagedArchiveError(f"{where} is missing")
            found = (header.shard, header.segment, header.first_batch)
            expected = (self._shard, index, first)
            if found != expected or len(streams) != self._settings.streams:
                raise DamagedArchiveError(
                    f"{where}: is segment {found} of {len(streams)} streams, expected {expected} "
                    f"of {self._settings.streams}"
                )
            coder = _Decoder(self._model, where, streams)
            digest = hashlib.blake2b(digest_size=16)
            decoded: list[tuple[np.ndarray, bool]] = []
            count = 0
            for tiles, batch in self._run(batches, coder):
                for number, tile in enumerate(tiles):
                    decoded.append((batch.tile(number).copy(), tile.last))
                    digest.update(decoded[-1][0].tobytes())
                count += 1
            if count != header.batch_count:
                raise DamagedArchiveError(
                    f"{where}: has {header.batch_count} batches, expected {count}"
                )
            coder.finish()
            if digest.digest() != header.pixel_digest:
                raise DamagedArchiveError(f"{where}: pixels fail their checksum")
            if self._state_digest() != header.state_digest:
                raise PortabilityError(f"{where}: adapted weights differ from the encoder's")
            first += count
            for pixels, last in decoded:
                parts.append(pixels)
                if last:
                    yield parts[0] if len(parts) == 1 else np.concatenate(parts)
                    parts = []
        if next(source, None) is not None:
            raise DamagedArchiveError(f"{name}: shard {self._shard} has segments left over")
