"""A model family in one file, the template of docs/extending.md: grey pictures, small and exact.

Each pixel is a logistic around the median-edge predictor of its west, north and north-west
neighbours; two exact linear layers see these neighbours and give its centre and width. Given up:
speed. All is eager, and decoding passes one pixel of each tile at a time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from osoa_pl.arith import derive_key, functions, quantize
from osoa_pl.coding import rans
from osoa_pl.coding.stack import WordStack
from osoa_pl.errors import UsageError
from osoa_pl.models import network
from osoa_pl.models.base import Engine, StreamDecoder
from osoa_pl.models.density import Density, Form, tiles
from osoa_pl.models.family import Family, register
from osoa_pl.models.features import RADIUS, TileBatch, fill_tile

PRECISION = 16  # a pixel's interval is a part of [0, 2^16) ...
FLOOR = 4  # ... of which each of the 256 values has at least 4, less 1 for rounding
FREE = 2**PRECISION - 256 * FLOOR
STEP = 2.0**-5  # of the inputs: differences of pixels, integers of 8 bits and sign
UNIT = 16.0  # grey levels by which an output of 1 moves the centre
WIDTHS = (-2.0, 5.0)  # limits of the logistic's log-width


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the model: samples a pixel, hidden units."""

    channels: int = 1
    hidden: int = 8

    def __post_init__(self) -> None:
        if self.channels != 1:
            raise UsageError(f"tiny model for {self.channels!r} channels (supported: 1)")
        if type(self.hidden) is not int or not 1 <= self.hidden <= 128:
            raise UsageError(f"tiny model: hidden {self.hidden!r}, expected 1 to 128")

    def views(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(weight [out, in], bias [out]) of both layers as views into a flat vector."""
        return network.layer_views([(self.hidden, 3), (2, self.hidden)], flat)

    def parameter_count(self) -> int:
        return 6 * self.hidden + 2

    def maxima_count(self) -> int:
        return 1  # of the hidden layer; the inputs have a fixed step

    def problem(self, height: int, width: int) -> str | None:
        return None  # any size can be coded

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read(batch: TileBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs float32 [P, 3], predictors and values int64 [P, 1] of all pixels, tile after tile.

    Inputs and predictor of a pixel come from pixels before it alone.
    """
    r, near, values = RADIUS, [], []
    for index in range(len(batch.table)):
        padded = torch.from_numpy(batch.padded(index)).long()
        west, north = padded[r:, r - 1 : -r - 1], padded[r - 1 : -1, r:-r]
        corner, here = padded[r - 1 : -1, r - 1 : -r - 1], padded[r:, r:-r]
        near.append(torch.cat([west, north, corner], 2).flatten(0, 1))
        values.append(here.flatten(0, 1))
    neighbours = torch.cat(near)
    west, north, corner = (neighbours[:, n : n + 1] for n in range(3))
    low, high = torch.minimum(west, north), torch.maximum(west, north)
    predictors = torch.minimum(torch.maximum(west + north - corner, low), high)
    return (neighbours - predictors).float(), predictors, torch.cat(values)


def logistics(outputs: Tensor, predictors: Tensor) -> tuple[Tensor, Tensor]:
    """(centre, inverse width) float64 [P, 1] from the network's outputs float32 [P, 2]."""
    centre = predictors.double() + outputs[:, :1].double() * UNIT
    return centre, functions.exp(outputs[:, 1:].double().clamp(*WIDTHS).neg())


def mass_below(value: Tensor, centre: Tensor, inverse: Tensor) -> Tensor:
    """Mass below `value` int64 [P, n] (0 to 256) in units of 2^-16; it rises by 3 or more."""
    z = (value.double() - 0.5 - centre) * inverse
    mass = (functions.sigmoid(z) * float(FREE)).round().long() + value * FLOOR
    mass = torch.where(value == 0, torch.zeros_like(mass), mass)
    return torch.where(value == 256, torch.full_like(mass, 2**PRECISION), mass)


def output_gradient(outputs: Tensor, predictors: Tensor, value: Tensor) -> Tensor:
    """Gradient of the mean of -ln P(value) with respect to the outputs, float32 [P, 2]."""
    centre, inverse = logistics(outputs, predictors)
    z_low = (value.double() - 0.5 - centre) * inverse
    z_high = z_low + inverse
    low = torch.where(value == 0, torch.zeros_like(z_low), functions.sigmoid(z_low))
    high = torch.where(value == 255, torch.ones_like(z_high), functions.sigmoid(z_high))
    share = torch.full_like(low, 1.0 / len(value)) / (high - low + FLOOR / FREE)
    low, high = low * (1.0 - low), high * (1.0 - high)
    by_width, width = share * (high * z_high - low * z_low), outputs[:, 1:]
    inside = (width > WIDTHS[0]) & (width < WIDTHS[1])
    by_width = torch.where(inside, by_width, torch.zeros_like(by_width))
    return torch.cat([share * (high - low) * inverse * UNIT, by_width], 1).float()


class TinyModel:
    """The model that codes; `osoa_pl.models.base.DirectModel` says what its methods promise."""

    precision = PRECISION

    def __init__(self, config: TinyConfig, parameters: Tensor, activation_max: Tensor) -> None:
        self.config, self.channels = config, config.channels
        self.parameters, self.activation_max = parameters, activation_max
        self._rounded: network.Quantised | None = None
        self._seen = torch.zeros_like(activation_max)

    def state(self) -> list[Tensor]:
        return [self.parameters, self.activation_max]

    def prepare(self) -> None:
        self._current()

    def stepped(self) -> None:
        self._rounded = None

    def advance(self) -> None:
        self.activation_max = network.next_activation_max(self.activation_max, self._seen)
        self.stepped()

    def seen_max(self) -> Tensor:
        return self._seen

    def _current(self) -> network.Quantised:
        if self._rounded is None:
            step = quantize.power_of_two_step(self.activation_max[0], network.ACTIVATION_BITS)
            views = self.config.views(self.parameters)
            self._rounded = network.quantise_layers(views, [STEP, float(step)])
            network.check_range(self._rounded)
        return self._rounded

    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(hidden layer as integers float32 [P, hidden], outputs float32 [P, 2])."""
        state = self._current()
        hidden = network.linear_forward(inputs, state, 0).clamp(min=0.0)
        self._seen = hidden.amax().view(1)
        step = torch.tensor(state.input_steps[1])
        hidden = quantize.quantize_nearest(hidden, step, network.ACTIVATION_BITS)
        return hidden, network.linear_forward(hidden, state, 1)

    def intervals(self, batch: TileBatch) -> tuple[np.ndarray, np.ndarray]:
        inputs, predictors, value = read(batch)
        _, outputs = self._forward(inputs)
        ends = mass_below(torch.cat([value, value + 1], 1), *logistics(outputs, predictors))
        start, end = ends.numpy().astype(np.uint32).T.reshape(2, -1, 1)
        return start, end - start

    def bits(self, batch: TileBatch, seed: int, counter: int) -> float:
        _, frequency = self.intervals(batch)
        return float((self.precision - np.log2(frequency)).sum(dtype=np.float64))

    def gradient(self, batch: TileBatch, seed: int, counter: int) -> Tensor:
        inputs, predictors, value = read(batch)
        hidden, outputs = self._forward(inputs)
        state, keys = self._current(), [derive_key(seed, counter, layer) for layer in range(2)]
        flat = torch.zeros_like(self.parameters)
        first, second = self.config.views(flat)
        g = output_gradient(outputs, predictors, value)
        g = network.linear_backward(g, hidden, state, 1, keys[1], second)
        g = torch.where(hidden > 0, g, torch.zeros_like(g))
        network.linear_backward(g, inputs, state, 0, keys[0], first)
        return flat

    def order(self, batch: TileBatch, stream: int, streams: int) -> np.ndarray:
        table = batch.table[stream::streams].tolist()
        longest = max(height * width for _, height, width, _ in table)
        pixels = [first + i for i in range(longest) for _, h, w, first in table if i < h * w]
        return np.array(pixels, np.int64)

    def decode(self, batch: TileBatch, decoder: StreamDecoder) -> bool:
        messages = [
            rans.Message(decoder.heads[s : s + 1], WordStack(decoder.words[at : at + size]))
            for s, (at, size) in enumerate(zip(decoder.offsets, decoder.sizes))
        ]
        table, values = batch.table.tolist(), torch.arange(257).unsqueeze(0)
        for i in range(max(height * width for _, height, width, _ in table)):
            ready = [tile for tile, (_, h, w, _) in enumerate(table) if i < h * w]
            places = [table[tile][3] + i for tile in ready]
            inputs, predictors, _ = (part[places] for part in read(batch))
            _, outputs = self._forward(inputs)
            edges = mass_below(values, *logistics(outputs, predictors)).numpy()
            for tile, below in zip(ready, edges):
                message = messages[tile % decoder.streams]
                slot = rans.pop_slots(message, PRECISION)
                v = np.searchsorted(below, slot, side="right") - 1
                rans.advance(message, below[v], below[v + 1] - below[v], PRECISION)
                batch.tile(tile)[divmod(i, table[tile][2])] = v
                fill_tile(batch, tile, batch.tile(tile).copy())  # the padding follows the pixels
        decoder.sizes[:] = [len(message.tail) for message in messages]
        return True


class Tiny(Density):
    """The model as a trainable module, the family `tiny`.

    Args:
        hidden: hidden units, at most 128.
        form: native (torch's arithmetic) or exact (the arithmetic of archives).
        seed: of the initial weights.
    """

    family = "tiny"
    config: TinyConfig

    def __init__(self, hidden: int = 8, *, form: Form = "native", seed: int = 0) -> None:
        config = TinyConfig(1, hidden)
        super().__init__(config, initial_parameters(config, seed), form=form)

    def native_loss(self, images: Tensor, key: int) -> Tensor:
        inputs, predictors, value = (part.to(self.flat.device) for part in read(tiles(images)))
        first, second = self.config.views(self.flat)
        outputs = F.linear(F.relu(F.linear(inputs * STEP, *first)), *second).float()
        inverse = outputs[:, 1:].clamp(*WIDTHS).neg().exp()
        low = (value - 0.5 - predictors - outputs[:, :1] * UNIT) * inverse
        high = torch.where(value == 255, 1.0, torch.sigmoid(low + inverse))
        low = torch.where(value == 0, 0.0, torch.sigmoid(low))
        return -torch.log((high - low) * (FREE / 2**PRECISION) + FLOOR / 2**PRECISION).mean()


def initial_parameters(config: TinyConfig, seed: int) -> Tensor:
    """A random first layer; every centre is the predictor at first, every width e^2."""
    flat = torch.zeros(config.parameter_count())
    (weight, _), (_, bias) = config.views(flat)
    weight.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(seed))
    bias[1] = 2.0
    return flat


def build(
    config: TinyConfig, parameters: Tensor, maxima: Tensor, engine: Engine | None, _: int | None
) -> TinyModel:
    if parameters.device.type != "cpu" or engine == "compiled":
        raise UsageError("the tiny model is eager and runs on the CPU alone")
    return TinyModel(config, parameters, maxima)


FAMILY = register(
    Family(
        "tiny",
        TinyConfig,
        build,
        density=lambda config: Tiny(config.hidden),
        settings={"batch_pixels": 1024, "first_pixels": 512},
        step_sizes=(5e-3, 2e-2),
    )
)
