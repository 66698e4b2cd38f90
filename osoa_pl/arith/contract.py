"""Exact contractions: y = RNE_float32(sum of products of integers) * scale.

Operands are integer-valued float32 tensors (see `quantize`), so the sum is an integer and has one
value; it is rounded once to float32, to nearest even, then multiplied by `scale`, a power of two.
Which kernel sums is free: float32 where no partial sum can leave +-2^24 (a bound on shapes, else
an exact test of absolute sums), chunks of float32 added in float64, float64 up to 2^53, or int8.

`bits` are the magnitudes of the two operands in the order of the arguments: |x| <= 2^bits[0],
|w| <= 2^bits[1]. They are a promise of the caller; None measures them.
The sign of a zero result is not part of the definition.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from osoa_pl.arith import engines
from osoa_pl.arith.quantize import largest_magnitude
from osoa_pl.errors import PortabilityError, UsageError

Bits = tuple[int, int]
Scale = Tensor | float
_INT8_BITS, _INT8_TERMS = 7, 1 << 16  # int32 sums of products below 2^14
_MOST_CUTS = 3  # with more runs of terms one float64 product is as fast
_MIN_ROWS = 64  # chunks of fewer rows cost more than one float64 product
_WIDE = torch.float64


@torch.no_grad()
def linear(x: Tensor, w: Tensor, scale: Scale, *, bits: Bits | None = None) -> Tensor:
    """y[..., o] = RNE(sum over k of x[..., k] * w[o, k]) * scale.

    Shapes: x (..., k), w (o, k), y (..., o), all float32.
    Raises UsageError for other shapes or dtypes, PortabilityError where no engine is exact.
    """
    check_operands(x, w, x.dim() >= 1 and w.dim() == 2 and x.shape[-1:] == w.shape[1:], "linear")
    rows = x.reshape(x.shape[:-1].numel(), w.shape[1])
    y = _product(rows, w.t(), bits or measured_bits(x, w), "linear")
    return y.mul_(scale).view(*x.shape[:-1], w.shape[0])


@torch.no_grad()
def linear_grad_input(g: Tensor, w: Tensor, scale: Scale, *, bits: Bits | None = None) -> Tensor:
    """y[..., k] = RNE(sum over o of g[..., o] * w[o, k]) * scale.

    Shapes: g (..., o), w (o, k), y (..., k), all float32. Raises as `linear`.
    """
    fits = g.dim() >= 1 and w.dim() == 2 and g.shape[-1:] == w.shape[:1]
    check_operands(g, w, fits, "linear_grad_input")
    rows = g.reshape(g.shape[:-1].numel(), w.shape[0])
    y = _product(rows, w, bits or measured_bits(g, w), "linear_grad_input")
    return y.mul_(scale).view(*g.shape[:-1], w.shape[1])


@torch.no_grad()
def linear_grad_weight(g: Tensor, x: Tensor, scale: Scale, *, bits: Bits | None = None) -> Tensor:
    """y[o, k] = RNE(sum over all rows p of g[p, o] * x[p, k]) * scale.

    Shapes: g (..., o), x (..., k) with equal leading axes, y (o, k), all float32.
    Raises as `linear`.
    """
    check_operands(g, x, g.dim() >= 1 and g.shape[:-1] == x.shape[:-1], "linear_grad_weight")
    count = g.shape[:-1].numel()
    rows_g, rows_x = g.reshape(count, g.shape[-1]), x.reshape(count, x.shape[-1])
    return _row_sum(rows_g, rows_x, bits or measured_bits(g, x)).mul_(scale)


@torch.no_grad()
def bias_gradient(g: Tensor, scale: Scale, *, axis: int = -1) -> Tensor:
    """y[o] = RNE(sum over all axes but `axis` of g) * scale; g integer-valued float32."""
    axes = [a for a in range(g.dim()) if a != axis % g.dim()]
    total = g.sum(axes, dtype=_WIDE) if axes else g.to(_WIDE)
    return total.to(torch.float32).mul_(scale)


def _product(a: Tensor, b: Tensor, bits: Bits, operation: str) -> Tensor:
    """RNE(a @ b) for a (p, k), b (k, o) integer-valued; |a| <= 2^bits[0], |b| <= 2^bits[1]."""
    terms = a.shape[1]
    if a.numel() == 0 or b.numel() == 0:
        return a.new_zeros(a.shape[0], b.shape[1])
    if _int8_is_exact(terms, bits, a.device):
        with engines.exact_kernels():
            return torch._int_mm(a.to(torch.int8), b.to(torch.int8).contiguous()).to(torch.float32)
    cuts = None
    if single_is_exact(operation, a.device):
        if terms << sum(bits) <= engines.FLOAT32_EXACT:
            cuts = [(0, terms)]
        else:
            cuts = exact_cuts(b.abs(), bits[0], _MOST_CUTS)
    with engines.exact_kernels():
        if cuts is not None and len(cuts) == 1:
            return a @ b
        check_double(operation, terms, bits, a.device)
        if cuts is None:
            return (a.to(_WIDE) @ b.to(_WIDE)).to(torch.float32)
        total = torch.zeros(a.shape[0], b.shape[1], dtype=_WIDE, device=a.device)
        for begin, end in cuts:
            total += a[:, begin:end] @ b[begin:end]
        return total.to(torch.float32)


def exact_cuts(magnitudes: Tensor, bits: int, most: int) -> list[tuple[int, int]] | None:
    """Cut the terms into runs whose float32 sums stay exact, or None where `most` do not do.

    Shapes: `magnitudes` (terms, outputs), the absolute values of one operand (or their sums over
    what is never cut); the other operand has `bits` bits.
    """
    sums = magnitudes.to(_WIDE).cumsum(0).cpu().numpy()
    limit = engines.FLOAT32_EXACT * 2.0**-bits
    cuts: list[tuple[int, int]] = []
    begin, before = 0, np.zeros_like(sums[0])
    while begin < len(sums):
        end = begin + int(((sums[begin:] - before).max(1) <= limit).sum())
        if end == begin or len(cuts) == most:
            return None
        cuts.append((begin, end))
        begin, before = end, sums[end - 1]
    return cuts


def _row_sum(g: Tensor, x: Tensor, bits: Bits) -> Tensor:
    """RNE(g^T @ x) for g (p, o), x (p, k) integer-valued: float32 chunks added in float64."""
    rows = g.shape[0]
    if g.numel() == 0 or x.numel() == 0:
        return g.new_zeros(g.shape[1], x.shape[1])
    if _int8_is_exact(rows, bits, g.device):
        with engines.exact_kernels():
            left, right = g.to(torch.int8).t().contiguous(), x.to(torch.int8)
            return torch._int_mm(left, right).to(torch.float32)
    chunk = 0
    if single_is_exact("linear_grad_weight", g.device):
        chunk = _chunk_rows(g, bits)
    with engines.exact_kernels():
        if chunk >= rows:
            return g.t() @ x
        if not chunk:
            check_double("linear_grad_weight", rows, bits, g.device)
            return (g.t().to(_WIDE) @ x.to(_WIDE)).to(torch.float32)
        check_double("linear_grad_weight", rows, bits, g.device)
        whole = rows // chunk * chunk
        stacked_g = g[:whole].reshape(-1, chunk, g.shape[1]).transpose(1, 2)
        stacked_x = x[:whole].reshape(-1, chunk, x.shape[1])
        total = torch.bmm(stacked_g, stacked_x).sum(0, dtype=_WIDE)
        if whole < rows:
            total += (g[whole:].t() @ x[whole:]).to(_WIDE)
        return total.to(torch.float32)


def _chunk_rows(g: Tensor, bits: Bits) -> int:
    """Most rows (a power of two) whose products surely sum exactly in float32; 0 for too few."""
    rows, sure = g.shape[0], engines.FLOAT32_EXACT >> sum(bits)
    if rows <= sure:
        return rows
    chunk = max(sure, _MIN_ROWS)
    blocks = -(-rows // chunk)
    padded = g.new_zeros(blocks * chunk, g.shape[1])
    torch.abs(g, out=padded[:rows])
    sums = padded.view(blocks, chunk, -1).sum(1, dtype=_WIDE)
    limit = engines.FLOAT32_EXACT * 2.0 ** -bits[1]
    if chunk > sure and not bool((sums.amax() <= limit).item()):
        return 0
    while chunk < rows:
        if sums.shape[0] % 2:
            sums = torch.cat([sums, torch.zeros_like(sums[:1])])
        sums = sums[0::2] + sums[1::2]
        if not bool((sums.amax() <= limit).item()):
            return chunk
        chunk *= 2
    return chunk


def measured_bits(a: Tensor, b: Tensor) -> Bits:
    """Magnitudes in bits of two integer-valued operands."""
    found = []
    for operand in (a, b):
        largest = float(largest_magnitude(operand).item())
        found.append(int(largest).bit_length() if np.isfinite(largest) else 20)
    return found[0], found[1]


def check_operands(a: Tensor, b: Tensor, shapes_fit: bool, operation: str) -> None:
    """Raise UsageError unless both operands are float32 and their shapes fit."""
    if a.dtype != torch.float32 or b.dtype != torch.float32 or not shapes_fit:
        raise UsageError(
            f"{operation}: found {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)} "
            "(expected float32 operands of matching shapes)"
        )


def single_is_exact(operation: str, device: torch.device) -> bool:
    """Whether float32 products may be used here: not forbidden, and known answers passed."""
    return engines.chosen_engine() != "float64" and engines.is_exact(
        operation, "float32", device, (), lambda d: probe_product(d, torch.float32, operation)
    )


def check_double(operation: str, terms: int, bits: Bits, device: torch.device) -> None:
    """Raise PortabilityError unless float64 sums of that many products are exact here."""
    if terms << sum(bits) > engines.FLOAT64_EXACT:
        raise PortabilityError(
            f"{operation}: {terms} products of {bits[0]} by {bits[1]} bits (expected at most 2^53)"
        )
    if not engines.is_exact(
        operation, "float64", device, (), lambda d: probe_product(d, _WIDE, operation)
    ):
        raise PortabilityError(f"{operation}: float64 products are not exact on {device}")


def _int8_is_exact(terms: int, bits: Bits, device: torch.device) -> bool:
    if engines.chosen_engine() != "int8" or max(bits) > _INT8_BITS or terms > _INT8_TERMS:
        return False
    return device.type == "cpu" and engines.is_exact("linear", "int8", device, (), _probe_int8)


# shapes of known answers: odd, single, thin, and multiples of every vector width
_PROBED = ((37, 67, 19), (256, 64, 64), (1, 128, 1), (3, 16, 96), (1024, 64, 32), (2, 512, 5))


def probe_product(device: torch.device, dtype: torch.dtype, operation: str) -> bool:
    """Known answers of the matrix product behind `operation`, each as large as float32 allows."""
    for p, k, o in _PROBED:
        for seed in range(3):
            # 2^13 * 2^(11 - log2 k): uneven operands that bfloat16 and TF32 cannot hold
            a = engines.extreme((p, k), (1 << 13) - 1, seed)
            b = engines.extreme((k, o), max(2048 // k - 1, 1), seed and seed + 5)
            expected = (a.to(torch.int64) @ b.to(torch.int64)).to(_WIDE)
            left, right = a.to(device, dtype), b.to(device, dtype)
            if operation == "linear":
                found = left @ right.t().contiguous().t()
            elif operation == "linear_grad_weight":
                columns = left.t().contiguous()
                found = columns.t() @ right
                stacked = torch.stack([columns, columns.neg()]).transpose(1, 2)
                both = torch.bmm(stacked, torch.stack([right, right]))
                if not torch.equal(both[1].cpu().to(_WIDE), expected.neg()):
                    return False
            else:
                found = left @ right
            if not torch.equal(found.cpu().to(_WIDE), expected):
                return False
    return True


def _probe_int8(device: torch.device) -> bool:
    for p, k, o in _PROBED:
        for seed in range(3):
            a = engines.extreme((p, k), 127, seed)
            b = engines.extreme((k, o), 127, seed and seed + 5)
            for x, y in ((a, b), (a.neg(), b), (a, b.neg())):
                expected = x.to(torch.int64) @ y.to(torch.int64)
                found = torch._int_mm(x.to(device, torch.int8), y.to(device, torch.int8))
                if not torch.equal(found.cpu().to(torch.int64), expected):
                    return False
    return True
