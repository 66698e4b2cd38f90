"""What a generative model tells the coder: the contract of a direct (autoregressive, flow) model.

A model holds its adaptive state (weights and activation scales) and answers three questions about
a batch: which integer interval each symbol has under the current state (all at once, the pixels
being known), what the pixels are given the streams (the mirror), and which gradient the loss has.
The session asks them in the same order in both directions; the state changes only in `advance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from osoa_pl.models.features import TileBatch


@dataclass
class StreamDecoder:
    """Entropy-decoder state of a segment: one rANS lane a stream, shared by its batches.

    heads uint64 [streams]; words uint32: the tails one after the other, stream s in
    words[offsets[s]:offsets[s + 1]] with sizes[s] words left on its stack.
    """

    heads: np.ndarray
    words: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @property
    def streams(self) -> int:
        """Number of streams."""
        return len(self.heads)


class DirectModel(Protocol):
    """A model whose symbols are coded directly, each with an interval at 2^-precision."""

    precision: int

    @property
    def channels(self) -> int:
        """Samples a pixel."""

    @property
    def parameters(self) -> Tensor:
        """Master weights, flat float32, changed in place by the optimizer."""

    def state(self) -> list[Tensor]:
        """Everything adaptive that decides bits, in a fixed order (for digests)."""

    def intervals(self, batch: TileBatch) -> tuple[np.ndarray, np.ndarray]:
        """(start, frequency) uint32 [pixels, channels] under the current state."""

    def order(self, batch: TileBatch, stream: int, streams: int) -> np.ndarray:
        """Pixel indices of one stream in coding order, int64."""

    def decode(self, batch: TileBatch, decoder: StreamDecoder) -> bool:
        """Fill in the batch's pixels; False when a stream has run out of words."""

    def gradient(self, batch: TileBatch, seed: int, counter: int) -> Tensor:
        """Gradient of the mean loss (nats/dim) at the current state, flat float32."""

    def stepped(self) -> None:
        """The optimizer has changed `parameters`: forget what was derived from them."""

    def advance(self) -> None:
        """Let the activation scales follow the batch just seen (after the optimizer's step)."""
