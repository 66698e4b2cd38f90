"""The VAE in eager torch and numpy codecs: the reference of the compiled chains, on any device.

Coding composes the codecs of `coding.bitsback` on a message of one lane, image after image; it is
slow, and there to be compared with and for devices that numba does not serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osoa_pl.coding.bitsback import BitsBack, PosteriorBins, PriorBins
from osoa_pl.coding.codecs import Codec
from osoa_pl.coding.rans import Message
from osoa_pl.models import latents, network
from osoa_pl.models.base import Recorded
from osoa_pl.models.features import TileBatch
from osoa_pl.models.vae import PIXEL_BITS, VAEConfig, VariationalAutoencoder, _Pass


class EagerVariationalAutoencoder(VariationalAutoencoder):
    """`base.LatentModel` in eager torch, on the device of its parameters."""

    def __init__(self, config: VAEConfig, parameters: Tensor, activation_max: Tensor) -> None:
        super().__init__(config, parameters, activation_max, threads=1)

    def push(
        self, records: Sequence[Recorded], message: Message, stream: int, streams: int
    ) -> None:
        """As the compiled model, codec by codec."""
        for record in reversed(records):
            for index in reversed(range(stream, len(record.pixels), streams)):
                rows = slice(index, index + 1)
                mean, slope = (part[rows] for part in record.posterior)
                codec = self._codec(record.generative, lambda _, m=mean, s=slope: (m, s))
                codec.push(message, record.pixels[rows])

    def pop(self, batch: TileBatch, messages: Sequence[Message]) -> None:
        """As the compiled model, codec by codec."""
        self._check_tiles(batch)
        state = self._current()

        def posterior(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            pixels = torch.from_numpy(x).float().to(self.parameters.device)
            hidden = self._hidden(network.linear_forward(pixels, state, 0, PIXEL_BITS), state, 1)
            fixed = latents.posterior_integers(network.linear_forward(hidden, state, 1))
            return fixed[0].cpu().numpy(), fixed[1].cpu().numpy()

        codec = self._codec(state, posterior)
        pixels = []
        for index in range(len(batch.table)):
            _, image = codec.pop(messages[index % len(messages)])
            pixels.append(image[0].astype(np.uint8))
        self.fill(batch, np.stack(pixels))

    def _codec(self, state: network.Quantised, posterior: Any) -> Codec:
        """Codec of images (1, dims); posterior: image -> (mean, slope), int64 (1, latent)."""
        edges, table, centres, bits = self._bins()

        def likelihood(z: np.ndarray) -> Codec:
            values = torch.from_numpy(centres[z]).float().to(self.parameters.device)
            h = network.linear_forward(values, state, 2, latents.VALUE_BITS)
            outputs = network.linear_forward(self._hidden(h, state, 3), state, 3)
            return self.likelihood.codec(outputs)

        def posterior_codec(x: np.ndarray) -> Codec:
            mean, slope = posterior(x)
            return PosteriorBins(mean, slope, edges, table, latents.PRECISION)

        return BitsBack(PriorBins(self.config.latent, bits), likelihood, posterior_codec)

    def _generative(self) -> network.Quantised:
        return self._current()

    def _likelihood_gradient(self, run: _Pass) -> Tensor:
        return self.likelihood.gradient(run.outputs, run.pixels)
