"""Small models of seeded numbers and a few odd pictures: no weights are needed to test."""

from __future__ import annotations

import numpy as np
import torch

from osoa_pl.models.eigenbasis import near_identity
from osoa_pl.models.local_ar import LocalConfig, initial_parameters
from osoa_pl.models.memory_ar import MemoryConfig
from osoa_pl.models.memory_ar import initial_parameters as memory_parameters
from osoa_pl.models.vae import VAEConfig
from osoa_pl.models.vae import initial_parameters as vae_parameters
from osoa_pl.models.zoo import pack


def small_model(channels: int) -> tuple[LocalConfig, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(config, parameters, activation maxima, second moments) of a tiny untrained model."""
    config = LocalConfig(channels, width=16, depth=1, mixtures=2)
    parameters = initial_parameters(config, seed=channels)
    return config, parameters, torch.full((3,), 2.0), torch.full_like(parameters, 1e-6)


def small_memory_model(
    channels: int, eigenbasis: bool = False
) -> tuple[MemoryConfig, torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `small_model`, with memory."""
    config = MemoryConfig(
        channels, width=16, depth=1, mixtures=2, memory_bits=10, eigenbasis=eigenbasis
    )
    parameters = memory_parameters(config, seed=channels)
    return config, parameters, torch.full((3,), 2.0), torch.full_like(parameters, 1e-6)


def small_memory_checkpoint(eigenbasis: bool = True, further: bool = False) -> bytes:
    """A checkpoint of both, with its weights in an eigenbasis or not.

    further: the general weights are wild ones, others are named `tame`.
    """
    models = {"grey": small_memory_model(1, eigenbasis), "rgb": small_memory_model(3, eigenbasis)}
    bases = {
        kind: {"basis": near_identity(config.network().layers())}
        for kind, (config, *_) in models.items()
    }
    named = {}
    for kind, (config, parameters, *rest) in list(models.items()) if further else []:
        noise = torch.randn(parameters.shape, generator=torch.Generator().manual_seed(3))
        named[kind] = {"tame": (parameters, rest[0])}
        models[kind] = (config, parameters + 0.1 * noise, *rest)
    return pack(models, "memory_ar", bases if eigenbasis else {}, named)


def small_vae(
    likelihood: str = "bernoulli",
) -> tuple[VAEConfig, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(config, parameters, activation maxima, second moments) of a tiny untrained VAE."""
    config = VAEConfig(6, 7, hidden=12, latent=5, likelihood=likelihood, latent_bits=8)
    parameters = vae_parameters(config, seed=3) * 1.5
    config.views(parameters)[1][1][config.latent :] -= 1.5  # posteriors narrower than the prior
    return config, parameters, torch.full((2,), 2.0), torch.full_like(parameters, 1e-6)


def picture(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, flat parts and repeats, uint8 [h, w, c]."""
    rng = np.random.default_rng(seed)
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    image = 120 + 60 * np.sin(x / 7 + c) + 50 * np.cos(y / 5) + rng.normal(0, 4, x.shape)
    image[height // 2 :, : width // 2] = 200
    return image.clip(0, 255).astype(np.uint8)
