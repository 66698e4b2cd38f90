"""The default model: a local autoregressive net with copy components, for grey or RGB pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from osoa_pl.arith import noise, vnni
from osoa_pl.arith.threads import RowPool, single_torch_thread
from osoa_pl.errors import UsageError
from osoa_pl.models import compiled_head, features, network, network_int8, wavefront
from osoa_pl.models.base import Engine, StreamDecoder
from osoa_pl.models.eigenbasis import Eigenbasis
from osoa_pl.models.family import Family
from osoa_pl.models.features import TileBatch

if TYPE_CHECKING:
    from osoa_pl.models.density import Density

_COPY_START = -5.0  # first logit of every copy component
_SIZES = {"channels": (1, 3), "width": (4, 512), "depth": (0, 64), "mixtures": (1, 64)}


@dataclass(frozen=True)
class LocalConfig:
    """Sizes of the model: samples a pixel, hidden width, residual blocks, logistics a channel."""

    channels: int
    width: int
    depth: int
    mixtures: int

    def __post_init__(self) -> None:
        for name, (low, high) in _SIZES.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UsageError(f"local model: {name} {value!r}, expected {low} to {high}")
        if self.channels not in (1, 3):
            raise UsageError(f"local model for {self.channels} channels (supported: 1, 3)")

    @property
    def outputs(self) -> int:
        """Numbers a pixel that the network predicts."""
        c = self.channels
        return 3 * self.mixtures * c + c * (c - 1) // 2 + len(features.COPIES) + 1

    def network(self) -> network.NetworkShape:
        """The residual network of these sizes."""
        inputs = features.feature_count(self.channels)
        return network.NetworkShape(inputs, self.width, self.depth, self.outputs)

    def parameter_count(self) -> int:
        """Length of the flat vector of weights."""
        return self.network().parameter_count()

    def maxima_count(self) -> int:
        """Activation maxima: one for the input of each layer but the first."""
        return 2 * self.depth + 1

    def problem(self, height: int, width: int) -> str | None:
        """None: any size can be coded."""
        return None

    def to_dict(self) -> dict[str, int]:
        """Plain form for checkpoint metadata."""
        return asdict(self)


def initial_parameters(config: LocalConfig, seed: int) -> Tensor:
    """Random start: flat float32; the second layer of each block is zero, the head is spread."""
    generator = torch.Generator().manual_seed(seed)
    shape = config.network()
    flat = torch.zeros(shape.parameter_count())
    views = shape.views(flat)
    for index, (weight, _) in enumerate(views):
        if index % 2 == 0 and 0 < index < len(views) - 1:
            continue
        bound = weight.shape[1] ** -0.5 if index < len(views) - 1 else 0.017
        weight.uniform_(-bound, bound, generator=generator)
    bias = views[-1][1]
    k = config.mixtures
    for c in range(config.channels):
        bias[3 * k * c + k : 3 * k * c + 2 * k] = torch.linspace(-0.25, 0.25, k)
        bias[3 * k * c + 2 * k : 3 * k * (c + 1)] = torch.linspace(0.5, 2.5, k)
    bias[-len(features.COPIES) :] = _COPY_START
    return flat


class LocalAutoregressive:
    """Direct model over raster wavefronts; see `base.DirectModel` for the contract.

    Source: local models of NeLLoC (Zhang et al. 2021), logistic mixtures of PixelCNN++ (Salimans et
    al. 2017); copy components are this project's own.
    """

    precision = compiled_head.PRECISION
    head: ClassVar[ModuleType] = compiled_head
    """Where `interval_rows` and `gradient_rows` are."""

    def __init__(
        self,
        config: LocalConfig,
        parameters: Tensor,
        activation_max: Tensor,
        *,
        threads: int | None = None,
        basis: Eigenbasis | None = None,
    ) -> None:
        self.config = config
        self.parameters = parameters
        self._basis = basis
        self.activation_max = activation_max
        shape = config.network()
        if parameters.shape != (shape.parameter_count(),):
            raise UsageError(
                f"local model: found {parameters.numel()} parameters "
                f"(expected {shape.parameter_count()})"
            )
        self._pool = RowPool(threads or torch.get_num_threads())
        self._network: network.Network = (
            network_int8.Int8Network(shape, self._pool)
            if network_int8.is_exact()
            else network.CompiledNetwork(shape, self._pool)
        )
        self._blocks = vnni.AVAILABLE and isinstance(self._network, network_int8.Int8Network)
        self._quantised: network.Quantised | None = None
        self._outputs: Tensor | None = None
        self._seen: Tensor | None = None
        self._predictors = self._copies = np.zeros(0, np.int64)

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

    def _current(self) -> network.Quantised:
        if self._quantised is None:
            with single_torch_thread():
                weights = self._basis.weights(self.parameters) if self._basis else self.parameters
                self._quantised = network.quantise(
                    self.config.network(), weights, self.activation_max, features.FEATURE_STEP
                )
                network.check_range(self._quantised)
        return self._quantised

    def _features(self, batch: TileBatch) -> Tensor:
        """Integer features f32 [P, F]; also keeps predictors and copy candidates."""
        heights = batch.table[:, 1]
        row_tile = np.repeat(np.arange(len(heights)), heights)
        row_index = np.concatenate([np.arange(h) for h in heights])
        count, channels = batch.pixels, batch.channels
        self._predictors = np.empty((count, channels), np.int64)
        self._copies = np.empty((count, len(features.COPIES), channels), np.int64)
        out = np.empty((count, features.feature_count(channels)), np.float32)
        self._pool.run(
            features.batch_features_rows, len(row_tile), batch.buffer, batch.table, batch.tops,
            row_tile, row_index, channels, out, self._predictors, self._copies,
        )  # fmt: skip
        return torch.from_numpy(out)

    def pixels(self, batch: TileBatch) -> np.ndarray:
        """Pixels uint8 [P, c] of a batch in raster order, tile after tile."""
        tiles = [batch.tile(i).reshape(-1, batch.channels) for i in range(len(batch.table))]
        return np.concatenate(tiles)

    def head_inputs(self, batch: TileBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(features f32 [P, F], pixels, predictors, copies int64) of a batch, as tensors."""
        x = self._features(batch)
        pixels = torch.from_numpy(self.pixels(batch)).long()
        return x, pixels, torch.from_numpy(self._predictors), torch.from_numpy(self._copies)

    def _forward(self, batch: TileBatch) -> Tensor:
        x = self._features(batch)
        if self._blocks:
            passed = self._room(x.numpy())
            ranges = self._pool.ranges(len(x))
            largest = self._no_maxima(len(ranges))
            weights = self._wavefront_weights()
            self._pool.each(
                [
                    partial(wavefront.forward_batch, *ends, weights, passed, largest[thread])
                    for thread, ends in enumerate(ranges)
                ]
            )
            self._adopt(passed, largest)
        else:
            self._outputs, self._seen = self._network.forward(x, self._current())
        assert self._outputs is not None
        return self._outputs

    def _room(self, features: np.ndarray) -> wavefront.Passed:
        """Room for a forward pass of pixels with these features."""
        rows, layers = len(features), 2 * self.config.depth + 1
        return wavefront.Passed(
            features,
            np.empty((layers, rows, self.config.width), np.int8),
            np.empty((rows, self.config.outputs), np.float32),
        )

    def _no_maxima(self, threads: int) -> np.ndarray:
        return np.zeros((threads, 2 * self.config.depth + 1, self.config.width), np.float32)

    def _adopt(self, passed: wavefront.Passed, largest: np.ndarray) -> None:
        """Keep a forward pass that was made for the gradient, with maxima [threads, layers, W]."""
        self._network.adopt(torch.from_numpy(passed.features), torch.from_numpy(passed.inputs))
        self._outputs = torch.from_numpy(passed.outputs)
        self._seen = torch.from_numpy(largest.max((0, 2)))

    def intervals(self, batch: TileBatch) -> tuple[np.ndarray, np.ndarray]:
        """(start, frequency) uint32 [pixels, channels] at 2^-20 under the current state."""
        outputs = self._forward(batch).numpy()
        pixels = self.pixels(batch)
        start = np.empty(pixels.shape, np.uint32)
        frequency = np.empty(pixels.shape, np.uint32)
        self._pool.run(
            self.head.interval_rows, len(pixels), outputs, pixels, *self._head_tables(batch),
            self.channels, self.config.mixtures, start, frequency,
        )  # fmt: skip
        return start, frequency

    def _head_tables(self, batch: TileBatch, rows: slice = slice(None)) -> tuple[Any, ...]:
        """What the head's kernels need beside outputs and pixels, after a forward pass."""
        return tuple(np.ascontiguousarray(t[rows]) for t in (self._predictors, self._copies))

    def bits(self, batch: TileBatch, seed: int, counter: int) -> float:
        """Ideal code length of the batch in bits: -log2 of its intervals' shares."""
        _, frequency = self.intervals(batch)
        return float((self.precision - np.log2(frequency)).sum(dtype=np.float64))

    def order(self, batch: TileBatch, stream: int, streams: int) -> np.ndarray:
        """Pixel indices of one stream in coding order, int64."""
        tiles = np.arange(stream, len(batch.table), streams)
        order: np.ndarray = wavefront.stream_order(batch.table, tiles)
        return order

    def _wavefront_weights(self) -> wavefront.Weights:
        """The present weights in the form of `wavefront.forward_rows`."""
        state = self._current()
        matrices = [weight.numpy() for weight in state.weights]
        if vnni.AVAILABLE:
            laid = [vnni.pack_pairs(matrix) for matrix in matrices]
        else:
            laid = [np.ascontiguousarray(matrix.T) for matrix in matrices]
        return wavefront.Weights(
            laid[0],
            np.stack(laid[1:-1]) if self.config.depth else laid[0][:0, None],
            laid[-1],
            np.stack([b.numpy() for b in state.biases[:-1]]),
            state.biases[-1].numpy(),
            np.array(
                [w * x for w, x in zip(state.weight_steps, state.input_steps, strict=True)],
                np.float32,
            ),
            np.array([1.0 / s for s in state.input_steps[1:]], np.float32),
        )

    def _decode(
        self, threads: int, features: np.ndarray, kernel: Callable[..., bool],
        before: Callable[[int], tuple[Any, ...]], after: tuple[Any, ...] = (),
    ) -> bool:  # fmt: skip
        """Run a decoding kernel in threads and keep its forward pass for the gradient.

        The kernel is given before(thread), weights, what is passed, activation maxima, `after`.
        """
        passed, largest = self._room(features), self._no_maxima(threads)
        weights = self._wavefront_weights()
        calls = [
            partial(kernel, *before(thread), weights, passed, largest[thread], *after)
            for thread in range(threads)
        ]
        self._outputs = None
        if not all(self._pool.each(calls)):
            return False
        self._adopt(passed, largest)
        return True

    def decode(self, batch: TileBatch, decoder: StreamDecoder) -> bool:
        """Fill in the batch's pixels; False when a stream has run out of words."""
        threads = min(self._pool.threads, decoder.streams, len(batch.table))
        self._predictors = np.empty((batch.pixels, batch.channels), np.int64)
        self._copies = np.empty((batch.pixels, len(features.COPIES), batch.channels), np.int64)
        found = np.empty((batch.pixels, self.config.network().features), np.float32)

        def before(thread: int) -> tuple[Any, ...]:
            return (
                batch.buffer, batch.table, batch.tops, self.channels, self.config.mixtures,
                decoder.streams, thread, threads, decoder.heads, decoder.words, decoder.offsets,
                decoder.sizes,
            )  # fmt: skip

        return self._decode(
            threads, found, wavefront.decode_streams, before, (self._predictors, self._copies)
        )

    def gradient(self, batch: TileBatch, seed: int, counter: int) -> Tensor:
        """Gradient of the mean loss in nats/dim at the current state, flat float32.

        The forward pass of `intervals` is used again where it belongs to the current weights.
        """
        return self.sampled_gradient(batch, seed, counter, 1)

    def sampled_gradient(self, batch: TileBatch, seed: int, counter: int, stride: int) -> Tensor:
        """As `base.SampledModel.sampled_gradient`."""
        outputs = self._outputs if self._outputs is not None else self._forward(batch)
        rows = slice(counter % min(stride, len(outputs)), None, stride)
        if stride > 1:
            self._outputs = None  # the network keeps these rows of its forward pass alone
            self._network.select(rows)
        gradient = self._head_gradient(batch, outputs[rows].contiguous(), rows)
        return self._backward(gradient, seed, counter)

    def _head_gradient(self, batch: TileBatch, outputs: Tensor, rows: slice) -> Tensor:
        """Gradient f32 [P, O] of the summed loss by the outputs, at these rows of the batch."""
        pixels = np.ascontiguousarray(self.pixels(batch)[rows])
        gradient = torch.empty(outputs.shape)
        self._pool.run(
            self.head.gradient_rows, len(pixels), outputs.numpy(), pixels,
            *self._head_tables(batch, rows), self.channels, self.config.mixtures, gradient.numpy(),
        )  # fmt: skip
        return gradient

    def _backward(self, gradient: Tensor, seed: int, counter: int) -> Tensor:
        """The mean gradient of the parameters from f32 [P, outputs], that of the summed loss."""
        flat = self._network.backward(gradient, self._current(), self._keys(seed, counter))
        with single_torch_thread():
            flat.mul_(torch.full_like(flat[:1], 1.0 / (len(gradient) * self.channels)))
            return self._basis.gradient(flat) if self._basis else flat

    def _keys(self, seed: int, counter: int) -> list[int]:
        """Keys of the rounding noise of each layer's gradient in update number `counter`."""
        layers = len(self.config.network().layers())
        return [noise.derive_key(seed, counter, layer) for layer in range(layers)]

    def seen_max(self) -> Tensor:
        """Activation maxima f32 [layers] of the batch that was last passed forward."""
        if self._seen is None:
            raise UsageError("local model: no batch was passed forward yet")
        return self._seen

    def stepped(self) -> None:
        """Forget what was derived from the weights before the optimizer's step."""
        self._quantised = self._outputs = None

    def advance(self) -> None:
        """Let the activation scales follow the maxima of the batch just seen."""
        if self._seen is not None:
            self.activation_max = network.next_activation_max(self.activation_max, self._seen)
        self._seen = None
        self.stepped()


def _build(
    config: LocalConfig,
    parameters: Tensor,
    activation_max: Tensor,
    engine: Engine | None,
    threads: int | None,
) -> LocalAutoregressive:
    from osoa_pl.models.known_answers import check_compiled
    from osoa_pl.models.local_ar_eager import EagerLocalAutoregressive

    if engine == "eager" or parameters.device.type != "cpu":
        return EagerLocalAutoregressive(config, parameters, activation_max)
    check_compiled(config.channels)
    return LocalAutoregressive(config, parameters, activation_max, threads=threads)


def _density(config: LocalConfig) -> Density:
    from osoa_pl.models.local_ar_density import LocalAR

    return LocalAR(config.channels, config.width, config.depth, config.mixtures)


FAMILY = Family("local_ar", LocalConfig, _build, _density)
