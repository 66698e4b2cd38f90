"""The output head in torch: the eager reference of `compiled_head`, and a differentiable form.

`intervals`, `decode_values` and `gradient` repeat the compiled head operation by operation with
int64 and float64 tensors (portable functions, one eager operation each) on any device.
`negative_log_likelihood` is the native form: autograd through torch's own functions, for research
and as a check of `gradient`; it decides no bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from osoa_pl.arith import functions

PRECISION = 20
_EDGE = 204800
_FLOOR = 2.0**-20
_FREE = (1 << PRECISION) - 256
COPIES = 6
_Terms = tuple[Tensor, Tensor, Tensor]


def softmax_integers(logits: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(q, weights) int64 [P, n]: q = rne(2^16 e^(l - max)) + 1, weights of exact sum 2^bits."""
    values = logits.double()
    top = values.amax(-1, keepdim=True)
    index = torch.arange(values.shape[-1], device=values.device).expand(values.shape)
    best = torch.where(values == top, index, torch.full_like(index, 255)).amin(-1, keepdim=True)
    q = (functions.exp(values - top) * 65536.0).round().long() + 1
    weights = torch.div(q << bits, q.sum(-1, keepdim=True), rounding_mode="floor")
    rest = (1 << bits) - weights.sum(-1, keepdim=True)
    return q, weights.scatter_add(-1, best, rest)


class Channel:
    """One channel's mixture for all pixels: means and inverse scales in float64 and fixed point."""

    def __init__(self, outputs: Tensor, channel: int, channels: int, mixtures: int,
                 residuals: list[Tensor]) -> None:  # fmt: skip
        at = 3 * mixtures * channel
        coupling = 3 * mixtures * channels + channel * (channel - 1) // 2
        o = outputs.double()
        self.q, self.weights = softmax_integers(outputs[:, at : at + mixtures], 14)
        raw = o[:, at + mixtures : at + 2 * mixtures] * 16.0
        for e in range(channel):
            product = o[:, coupling + e] * residuals[e].double()
            raw = raw + product.unsqueeze(1)
        self.raw_mean = raw
        self.raw_scale = o[:, at + 2 * mixtures : at + 3 * mixtures]
        self.mean = raw.clamp(-1024.0, 1024.0)
        self.inverse = functions.exp(self.raw_scale.clamp(-4.0, 6.0).neg())
        self.mean_fixed = (self.mean * 1024.0).round().long()
        self.inverse_fixed = (self.inverse * 65536.0).round().long()

    def cumulative(self, value: Tensor, predictor: Tensor) -> Tensor:
        """Mass of values below `value` (int64 [P]) in units of 2^-32."""
        table = functions.sigmoid_table().to(value.device)
        table = torch.cat([table, table[-1:]]).long()
        edge = ((2 * value - 1) * 512 - predictor * 1024).unsqueeze(1)
        z = ((edge - self.mean_fixed) * self.inverse_fixed) >> 12
        z = z.clamp(-_EDGE, _EDGE) + _EDGE
        index = z >> 8
        low = table[index]
        step = ((table[index + 1] - low) * (z & 255)) >> 8
        total = (self.weights * (low + step)).sum(1)
        total = torch.where(value <= 0, torch.zeros_like(total), total)
        return torch.where(value >= 256, torch.full_like(total, 1 << 32), total)


def cumulative(value: Tensor, mixture: Tensor, copy_weights: Tensor, copies: Tensor) -> Tensor:
    """Integer CDF at 2^20 (int64 [P]); copies int64 [P, 6] are the candidates of this channel."""
    below = (copies < value.unsqueeze(1)).long()
    total = copy_weights[:, 0] * mixture + ((copy_weights[:, 1:] << 32) * below).sum(1)
    return value + (((total >> 16) * _FREE) >> 32)


def update_copies(value: Tensor, mass: Tensor, copy_weights: Tensor, copies: Tensor) -> Tensor:
    """Bayes' rule on the copy weights int64 [P, 7] after a channel took `value`."""
    hit = (copies == value.unsqueeze(1)).long()
    total = ((copy_weights[:, 0] * mass) >> 16) + 1 + ((copy_weights[:, 1:] << 16) * hit).sum(1)
    kept = torch.div(copy_weights[:, 1:] << 32, total.unsqueeze(1), rounding_mode="floor") * hit
    return torch.cat([(1 << 16) - kept.sum(1, keepdim=True), kept], 1)


def find_value(slot: Tensor, edge: Callable[[Tensor], Tensor]) -> Tensor:
    """The largest value 0 to 255 whose lower edge is not above `slot`, int64 [P], by bisection."""
    low, high = torch.zeros_like(slot), torch.full_like(slot, 256)
    for _ in range(8):
        middle = (low + high) >> 1
        below = edge(middle) <= slot
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


