"""Both directions of a segment for direct models: intervals pushed at its end, symbols popped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from osoa_pl.coding.rans import Message, base_message, content_bits, flatten
from osoa_pl.coding.rans_numba import push_sequence, unflatten_lane
from osoa_pl.errors import CoderError, DamagedArchiveError
from osoa_pl.models.base import DirectModel, StreamDecoder
from osoa_pl.models.features import TileBatch
from osoa_pl.online import prices
from osoa_pl.online.coders import CodedSegment

_BASE_STATE = 1 << 31

_Intervals = tuple[np.ndarray, np.ndarray]


class DirectEncoder:
    """Collects each stream's intervals, batch by batch, and pushes them when the segment ends."""

    def __init__(self, model: DirectModel, streams: int) -> None:
        self._model, self._streams = model, streams
        self._batches: list[list[_Intervals]] = []
        self.tile_prices: np.ndarray | None = None

    def code(self, batch: TileBatch) -> float:
        """Intervals of the batch under the present state; their ideal bits."""
        start, frequency = self._model.intervals(batch)
        streams = min(self._streams, len(batch.table))
        orders = [self._model.order(batch, stream, self._streams) for stream in range(streams)]
        self._batches.append(
            [(start[order].reshape(-1), frequency[order].reshape(-1)) for order in orders]
        )
        costs = prices.prices(frequency, self._model.precision)
        self.tile_prices = np.add.reduceat(costs.reshape(len(costs), -1).sum(1), batch.table[:, 3])
        bits = self._model.precision - np.log2(frequency)
        return float(bits.sum(dtype=np.float64))

    def finish(self) -> CodedSegment:
        """The segment's streams; a stream without symbols has no words."""
        messages: list[Message] = [base_message(1) for _ in range(self._streams)]
        growth = []
        for intervals in reversed(self._batches):
            before = sum(map(content_bits, messages))
            for message, (start, frequency) in zip(messages, intervals, strict=False):
                push_sequence(message, start, frequency, self._model.precision)
            growth.append(sum(map(content_bits, messages)) - before)
        self._batches = []
        return CodedSegment([flatten(m) for m in messages], growth[::-1])


class DirectDecoder:
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

    def code(self, batch: TileBatch) -> float:
        """Fill in the batch's pixels."""
        try:
            enough = self._model.decode(batch, self._decoder)
        except CoderError as error:
            raise DamagedArchiveError(f"{self._where}: {error}") from None
        if not enough:
            raise DamagedArchiveError(f"{self._where}: ran out of code words")
        return 0.0

    def finish(self) -> None:
        """Every stream must be back at the state in which its encoder began."""
        if self._decoder.sizes.any() or (self._decoder.heads != _BASE_STATE).any():
            raise DamagedArchiveError(f"{self._where}: code words are left over")
