"""The network's fastest CPU engine: int8 matrix products, the bits of the other engines.

torch's `_int_mm` is 5 to 6 times as fast as float32 on processors with VNNI and silently wrong on
others, so a known-answer test with extreme operands decides whether it is used. The first layer,
whose inputs have 8 bits and sign, stays in float32.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from osoa_pl.arith import compiled, compiled_int8, engines, quantize
from osoa_pl.arith.threads import RowPool, single_torch_thread
from osoa_pl.models.network import (
    ACTIVATION_LIMIT,
    GRADIENT_BITS,
    GRADIENT_LIMIT,
    NetworkShape,
    Quantised,
    row_products,
)


def is_exact() -> bool:
    """Whether int8 products may be used here: not forbidden, and known answers passed."""
    return engines.chosen_engine() in ("auto", "int8") and engines.is_exact(
        "network", "int8", torch.device("cpu"), (), _known_answers
    )


def _known_answers(device: torch.device) -> bool:
    """Products of the shapes used here, with operands that saturate 16-bit pair sums."""
    generator = torch.Generator().manual_seed(1)
    for rows, depth, width in ((1, 4, 8), (7, 128, 256), (300, 96, 192), (64, 16, 32)):
        for low, high in ((-128, -127), (127, 128), (-128, 128), (-3, 4)):
            a = torch.randint(low, high, (rows, depth), generator=generator, dtype=torch.int8)
            b = torch.randint(-128, 128, (depth, width), generator=generator, dtype=torch.int8)
            b[:, ::3] = -128
            b[:, 1::3] = 127
            wide = a.double() @ b.double()
            if not torch.equal(torch._int_mm(a, b).double(), wide):
                return False
            tall = torch.randint(-128, 128, (rows, width), generator=generator, dtype=torch.int8)
            found = torch._int_mm(tall.t(), a)
            if not torch.equal(found.double(), tall.t().double() @ a.double()):
                return False
    return True


class Int8Network:
    """As `network.CompiledNetwork`, for machines on which `is_exact`.

    torch is held to one thread: its own would spin beside ours. Forward, each thread runs products
    and elementwise kernels on its own rows.
    """

    def __init__(self, shape: NetworkShape, pool: RowPool) -> None:
        self.shape = shape
        self.pool = pool
        self._buffers: dict[str, Tensor] = {}
        self._inputs: list[Tensor] = []
        self._limbs: dict[str, tuple[Quantised, list[Tensor]]] = {}

    def _buffer(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        kept = self._buffers.get(name)
        if kept is None or kept.shape[0] < rows or kept.shape[1] != columns:
            kept = torch.empty(max(rows, 1), columns, dtype=dtype)
            self._buffers[name] = kept
        return kept[:rows]

    def _limbs_of(self, state: Quantised, direction: str) -> list[Tensor]:
        """Limbs of the layers after the first for "forward" or "backward", once for each state."""
        kept = self._limbs.get(direction)
        if kept is None or kept[0] is not state:
            forward = direction == "forward"
            made = []
            for weight in state.weights[1:]:
                operand = weight.t().contiguous() if forward else weight
                limbs = torch.empty(len(operand), 2 * operand.shape[1], dtype=torch.int8)
                compiled_int8.split_limbs(operand.numpy(), limbs.numpy())
                made.append(limbs)
            kept = self._limbs[direction] = state, made
        return kept[1]

    def forward(self, features: Tensor, state: Quantised) -> tuple[Tensor, Tensor]:
        """As `network.EagerNetwork.forward`; the result stays valid until the next call."""
        forward_limbs = self._limbs_of(state, "forward")
        offsets = [128 * weight.sum(1).int().numpy() for weight in state.weights[1:]]
        rows, width = features.shape[0], self.shape.width
        last = 2 * self.shape.depth + 1
        stream = self._buffer("stream", rows, width, torch.float32)
        product = self._buffer("product", rows, 2 * width, torch.int32)
        final = self._buffer("final", rows, 2 * self.shape.outputs, torch.int32)
        outputs = self._buffer("outputs", rows, self.shape.outputs, torch.float32)
        self._inputs = [features] + [
            self._buffer(f"input{layer}", rows, width, torch.int8) for layer in range(1, last + 1)
        ]
        nothing = np.zeros(width, np.int32)
        ranges = self.pool.ranges(rows)
        maxima = np.zeros((len(ranges), last, width), np.float32)

        def run(begin: int, end: int, seen: np.ndarray) -> None:
            with engines.exact_kernels():
                torch.mm(features[begin:end], state.weights[0].t(), out=stream[begin:end])
            for layer in range(last):
                if layer:
                    torch._int_mm(
                        self._inputs[layer][begin:end], forward_limbs[layer - 1],
                        out=product[begin:end],
                    )  # fmt: skip
                compiled_int8.quantise_rectified_rows(
                    begin, end, product.numpy(), offsets[layer - 1] if layer else nothing,
                    np.float32(state.weight_steps[layer] * state.input_steps[layer]),
                    state.biases[layer].numpy(), stream.numpy(), 1 - layer % 2 if layer else 2,
                    np.float32(1.0 / state.input_steps[layer + 1]), ACTIVATION_LIMIT,
                    self._inputs[layer + 1].numpy(), seen[layer],
                )  # fmt: skip
            torch._int_mm(
                self._inputs[last][begin:end], forward_limbs[last - 1], out=final[begin:end]
            )
            compiled_int8.outputs_rows(
                begin, end, final.numpy(), offsets[last - 1],
                np.float32(state.weight_steps[last] * state.input_steps[last]),
                state.biases[last].numpy(), outputs.numpy(),
            )  # fmt: skip

        with single_torch_thread():
            self.pool.each([partial(run, b, e, maxima[i]) for i, (b, e) in enumerate(ranges)])
        return outputs, torch.from_numpy(maxima.max((0, 2)))

    def adopt(self, features: Tensor, inputs: Tensor) -> None:
        """As `network.Network.adopt`."""
        self._inputs = [features, *inputs]

    def select(self, rows: slice) -> None:
        """As `network.Network.select`."""
        self._inputs = [layer[rows].contiguous() for layer in self._inputs]

    def backward(self, gradient: Tensor, state: Quantised, keys: list[int]) -> Tensor:
        """As `network.EagerNetwork.backward`.

        Nothing waits for the gradients of weights: where there is a thread, it makes them beside
        the way back through the layers.
        """
        backward_limbs = self._limbs_of(state, "backward")
        flat = torch.empty(self.shape.parameter_count())
        views = self.shape.views(flat)
        rows, width = gradient.shape[0], self.shape.width
        last = 2 * self.shape.depth + 1
        total = self._buffer("total", rows, width, torch.float32)
        inner = self._buffer("inner", rows, width, torch.float32)
        product = self._buffer("product", rows, 2 * width, torch.int32)
        later = []

        def layer(
            index: int, g: Tensor, largest: np.float32, add: bool, out: Tensor | None
        ) -> np.float32:
            """One layer's gradients; the masked input gradient goes to `out`. Returns its max."""
            step = quantize.step_of(float(largest), GRADIENT_BITS)
            gq = self._buffer(f"rounded{index}", rows, g.shape[1], torch.int8)
            sums = np.zeros(g.shape[1], np.int64)
            compiled_int8.round_stochastic_rows(
                0, rows, g.numpy(), np.float32(1.0 / step), np.uint32(keys[index]),
                GRADIENT_LIMIT, gq.numpy(), sums,
            )  # fmt: skip
            scale = step * state.input_steps[index]
            wanted = partial(self._weight_gradient, index, gq, sums, scale, step, views[index])
            later.append(self.pool.later(wanted, rows))
            if out is None:
                return np.float32(0.0)
            torch._int_mm(gq, backward_limbs[index - 1], out=product)
            seen = np.zeros(width, np.float32)
            compiled_int8.masked_gradient_rows(
                0, rows, product.numpy(), np.float32(step * state.weight_steps[index]),
                self._inputs[index].numpy(), add, out.numpy(), seen,
            )  # fmt: skip
            return np.float32(seen.max())

        with single_torch_thread():
            largest = np.zeros(gradient.shape[1], np.float32)
            compiled.absolute_max_rows(0, rows, gradient.numpy(), largest)
            found = layer(last, gradient, np.float32(largest.max()), False, total)
            for block in reversed(range(self.shape.depth)):
                b, a = 2 * block + 2, 2 * block + 1
                inside = layer(b, total, found, False, inner)
                found = layer(a, inner, inside, True, total)
            layer(0, total, found, False, None)
            for made in later:
                made.result()
        return flat

    def _weight_gradient(
        self, index: int, gq: Tensor, sums: np.ndarray, scale: float, step: float,
        into: tuple[Tensor, Tensor],
    ) -> None:  # fmt: skip
        """Write a layer's gradients of weight and bias from its rounded gradient int8 [P, out]."""
        weight, bias = into
        inputs, kernel = self._inputs[index], compiled_int8.weight_gradient
        if index == 0:  # these have a sign
            features, kernel = inputs, compiled_int8.first_weight_gradient
            inputs = self._buffer("halves", len(gq), 2 * features.shape[1], torch.int8)
            if not compiled_int8.split_features(features.numpy(), inputs.numpy()):
                weight.copy_(row_products(gq.float(), features)).mul_(scale)
                bias.copy_(torch.from_numpy(sums)).mul_(step)
                return
        with single_torch_thread():
            product = torch._int_mm(gq.t(), inputs)
        kernel(
            product.numpy(), sums, np.float32(scale), np.float32(step), weight.numpy(),
            bias.numpy(),
        )  # fmt: skip
