"""Layers with two forms: exact (the same bits everywhere) and native (torch's own, for research).

Exact, the forward pass rounds activations with a scale frozen before the batch and weights with
their exact maximum; the backward pass rounds gradients stochastically with counter-based noise;
all sums are those of `contract` and `convolve`. Biases are added apart. Master weights stay
float32, with the state-dict keys of torch's layers.

The scale of a batch: each layer keeps A (`activation_max`); training passes record the largest
input seen, and `update_scales`, called after the batch's step, sets A = max(seen, 0.95 A). So the
scale of batch t depends on the batches before t alone, as a decoder needs. Passes in eval mode
record nothing.

Autograd adds the gradients of a tensor that is used several times; two are safe (addition
commutes), with three or more the order would matter, so add them by hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from osoa_pl.arith import contract, convolve, quantize
from osoa_pl.arith.noise import derive_key
from osoa_pl.errors import UsageError

Form = Literal["exact", "native"]
_DECAY = 0.949999988079071044921875  # 0.95 as float32


@dataclass(frozen=True)
class Precision:
    """Bits of magnitude (the sign apart) of the operands of one layer."""

    activation_bits: int = 8
    weight_bits: int = 9
    gradient_bits: int = 7


class _Keys:
    """Keys for the stochastic rounding of one batch, in the order of the forward calls."""

    def __init__(self, seed: int, batch: int) -> None:
        self.base = derive_key(seed, batch)
        self.calls = 0

    def next(self) -> int:
        key = derive_key(self.base, self.calls)
        self.calls += 1
        return key


_keys: ContextVar[_Keys | None] = ContextVar("osoa_pl_gradient_keys", default=None)


@contextlib.contextmanager
def gradient_keys(seed: int, batch: int) -> Iterator[None]:
    """Give exact layers their rounding keys inside the block.

    The i-th call of an exact layer that records a gradient takes
    derive_key(derive_key(seed, batch), i), that is derive_key(seed, batch, i) for i from 0.
    """
    token = _keys.set(_Keys(seed, batch))
    try:
        yield
    finally:
        _keys.reset(token)


class _Scaled(nn.Module):
    """What both layers share: precision, form, the frozen activation scale."""

    activation_max: Tensor
    observed_max: Tensor

    def _set_up(self, precision: Precision, form: Form, input_step: float | None) -> None:
        self.precision = precision
        self.form = _checked_form(form)
        if input_step is not None and quantize.power_of_two_step(
            torch.tensor(input_step), 1
        ) != torch.tensor(input_step):
            raise UsageError(f"exact layer: found input step {input_step} (expected a power of 2)")
        self.input_step = input_step
        self.register_buffer("activation_max", torch.ones(()))
        self.register_buffer("observed_max", torch.zeros(()), persistent=False)

    def _observe(self, x: Tensor) -> None:
        if self.training and self.input_step is None:
            largest = quantize.largest_magnitude(x.detach().to(torch.float32))
            self.observed_max = torch.maximum(self.observed_max, largest)

    def _step(self) -> Tensor:
        if self.input_step is not None:
            return torch.full_like(self.activation_max, self.input_step)
        return quantize.power_of_two_step(self.activation_max, self.precision.activation_bits)

    def _key(self, key: int | None, *operands: Tensor | None) -> int | None:
        recorded = any(o is not None and o.requires_grad for o in operands)
        if key is not None or not (torch.is_grad_enabled() and recorded):
            return key
        keys = _keys.get()
        if keys is None:
            raise UsageError(
                "exact layer: a gradient is recorded but there is no key to round it with",
                hint="pass `key`, or run the batch inside `gradient_keys(seed, batch)`",
            )
        return keys.next()

    @torch.no_grad()
    def update_scales(self) -> None:
        """Set the scale of the next batch from what training passes saw since the last call.

        A batch with non-finite inputs leaves the scale as it is.
        """
        new = torch.maximum(self.observed_max, self.activation_max * _DECAY)
        finite = (new - new) == 0
        self.activation_max.copy_(torch.where(finite, new, self.activation_max))
        self.observed_max = torch.zeros_like(self.observed_max)

    @torch.no_grad()
    def calibrate_scales(self) -> None:
        """Set the scale to the largest input seen, with no regard to the former scale."""
        seen = self.observed_max
        usable = ((seen - seen) == 0) & (seen > 0)
        self.activation_max.copy_(torch.where(usable, seen, self.activation_max))
        self.observed_max = torch.zeros_like(self.observed_max)


class Linear(nn.Linear, _Scaled):
    """y = x W^T + b, exact or native.

    Shapes: x float32 (..., in_features), y (..., out_features).
    `input_step`: a fixed power of two for first layers, whose inputs are multiples of it with at
    most `precision.activation_bits` bits; without it the scale is the frozen adaptive one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        precision: Precision = Precision(),
        form: Form = "exact",
        input_step: float | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self._set_up(precision, form, input_step)

    def forward(self, x: Tensor, key: int | None = None) -> Tensor:
        """The layer's output; `key` rounds the gradient in place of `gradient_keys`."""
        self._observe(x)
        if self.form == "native":
            return F.linear(x, self.weight, self.bias)
        key = self._key(key, x, self.weight, self.bias)
        result = _ExactLinear.apply(x, self.weight, self.bias, self._step(), self.precision, key)
        return cast(Tensor, result)


