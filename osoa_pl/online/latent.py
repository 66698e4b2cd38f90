"""Both directions of a segment for latent models: bits-back chains, one a stream.

Encoding, a batch leaves a record (its posteriors, and the generative network of that moment); the
chains are pushed at the segment's end, the last image first. What the first image pushed takes off
the stack are initial words from the counter-based generator; they are part of the message and
counted, and the decoder is left with exactly them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from osoa_pl.arith import noise
from osoa_pl.coding.bitsback import drop_unused, initial_message, is_initial
from osoa_pl.coding.rans import Message, content_bits, flatten, unflatten
from osoa_pl.errors import CoderError, DamagedArchiveError, UsageError
from osoa_pl.models.base import LatentModel, Recorded
from osoa_pl.models.features import TileBatch
from osoa_pl.online.coders import CodedSegment

INITIAL_WORDS = 1 << 12
"""The most that a chain may begin with; what it does not touch is dropped."""
_WORD_BITS = 32
_KEY = 0x0B175BAC


def initial_words(stream: int) -> np.ndarray:
    """uint32 (INITIAL_WORDS,): what a chain may take before it has pushed anything; top first."""
    key = noise.derive_key(_KEY, stream)
    return noise.bits(key, INITIAL_WORDS).numpy().astype(np.uint32)


class LatentEncoder:
    """Collects records, batch by batch, and pushes the chains when the segment ends."""

    def __init__(self, model: LatentModel, streams: int, measure: bool) -> None:
        self._model, self._streams, self._measure = model, streams, measure
        self._records: list[Recorded] = []
        self.tile_prices: np.ndarray | None = None

    def code(self, batch: TileBatch) -> float:
        """Record the batch under the present state; its negative ELBO in bits, if measured."""
        self._records.append(self._model.record(batch))
        return self._model.bits(batch, _KEY, len(self._records)) if self._measure else 0.0

    def finish(self) -> CodedSegment:
        """The segment's streams; a stream without images has no words."""
        growth = np.zeros(len(self._records))
        initial, streams = 0, []
        for stream in range(self._streams):
            message = initial_message(initial_words(stream))
            for index in reversed(range(len(self._records))):
                before = content_bits(message)
                self._model.push([self._records[index]], message, stream, self._streams)
                growth[index] += content_bits(message) - before
            initial += INITIAL_WORDS - message.tail.lowest
            streams.append(flatten(drop_unused(message)))
        self._records = []
        return CodedSegment(streams, growth.tolist(), float(_WORD_BITS * initial))


class LatentDecoder:
    """Pops batches from a segment's chains."""

    def __init__(self, model: LatentModel, where: str, streams: Sequence[np.ndarray]) -> None:
        self._model, self._where = model, where
        self._messages: list[Message] = []
        for index, words in enumerate(streams):
            try:
                self._messages.append(unflatten(words, 1))
            except CoderError as error:
                raise DamagedArchiveError(f"{where}: stream {index}: {error}") from None

    def code(self, batch: TileBatch) -> float:
        """Fill in the batch's pixels."""
        try:
            self._model.pop(batch, self._messages)
        except (CoderError, UsageError) as error:
            raise DamagedArchiveError(f"{self._where}: {error}") from None
        return 0.0

    def finish(self) -> None:
        """Every stream must be back at the words with which its encoder began."""
        for stream, message in enumerate(self._messages):
            if not is_initial(message, initial_words(stream)):
                raise DamagedArchiveError(f"{self._where}: code words are left over")
