"""The VAE as a trainable module: native float32 with autograd, or exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from osoa_pl.arith import noise
from osoa_pl.models import latents
from osoa_pl.models.density import Density, Form
from osoa_pl.models.likelihoods import Name, find
from osoa_pl.models.vae import VAEConfig, initial_parameters


class VAE(Density):
    """Variational autoencoder with one layer of Gaussian latents, the family `vae`.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        channels: samples a pixel, 1 (grey) or 3 (RGB).
        hidden: units of the hidden layer of each network.
        latent: number of latents.
        likelihood: bernoulli (pixels 0 and 1) or beta_binomial (pixels 0 to 255).
        latent_bits: bits of a latent's prior: 2^bits bins of equal mass.
        form: native (torch's arithmetic) or exact (the arithmetic of archives).
        seed: of the initial weights.
    """

    family = "vae"
    config: VAEConfig

    def __init__(
        self,
        height: int = 28,
        width: int = 28,
        channels: int = 1,
        hidden: int = 100,
        latent: int = 40,
        likelihood: Name = "bernoulli",
        latent_bits: int = 10,
        *,
        form: Form = "native",
        seed: int = 0,
    ) -> None:
        config = VAEConfig(height, width, channels, hidden, latent, likelihood, latent_bits)
        super().__init__(config, initial_parameters(config, seed), form=form)
        self.likelihood = find(likelihood)
        self.activation_max.fill_(4.0)

    def recognise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale (n, latent) of the posterior of pixels (n, dims)."""
        layers = self.config.views(self.flat)
        hidden = F.relu(F.linear(x * self.likelihood.input_step, *layers[0]))
        mean, log_scale = F.linear(hidden, *layers[1]).float().chunk(2, 1)
        return mean, log_scale.clamp(*latents.LOG_SCALE_LIMITS)

    def generate(self, z: Tensor) -> Tensor:
        """Outputs (n, outputs) of the generative network for latents (n, latent)."""
        layers = self.config.views(self.flat)
        return F.linear(F.relu(F.linear(z, *layers[2])), *layers[3]).float()

    def native_loss(self, images: Tensor, key: int) -> Tensor:
        """The negative ELBO in nats a sample, one draw of noise an image."""
        x = images.flatten(1).float()
        mean, log_scale = self.recognise(x)
        draw = noise.normal(key, mean.numel(), device=x.device).view(mean.shape)
        outputs = self.generate(mean + log_scale.exp() * draw)
        divergence = 0.5 * (mean.square() + (2.0 * log_scale).exp() - 1.0) - log_scale
        nats = self.likelihood.native_loss(outputs, x) + divergence.sum(1)
        return nats.mean() / self.config.dims

    @torch.no_grad()
    def pictures(self, images: Tensor, key: int) -> dict[str, Tensor]:
        """Originals, their reconstructions, and samples from the prior."""
        self.check(images)
        mean, _ = self.recognise(images.flatten(1).float())
        draw = noise.normal(key, mean.numel(), device=mean.device).view(mean.shape)
        shown = {
            "reconstructions": self.likelihood.mean(self.generate(mean)),
            "samples": self.likelihood.mean(self.generate(draw)),
        }
        bright = 255 // (self.likelihood.levels - 1)
        found = {name: p.round().to(torch.uint8).view(images.shape) for name, p in shown.items()}
        return {"originals": images * bright, **found}