class Conv2d(nn.Conv2d, _Scaled):
    """Two-dimensional convolution with zero padding, exact or native.

    Shapes: x float32 (n, in_channels, h, w), y (n, out_channels, h', w').
    `mask` broadcasts against the weight and multiplies it (0 and 1: a causal kernel).
    `input_step` as for `Linear`.
    """

    mask: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        mask: Tensor | None = None,
        precision: Precision = Precision(),
        form: Form = "exact",
        input_step: float | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias
        )
        self._set_up(precision, form, input_step)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, key: int | None = None) -> Tensor:
        """The layer's output; `key` rounds the gradient in place of `gradient_keys`."""
        self._observe(x)
        weight = self.weight if self.mask is None else self.weight * self.mask
        window = convolve.Window(
            cast(tuple[int, int], self.stride),
            cast(tuple[int, int], self.padding),
            cast(tuple[int, int], self.dilation),
        )
        if self.form == "native":
            return F.conv2d(x, weight, self.bias, window.stride, window.padding, window.dilation)
        key = self._key(key, x, weight, self.bias)
        result = _ExactConv2d.apply(x, weight, self.bias, self._step(), self.precision, key, window)
        return cast(Tensor, result)


def quantized_weight(weight: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """(integer-valued float32 of the weight's shape, 0-dim step): the copy that layers use."""
    step = quantize.power_of_two_step(quantize.largest_magnitude(weight), precision.weight_bits)
    return quantize.quantize_nearest(weight, step, precision.weight_bits), step


def set_form(module: nn.Module, form: Form) -> None:
    """Switch every layer of this file below `module` to one form."""
    for layer in scaled_layers(module):
        layer.form = _checked_form(form)


def update_scales(module: nn.Module) -> None:
    """Call `update_scales` of every layer below `module`: after the batch's optimizer step."""
    for layer in scaled_layers(module):
        layer.update_scales()


def calibrate_scales(module: nn.Module) -> None:
    """Call `calibrate_scales` of every layer below `module`: after one training-mode pass."""
    for layer in scaled_layers(module):
        layer.calibrate_scales()


def activation_maxima(module: nn.Module) -> list[Tensor]:
    """The frozen scales below `module`, in the order of its modules: adaptive state."""
    return [layer.activation_max for layer in scaled_layers(module)]


def scaled_layers(module: nn.Module) -> list[_Scaled]:
    """The layers of this file below `module`, in the order of its modules."""
    return [m for m in module.modules() if isinstance(m, _Scaled)]


def _checked_form(form: str) -> Form:
    if form not in get_args(Form):
        raise UsageError(f"exact layer: found form {form!r} (expected one of {get_args(Form)})")
    return cast(Form, form)


def _rounded_gradient(g: Tensor, precision: Precision, key: int) -> tuple[Tensor, Tensor]:
    step = quantize.power_of_two_step(quantize.largest_magnitude(g), precision.gradient_bits)
    return quantize.quantize_stochastic(g, step, precision.gradient_bits, key), step


class _ExactLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        step: Tensor,
        precision: Precision,
        key: int | None,
    ) -> Tensor:
        xq = quantize.quantize_nearest(x, step, precision.activation_bits)
        wq, weight_step = quantized_weight(weight, precision)
        ctx.save_for_backward(xq, wq, step, weight_step)
        ctx.precision, ctx.key = precision, key
        bits = (precision.activation_bits, precision.weight_bits)
        y = contract.linear(xq, wq, step * weight_step, bits=bits)
        return y if bias is None else y.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        xq, wq, step, weight_step = ctx.saved_tensors
        p: Precision = ctx.precision
        gq, gradient_step = _rounded_gradient(g, p, ctx.key)
        by_input = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            scale, bits = gradient_step * weight_step, (p.gradient_bits, p.weight_bits)
            by_input = contract.linear_grad_input(gq, wq, scale, bits=bits)
        if ctx.needs_input_grad[1]:
            scale, bits = gradient_step * step, (p.gradient_bits, p.activation_bits)
            by_weight = contract.linear_grad_weight(gq, xq, scale, bits=bits)
        if ctx.needs_input_grad[2]:
            by_bias = contract.bias_gradient(gq, gradient_step)
        return by_input, by_weight, by_bias, None, None, None


class _ExactConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        step: Tensor,
        precision: Precision,
        key: int | None,
        window: convolve.Window,
    ) -> Tensor:
        xq = quantize.quantize_nearest(x, step, precision.activation_bits)
        wq, weight_step = quantized_weight(weight, precision)
        ctx.save_for_backward(xq, wq, step, weight_step)
        ctx.precision, ctx.key, ctx.window = precision, key, window
        bits = (precision.activation_bits, precision.weight_bits)
        y = convolve.conv2d(xq, wq, step * weight_step, window, bits=bits)
        return y if bias is None else y.add_(bias.view(1, -1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        xq, wq, step, weight_step = ctx.saved_tensors
        p, window = ctx.precision, ctx.window
        gq, gradient_step = _rounded_gradient(g, p, ctx.key)
        by_input = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            scale, bits = gradient_step * weight_step, (p.gradient_bits, p.weight_bits)
            size = (xq.shape[2], xq.shape[3])
            by_input = convolve.conv2d_grad_input(gq, wq, scale, size, window, bits=bits)
        if ctx.needs_input_grad[1]:
            scale, bits = gradient_step * step, (p.gradient_bits, p.activation_bits)
            kernel = (wq.shape[2], wq.shape[3])
            by_weight = convolve.conv2d_grad_weight(gq, xq, scale, kernel, window, bits=bits)
        if ctx.needs_input_grad[2]:
            by_bias = contract.bias_gradient(gq, gradient_step, axis=1)
        return by_input, by_weight, by_bias, None, None, None, None
