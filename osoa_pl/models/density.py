"""The training side of a model: a module over one flat parameter, in native or exact form.

Native, the loss is torch's own arithmetic and autograd, on any device and in any precision: for
training and research. Exact, loss and gradient are those of the model that codes, so that weights
learn their grid; the last part of pretraining runs so. Both forms share `flat`, whose layout is the
coding model's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from osoa_pl.errors import UsageError
from osoa_pl.models.base import Model
from osoa_pl.models.family import Config, find
from osoa_pl.models.features import TileBatch, fill_tile, make_batch

Form = Literal["native", "exact"]
FORMS: tuple[Form, ...] = ("native", "exact")


class Density(nn.Module, ABC):
    """A generative model of images as a trainable module.

    Subclasses name their `family` and give `native_loss`; `flat` float32 (n,) is the one parameter
    and `activation_max` float32 (m,) the one buffer, both as in a checkpoint.
    """

    family: ClassVar[str]
    activation_max: Tensor

    def __init__(self, config: Config, parameters: Tensor, *, form: Form = "native") -> None:
        super().__init__()
        self.config = config
        self.flat = nn.Parameter(parameters)
        self.register_buffer("activation_max", torch.ones(config.maxima_count()))
        self.form: Form = form
        self._coder: Model | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles make a coder of their own: it holds threads."""
        return {**self.__dict__, "_coder": None}

    @property
    def form(self) -> Form:
        """`native` or `exact`; may be switched between batches."""
        return self._form

    @form.setter
    def form(self, form: Form) -> None:
        if form not in FORMS:
            raise UsageError(f"form {form!r} (expected one of {', '.join(FORMS)})")
        self._form = form

    @abstractmethod
    def native_loss(self, images: Tensor, key: int) -> Tensor:
        """Mean code length in nats a sample, 0-dim and differentiable, by native arithmetic.

        images: uint8 (n, h, w, c). key: names the noise, if any, for `arith.noise`.
        """

    def pictures(self, images: Tensor, key: int) -> dict[str, Tensor]:
        """Samples or reconstructions to look at: name -> uint8 (n, h, w, c)."""
        return {}

    def check(self, images: Tensor) -> None:
        """Raises UsageError unless images are uint8 (n, h, w, c) that the model takes."""
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise UsageError(f"images: found {images.dtype} {tuple(images.shape)}, expected "
                             "uint8 (n, h, w, c)")  # fmt: skip
        _, height, width, channels = images.shape
        if channels != self.config.channels:
            raise UsageError(f"images of {channels} channels, the model has {self.config.channels}")
        if problem := self.config.problem(height, width):
            raise UsageError(problem)

    def forward(self, images: Tensor, key: int) -> Tensor:
        """Mean code length in bits/dim, 0-dim, differentiable with respect to `flat`."""
        self.check(images)
        if self.form == "native":
            return self.native_loss(images, key) / math.log(2.0)
        return cast(Tensor, _ExactLoss.apply(self.flat, self, images, key))

    def coding_model(self) -> Model:
        """The model that codes, over the memory of `flat` and the present activation maxima."""
        coder = self._coder
        if coder is None or coder.parameters.data_ptr() != self.flat.data_ptr():
            build = find(self.family).build
            coder = build(self.config, self.flat.detach(), self.activation_max.clone(), None, None)
            self._coder = coder
        coder.activation_max = self.activation_max.clone()
        coder.stepped()
        return coder

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor], seed: int = 0) -> Tensor:
        """Set the activation maxima to their medians over batches; returns E[gradient^2].

        batches: uint8 (n, h, w, c) of the size that adaptation will see, on the CPU; the result is
        float32 like `flat`: the second moments that a checkpoint carries, so that the first
        steps of adaptation have the right size for every weight. A maximum over all batches would
        follow outliers, which costs the grid a bit.
        """
        kept = list(batches)
        if not kept:
            raise UsageError("calibration: no batches")
        coder, maxima = self.coding_model(), []
        for number, images in enumerate(kept):
            coder.bits(tiles(images), seed, number)
            maxima.append(coder.seen_max())
        self.activation_max.copy_(torch.stack(maxima).median(0).values)
        coder, total = self.coding_model(), torch.zeros_like(self.flat)
        for number, images in enumerate(kept):
            coder.bits(tiles(images), seed, number)
            total += coder.gradient(tiles(images), seed, number).square()
        return total / len(kept)


def tiles(images: Tensor) -> TileBatch:
    """uint8 (n, h, w, c) as a batch of whole images."""
    pixels = images.cpu().numpy()
    count, height, width, channels = pixels.shape
    batch = make_batch([(height, width)] * count, channels, [None] * count)
    for index in range(count):
        fill_tile(batch, index, pixels[index])
    return batch


class _ExactLoss(torch.autograd.Function):
    """Loss and gradient of the coding model; a batch that is learnt from moves the scales."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, density: Density, images: Tensor, key: int) -> Tensor:
        coder, batch = density.coding_model(), tiles(images)
        bits = coder.bits(batch, key, 0)
        if ctx.needs_input_grad[0] and density.training:
            ctx.save_for_backward(coder.gradient(batch, key, 0))
            coder.advance()
            density.activation_max.copy_(coder.activation_max)
        return flat.new_tensor(bits / images.numel())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient / math.log(2.0), None, None, None
