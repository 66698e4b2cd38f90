"""Exact two-dimensional convolutions and their gradients (see `contract` for the definition).

On the CPU torch's own convolutions sum, where they pass their known answers; elsewhere (and on
CUDA always, whose libraries may choose Winograd or FFT) patches are unfolded and multiplied.
Groups are not offered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from osoa_pl.arith import contract, engines
from osoa_pl.errors import UsageError

_WIDE = torch.float64
_MOST_CUTS = 12  # torch's float64 convolution is an order of magnitude slower


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution, each as (vertical, horizontal)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def output_size(self, height: int, width: int, kernel: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the result; UsageError where the kernel does not fit."""
        sizes = []
        for i, size in enumerate((height, width)):
            room = size + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1
            if room < 0:
                raise UsageError(
                    f"conv2d: kernel {kernel} does not fit an input of {height} by {width}"
                )
            sizes.append(room // self.stride[i] + 1)
        return sizes[0], sizes[1]


@torch.no_grad()
def conv2d(
    x: Tensor,
    w: Tensor,
    scale: contract.Scale,
    window: Window = Window(),
    *,
    bits: contract.Bits | None = None,
) -> Tensor:
    """y[n, o] = RNE(sum over c and the kernel of x * w) * scale.

    Shapes: x (n, c, h, w), w (o, c, kh, kw), y (n, o, h', w'), all float32.
    Raises as `contract.linear`.
    """
    fits = x.dim() == 4 and w.dim() == 4 and x.shape[1] == w.shape[1]
    contract.check_operands(x, w, fits, "conv2d")
    size = window.output_size(x.shape[2], x.shape[3], (w.shape[2], w.shape[3]))
    if x.numel() == 0 or w.numel() == 0:
        return x.new_zeros(x.shape[0], w.shape[0], *size)
    bits = bits or contract.measured_bits(x, w)
    cuts = _cuts("conv2d", w, 1, bits, window)
    dtype = _WIDE if cuts is None else torch.float32
    native = _native("conv2d", w, window, dtype)
    with engines.exact_kernels():
        if cuts is None or len(cuts) == 1:
            y = _forward(x.to(dtype), w.to(dtype), window, native)
        else:
            y = torch.zeros(x.shape[0], w.shape[0], *size, dtype=_WIDE, device=x.device)
            for begin, end in cuts:
                y += _forward(x[:, begin:end], w[:, begin:end], window, native)
        return y.to(torch.float32).mul_(scale)


@torch.no_grad()
def conv2d_grad_input(
    g: Tensor,
    w: Tensor,
    scale: contract.Scale,
    input_size: tuple[int, int],
    window: Window = Window(),
    *,
    bits: contract.Bits | None = None,
) -> Tensor:
    """RNE(transposed sum of g and w over o and the kernel) * scale: the gradient by the input.

    Shapes: g (n, o, h', w'), w (o, c, kh, kw), result (n, c, *input_size), all float32.
    Raises as `contract.linear`.
    """
    size = window.output_size(*input_size, (w.shape[2], w.shape[3]))
    fits = g.dim() == 4 and g.shape[1] == w.shape[0] and tuple(g.shape[2:]) == size
    contract.check_operands(g, w, fits, "conv2d_grad_input")
    if g.numel() == 0 or w.numel() == 0:
        return g.new_zeros(g.shape[0], w.shape[1], *input_size)
    bits = bits or contract.measured_bits(g, w)
    cuts = _cuts("conv2d_grad_input", w, 0, bits, window)
    dtype = _WIDE if cuts is None else torch.float32
    native = _native("conv2d_grad_input", w, window, dtype)
    with engines.exact_kernels():
        if cuts is None or len(cuts) == 1:
            y = _grad_input(g.to(dtype), w.to(dtype), input_size, window, native)
        else:
            y = torch.zeros(g.shape[0], w.shape[1], *input_size, dtype=_WIDE, device=g.device)
            for begin, end in cuts:
                y += _grad_input(g[:, begin:end], w[begin:end], input_size, window, native)
        return y.to(torch.float32).mul_(scale)


@torch.no_grad()
def conv2d_grad_weight(
    g: Tensor,
    x: Tensor,
    scale: contract.Scale,
    kernel: tuple[int, int],
    window: Window = Window(),
    *,
    bits: contract.Bits | None = None,
) -> Tensor:
    """RNE(sum over images and positions of g * x) * scale: the gradient by the weight.

    Shapes: g (n, o, h', w'), x (n, c, h, w), result (o, c, *kernel), all float32.
    Raises as `contract.linear`.
    """
    size = window.output_size(x.shape[2], x.shape[3], kernel)
    fits = g.dim() == 4 and g.shape[0] == x.shape[0] and tuple(g.shape[2:]) == size
    contract.check_operands(g, x, fits, "conv2d_grad_weight")
    shape = (g.shape[1], x.shape[1], *kernel)
    if g.numel() == 0 or x.numel() == 0:
        return g.new_zeros(shape)
    bits = bits or contract.measured_bits(g, x)
    pieces = None if engines.chosen_engine() == "float64" else _pieces(g, bits)
    dtype = _WIDE if pieces is None else torch.float32
    if not _native("conv2d_grad_weight", g.new_zeros(1, 1, *kernel), window, dtype):
        patches = _unfold(x, kernel, window).transpose(1, 2)
        rows = g.flatten(2).transpose(1, 2)
        return contract.linear_grad_weight(rows, patches, scale, bits=bits).view(shape)
    contract.check_double("linear_grad_weight", g.numel() // g.shape[1], bits, g.device)
    # padded here, so that a band of output rows needs a plain slice of the input
    top, left = window.padding
    padded = F.pad(x, (left, left, top, top)) if top or left else x
    inner = Window(window.stride, (0, 0), window.dilation)
    with engines.exact_kernels():
        if pieces is None:
            whole = _grad_weight(g.to(_WIDE), padded.to(_WIDE), shape, inner)
            return whole.to(torch.float32).mul_(scale)
        total = torch.zeros(shape, dtype=_WIDE, device=g.device)
        reach = window.dilation[0] * (kernel[0] - 1) + 1
        for n0, n1, r0, r1 in pieces:
            band = padded[n0:n1, :, r0 * window.stride[0] : (r1 - 1) * window.stride[0] + reach]
            total += _grad_weight(g[n0:n1, :, r0:r1], band, shape, inner).to(_WIDE)
        return total.to(torch.float32).mul_(scale)


def _pieces(g: Tensor, bits: contract.Bits) -> list[tuple[int, int, int, int]] | None:
    """Cut (n, rows) into exact pieces (n0, n1, row0, row1); None where a single row is too long."""
    sums = g.abs().sum(3, dtype=_WIDE).cpu().numpy()  # (n, o, rows)
    limit = engines.FLOAT32_EXACT * 2.0 ** -bits[1]
    images, rows = sums.shape[0], sums.shape[2]
    if not sums.max() <= limit:
        return None
    per_image = sums.sum(2)
    cut: list[tuple[int, int, int, int]] = []
    n = 0
    while n < images:
        if per_image[n].max() <= limit:
            fitting = int((np.cumsum(per_image[n:], axis=0).max(1) <= limit).sum())
            cut.append((n, n + fitting, 0, rows))
            n += fitting
            continue
        row = 0
        while row < rows:
            fitting = int((np.cumsum(sums[n, :, row:], axis=1).max(0) <= limit).sum())
            cut.append((n, n + 1, row, row + fitting))
            row += fitting
        n += 1
    return cut


def _cuts(
    operation: str, w: Tensor, axis: int, bits: contract.Bits, window: Window
) -> list[tuple[int, int]] | None:
    """Runs of input (axis 1) or output (axis 0) channels to sum in float32; None for float64."""
    terms = w.shape[axis] * w.shape[2] * w.shape[3]
    contract.check_double("linear", terms, bits, w.device)
    if engines.chosen_engine() == "float64" or not (
        _native(operation, w, window, torch.float32) or contract.single_is_exact("linear", w.device)
    ):
        return None
    if terms << sum(bits) <= engines.FLOAT32_EXACT:
        return [(0, w.shape[axis])]
    magnitudes = w.abs().sum((2, 3), dtype=_WIDE)
    return contract.exact_cuts(magnitudes if axis == 0 else magnitudes.t(), bits[0], _MOST_CUTS)


def _native(operation: str, w: Tensor, window: Window, dtype: torch.dtype) -> bool:
    """Whether torch's own convolution may be used (it passed its known answers)."""
    if w.device.type != "cpu":
        return False
    kernel = (w.shape[2], w.shape[3])
    shape_class = (*kernel, *window.stride, *window.padding, *window.dilation)
    name = "float32" if dtype == torch.float32 else "float64"
    return engines.is_exact(
        operation, name, w.device, shape_class, lambda d: _probe(operation, kernel, window, dtype)
    )


def _unfold(x: Tensor, kernel: tuple[int, int], window: Window) -> Tensor:
    return F.unfold(x, kernel, window.dilation, window.padding, window.stride)


def _forward(x: Tensor, w: Tensor, window: Window, native: bool) -> Tensor:
    if native:
        return F.conv2d(x, w, None, window.stride, window.padding, window.dilation)
    kernel = (w.shape[2], w.shape[3])
    size = window.output_size(x.shape[2], x.shape[3], kernel)
    y = w.flatten(1) @ _unfold(x, kernel, window)
    return y.view(x.shape[0], w.shape[0], *size)


def _grad_input(
    g: Tensor, w: Tensor, input_size: tuple[int, int], window: Window, native: bool
) -> Tensor:
    if native:
        x = g.new_empty(g.shape[0], w.shape[1], *input_size)
        return _backward(g, x, w, window, (True, False, False))[0]
    patches = w.flatten(1).t() @ g.flatten(2)
    kernel = (w.shape[2], w.shape[3])
    return F.fold(patches, input_size, kernel, window.dilation, window.padding, window.stride)


def _grad_weight(g: Tensor, x: Tensor, shape: tuple[int, ...], window: Window) -> Tensor:
    return _backward(g, x, g.new_empty(shape), window, (False, True, False))[1]


def _backward(
    g: Tensor, x: Tensor, w: Tensor, window: Window, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        g,
        x,
        w,
        None,
        list(window.stride),
        list(window.padding),
        list(window.dilation),
        False,
        [0, 0],
        1,
        list(wanted),
    )
    return gradients


def _probe(operation: str, kernel: tuple[int, int], window: Window, dtype: torch.dtype) -> bool:
    """Known answers of one convolution, against unfolded float64 products (asked first)."""
    contract.check_double("linear", 1, (1, 1), torch.device("cpu"))
    height = window.dilation[0] * (kernel[0] - 1) + 10
    width = window.dilation[1] * (kernel[1] - 1) + 13
    for images, inputs, outputs in ((2, 3, 16), (3, 32, 32), (17, 16, 5)):
        size = window.output_size(height, width, kernel)
        for seed in range(2):
            x = engines.extreme((images, inputs, height, width), 255, seed)
            w = engines.extreme((outputs, inputs, *kernel), 511, seed and seed + 5)
            g = engines.extreme((images, outputs, *size), 127, seed and seed + 9)
            if operation == "conv2d":
                w = _within(w, inputs * kernel[0] * kernel[1], 255).to(dtype)
                found = _forward(x.to(dtype), w, window, True)
                expected = _forward(x.to(_WIDE), w.to(_WIDE), window, False)
            elif operation == "conv2d_grad_input":
                w = _within(w, outputs * kernel[0] * kernel[1], 127).to(dtype)
                found = _grad_input(g.to(dtype), w, (height, width), window, True)
                expected = _grad_input(g.to(_WIDE), w.to(_WIDE), (height, width), window, False)
            else:
                g = _within(g, images * size[0] * size[1], 255).to(dtype)
                padded = F.pad(x, (window.padding[1],) * 2 + (window.padding[0],) * 2).to(dtype)
                inner = Window(window.stride, (0, 0), window.dilation)
                found = _grad_weight(g, padded, tuple(w.shape), inner)
                patches = _unfold(x, kernel, window).to(_WIDE).transpose(1, 2)
                expected = torch.matmul(g.flatten(2).to(_WIDE), patches).sum(0).view(w.shape)
            if not torch.equal(found.to(_WIDE), expected):
                return False
    return True


def _within(operand: Tensor, terms: int, other: int) -> Tensor:
    """The operand, made smaller until sums of `terms` products with `other` stay below 2^24."""
    largest = max((engines.FLOAT32_EXACT - 1) // (terms * other), 1)
    return operand.clamp(-largest, largest)
