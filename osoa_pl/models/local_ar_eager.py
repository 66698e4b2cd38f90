"""The default model in eager torch: the reference of the compiled path, on any device.

Same weights, same integers, same bits as `local_ar.LocalAutoregressive`, from separate torch
operations and numpy's coder. Encoding is one parallel pass; decoding steps through the wavefront
and, within a step, pixel after pixel of each stream, which is slow: it is there to be compared
with, and for devices that numba does not serve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from osoa_pl.coding import rans
from osoa_pl.coding.stack import WordStack
from osoa_pl.errors import CoderError
from osoa_pl.models import features, mixture_head
from osoa_pl.models.base import StreamDecoder
from osoa_pl.models.features import COPIES, OFFSETS, RADIUS, TileBatch
from osoa_pl.models.local_ar import LocalAutoregressive, LocalConfig
from osoa_pl.models.network import EagerNetwork


@dataclass
class Places:
    """Where pixels stand in a batch's buffer.

    places int64 [n]: of the first sample; strides int64 [n]: of their tile's rows, in samples;
    borders bool [n]: whether nothing decoded is left of or above them.
    """

    places: Tensor
    strides: Tensor
    borders: Tensor

    def rows(self, index: Tensor) -> Places:
        """Those of some pixels."""
        return Places(self.places[index], self.strides[index], self.borders[index])


def places_of(batch: TileBatch, device: torch.device) -> Places:
    """The places of every pixel of the batch, in raster order."""
    places, strides, borders = [], [], []
    for index, (offset, height, width, _) in enumerate(batch.table.tolist()):
        stride = (width + 2 * RADIUS) * batch.channels
        rows = torch.arange(height, device=device).unsqueeze(1)
        columns = torch.arange(width, device=device).unsqueeze(0)
        place = offset + (rows + RADIUS) * stride + (columns + RADIUS) * batch.channels
        border = (columns == 0) | ((rows == 0) & bool(batch.tops[index]))
        places.append(place.reshape(-1))
        strides.append(torch.full_like(places[-1], stride))
        borders.append(border.reshape(-1))
    return Places(torch.cat(places), torch.cat(strides), torch.cat(borders))


def neighbourhood(buffer: Tensor, channels: int, where: Places) -> tuple[Tensor, Tensor, Tensor]:
    """(features f32 [n, F], predictors int64 [n, c], copies int64 [n, 6, c]) of pixels."""
    device = buffer.device
    along = torch.arange(channels, device=device)

    def neighbours(offsets: np.ndarray) -> Tensor:
        rows = torch.from_numpy(offsets[:, 0].copy()).to(device)
        columns = torch.from_numpy(offsets[:, 1].copy()).to(device)
        shift = rows * where.strides.unsqueeze(1) + columns * channels
        return buffer[(where.places.unsqueeze(1) + shift).unsqueeze(2) + along].long()

    near = neighbours(OFFSETS)
    west, north, north_west, north_east, west_west = neighbours(
        np.array([(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2)])
    ).unbind(1)
    low, high = torch.minimum(west, north), torch.maximum(west, north)
    predictor = torch.minimum(torch.maximum(west + north - north_west, low), high)
    activity = (west - north_west).abs() + (north_west - north).abs()
    activity = activity + (north - north_east).abs() + (west - west_west).abs()
    table = torch.from_numpy(features.ACTIVITY).to(device)
    copies = neighbours(COPIES)
    one = int(1.0 / features.FEATURE_STEP)
    equal = [
        (copies[:, i] == copies[:, j]).all(1) * one for i in range(len(COPIES)) for j in range(i)
    ]
    parts = [
        (near - predictor.unsqueeze(1)).flatten(1),
        predictor - 128,
        predictor[:, 1:] - predictor[:, :1],
        table[activity].long(),
        torch.stack(equal, 1),
        (where.borders * one).unsqueeze(1),
    ]
    used = torch.cat(parts, 1).float()
    rest = torch.zeros(len(used), features.feature_count(channels) - used.shape[1], device=device)
    return torch.cat([used, rest], 1), predictor, copies


def fill_padding(
    buffer: Tensor, place: int, column: int, row: int, tile: list[int], channels: int
) -> None:
    """Fill the padding that follows from the pixel just written at `place`."""
    _, height, width, _ = tile
    pixel = buffer[place : place + channels].clone()
    if column == 0 and row + 1 < height:
        left = place + (width + 2 * RADIUS) * channels - RADIUS * channels
        buffer[left : left + RADIUS * channels] = pixel.repeat(RADIUS)
    if column == width - 1:
        buffer[place + channels : place + (RADIUS + 1) * channels] = pixel.repeat(RADIUS)


def messages_of(decoder: StreamDecoder) -> list[rans.Message]:
    """A decoder's streams as messages of numpy's coder."""
    return [
        rans.Message(
            decoder.heads[s : s + 1].copy(),
            WordStack(decoder.words[decoder.offsets[s] :][: decoder.sizes[s]].copy()),
        )
        for s in range(decoder.streams)
    ]


def give_back(messages: list[rans.Message], decoder: StreamDecoder) -> None:
    """What is left of the messages, written back into the decoder."""
    for s, message in enumerate(messages):
        decoder.heads[s] = message.head[0]
        decoder.sizes[s] = len(message.tail)


class EagerLocalAutoregressive(LocalAutoregressive):
    """`base.DirectModel` in eager torch, on the device of its parameters."""

    def __init__(self, config: LocalConfig, parameters: Tensor, activation_max: Tensor) -> None:
        super().__init__(config, parameters, activation_max, threads=1)
        self._network = EagerNetwork(config.network())
        self._device = parameters.device
        self._head: tuple[Tensor, Tensor] | None = None

    def _forward(self, batch: TileBatch) -> Tensor:
        buffer = torch.from_numpy(batch.buffer).to(self._device)
        x, predictors, copies = neighbourhood(buffer, self.channels, places_of(batch, self._device))
        self._head = predictors, copies
        self._outputs, self._seen = self._network.forward(x, self._current())
        return self._outputs

    def _known(self, batch: TileBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(outputs, predictors, copies) of the batch at the current weights."""
        if self._outputs is None or self._head is None:
            self._forward(batch)
        assert self._outputs is not None and self._head is not None  # set by `_forward`
        return (self._outputs, *self._head)

    def intervals(self, batch: TileBatch) -> tuple[np.ndarray, np.ndarray]:
        """As `LocalAutoregressive.intervals`."""
        outputs = self._forward(batch)
        pixels = torch.from_numpy(self.pixels(batch)).to(self._device).long()
        _, predictors, copies = self._known(batch)
        start, frequency = mixture_head.intervals(
            outputs, pixels, predictors, copies, self.config.mixtures
        )
        return start.cpu().numpy().astype(np.uint32), frequency.cpu().numpy().astype(np.uint32)

    def _head_gradient(self, batch: TileBatch, outputs: Tensor, rows: slice) -> Tensor:
        pixels = torch.from_numpy(self.pixels(batch)).to(self._device).long()
        assert self._head is not None  # of the forward pass that gave the outputs
        predictors, copies = self._head
        return mixture_head.gradient(
            outputs, pixels[rows], predictors[rows], copies[rows], self.config.mixtures
        )

    def decode(self, batch: TileBatch, decoder: StreamDecoder) -> bool:
        """As `LocalAutoregressive.decode`, by numpy's coder."""
        buffer = torch.from_numpy(batch.buffer).to(self._device)
        every = places_of(batch, self._device)
        messages = messages_of(decoder)
        table = batch.table.tolist()
        steps = max(width + (RADIUS + 1) * (height - 1) for _, height, width, _ in table)
        try:
            for t in range(steps):
                ready = [
                    (b % decoder.streams, first + i * width + t - (RADIUS + 1) * i, b, i)
                    for b, (_, height, width, first) in enumerate(table)
                    for i in range(height)
                    if 0 <= t - (RADIUS + 1) * i < width
                ]
                where = torch.tensor([p for _, p, _, _ in ready], device=self._device)
                x, predictors, copies = neighbourhood(buffer, self.channels, every.rows(where))
                outputs, _ = self._network.forward(x, self._current())
                for n, (s, p, b, i) in enumerate(ready):
                    head = mixture_head.Pixels(
                        outputs[n : n + 1], predictors[n : n + 1], copies[n : n + 1],
                        self.config.mixtures,
                    )  # fmt: skip
                    for c in range(self.channels):
                        slot = torch.from_numpy(rans.pop_slots(messages[s], self.precision))
                        value = head.find(slot.to(self._device))
                        start, frequency = head.take(value)
                        messages[s] = rans.advance(
                            messages[s],
                            start.cpu().numpy(),
                            frequency.cpu().numpy(),
                            self.precision,
                        )
                        buffer[every.places[p] + c] = value.to(torch.uint8)[0]
                    fill_padding(
                        buffer, int(every.places[p]), t - (RADIUS + 1) * i, i, table[b],
                        self.channels,
                    )  # fmt: skip
        except CoderError:
            return False
        give_back(messages, decoder)
        batch.buffer[:] = buffer.cpu().numpy()
        self._outputs = None
        return True
