"""What a generative model tells the coder: one contract to adapt, two to code.

A model holds its adaptive state (weights and activation scales). Every model says what its loss
and gradient on a batch are. A *direct* model (autoregressive, flow) also says which integer
interval each symbol has under the current state, all at once, the pixels being known, and what the
pixels are given the streams. A *latent* model (VAE) codes by bits-back: coding an image takes bits
off the stack, so it records what a batch needs of the current state and codes the records at the
segment's end, last image first. The session asks in the same order in both directions; the state
changes only in the optimizer's step, `stepped` and `advance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from osoa_pl.coding.rans import Message
from osoa_pl.models.features import TileBatch

Engine = Literal["compiled", "eager"]
"""Compiled kernels, or the eager definition; both have the same bits."""


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


class Model(Protocol):
    """What adaptation needs of any model."""

    @property
    def channels(self) -> int:
        """Samples a pixel."""

    @property
    def parameters(self) -> Tensor:
        """Master weights, flat float32, changed in place by the optimizer."""

    activation_max: Tensor
    """Scales of the activations, float32 [layers], frozen during a batch."""

    def prepare(self) -> None:
        """Round the weights for the next batch; raises CoderError where they are out of range."""

    def state(self) -> list[Tensor]:
        """Everything adaptive that decides bits, in a fixed order (for digests)."""

    def bits(self, batch: TileBatch, seed: int, counter: int) -> float:
        """Theoretical code length of the batch at the current state, in bits; decides none."""

    def gradient(self, batch: TileBatch, seed: int, counter: int) -> Tensor:
        """Gradient of the mean loss (nats/dim) at the current state, flat float32.

        `seed` and `counter` (of updates) name the noise that the gradient may use.
        """

    def seen_max(self) -> Tensor:
        """Activation maxima of the batch that was last passed forward, like `activation_max`."""

    def stepped(self) -> None:
        """`parameters` or `activation_max` have changed: forget what was derived from them."""

    def advance(self) -> None:
        """Let the activation scales follow the batch just seen (after the optimizer's step)."""


@runtime_checkable
class SampledModel(Model, Protocol):
    """A model that can take the gradient of some pixels of a batch alone."""

    def sampled_gradient(self, batch: TileBatch, seed: int, counter: int, stride: int) -> Tensor:
        """As `gradient`, of every stride-th pixel in raster order, tile after tile.

        The first one is number `counter` mod the smaller of `stride` and the batch's pixels.
        """


class DirectModel(Model, Protocol):
    """A model whose symbols are coded directly, each with an interval at 2^-precision."""

    precision: int

    def intervals(self, batch: TileBatch) -> tuple[np.ndarray, np.ndarray]:
        """(start, frequency) uint32 [pixels, channels] under the current state."""

    def order(self, batch: TileBatch, stream: int, streams: int) -> np.ndarray:
        """Pixel indices of one stream in coding order, int64."""

    def decode(self, batch: TileBatch, decoder: StreamDecoder) -> bool:
        """Fill in the batch's pixels; False when a stream has run out of words."""


@runtime_checkable
class RememberingModel(DirectModel, Protocol):
    """A direct model whose `advance` also takes the batch into a memory of pixels."""

    def remember(self, batch: TileBatch) -> None:
        """Take in a batch as `advance` did in an earlier run, nothing else."""


@dataclass
class Recorded:
    """What coding one batch of a latent model needs of the state before the batch's step.

    pixels uint8 [images, dims]; `posterior` and `generative` are the model's own.
    """

    pixels: np.ndarray
    posterior: Any
    generative: Any


@runtime_checkable
class LatentModel(Model, Protocol):
    """A model with latent variables, coded by bits-back; whole images, one tile each."""

    def record(self, batch: TileBatch) -> Recorded:
        """What pushing the batch at the segment's end will need; the state may then change."""

    def push(
        self, records: Sequence[Recorded], message: Message, stream: int, streams: int
    ) -> None:
        """Push one stream's images (tiles b with b mod streams = stream), the last one first.

        `message` of one lane is changed in place. Raises CoderError where it runs empty: more
        initial words are needed.
        """

    def pop(self, batch: TileBatch, messages: Sequence[Message]) -> None:
        """Fill in the batch's pixels from one message a stream; raises CoderError at their end."""
