"""The model with memory in eager torch: the reference of the compiled path, on any device.

Memory itself is integers and its code serves both; network and head are separate torch
operations. As `local_ar_eager`, decoding is slow: it is there to be compared with.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from osoa_pl.coding import rans
from osoa_pl.errors import CoderError
from osoa_pl.models import local_ar_eager, memory_head_eager
from osoa_pl.models.base import StreamDecoder
from osoa_pl.models.eigenbasis import Eigenbasis
from osoa_pl.models.features import RADIUS, TileBatch, pack_pixels
from osoa_pl.models.memory_ar import MemoryAutoregressive, MemoryConfig
from osoa_pl.models.network import EagerNetwork
from osoa_pl.models.recall import (
    GROUPS,
    Work,
    finish_pixel,
    group_tiles,
    hash_pixel,
    look,
    step_rows,
)


class EagerMemoryAutoregressive(MemoryAutoregressive):
    """`base.DirectModel` in eager torch, on the device of its parameters."""

    def __init__(
        self,
        config: MemoryConfig,
        parameters: Tensor,
        activation_max: Tensor,
        *,
        basis: Eigenbasis | None = None,
    ) -> None:
        super().__init__(config, parameters, activation_max, threads=1, basis=basis)
        self._network = EagerNetwork(config.network())
        self._device = parameters.device

    def _inputs(
        self, buffer: Tensor, work: Work, pixels: Tensor, places: local_ar_eager.Places
    ) -> tuple[Tensor, Tensor]:
        """(features f32 [n, F], predictors int64 [n, c]) of some pixels that were looked at."""
        x, predictors, _ = local_ar_eager.neighbourhood(buffer, self.channels, places)
        memory = torch.from_numpy(work.features[pixels.cpu().numpy()][:, x.shape[1] :])
        return torch.cat([x, memory.to(self._device)], 1), predictors

    def _head(
        self, outputs: Tensor, predictors: Tensor, work: Work, pixels: Tensor
    ) -> memory_head_eager.Pixels:
        found = memory_head_eager.proposals(work, pixels, self.channels)
        colours = memory_head_eager.DenseColours(self.memory.colours.tree, self._device)
        return memory_head_eager.Pixels(
            outputs, predictors, found, colours, self.config.mixtures
        )  # fmt: skip

    def _forward(self, batch: TileBatch) -> Tensor:
        work = self.look(batch)
        buffer = torch.from_numpy(batch.buffer).to(self._device)
        pixels = torch.arange(batch.pixels, device=self._device)
        x, self._known_predictors = self._inputs(
            buffer, work, pixels, local_ar_eager.places_of(batch, self._device)
        )
        self._outputs, self._seen = self._network.forward(x, self._current())
        return self._outputs

    def _batch_head(
        self, batch: TileBatch, outputs: Tensor, rows: slice = slice(None)
    ) -> tuple[memory_head_eager.Pixels, Tensor]:
        """(head, pixels) of some rows of the batch, whose outputs these are."""
        index = torch.arange(batch.pixels, device=self._device)[rows]
        head = self._head(outputs, self._known_predictors[rows], self.look(batch), index)
        return head, torch.from_numpy(self.pixels(batch)).to(self._device).long()[rows]

    def intervals(self, batch: TileBatch) -> tuple[np.ndarray, np.ndarray]:
        """As `LocalAutoregressive.intervals`."""
        head, pixels = self._batch_head(batch, self._forward(batch))
        start, frequency = memory_head_eager.intervals(head, pixels)
        return start.cpu().numpy().astype(np.uint32), frequency.cpu().numpy().astype(np.uint32)

    def _head_gradient(self, batch: TileBatch, outputs: Tensor, rows: slice) -> Tensor:
        return memory_head_eager.gradient(*self._batch_head(batch, outputs, rows))

    def decode(self, batch: TileBatch, decoder: StreamDecoder) -> bool:
        """As `LocalAutoregressive.decode`, by numpy's coder."""
        work = self.memory.begin(batch, self.config.inputs)
        buffer = torch.from_numpy(batch.buffer).to(self._device)
        every = local_ar_eager.places_of(batch, self._device)
        messages = local_ar_eager.messages_of(decoder)
        try:
            for group in range(GROUPS):
                stream = group if decoder.streams >= GROUPS else 0
                for tile in range(*group_tiles(len(batch.table), group)):
                    messages[stream] = self._decode_tile(
                        buffer, work, every, batch.table, (group, tile), messages[stream]
                    )
        except CoderError:
            return False
        local_ar_eager.give_back(messages, decoder)
        batch.buffer[:] = buffer.cpu().numpy()
        self._outputs = None
        self._looked = batch, work
        return True

    def _decode_tile(
        self, buffer: Tensor, work: Work, every: local_ar_eager.Places, table: np.ndarray,
        which: tuple[int, int], message: rans.Message,
    ) -> rans.Message:  # fmt: skip
        """Decode tile which[1], of group which[0], step by step; what is left of the message."""
        group, b = which
        channels, on = self.channels, self.memory.colours.on
        offset, height, width, first = table[b].tolist()
        stride = width + 2 * RADIUS
        for t in range(width + (RADIUS + 1) * (height - 1)):
            rows = np.arange(*step_rows(height, width, t))
            if not len(rows):  # narrower than the rows are apart
                continue
            columns = t - (RADIUS + 1) * rows
            index = torch.from_numpy(first + rows * width + columns).to(self._device)
            corner = offset // channels + RADIUS * stride + RADIUS
            where = corner + rows * stride + columns
            ready = list(zip(rows, columns, index.tolist(), where, strict=True))
            places = every.rows(index)
            _, predictors, _ = local_ar_eager.neighbourhood(buffer, channels, places)
            work.predictors[index.cpu().numpy()] = predictors.cpu().numpy()
            for i, j, p, place in ready:
                hash_pixel(self.memory.tables, work, group, b, p, place, stride, i, j)
                look(self.memory.tables, work, channels, group, b, p, place, stride, i, j, on)
            x, predictors = self._inputs(buffer, work, index, places)
            outputs, _ = self._network.forward(x, self._current())
            for n, (i, j, _, place) in enumerate(ready):
                one = slice(n, n + 1)
                head = self._head(outputs[one], predictors[one], work, index[one])
                for c in range(channels):
                    slot = torch.from_numpy(rans.pop_slots(message, self.precision))
                    value = head.find(slot.to(self._device))
                    start, frequency = head.take(value)
                    message = rans.advance(
                        message, start.cpu().numpy(), frequency.cpu().numpy(), self.precision
                    )
                    buffer[place * channels + c] = value.to(torch.uint8)[0]
                local_ar_eager.fill_padding(
                    buffer, int(place) * channels, j, i, table[b].tolist(), channels
                )
            pack_pixels(buffer.cpu().numpy(), channels, work.packed)
            for _, j, p, place in ready:
                finish_pixel(self.memory.tables, work, group, p, j, work.packed[place])
        return message
