"""A variational autoencoder with one layer of latents, coded by bits-back: the models of BB-ANS.

Recognition network x -> relu -> (mean, log-scale) of a Gaussian posterior; generative network
latents -> relu -> Bernoulli or beta-binomial pixels; standard normal prior in bins of equal mass.
Four exact linear layers, no batch statistics. Gradients are those of the negative ELBO with
reparametrised noise from the counter-based generator (the latents that bits-back samples come from
the message, and a decoder does not have them in time).

Source: Townsend, Bird, Barber, arXiv:1901.04866; Kingma and Welling, arXiv:1312.6114.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from osoa_pl.arith import Precision, functions, noise, quantize
from osoa_pl.arith.threads import RowPool
from osoa_pl.coding.rans import Message
from osoa_pl.errors import CoderError, InputError, UsageError
from osoa_pl.models import latents, likelihoods, network, vae_kernels
from osoa_pl.models.base import Engine, Recorded
from osoa_pl.models.family import Family
from osoa_pl.models.features import TileBatch, fill_tile

if TYPE_CHECKING:
    from osoa_pl.models.density import Density

_LIMITS = {
    "height": (1, 1024), "width": (1, 1024), "hidden": (1, 1024), "latent": (1, 1024),
    "latent_bits": (2, 12),
}  # fmt: skip
# 4096 * 255 * 2047 and 1024 * 1023 * 2047 are below 2^31: sums of products fit into int32
_MAX_DIMS = 4096
PRECISION = Precision(activation_bits=10, weight_bits=11, gradient_bits=7)
_LIMIT = np.float32(2**PRECISION.activation_bits - 1)
PIXEL_BITS = 8
_DECAY = 0.998  # of activation maxima: they hardly move from batch to batch, saturation would cost
_NOISE = 4  # number of the noise key after those of the four layers


@dataclass(frozen=True)
class VAEConfig:
    """Sizes: pixels of an image, hidden units, latents, bits of a latent's prior."""

    height: int = 28
    width: int = 28
    channels: int = 1
    hidden: int = 100
    latent: int = 40
    likelihood: str = "bernoulli"
    latent_bits: int = 10

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UsageError(f"VAE: {name} {value!r}, expected {low} to {high}")
        if self.channels not in (1, 3) or type(self.channels) is not int:
            raise UsageError(f"VAE for {self.channels!r} channels (supported: 1, 3)")
        if self.dims > _MAX_DIMS:
            raise UsageError(f"VAE for {self.dims} samples an image (at most {_MAX_DIMS})")
        likelihoods.find(self.likelihood)

    @property
    def dims(self) -> int:
        """Samples an image."""
        return self.height * self.width * self.channels

    def layers(self) -> list[tuple[int, int]]:
        """(fan-out, fan-in): two of the recognition, two of the generative network."""
        outputs = likelihoods.find(self.likelihood).per_pixel * self.dims
        return [
            (self.hidden, self.dims), (2 * self.latent, self.hidden),
            (self.hidden, self.latent), (outputs, self.hidden),
        ]  # fmt: skip

    def parameter_count(self) -> int:
        """Length of the flat vector of weights."""
        return sum(o * i + o for o, i in self.layers())

    def maxima_count(self) -> int:
        """Activation maxima: of both hidden layers."""
        return 2

    def views(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(weight [out, in], bias [out]) of each layer as views into a flat vector."""
        return network.layer_views(self.layers(), flat)

    def problem(self, height: int, width: int) -> str | None:
        """Why an image of this size cannot be coded, or None."""
        if (height, width) == (self.height, self.width):
            return None
        return f"codes images of {self.height}x{self.width} alone, found {height}x{width}"

    def to_dict(self) -> dict[str, Any]:
        """Plain form for checkpoint metadata."""
        return asdict(self)


@dataclass
class _Pass:
    """One forward pass under one draw of noise."""

    pixels: Tensor  # int64 [n, D]
    recognised: Tensor  # f32 [n, 2 Z]
    noise: Tensor  # f64 [n, Z]
    inputs: list[Tensor]  # integer-valued f32: of each layer
    outputs: Tensor  # f32 [n, O]


class VariationalAutoencoder:
    """Latent model with compiled chains; see `base.LatentModel` for the contract."""

    def __init__(
        self,
        config: VAEConfig,
        parameters: Tensor,
        activation_max: Tensor,
        *,
        threads: int | None = None,
    ) -> None:
        if parameters.shape != (config.parameter_count(),):
            raise UsageError(
                f"VAE: found {parameters.numel()} parameters (expected {config.parameter_count()})"
            )
        self.config = config
        self.parameters = parameters
        self.activation_max = activation_max
        self.likelihood = likelihoods.find(config.likelihood)
        self._pool = RowPool(threads or torch.get_num_threads())
        self._quantised: network.Quantised | None = None
        self._kernel_form: tuple[Any, Any] | None = None
        self._recognised: tuple[TileBatch, Tensor, Tensor] | None = None
        self._pass: tuple[TileBatch, int, int, _Pass] | None = None
        self._seen: Tensor | None = None

    @property
    def channels(self) -> int:
        """Samples a pixel."""
        return self.config.channels

    def prepare(self) -> None:
        """Round the weights for the next batch; raises CoderError where they are out of range."""
        self._current()

    def state(self) -> list[Tensor]:
        """Master weights and activation maxima."""
        return [self.parameters, self.activation_max]

    def bits(self, batch: TileBatch, seed: int, counter: int) -> float:
        """The negative ELBO over bins: what bits-back pays for one draw of latents an image.

        Where posteriors lie within the prior it agrees with the continuous ELBO that `gradient`
        descends; a latent far outside costs no more than its bin.
        """
        pixels, recognised = self._recognise(batch)
        mean, slope = (t.cpu().numpy() for t in latents.posterior_integers(recognised))
        slots = noise.bits(noise.derive_key(seed, counter, _NOISE), mean.size)
        bins, frequency = latents.find_bins(
            slots.numpy().reshape(mean.shape) >> (32 - latents.PRECISION), mean, slope,
            self.config.latent_bits,
        )  # fmt: skip
        prior, posterior = self.config.latent_bits, latents.PRECISION - np.log2(frequency)
        latent_bits = float((prior - posterior).sum())
        values = torch.from_numpy(latents.centres(self.config.latent_bits)[bins]).float()
        _, outputs = self._generate(values.to(recognised.device))
        tensor = torch.from_numpy(pixels).to(recognised.device).long()
        nats = float(self.likelihood.log_loss(outputs, tensor).sum())
        return nats / float(np.log(2.0)) + latent_bits

    def gradient(self, batch: TileBatch, seed: int, counter: int) -> Tensor:
        """Gradient of the negative ELBO in nats a sample, flat float32."""
        run, state = self._forward(batch, seed, counter), self._current()
        flat = torch.zeros_like(self.parameters)
        views = self.config.views(flat)

        def back(index: int, g: Tensor, input_bits: int | None = None) -> Tensor:
            key = noise.derive_key(seed, counter, index)
            return network.linear_backward(
                g, run.inputs[index], state, index, key, views[index], input_bits
            )

        def mask(g: Tensor, index: int) -> Tensor:
            return torch.where(run.inputs[index] > 0, g, torch.zeros_like(g))

        g = mask(back(3, self._likelihood_gradient(run)), 3)
        by_value = back(2, g, latents.VALUE_BITS).double()
        mean, raw = latents.split(run.recognised)
        low, high = latents.LOG_SCALE_LIMITS
        scale = functions.exp(raw.clamp(low, high))
        by_scale = by_value * run.noise * scale + (scale * scale - 1.0)
        by_scale = torch.where((raw > low) & (raw < high), by_scale, torch.zeros_like(raw))
        g = mask(back(1, torch.cat([by_value + mean, by_scale], 1).float()), 1)
        back(0, g, PIXEL_BITS)
        return flat.mul_(torch.full_like(flat[:1], 1.0 / run.pixels.numel()))

    def record(self, batch: TileBatch) -> Recorded:
        """Posteriors of the batch's images and the generative network of this moment."""
        pixels, recognised = self._recognise(batch)
        mean, slope = latents.posterior_integers(recognised)
        posterior = mean.cpu().numpy(), slope.cpu().numpy()
        return Recorded(pixels, posterior, self._generative())

    def push(
        self, records: Sequence[Recorded], message: Message, stream: int, streams: int
    ) -> None:
        """Push one stream's images, the last one first; see `base.LatentModel.push`."""
        tail, config = message.tail, self.config
        for record in reversed(records):
            images = np.ascontiguousarray(record.pixels[stream::streams])
            mean, slope = (np.ascontiguousarray(p[stream::streams]) for p in record.posterior)
            words = tail.reserve(len(images) * (config.dims + config.latent) + 1)
            head, size, lowest = vae_kernels.push_images(
                message.head[0], words, tail.size, images, mean, slope, record.generative,
                self._binary, *self._bins(),
            )  # fmt: skip
            if size < 0:
                raise CoderError("message exhausted: bits-back needs more initial words")
            message.head[0], tail.size = head, int(size)
            tail.lowest = min(tail.lowest, int(lowest))

    def pop(self, batch: TileBatch, messages: Sequence[Message]) -> None:
        """Fill in the batch's images; see `base.LatentModel.pop`."""
        self._check_tiles(batch)
        count, config = len(batch.table), self.config
        pixels = np.empty((count, config.dims), np.uint8)
        recognition, generative = self._kernel_networks()

        def run(stream: int) -> bool:
            message = messages[stream]
            images = np.empty((len(range(stream, count, len(messages))), config.dims), np.uint8)
            words = message.tail.reserve(len(images) * config.latent + 1)
            head, size = vae_kernels.pop_images(
                message.head[0], words, message.tail.size, images, recognition, generative,
                self._binary, *self._bins(),
            )  # fmt: skip
            message.head[0], message.tail.size = head, max(int(size), 0)
            pixels[stream :: len(messages)] = images
            return bool(size >= 0)

        calls = [partial(run, s) for s in range(min(len(messages), count))]
        if not all(self._pool.each(calls)):
            raise CoderError("message exhausted")
        self.fill(batch, pixels)

    def seen_max(self) -> Tensor:
        """Activation maxima f32 [2] of the batch that was last passed forward."""
        if self._seen is None:
            raise UsageError("VAE: no batch was passed forward yet")
        return self._seen

    def stepped(self) -> None:
        """Forget what was derived from the weights before the optimizer's step."""
        self._quantised = self._kernel_form = self._recognised = self._pass = None

    def advance(self) -> None:
        """Let the activation scales follow the maxima of the batch just seen."""
        if self._seen is not None:
            self.activation_max = network.next_activation_max(
                self.activation_max, self._seen, _DECAY
            )
        self._seen = None
        self.stepped()

    def fill(self, batch: TileBatch, pixels: np.ndarray) -> None:
        """Write pixels uint8 [n, D] into the batch."""
        config = self.config
        for index, image in enumerate(pixels):
            fill_tile(batch, index, image.reshape(config.height, config.width, config.channels))

    @property
    def _binary(self) -> bool:
        return self.likelihood.levels == 2

    def _bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        bits = self.config.latent_bits
        return latents.edges(bits), latents.table(), latents.centres(bits), bits

    def _current(self) -> network.Quantised:
        if self._quantised is None:
            maxima = self.activation_max
            steps = [
                float(quantize.power_of_two_step(m, PRECISION.activation_bits)) for m in maxima
            ]
            self._quantised = network.quantise_layers(
                self.config.views(self.parameters),
                [self.likelihood.input_step, steps[0], latents.VALUE_STEP, steps[1]],
                PRECISION,
            )
            network.check_range(self._quantised)
        return self._quantised

    def _check_tiles(self, batch: TileBatch) -> None:
        size = (self.config.height, self.config.width)
        if any((h, w) != size for h, w in batch.table[:, 1:3].tolist()) or not batch.tops.all():
            raise UsageError(f"a VAE codes whole images of {size[0]}x{size[1]} pixels: batches are "
                             "too small, or images of another size")  # fmt: skip

    def _pixels(self, batch: TileBatch) -> np.ndarray:
        self._check_tiles(batch)
        pixels = np.stack([batch.tile(i).reshape(-1) for i in range(len(batch.table))])
        if pixels.max() >= self.likelihood.levels:
            index = int(np.argmax(pixels.max(1) >= self.likelihood.levels))
            raise InputError(
                f"image with pixel value {pixels[index].max()}: this checkpoint codes binary "
                "images, pixels 0 and 1"
            )
        return pixels

    def _recognise(self, batch: TileBatch) -> tuple[np.ndarray, Tensor]:
        """(pixels uint8 [n, D], recognition outputs f32 [n, 2 Z]); keeps the hidden layer."""
        if self._recognised is None or self._recognised[0] is not batch:
            pixels = torch.from_numpy(self._pixels(batch)).to(self.parameters.device)
            state = self._current()
            h = network.linear_forward(pixels.float(), state, 0, PIXEL_BITS)
            self._observe(h, 0)
            hidden = self._hidden(h, state, 1)
            self._recognised = batch, hidden, network.linear_forward(hidden, state, 1)
        return self._pixels(batch), self._recognised[2]

    def _hidden(self, h: Tensor, state: network.Quantised, layer: int) -> Tensor:
        """Inputs of `layer` from the result of the layer before: rectified, rounded."""
        step = torch.full((), state.input_steps[layer], device=h.device)
        return quantize.quantize_nearest(h.clamp(min=0.0), step, PRECISION.activation_bits)

    def _observe(self, h: Tensor, which: int) -> None:
        """Keep the largest activation of the last pass over this batch."""
        seen = torch.zeros_like(self.activation_max) if self._seen is None else self._seen.clone()
        seen[which] = h.clamp(min=0.0).amax()
        self._seen = seen

    def _forward(self, batch: TileBatch, seed: int, counter: int) -> _Pass:
        if self._pass is not None and self._pass[0] is batch and self._pass[1:3] == (seed, counter):
            return self._pass[3]
        pixels, recognised = self._recognise(batch)
        assert self._recognised is not None
        device = recognised.device
        mean, log_scale = latents.split(recognised)
        key = noise.derive_key(seed, counter, _NOISE)
        draw = noise.normal(key, mean.numel(), device=device).double().view(mean.shape)
        scale = functions.exp(log_scale.clamp(*latents.LOG_SCALE_LIMITS))
        values = latents.sampled_values(mean + scale * draw)
        hidden, outputs = self._generate(values)
        tensor = torch.from_numpy(pixels).to(device)
        run = _Pass(
            tensor.long(), recognised, draw, [tensor.float(), self._recognised[1], values, hidden],
            outputs,
        )  # fmt: skip
        self._pass = batch, seed, counter, run
        return run

    def _generate(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden layer and outputs of the generative network for latents in steps of 2^-8."""
        state = self._current()
        h = network.linear_forward(values, state, 2, latents.VALUE_BITS)
        self._observe(h, 1)
        hidden = self._hidden(h, state, 3)
        return hidden, network.linear_forward(hidden, state, 3)

    def _likelihood_gradient(self, run: _Pass) -> Tensor:
        gradient = torch.empty(run.outputs.shape)
        kernel = (
            vae_kernels.bernoulli_gradient_rows
            if self._binary
            else vae_kernels.beta_binomial_gradient_rows
        )
        arguments = (run.outputs.numpy(), run.pixels.numpy(), gradient.numpy())
        rows = len(run.pixels)
        cuts = np.linspace(0, rows, min(self._pool.threads, rows) + 1).astype(int).tolist()
        self._pool.each(
            [partial(kernel, b, e, *arguments) for b, e in zip(cuts[:-1], cuts[1:], strict=True)]
        )
        return gradient

    def _generative(self) -> Any:
        return self._kernel_networks()[1]

    def _kernel_networks(self) -> tuple[Any, Any]:
        if self._kernel_form is None:
            state = self._current()
            self._kernel_form = _kernel_network(state, 0), _kernel_network(state, 2)
        return self._kernel_form


def _kernel_network(state: network.Quantised, first: int) -> tuple[Any, ...]:
    """Layers `first` and `first + 1` as `vae_kernels._two_layers` takes them."""
    weights = [
        np.ascontiguousarray(state.weights[i].t().numpy().astype(np.int16))
        for i in (first, first + 1)
    ]
    scales = [np.float32(state.weight_steps[i] * state.input_steps[i]) for i in (first, first + 1)]
    biases = [state.biases[i].numpy() for i in (first, first + 1)]
    inverse = np.float32(1.0 / state.input_steps[first + 1])
    return (
        weights[0], biases[0], scales[0], inverse, _LIMIT, weights[1], biases[1],
        scales[1],
    )  # fmt: skip


def initial_parameters(config: VAEConfig, seed: int) -> Tensor:
    """Random start, flat float32: uniform in +-1/sqrt(fan-in), the output layer smaller."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.zeros(config.parameter_count())
    for index, (weight, bias) in enumerate(config.views(flat)):
        bound = weight.shape[1] ** -0.5 * (0.1 if index == 3 else 1.0)
        weight.uniform_(-bound, bound, generator=generator)
        bias.uniform_(-bound, bound, generator=generator)
    return flat


def _build(
    config: VAEConfig,
    parameters: Tensor,
    activation_max: Tensor,
    engine: Engine | None,
    threads: int | None,
) -> VariationalAutoencoder:
    from osoa_pl.models.known_answers import check_compiled_vae
    from osoa_pl.models.vae_eager import EagerVariationalAutoencoder

    if engine == "eager" or parameters.device.type != "cpu":
        return EagerVariationalAutoencoder(config, parameters, activation_max)
    check_compiled_vae(config.likelihood)
    return VariationalAutoencoder(config, parameters, activation_max, threads=threads)


def _density(config: VAEConfig) -> Density:
    from osoa_pl.models.vae_density import VAE

    return VAE(**config.to_dict())


FAMILY = Family(
    "vae",
    VAEConfig,
    _build,
    _density,
    # one chain over thousands of images: its initial bits are paid once a segment
    settings={"segment_batches": 256, "streams": 1},
    step_sizes=(3e-6, 1e-4, 1e-3),
)
