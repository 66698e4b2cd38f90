"""The default model as a trainable module: native float32 with autograd, or exact.

Same layout of parameters as the exact form; native, no rounding of operands, torch's own kernels.
Archives are not made from the native form, since no other machine could repeat it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from osoa_pl.models import features, mixture_head
from osoa_pl.models.density import Density, Form, tiles
from osoa_pl.models.features import TileBatch
from osoa_pl.models.local_ar import LocalAutoregressive, LocalConfig, initial_parameters


class LocalAR(Density):
    """Local autoregressive model with copy components, the family `local_ar`.

    Args:
        channels: samples a pixel, 1 (grey) or 3 (RGB).
        width: channels of the residual network, a multiple of 4, at most 128.
        depth: residual blocks.
        mixtures: logistics a channel.
        form: native (torch's arithmetic) or exact (the arithmetic of archives).
        seed: of the initial weights.
    """

    family = "local_ar"
    config: LocalConfig

    def __init__(
        self,
        channels: int = 3,
        width: int = 96,
        depth: int = 4,
        mixtures: int = 5,
        *,
        form: Form = "native",
        seed: int = 0,
    ) -> None:
        config = LocalConfig(channels, width, depth, mixtures)
        super().__init__(config, initial_parameters(config, seed), form=form)
        self.activation_max.fill_(2.0)
        # reads features with the exact model's code: integers, the same in both forms
        self._reader = LocalAutoregressive(
            config, torch.zeros(config.parameter_count()), torch.ones(config.maxima_count()),
            threads=1,
        )  # fmt: skip

    def read(self, batch: TileBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(features f32 [P, F], pixels, predictors, copies int64) of a batch."""
        x, pixels, predictors, copies = self._reader.head_inputs(batch)
        device = self.flat.device
        return x.to(device), pixels.to(device), predictors.to(device), copies.to(device)

    def outputs(self, x: Tensor) -> Tensor:
        """features f32 [P, F] -> outputs f32 [P, O]."""
        views = self.config.network().views(self.flat)
        h = F.linear(x * features.FEATURE_STEP, *views[0])
        for block in range(self.config.depth):
            inner = F.relu(F.linear(F.relu(h), *views[2 * block + 1]))
            h = h + F.linear(inner, *views[2 * block + 2])
        return F.linear(F.relu(h), *views[-1]).float()

    def tile_loss(self, batch: TileBatch) -> Tensor:
        """Mean code length of a batch of tiles in nats a sample, differentiable."""
        x, pixels, predictors, copies = self.read(batch)
        nats = mixture_head.negative_log_likelihood(
            self.outputs(x), pixels, predictors, copies, self.config.mixtures
        )
        return nats.mean() / self.config.channels

    def native_loss(self, images: Tensor, key: int) -> Tensor:
        """Mean code length in nats a sample; no noise is needed, `key` has no effect."""
        return self.tile_loss(tiles(images))
