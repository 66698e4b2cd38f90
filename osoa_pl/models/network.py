"""The local model's residual network in the portable arithmetic: forward, backward, two engines.

    h = in(x);  for each block: h = h + b(relu(a(relu(h))));  outputs = out(relu(h))

Every linear layer takes operands rounded to integers times powers of two (activations 8 bits at a
scale frozen before the batch, weights 9 bits, gradients 7 bits with stochastic rounding) and is
defined as the exact sum. The compiled engine runs torch's float32 matrix product, exact here
because fan-in * 2^8 * 2^9 <= 2^24, between fused elementwise kernels; the eager engine is built
from `arith.contract` and separate torch operations and is its reference, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from osoa_pl.arith import Precision, compiled, contract, engines, quantize
from osoa_pl.arith.threads import RowPool
from osoa_pl.errors import CoderError, UsageError

ACTIVATION_BITS = 8
WEIGHT_BITS = 9
GRADIENT_BITS = 7
PRECISION = Precision(ACTIVATION_BITS, WEIGHT_BITS, GRADIENT_BITS)
_CHUNK = 512  # 512 * 127 * 255 < 2^24: rows of a weight gradient summed in float32
MAX_FAN = 128  # 128 * 255 * 511 < 2^24: float32 is exact by this bound alone
MAX_FEATURES = 160
MAX_INPUT = 2**24 // 511  # at most this is the sum of the largest values of all features
ACTIVATION_LIMIT = np.float32(2**ACTIVATION_BITS - 1)
GRADIENT_LIMIT = np.float32(2**GRADIENT_BITS - 1)
_DECAY = 0.95
_ONE = np.ones(1, np.float32)
_MAX_SCALE = 2.0**40  # sums of products stay below 2^31 steps, so no output overflows
_MAX_BIAS = 2.0**60


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the network: input features, hidden width, residual blocks, outputs."""

    features: int
    width: int
    depth: int
    outputs: int

    def __post_init__(self) -> None:
        if max(self.width, self.outputs) > MAX_FAN or self.features > MAX_FEATURES:
            raise UsageError(
                f"network of {self.features} features, width {self.width} and {self.outputs} "
                f"outputs: at most {MAX_FEATURES}, {MAX_FAN} and {MAX_FAN} are exact in float32"
            )
        if self.features % 4 or self.width % 4:
            raise UsageError("features and width of a network must be multiples of 4")

    def layers(self) -> list[tuple[int, int]]:
        """(fan-out, fan-in) of each linear layer in order: in, (a, b) of each block, out."""
        hidden = [(self.width, self.width)] * (2 * self.depth)
        return [(self.width, self.features), *hidden, (self.outputs, self.width)]

    def parameter_count(self) -> int:
        """Number of weights and biases."""
        return sum(o * i + o for o, i in self.layers())

    def views(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(weight [out, in], bias [out]) of each layer as views into a flat vector."""
        return layer_views(self.layers(), flat)


def layer_views(layers: list[tuple[int, int]], flat: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(weight [out, in], bias [out]) of layers (out, in) that lie one after another in `flat`."""
    views, at = [], 0
    for o, i in layers:
        views.append((flat[at : at + o * i].view(o, i), flat[at + o * i : at + o * i + o]))
        at += o * i + o
    return views


@dataclass
class Quantised:
    """Weights of one moment, as the contractions see them.

    weights: integer-valued float32 [out, in] per layer; weight_steps: powers of two;
    input_steps: the power of two of each layer's input.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    weight_steps: list[float]
    input_steps: list[float]
    precision: Precision = PRECISION


def quantise(
    shape: NetworkShape, flat: Tensor, activation_max: Tensor, feature_step: float
) -> Quantised:
    """Round the master weights; activation_max f32 [2*depth+1] gives the frozen input scales."""
    steps = [quantize.step_of(largest, ACTIVATION_BITS) for largest in activation_max.tolist()]
    return quantise_layers(shape.views(flat), [feature_step, *steps])


def quantise_layers(
    views: list[tuple[Tensor, Tensor]], input_steps: list[float], precision: Precision = PRECISION
) -> Quantised:
    """Round weights to few bits at their exact maximum; biases stay as they are."""
    weights, biases, steps = [], [], []
    for weight, bias in views:
        rounded, step = _rounded(weight, precision.weight_bits)
        weights.append(rounded)
        biases.append(bias.clone())
        steps.append(step)
    return Quantised(weights, biases, steps, input_steps, precision)


def _rounded(weight: Tensor, bits: int) -> tuple[Tensor, float]:
    """(integers of a matrix at its exact maximum, their step)."""
    if weight.device.type == "cpu" and weight.is_contiguous():
        out, step = torch.empty_like(weight), np.empty(1, np.float32)
        flat, row = weight.view(-1).numpy(), out.view(1, -1).numpy()
        if compiled.round_matrices(flat, 0, 0, _ONE, bits, row, step):
            return out, float(step[0])
    found = quantize.power_of_two_step(weight.abs().amax(), bits)
    return quantize.quantize_nearest(weight, found, bits), float(found)


def check_range(state: Quantised) -> None:
    """Raises CoderError for weights whose outputs might not be finite: no interval has a NaN."""
    scales = [w * x for w, x in zip(state.weight_steps, state.input_steps, strict=True)]
    largest = torch.cat(state.biases).abs().amax().item()
    if not (max(scales) <= _MAX_SCALE and largest <= _MAX_BIAS):
        raise CoderError("the model's weights or activations are out of range")


def linear_forward(
    x: Tensor, state: Quantised, index: int, input_bits: int | None = None
) -> Tensor:
    """Layer `index` of integer-valued inputs f32 [P, in], at most 2^input_bits: f32 [P, out].

    input_bits: by default those of activations.
    """
    scale = state.weight_steps[index] * state.input_steps[index]
    bits = (input_bits or state.precision.activation_bits, state.precision.weight_bits)
    return contract.linear(x, state.weights[index], scale, bits=bits) + state.biases[index]


def linear_backward(
    g: Tensor,
    x: Tensor,
    state: Quantised,
    index: int,
    key: int,
    into: tuple[Tensor, Tensor],
    input_bits: int | None = None,
) -> Tensor:
    """Gradients of layer `index`, whose result has the gradient g f32 [P, out].

    g is rounded stochastically under `key`; the gradients of weight and bias are written to
    `into`, that of the input x f32 [P, in] comes back, but for the first layer (then g does).
    """
    precision = state.precision
    step = quantize.power_of_two_step(g.abs().amax(), precision.gradient_bits)
    gq = quantize.quantize_stochastic(g, step, precision.gradient_bits, key)
    s = float(step)
    weight, bias = into
    bits = (precision.gradient_bits, input_bits or precision.activation_bits)
    scale = s * state.input_steps[index]
    weight.copy_(contract.linear_grad_weight(gq, x, scale, bits=bits))
    bias.copy_(contract.bias_gradient(gq, s))
    if index == 0:
        return g
    scale, bits = s * state.weight_steps[index], (bits[0], precision.weight_bits)
    return contract.linear_grad_input(gq, state.weights[index], scale, bits=bits)


def next_activation_max(current: Tensor, seen: Tensor, decay: float = _DECAY) -> Tensor:
    """A(t+1) = max(max of the batch, f32(decay) * A(t)), f32 [layers]."""
    return torch.maximum(seen, current * torch.full_like(current, decay))


class Network(Protocol):
    """What an engine of the network does; all engines give the same bits."""

    def forward(self, features: Tensor, state: Quantised) -> tuple[Tensor, Tensor]:
        """features f32 [P, F] -> (outputs f32 [P, O], activation maxima f32 [2*depth+1])."""

    def backward(self, gradient: Tensor, state: Quantised, keys: list[int]) -> Tensor:
        """gradient f32 [P, O] of the summed loss -> flat f32 gradient of the parameters."""

    def adopt(self, features: Tensor, inputs: Tensor) -> None:
        """Take over a forward pass made elsewhere, for `backward`.

        inputs int8 [2*depth+1, P, W]: quantised inputs of the layers after the first, less 128.
        """

    def select(self, rows: slice) -> None:
        """Keep these rows of the last forward pass alone, for `backward`."""


def adopted(features: Tensor, inputs: Tensor) -> list[Tensor]:
    """The inputs of each layer in float32; see `Network.adopt`."""
    return [features, *(layer.float() + 128.0 for layer in inputs)]


class EagerNetwork:
    """Reference engine: separate torch operations and `arith.contract`, any device."""

    def __init__(self, shape: NetworkShape) -> None:
        self.shape = shape
        self._inputs: list[Tensor] = []

    def forward(self, features: Tensor, state: Quantised) -> tuple[Tensor, Tensor]:
        """features f32 [P, F] -> (outputs f32 [P, O], activation maxima f32 [2*depth+1])."""
        maxima: list[Tensor] = []
        self._inputs = [features]

        def layer(index: int) -> Tensor:
            return linear_forward(self._inputs[index], state, index)

        def rectify(h: Tensor, index: int) -> None:
            h = torch.clamp(h, min=0.0)
            maxima.append(h.amax())
            step = torch.full_like(maxima[-1], state.input_steps[index])
            self._inputs.append(quantize.quantize_nearest(h, step, ACTIVATION_BITS))

        h = layer(0)
        rectify(h, 1)
        for block in range(self.shape.depth):
            rectify(layer(2 * block + 1), 2 * block + 2)
            h = h + layer(2 * block + 2)
            rectify(h, 2 * block + 3)
        return layer(2 * self.shape.depth + 1), torch.stack(maxima)

    def adopt(self, features: Tensor, inputs: Tensor) -> None:
        """As `Network.adopt`."""
        self._inputs = adopted(features, inputs)

    def select(self, rows: slice) -> None:
        """As `Network.select`."""
        self._inputs = [layer[rows].contiguous() for layer in self._inputs]

    def backward(self, gradient: Tensor, state: Quantised, keys: list[int]) -> Tensor:
        """gradient f32 [P, O] of the summed loss -> flat f32 gradient of the parameters."""
        flat = torch.zeros(self.shape.parameter_count(), device=gradient.device)
        views = self.shape.views(flat)

        def layer(index: int, g: Tensor) -> Tensor:
            return linear_backward(g, self._inputs[index], state, index, keys[index], views[index])

        def mask(g: Tensor, index: int) -> Tensor:
            return torch.where(self._inputs[index] > 0, g, torch.zeros_like(g))

        last = 2 * self.shape.depth + 1
        gh = mask(layer(last, gradient), last)
        for block in reversed(range(self.shape.depth)):
            b, a = 2 * block + 2, 2 * block + 1
            gt = mask(layer(b, gh), b)
            gh = gh + mask(layer(a, gt), a)
        layer(0, gh)
        return flat


class CompiledNetwork:
    """Fused CPU engine with the bits of `EagerNetwork`; keeps its buffers between batches."""

    def __init__(self, shape: NetworkShape, pool: RowPool) -> None:
        self.shape = shape
        self.pool = pool
        self._buffers: dict[str, Tensor] = {}
        self._inputs: list[Tensor] = []

    def buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """A float32 [rows, columns] buffer kept under this name (contents undefined)."""
        kept = self._buffers.get(name)
        if kept is None or kept.shape[0] < rows or kept.shape[1] != columns:
            kept = torch.empty(max(rows, 1), columns)
            self._buffers[name] = kept
        return kept[:rows]

    def forward(self, features: Tensor, state: Quantised) -> tuple[Tensor, Tensor]:
        """As `EagerNetwork.forward`; the result stays valid until the next call."""
        rows, width = features.shape[0], self.shape.width
        maxima: list[np.float32] = []
        self._inputs = [features]
        nothing = np.zeros((0, 0), np.float32)

        def layer(index: int, name: str, residual: np.ndarray) -> Tensor:
            product = self.buffer(name, rows, width)
            multiply(self._inputs[index], state.weights[index].t(), product, "linear")
            quantised = self.buffer(f"input{index + 1}", rows, width)
            maxima.append(
                self.pool.run_with_max(
                    compiled.quantise_rectified_rows, rows, width, product.numpy(),
                    np.float32(state.weight_steps[index] * state.input_steps[index]),
                    state.biases[index].numpy(), residual,
                    np.float32(1.0 / state.input_steps[index + 1]), ACTIVATION_LIMIT,
                    quantised.numpy(),
                )
            )  # fmt: skip
            self._inputs.append(quantised)
            return product

        stream = layer(0, "stream", nothing).numpy()
        for block in range(self.shape.depth):
            layer(2 * block + 1, "product", nothing)
            layer(2 * block + 2, "product", stream)
        last = 2 * self.shape.depth + 1
        outputs = self.buffer("outputs", rows, self.shape.outputs)
        multiply(self._inputs[last], state.weights[last].t(), outputs, "linear")
        self.pool.run(
            compiled.add_bias_rows, rows, outputs.numpy(),
            np.float32(state.weight_steps[last] * state.input_steps[last]),
            state.biases[last].numpy(),
        )  # fmt: skip
        return outputs, torch.from_numpy(np.array(maxima, np.float32))

    def adopt(self, features: Tensor, inputs: Tensor) -> None:
        """As `Network.adopt`."""
        self._inputs = adopted(features, inputs)

    def select(self, rows: slice) -> None:
        """As `Network.select`."""
        self._inputs = [layer[rows].contiguous() for layer in self._inputs]

    def backward(self, gradient: Tensor, state: Quantised, keys: list[int]) -> Tensor:
        """As `EagerNetwork.backward`."""
        flat = torch.empty(self.shape.parameter_count())
        views = self.shape.views(flat)
        rows, width = gradient.shape[0], self.shape.width
        total = self.buffer("total", rows, width)

        def layer(index: int, g: Tensor, largest: np.float32, into: Tensor | None) -> float:
            """Writes the layer's gradients; product of the input gradient into `into`."""
            step = float(quantize.power_of_two_step(torch.tensor(float(largest)), GRADIENT_BITS))
            gq = self.buffer(f"rounded{g.shape[1]}", rows, g.shape[1])
            self.pool.run(
                compiled.round_stochastic_rows, rows, g.numpy(), np.float32(1.0 / step),
                np.uint32(keys[index]), GRADIENT_LIMIT, gq.numpy(),
            )  # fmt: skip
            weight, bias = views[index]
            weight.copy_(row_products(gq, self._inputs[index]).float())
            weight.mul_(step * state.input_steps[index])
            bias.copy_(gq.sum(0).mul_(step))  # integers below 2^24: exact in any order
            if into is not None:
                multiply(gq, state.weights[index], into, "linear_grad_input")
            return step * state.weight_steps[index]

        def masked(scale: float, index: int, add: bool, out: Tensor) -> np.float32:
            return self.pool.run_with_max(
                compiled.masked_gradient_rows, rows, width, product.numpy(), np.float32(scale),
                self._inputs[index].numpy(), add, out.numpy(),
            )  # fmt: skip

        product = self.buffer("product", rows, width)
        inner = self.buffer("inner", rows, width)
        last = 2 * self.shape.depth + 1
        largest = self.pool.run_with_max(
            compiled.absolute_max_rows, rows, gradient.shape[1], gradient.numpy()
        )
        largest = masked(layer(last, gradient, largest, product), last, False, total)
        for block in reversed(range(self.shape.depth)):
            b, a = 2 * block + 2, 2 * block + 1
            inside = masked(layer(b, total, largest, product), b, False, inner)
            largest = masked(layer(a, inner, inside, product), a, True, total)
        layer(0, total, largest, None)
        return flat


def multiply(a: Tensor, b: Tensor, out: Tensor, operation: str) -> None:
    """out = a @ b, exact in float32 by `MAX_FAN` where this machine's kernels are."""
    with engines.exact_kernels():
        if contract.single_is_exact(operation, a.device):
            torch.mm(a, b, out=out)
        else:
            out.copy_(a.double() @ b.double())


def row_products(gradient: Tensor, inputs: Tensor) -> Tensor:
    """sum over p of gradient[p, o] * inputs[p, i], exact, float64 [out, in].

    The chunk is exact for any operands, which saves the search of `contract` for larger ones.
    """
    with engines.exact_kernels():
        if not contract.single_is_exact("linear_grad_weight", gradient.device):
            return gradient.t().double() @ inputs.double()
        rows = gradient.shape[0]
        whole = rows // _CHUNK * _CHUNK
        g = gradient[:whole].view(-1, _CHUNK, gradient.shape[1])
        x = inputs[:whole].view(-1, _CHUNK, inputs.shape[1])
        total = torch.bmm(g.transpose(1, 2), x).double().sum(0)
        if whole < rows:
            total += (gradient[whole:].t() @ inputs[whole:]).double()
        return total
