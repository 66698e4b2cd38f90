"""What the session asks of a coder, in either direction, and which coder serves a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from osoa_pl.models.base import DirectModel, LatentModel, Model
from osoa_pl.models.features import TileBatch


@dataclass(frozen=True)
class CodedSegment:
    """Code words of a segment, and what they are made of."""

    streams: list[np.ndarray]
    batch_bits: list[float]
    """By how much each batch made the message grow, in coding order."""
    initial_bits: float = 0.0
    """Bits-back: what the chains began with."""


class Encoder(Protocol):
    """Turns batches into a segment."""

    tile_prices: np.ndarray | None
    """int64, of the tiles of the last batch, in bits / `prices.UNIT`; None where the model cannot
    tell them apart."""

    def code(self, batch: TileBatch) -> float:
        """Take the batch's pixels under the present state; their theoretical bits, or 0."""

    def finish(self) -> CodedSegment:
        """The segment; the encoder is then ready for the next one."""


class Decoder(Protocol):
    """Turns a segment into batches."""

    def code(self, batch: TileBatch) -> float:
        """Fill in the batch's pixels under the present state; 0."""

    def finish(self) -> None:
        """Raises DamagedArchiveError where something is left over."""


def encoder(model: Model, streams: int, measure: bool) -> Encoder:
    """The encoder for this kind of model.

    `measure`: theoretical bits also where they cost a pass of their own (latent models).
    """
    from osoa_pl.online.direct import DirectEncoder
    from osoa_pl.online.latent import LatentEncoder

    if isinstance(model, LatentModel):
        return LatentEncoder(model, streams, measure)
    return DirectEncoder(cast(DirectModel, model), streams)


def decoder(model: Model, where: str, streams: Sequence[np.ndarray]) -> Decoder:
    """The decoder of one segment for this kind of model."""
    from osoa_pl.online.direct import DirectDecoder
    from osoa_pl.online.latent import LatentDecoder

    if isinstance(model, LatentModel):
        return LatentDecoder(model, where, streams)
    return DirectDecoder(cast(DirectModel, model), where, streams)