class Pixels:
    """The head of a set of pixels, channel after channel: the coding order of each pixel."""

    def __init__(self, outputs: Tensor, predictors: Tensor, copies: Tensor, mixtures: int) -> None:
        self.outputs, self.predictors, self.copies = outputs, predictors, copies
        self.mixtures, self.channels = mixtures, predictors.shape[1]
        at = 3 * mixtures * self.channels + self.channels * (self.channels - 1) // 2
        self.copy_weights = softmax_integers(outputs[:, at : at + COPIES + 1], 16)[1]
        self.residuals: list[Tensor] = []
        self._channel: Channel | None = None

    def _current(self) -> tuple[Channel, int]:
        c = len(self.residuals)
        if self._channel is None:
            self._channel = Channel(self.outputs, c, self.channels, self.mixtures, self.residuals)
        return self._channel, c

    def edges(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """(cumulative at 2^20, mixture mass at 2^32) below `value` of the current channel."""
        channel, c = self._current()
        mixture = channel.cumulative(value, self.predictors[:, c])
        return cumulative(value, mixture, self.copy_weights, self.copies[:, :, c]), mixture

    def take(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """(start, frequency) of `value` int64 [P]; moves on to the next channel."""
        first, low = self.edges(value)
        last, high = self.edges(value + 1)
        c = len(self.residuals)
        self.copy_weights = update_copies(
            value, high - low, self.copy_weights, self.copies[:, :, c]
        )
        self.residuals.append(value - self.predictors[:, c])
        self._channel = None
        return first, last - first

    def find(self, slot: Tensor) -> Tensor:
        """The value whose interval holds `slot` (int64 [P], 0 to 2^20 - 1)."""
        return find_value(slot, lambda value: self.edges(value)[0])


def intervals(
    outputs: Tensor, pixels: Tensor, predictors: Tensor, copies: Tensor, mixtures: int
) -> tuple[Tensor, Tensor]:
    """(start, frequency) int64 [P, c] of pixels int64 [P, c] at 2^-20."""
    head = Pixels(outputs, predictors, copies, mixtures)
    taken = [head.take(pixels[:, c]) for c in range(head.channels)]
    return torch.stack([t[0] for t in taken], 1), torch.stack([t[1] for t in taken], 1)


def _edge_terms(z: Tensor) -> _Terms:
    """sigmoid(z), 1 - sigmoid(z), sigmoid'(z) in float64."""
    t = functions.exp(z.abs().neg())
    r = torch.ones_like(t) / (t + 1.0)
    s = t * r
    return torch.where(z > 0.0, r, s), torch.where(z > 0.0, s, r), r * s


def _where_all(condition: Tensor, given: _Terms, otherwise: _Terms) -> _Terms:
    a, b, c = (torch.where(condition, g, o) for g, o in zip(given, otherwise, strict=True))
    return a, b, c


@dataclass
class ChannelTerms:
    """One channel's mixture at the pixels' values, float64: what its gradient is made of.

    weight, mass, to_mean, to_scale [P, K]; mixed [P]: its probability.
    """

    channel: Channel
    residual: Tensor
    weight: Tensor
    mass: Tensor
    to_mean: Tensor
    to_scale: Tensor
    mixed: Tensor


def channel_terms(channel: Channel, value: Tensor, predictor: Tensor) -> ChannelTerms:
    """The terms of int64 values [P]."""
    residual = value - predictor
    value = value.unsqueeze(1)
    d = residual.double().unsqueeze(1) - channel.mean
    high, low = (d + 0.5) * channel.inverse, (d - 0.5) * channel.inverse
    upper, lower = _edge_terms(high), _edge_terms(low)
    zero, one = torch.zeros_like(d), torch.ones_like(d)
    upper = _where_all(value == 255, (one, zero, zero), upper)
    lower = _where_all(value == 0, (zero, one, zero), lower)
    mass = torch.where(d > 0.0, lower[1] - upper[1], upper[0] - lower[0])
    weight = channel.q.double() / channel.q.sum(1, keepdim=True).double()
    to_mean = (lower[2] - upper[2]) * channel.inverse
    to_scale = low * lower[2] - high * upper[2]
    mixed = torch.zeros_like(d[:, 0])
    for k in range(d.shape[1]):
        mixed = mixed + weight[:, k] * mass[:, k]
    return ChannelTerms(channel, residual, weight, mass, to_mean, to_scale, mixed)


def channel_gradients(out: Tensor, terms: list[ChannelTerms], share: Tensor) -> None:
    """Write the columns of all channels' mixtures: `share` float64 [P] of each pixel is theirs."""
    channels, mixtures = len(terms), terms[0].mass.shape[1]
    coupling_at = 3 * mixtures * channels
    for c, t in enumerate(terms):
        at = 3 * mixtures * c
        f = (share / (t.mixed + _FLOOR)).unsqueeze(1) * t.weight
        out[:, at : at + mixtures] = f * (t.mixed.unsqueeze(1) - t.mass)
        g = f * t.to_mean.neg()
        g = torch.where(t.channel.raw_mean.abs() < 1024.0, g, torch.zeros_like(g))
        shift = torch.zeros_like(share)
        for k in range(mixtures):
            shift = shift + g[:, k]
        out[:, at + mixtures : at + 2 * mixtures] = g * 16.0
        g = f * t.to_scale.neg()
        inside = (t.channel.raw_scale > -4.0) & (t.channel.raw_scale < 6.0)
        out[:, at + 2 * mixtures : at + 3 * mixtures] = torch.where(inside, g, torch.zeros_like(g))
        for e in range(c):
            column = coupling_at + c * (c - 1) // 2 + e
            out[:, column] = shift * terms[e].residual.double()


def gradient(
    outputs: Tensor, pixels: Tensor, predictors: Tensor, copies: Tensor, mixtures: int
) -> Tensor:
    """d(-ln P(pixel))/d(outputs) f32 [P, outputs]: the bits of `compiled_head.gradient_rows`."""
    channels = predictors.shape[1]
    copy_at = 3 * mixtures * channels + channels * (channels - 1) // 2
    out = torch.zeros(outputs.shape, dtype=torch.float64, device=outputs.device)
    q = softmax_integers(outputs[:, copy_at : copy_at + COPIES + 1], 16)[0]
    copy_weight = q.double() / q.sum(1, keepdim=True).double()
    terms: list[ChannelTerms] = []
    product = torch.ones(len(pixels), dtype=torch.float64, device=outputs.device)
    for c in range(channels):
        channel = Channel(outputs, c, channels, mixtures, [t.residual for t in terms])
        terms.append(channel_terms(channel, pixels[:, c], predictors[:, c]))
        product = product * (terms[c].mixed + _FLOOR)
    hits = [copy_weight[:, 0] * product]
    likelihood = hits[0]
    for m in range(COPIES):
        hit = (copies[:, m] == pixels).all(1)
        hits.append(torch.where(hit, copy_weight[:, m + 1], torch.zeros_like(product)))
        likelihood = likelihood + hits[-1]
    for m in range(COPIES + 1):
        out[:, copy_at + m] = copy_weight[:, m] - hits[m] / likelihood
    channel_gradients(out, terms, hits[0] / likelihood)
    return out.float()


def negative_log_likelihood(
    outputs: Tensor, pixels: Tensor, predictors: Tensor, copies: Tensor, mixtures: int
) -> Tensor:
    """-ln P(pixel), shape [P] in the dtype of outputs, differentiable; native, not portable."""
    channels = predictors.shape[1]
    at = 3 * mixtures * channels + channels * (channels - 1) // 2
    log_copy = F.log_softmax(outputs[:, at : at + COPIES + 1], -1)
    total = log_copy[:, 0] + log_mixture(outputs, pixels, predictors, mixtures)
    hit = (copies == pixels.unsqueeze(1)).all(2)
    copied = torch.where(hit, log_copy[:, 1:], torch.full_like(log_copy[:, 1:], -80.0))
    return -torch.logsumexp(torch.cat([total.unsqueeze(1), copied], 1), 1)


def log_mixture(outputs: Tensor, pixels: Tensor, predictors: Tensor, mixtures: int) -> Tensor:
    """ln of what the channels' mixtures give to pixels, shape [P], differentiable; native."""
    channels = predictors.shape[1]
    residual = (pixels - predictors).to(outputs.dtype)
    total = torch.zeros_like(outputs[:, 0])
    for c in range(channels):
        o = outputs[:, 3 * mixtures * c : 3 * mixtures * (c + 1)]
        mean = o[:, mixtures : 2 * mixtures] * 16.0
        for e in range(c):
            column = 3 * mixtures * channels + c * (c - 1) // 2 + e
            mean = mean + outputs[:, column : column + 1] * residual[:, e : e + 1]
        inverse = torch.exp(-o[:, 2 * mixtures :].clamp(-4.0, 6.0))
        d = residual[:, c : c + 1] - mean.clamp(-1024.0, 1024.0)
        sign = torch.where(d > 0, -torch.ones_like(d), torch.ones_like(d))
        low = torch.sigmoid(sign * (d - 0.5) * inverse)
        high = torch.sigmoid(sign * (d + 0.5) * inverse)
        value = pixels[:, c : c + 1]
        open_low, open_high = (sign < 0).to(d.dtype), (sign > 0).to(d.dtype)
        low = torch.where(value == 0, open_low, low)
        high = torch.where(value == 255, open_high, high)
        mass = (F.softmax(o[:, :mixtures], -1) * (high - low).abs()).sum(1)
        total = total + torch.log(mass + _FLOOR)
    return total
