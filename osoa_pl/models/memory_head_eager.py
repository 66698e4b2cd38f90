"""The head of a model with memory in torch: the eager reference of `memory_head`, on any device.

Proposals are dense here: column m of `values` is component m, `valid` says whether it is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from osoa_pl.arith import functions
from osoa_pl.models.colours import Colours
from osoa_pl.models.memory_head import PARTS
from osoa_pl.models.mixture_head import (
    _FLOOR,
    _FREE,
    Channel,
    ChannelTerms,
    channel_gradients,
    channel_terms,
    find_value,
)
from osoa_pl.models.recall import COMPONENTS, Work

_BITS = 16


@dataclass
class Proposals:
    """What memory says of pixels: values int64 [P, COMPONENTS, c], valid bool, offsets f32."""

    values: Tensor
    valid: Tensor
    offsets: Tensor

    def rows(self, where: slice) -> Proposals:
        """Those of some pixels."""
        return Proposals(self.values[where], self.valid[where], self.offsets[where])


def proposals(work: Work, pixels: Tensor, channels: int) -> Proposals:
    """Dense proposals of the pixels (int64 indices) from the compact ones of `look`."""
    device = pixels.device
    where = pixels.cpu().numpy()
    counts = torch.from_numpy(work.counts[where])
    columns = torch.from_numpy(work.columns[where]).long()
    there = torch.arange(COMPONENTS) < counts.unsqueeze(1)
    # what is not there goes to a column that is cut off again
    columns = torch.where(there, columns, torch.full_like(columns, COMPONENTS))
    valid = torch.zeros(len(where), COMPONENTS + 1, dtype=torch.bool).scatter(1, columns, there)
    packed = torch.from_numpy(work.values[where].astype("int64"))
    values = torch.zeros(len(where), COMPONENTS + 1, dtype=torch.int64).scatter(1, columns, packed)
    offsets = torch.zeros(len(where), COMPONENTS + 1).scatter(
        1, columns, torch.from_numpy(work.offsets[where])
    )
    shift = torch.tensor([8 * (channels - 1 - c) for c in range(channels)])
    samples = (values[:, :COMPONENTS].unsqueeze(2) >> shift) & 255
    return Proposals(
        samples.to(device), valid[:, :COMPONENTS].to(device), offsets[:, :COMPONENTS].to(device)
    )


class DenseColours:
    """The tree of colours seen as one row of 256 shares a node: [nodes above, 256] a level."""

    def __init__(self, colours: Colours, device: torch.device) -> None:
        self.on = len(colours.values[0]) > 0
        self.shares: list[Tensor] = []
        self.nodes: list[Tensor] = []  # node of each child, or 0
        parents = torch.zeros(len(colours.values[0]), dtype=torch.int64)
        count = 1
        for c in range(len(colours.values)):
            values = torch.from_numpy(colours.values[c])
            shares = torch.zeros(count, 256, dtype=torch.int64)
            nodes = torch.zeros(count, 256, dtype=torch.int64)
            shares[parents, values] = torch.from_numpy(colours.weights[c])
            nodes[parents, values] = torch.arange(len(values))
            self.shares.append(shares.to(device))
            self.nodes.append(nodes.to(device))
            first, count = torch.from_numpy(colours.first[c]), len(values)
            if c + 1 < len(colours.values):
                parents = torch.repeat_interleave(torch.arange(count), first[1:] - first[:-1])


def part_weights(logits: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """(q, weights) int64 [P, PARTS]: q is 0 for what is not there, weights sum to 2^16."""
    values = torch.where(valid, logits.double(), torch.full_like(logits, -1e30).double())
    top = values.amax(-1, keepdim=True)
    index = torch.arange(PARTS, device=logits.device).expand(values.shape)
    best = torch.where(values == top, index, torch.full_like(index, 255)).amin(-1, keepdim=True)
    q = (functions.exp(values - top) * 65536.0).round().long() + 1
    q = torch.where(valid, q, torch.zeros_like(q))
    weights = torch.div(q << _BITS, q.sum(-1, keepdim=True), rounding_mode="floor")
    rest = (1 << _BITS) - weights.sum(-1, keepdim=True)
    weights = weights.scatter_add(-1, best, rest)
    # the network's own part keeps at least 1, at the cost of the largest of the others
    others = weights[:, 1:]
    top_weight = others.amax(-1, keepdim=True)
    index = torch.arange(1, PARTS, device=logits.device).expand(others.shape)
    best = torch.where(others == top_weight, index, torch.full_like(index, 255)).amin(
        -1, keepdim=True
    )
    lack = (weights[:, :1] == 0).long()
    weights = weights.scatter_add(-1, best, lack.neg())
    return q, torch.cat([weights[:, :1] + lack, weights[:, 1:]], 1)


class Pixels:
    """The head of a set of pixels, channel after channel: the coding order of each pixel."""

    def __init__(
        self, outputs: Tensor, predictors: Tensor, found: Proposals, colours: DenseColours,
        mixtures: int,
    ) -> None:  # fmt: skip
        self.outputs, self.predictors, self.found = outputs, predictors, found
        self.colours, self.mixtures, self.channels = colours, mixtures, predictors.shape[1]
        at = 3 * mixtures * self.channels + self.channels * (self.channels - 1) // 2
        logits = outputs[:, at : at + PARTS]
        logits = torch.cat([logits[:, :2], logits[:, 2:] + found.offsets], 1)
        lead = torch.tensor([True, colours.on], device=outputs.device).expand(len(outputs), 2)
        self.q, self.weights = part_weights(logits, torch.cat([lead, found.valid], 1))
        self.residuals: list[Tensor] = []
        self.node = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
        self._channel: Channel | None = None
        self._prefix: Tensor | None = None

    def channel(self) -> Channel:
        """The mixture of the current channel."""
        if self._channel is None:
            self._channel = Channel(
                self.outputs, len(self.residuals), self.channels, self.mixtures, self.residuals
            )
        return self._channel

    def prefix(self) -> Tensor:
        """int64 [P, 257]: mass of the seen values below each value of the current channel."""
        if self._prefix is None:
            channel, c = self.channel(), len(self.residuals)
            value = torch.zeros_like(self.node)
            edges = torch.stack(
                [channel.cumulative(value + v, self.predictors[:, c]) for v in range(257)], 1
            )
            shares = self.colours.shares[c][self.node]
            mass = (((edges[:, 1:] - edges[:, :-1]) >> 12) + 1) * shares
            start = torch.zeros_like(mass[:, :1])
            self._prefix = torch.cat([start, mass.cumsum(1)], 1)
        return self._prefix

    def seen(self, value: Tensor) -> Tensor:
        """Mass of seen values below `value` in 2^-32; 0 where the component is off."""
        if not self.colours.on:
            return torch.zeros_like(value)
        prefix = self.prefix()
        total = prefix[:, -1].clamp(min=1)
        below = prefix.gather(1, value.unsqueeze(1))[:, 0]
        return torch.div(below << 23, total, rounding_mode="floor") << 9

    def edges(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(cumulative at 2^20, mixture mass, seen mass at 2^32) below `value`."""
        c = len(self.residuals)
        mixture = self.channel().cumulative(value, self.predictors[:, c])
        seen = self.seen(value)
        total = self.weights[:, 0] * mixture + self.weights[:, 1] * seen
        below = (self.found.values[:, :, c] < value.unsqueeze(1)).long()
        total = total + ((self.weights[:, 2:] << 32) * below).sum(1)
        return value + (((total >> 16) * _FREE) >> 32), mixture, seen

    def take(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """(start, frequency) of `value` int64 [P]; moves on to the next channel."""
        first, low, seen_low = self.edges(value)
        last, high, seen_high = self.edges(value + 1)
        c = len(self.residuals)
        hit = (self.found.values[:, :, c] == value.unsqueeze(1)).long()
        seen = (self.weights[:, 1] * (seen_high - seen_low)) >> 16
        total = ((self.weights[:, 0] * (high - low)) >> 16) + 1 + seen
        total = (total + ((self.weights[:, 2:] << 16) * hit).sum(1)).unsqueeze(1)
        kept = torch.div(self.weights[:, 2:] << 32, total, rounding_mode="floor") * hit
        kept_seen = torch.div((seen << 16).unsqueeze(1), total, rounding_mode="floor")
        rest = (1 << 16) - kept.sum(1, keepdim=True) - kept_seen
        self.weights = torch.cat([rest, kept_seen, kept], 1)
        if self.colours.on:
            self.node = self.colours.nodes[c][self.node, value]
        self.residuals.append(value - self.predictors[:, c])
        self._channel = self._prefix = None
        return first, last - first

    def find(self, slot: Tensor) -> Tensor:
        """The value whose interval holds `slot` (int64 [P], 0 to 2^20 - 1)."""
        return find_value(slot, lambda value: self.edges(value)[0])


def intervals(head: Pixels, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(start, frequency) int64 [P, c] of pixels int64 [P, c] at 2^-20."""
    taken = [head.take(pixels[:, c]) for c in range(head.channels)]
    return torch.stack([t[0] for t in taken], 1), torch.stack([t[1] for t in taken], 1)


def gradient(head: Pixels, pixels: Tensor) -> Tensor:
    """d(-ln P(pixel))/d(outputs) f32 [P, outputs]: the bits of `memory_head.gradient_rows`."""
    outputs, channels = head.outputs, head.channels
    copy_at = 3 * head.mixtures * channels + channels * (channels - 1) // 2
    out = torch.zeros(outputs.shape, dtype=torch.float64, device=outputs.device)
    weight = head.q.double() / head.q.sum(1, keepdim=True).double()
    product = torch.ones(len(pixels), dtype=torch.float64, device=outputs.device)
    seen = torch.full_like(product, 1.0 if head.colours.on else 0.0)
    terms: list[ChannelTerms] = []
    for c in range(channels):
        terms.append(channel_terms(head.channel(), pixels[:, c], head.predictors[:, c]))
        if head.colours.on:
            prefix = head.prefix()
            value = pixels[:, c : c + 1]
            part = (prefix.gather(1, value + 1) - prefix.gather(1, value))[:, 0]
            seen = seen * (part.double() / prefix[:, -1].clamp(min=1).double())
        product = product * (terms[c].mixed + _FLOOR)
        head.take(pixels[:, c])
    hits = [weight[:, 0] * product, weight[:, 1] * seen]
    likelihood = hits[0] + hits[1]
    for m in range(COMPONENTS):
        hit = (head.found.values[:, m] == pixels).all(1) & head.found.valid[:, m]
        hits.append(torch.where(hit, weight[:, m + 2], torch.zeros_like(product)))
        likelihood = likelihood + hits[-1]
    for m in range(PARTS):
        out[:, copy_at + m] = weight[:, m] - hits[m] / likelihood
    channel_gradients(out, terms, hits[0] / likelihood)
    return out.float()
