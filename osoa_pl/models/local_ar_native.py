"""The default model in native float32 with autograd: for research and as the yardstick of speed.

Same layout of parameters as the exact form, no rounding of operands, torch's own kernels. Its
code lengths are real ones; archives are not made from it, since no other machine could repeat it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osoa_pl.models import features, mixture_head
from osoa_pl.models.features import TileBatch
from osoa_pl.models.local_ar import LocalAutoregressive, LocalConfig


class NativeLocalAutoregressive(nn.Module):
    """Module over one flat parameter vector, interchangeable with the exact form's."""

    def __init__(self, config: LocalConfig, parameters: Tensor) -> None:
        super().__init__()
        self.config = config
        self.flat = nn.Parameter(parameters.clone())
        # reads features with the exact model's code: integers, the same in both forms
        self._reader = LocalAutoregressive(
            config, parameters.clone(), torch.ones(2 * config.depth + 1)
        )

    def read(self, batch: TileBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(features f32 [P, F], pixels, predictors, copies int64) of a batch."""
        return self._reader.head_inputs(batch)

    def outputs(self, x: Tensor) -> Tensor:
        """features f32 [P, F] -> outputs f32 [P, O]."""
        views = self.config.network().views(self.flat)
        h = F.linear(x * features.FEATURE_STEP, *views[0])
        for block in range(self.config.depth):
            inner = F.relu(F.linear(F.relu(h), *views[2 * block + 1]))
            h = h + F.linear(inner, *views[2 * block + 2])
        return F.linear(F.relu(h), *views[-1])

    def forward(self, batch: TileBatch) -> Tensor:
        """Mean code length of the batch in bits/dim, differentiable."""
        x, pixels, predictors, copies = self.read(batch)
        nats = mixture_head.negative_log_likelihood(
            self.outputs(x), pixels, predictors, copies, self.config.mixtures
        )
        return nats.mean() / (self.config.channels * math.log(2.0))
