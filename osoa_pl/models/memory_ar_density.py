"""The model with memory as a trainable module: native float32 with autograd, or exact.

A batch is taken as the beginning of a collection: memory sees what the batch itself has decoded
so far. `scripts/pretrain.py` trains on longer collections, in exact form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from osoa_pl.models.density import Density, Form
from osoa_pl.models.features import TileBatch
from osoa_pl.models.local_ar_density import LocalAR
from osoa_pl.models.memory_ar import MemoryAutoregressive, MemoryConfig, initial_parameters
from osoa_pl.models.memory_head import PARTS
from osoa_pl.models.memory_head_eager import proposals
from osoa_pl.models.mixture_head import log_mixture

_NOTHING = -80.0  # ln of a share that is not there


class MemoryAR(LocalAR):
    """Local autoregressive model with memory, the family `memory_ar`.

    Args:
        channels: samples a pixel, 1 (grey) or 3 (RGB).
        width: channels of the residual network, a multiple of 4, at most 128.
        depth: residual blocks.
        mixtures: logistics a channel.
        memory_bits: log2 of the entries in each context's table.
        form: native (torch's arithmetic) or exact (the arithmetic of archives).
        seed: of the initial weights.
    """

    family = "memory_ar"
    config: MemoryConfig

    def __init__(
        self,
        channels: int = 3,
        width: int = 96,
        depth: int = 4,
        mixtures: int = 5,
        memory_bits: int = 18,
        *,
        form: Form = "native",
        seed: int = 0,
    ) -> None:
        config = MemoryConfig(channels, width, depth, mixtures, memory_bits)
        Density.__init__(self, config, initial_parameters(config, seed), form=form)
        self.activation_max.fill_(2.0)
        # looks with the exact model's code: integers, the same in both forms
        self._memory_reader = MemoryAutoregressive(
            config, torch.zeros(config.parameter_count()), torch.ones(config.maxima_count()),
            threads=1,
        )  # fmt: skip

    def tile_loss(self, batch: TileBatch) -> Tensor:
        """Mean code length of a batch of tiles in nats a sample, differentiable."""
        device, channels = self.flat.device, self.config.channels
        work = self._memory_reader.look(batch)
        found = proposals(work, torch.arange(batch.pixels, device=device), channels)
        pixels = torch.from_numpy(self._memory_reader.pixels(batch)).to(device).long()
        predictors = torch.from_numpy(work.predictors).to(device)
        outputs = self.outputs(torch.from_numpy(work.features).to(device))
        hits = (found.values == pixels.unsqueeze(1)).all(2)
        nats = negative_log_likelihood(
            outputs, pixels, predictors, hits, found.valid, found.offsets, self.config.mixtures
        )
        return nats.mean() / channels


def negative_log_likelihood(
    outputs: Tensor, pixels: Tensor, predictors: Tensor, hits: Tensor, valid: Tensor,
    offsets: Tensor, mixtures: int,
) -> Tensor:  # fmt: skip
    """-ln P(pixel), shape [P], differentiable; native, not portable. Colours seen have no part.

    outputs [P, O]; pixels, predictors int64 [P, c]; hits, valid bool, offsets [P, COMPONENTS]:
    which proposals are the pixel, which are there, and the log-odds of their trust.
    """
    logits = outputs[:, -PARTS:]
    logits = torch.cat([logits[:, :1], logits[:, 2:] + offsets], 1)
    there = torch.cat([torch.ones_like(valid[:, :1]), valid], 1)
    log_part = F.log_softmax(torch.where(there, logits, logits.new_tensor(_NOTHING)), -1)
    own = log_part[:, :1] + log_mixture(outputs, pixels, predictors, mixtures).unsqueeze(1)
    copied = torch.where(hits & valid, log_part[:, 1:], log_part.new_tensor(_NOTHING))
    return -torch.logsumexp(torch.cat([own, copied], 1), 1)
