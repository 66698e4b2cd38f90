"""The algorithm: code batch t with theta_t, step on it, go on; and its mirror for decoding.

Both directions take the same two moves, `_code` and `_step`. They differ only in the coder that
`_code` is given: an encoder reads the pixels, a decoder fills them in. Words are made at a
segment's end, last symbol first, because rANS is a stack. Every segment carries a digest of its
pixels and of the adaptive state after it.

Encoding, a caller may make each move itself: `begin`, then `code` and `step` in turn (the Trainer
does), with `snapshot` and `restore` between segments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from osoa_pl.arith.engines import check_rounding
from osoa_pl.arith.optim import state_digest
from osoa_pl.errors import DamagedArchiveError, InputError, PortabilityError, UsageError
from osoa_pl.format.segment import SegmentHeader
from osoa_pl.models.base import Model, RememberingModel
from osoa_pl.models.features import RADIUS, TileBatch, fill_tile, make_batch
from osoa_pl.online import coders
from osoa_pl.online.coders import Decoder, Encoder
from osoa_pl.online.plan import BatchSettings, Tile, batches, segments
from osoa_pl.online.policy import Policy


@dataclass(frozen=True)
class Segment:
    """One coded segment and what it cost."""

    header: SegmentHeader
    streams: list[np.ndarray]
    pixels: int
    ideal_bits: float
    """Direct models: sum of -log2(frequency) over the symbols. Latent models: the negative ELBO
    where the session measures, else 0."""
    batch_bits: tuple[float, ...] = ()
    """By how much each batch made the message grow."""
    initial_bits: float = 0.0
    """Bits-back: what the chains began with, part of the code words."""

    @property
    def code_bytes(self) -> int:
        """Bytes of the code words."""
        return 4 * sum(len(words) for words in self.streams)


@dataclass(frozen=True)
class CodedBatch:
    """One batch as the encoder has taken it, before its step."""

    number: int
    segment: int
    batch: TileBatch
    ideal_bits: float


class _Images:
    """The images in order, one in memory; rows are asked for with rising image numbers."""

    def __init__(self, images: Iterable[np.ndarray], channels: int) -> None:
        self._source, self._channels = iter(images), channels
        self._image = np.zeros((0, 0, 0), np.uint8)
        self._number = -1

    def rows(self, tile: Tile) -> np.ndarray:
        """Pixels uint8 [h, w, c] of a tile; raises InputError where they are not as announced."""
        while self._number < tile.image:
            image = next(self._source, None)
            if image is None:
                raise InputError(f"image {tile.image} is missing: fewer images than announced")
            self._image, self._number = image, self._number + 1
        expected, found = (tile.width, self._channels), self._image.shape
        if found[1:] != expected or found[0] < tile.row + tile.height:
            raise InputError(f"image {tile.image} has shape {found}, not the announced one")
        if self._image.dtype != np.uint8:
            raise InputError(f"image {tile.image}: {self._image.dtype} (expected uint8)")
        return self._image[tile.row : tile.row + tile.height]


class Session:
    """The trajectory of one shard, in either direction; use an instance once.

    model: at theta_0, changed in place. shapes: (height, width) of the shard's images.
    watch: called after each batch with its number of pixels (progress). measure: see `Segment`.
    Raises PortabilityError where this process does not round as IEEE-754 does by default.
    """

    def __init__(
        self,
        model: Model,
        policy: Policy,
        second_moment: Tensor,
        shapes: Iterable[tuple[int, int]],
        settings: BatchSettings,
        *,
        seed: int = 0,
        shard: int = 0,
        watch: Callable[[int], None] | None = None,
        measure: bool = False,
    ) -> None:
        check_rounding()
        self.model, self.policy = model, policy
        self._shapes, self._settings, self._shard = shapes, settings, shard
        self._watch, self._measure = watch, measure
        self._context: np.ndarray | None = None
        self._images: _Images | None = None
        self.image_prices: list[int] = []
        """Of the images encoded so far, in bits / `prices.UNIT`; empty for latent models."""
        policy.start(model, second_moment, seed, settings.gradient_stride)

    def _code(self, tiles: Sequence[Tile], coder: Encoder | Decoder) -> tuple[TileBatch, float]:
        """The batch of these tiles under the present state, and its theoretical bits."""
        batch = self._batch(tiles)
        bits = coder.code(batch)
        self._context = batch.padded(len(tiles) - 1)[-RADIUS:].copy()
        return batch, bits

    def _batch(self, tiles: Sequence[Tile]) -> TileBatch:
        """The batch of these tiles, with their pixels where images are given."""
        contexts = [self._context if tile.row else None for tile in tiles]
        batch = make_batch(
            [(t.height, t.width) for t in tiles], self.model.channels, contexts,
            [t.row for t in tiles],
        )  # fmt: skip
        if self._images is not None:
            for index, tile in enumerate(tiles):
                fill_tile(batch, index, self._images.rows(tile))
        return batch

    def _step(self, batch: TileBatch) -> None:
        """From theta_t to theta_t+1 on the batch just coded."""
        self.policy.adapt(batch)
        self.watched(batch.pixels)

    def watched(self, pixels: int) -> None:
        """Tell `watch` of this many pixels: also those that an earlier run has coded."""
        if self._watch is not None:
            self._watch(pixels)

    def _state_digest(self) -> bytes:
        return state_digest(*self.model.state(), *self.policy.state())

    def begin(self, images: Iterable[np.ndarray]) -> None:
        """Start encoding images uint8 [h, w, c], in the order of `shapes`."""
        self._images = _Images(images, self.model.channels)
        self._plan = batches(self._shapes, self._settings)
        self._next = next(self._plan, None)
        self._number = self._segment = 0
        self._coded: CodedBatch | None = None
        self._encoder = coders.encoder(self.model, self._settings.streams, self._measure)
        self._open_segment()

    def _open_segment(self) -> None:
        self._first, self._pixels, self._bits = self._number, 0, 0.0
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def batches(self) -> int:
        """Batches that have been coded and stepped on."""
        return self._number

    @property
    def batch_count(self) -> int:
        """Batches in all."""
        return sum(1 for _ in batches(self._shapes, self._settings))

    @property
    def exhausted(self) -> bool:
        """Whether all batches have been coded and stepped on."""
        return self._next is None and self._coded is None

    def code(self) -> CodedBatch | None:
        """Code the next batch with the present state, or None where all are coded.

        Raises InputError where an image is not of the announced shape.
        """
        if self._coded is not None:
            raise UsageError(f"batch {self._coded.number} is coded: its step comes first")
        if self._next is None:
            return None
        batch, bits = self._code(self._next, self._encoder)
        if self._encoder.tile_prices is not None:
            for tile, price in zip(self._next, self._encoder.tile_prices.tolist(), strict=True):
                if tile.row == 0:
                    self.image_prices.append(0)
                self.image_prices[-1] += price
        for index in range(len(batch.table)):
            self._digest.update(batch.tile(index).tobytes())
        self._pixels, self._bits = self._pixels + batch.pixels, self._bits + bits
        self._coded = CodedBatch(self._number, self._segment, batch, bits)
        return self._coded

    def step(self) -> Segment | None:
        """Step on the batch that `code` gave; the segment, where the batch was its last."""
        if self._coded is None:
            raise UsageError("no batch is coded: there is nothing to step on")
        self._step(self._coded.batch)
        self._coded, self._next = None, next(self._plan, None)
        self._number += 1
        if self._next is not None and self._number % self._settings.segment_batches:
            return None
        made = self._encoder.finish()
        header = SegmentHeader(
            self._shard, self._segment, self._first, self._number - self._first,
            self._digest.digest(), self._state_digest(),
        )  # fmt: skip
        segment = Segment(
            header, made.streams, self._pixels, self._bits, tuple(made.batch_bits),
            made.initial_bits,
        )  # fmt: skip
        self._segment += 1
        self._open_segment()
        return segment

    def encode(self, images: Iterable[np.ndarray]) -> Iterator[Segment]:
        """Code images uint8 [h, w, c], in the order of `shapes`, segment by segment.

        Raises InputError where an image is not of the announced shape.
        """
        self.begin(images)
        while self.code() is not None:
            segment = self.step()
            if segment is not None:
                yield segment

    def snapshot(self) -> dict[str, Any]:
        """All that decides what comes after the present segment's start: tensors and numbers.

        To be taken between segments; raises UsageError within one.
        """
        if self._number != self._first or self._coded is not None:
            raise UsageError("a snapshot is taken between segments")
        context = None if self._context is None else np.array(self._context)
        return {
            "batches": self._number,
            "segments": self._segment,
            "context": context,
            "prices": np.array(self.image_prices, np.int64),
            "parameters": self.model.parameters.detach().clone(),
            "activation_max": self.model.activation_max.detach().clone(),
            "policy": self.policy.snapshot(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a `snapshot` of an equal session; call it after `begin`."""
        replays = self.batch_count > snapshot["batches"] and isinstance(
            self.model, RememberingModel
        )
        while self._number < snapshot["batches"] and self._next is not None:
            if replays:
                batch = self._batch(self._next)
                self._context = batch.padded(len(self._next) - 1)[-RADIUS:].copy()
                self.policy.replay(batch)
            self._next = next(self._plan, None)
            self._number += 1
        if self._number != snapshot["batches"]:
            raise UsageError(f"snapshot after {snapshot['batches']} batches: there are fewer")
        self._segment, self._context = snapshot["segments"], snapshot["context"]
        self.image_prices = snapshot["prices"].tolist()
        self.model.parameters.copy_(snapshot["parameters"])
        self.model.activation_max = snapshot["activation_max"].clone()
        self.model.stepped()
        self.policy.restore(snapshot["policy"])
        self._open_segment()

    def decode(
        self,
        coded: Iterable[tuple[SegmentHeader, list[np.ndarray]]],
        name: str = "archive",
        *,
        skip: int = 0,
    ) -> Iterator[np.ndarray]:
        """The images uint8 [h, w, c] of the segments, in order, each after its digest was checked.

        skip: segments that `coded` leaves out at its start, where the policy changes nothing and
        the next one begins with an image (`plan.clean_start`).

        Raises DamagedArchiveError or PortabilityError naming the segment; images of the segments
        before it have been handed out by then, wrong ones never are.
        """
        source = iter(coded)
        first = 0
        parts: list[np.ndarray] = []
        for index, plan in enumerate(segments(self._shapes, self._settings)):
            if index < skip:
                first += sum(1 for _ in plan)
                continue
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
            coder = coders.decoder(self.model, where, streams)
            digest = hashlib.blake2b(digest_size=16)
            decoded: list[tuple[np.ndarray, bool]] = []
            count = 0
            for tiles in plan:
                batch, _ = self._code(tiles, coder)
                for number, tile in enumerate(tiles):
                    decoded.append((batch.tile(number).copy(), tile.last))
                    digest.update(decoded[-1][0].tobytes())
                self._step(batch)
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
