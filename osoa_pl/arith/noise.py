"""Counter-based noise: element i of a draw is a hash of (i, key), the same on every device.

There is no hidden state and no order of calls. Keys are derived from a seed and counters (batch,
layer, ...); a draw with the same key and length gives the same values for ever. The mixing
constants are those of the 32-bit finaliser "lowbias32" of C. Wellons' hash prospector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from osoa_pl.arith.functions import inverse_normal_cdf
from osoa_pl.errors import UsageError

_WORD = 0xFFFFFFFF
_GOLDEN = 0x9E3779B1
_FIRST = 0x21F0AAAD
_SECOND = 0x735A2D97
# elements hashed at once: the int64 temporaries of a block stay in the second-level cache
_BLOCK = 1 << 15


def mix(index: int, key: int) -> int:
    """32-bit hash of one counter under one key, both taken modulo 2^32.

    >>> hex(mix(0, 1))
    '0x86d2fa73'
    """
    h = (index * _GOLDEN + key) & _WORD
    h ^= h >> 16
    h = (h * _FIRST) & _WORD
    h ^= h >> 15
    h = (h * _SECOND) & _WORD
    return h ^ (h >> 15)


def derive_key(seed: int, *counters: int) -> int:
    """Key for the draw named by `counters` (batch, layer, ...) under `seed`; 0 to 2^32 - 1.

    Starts from seed modulo 2^32 and hashes one counter after the other, so that
    derive_key(s, a, b) == mix(b, derive_key(s, a)).
    """
    key = seed & _WORD
    for counter in counters:
        key = mix(counter, key)
    return key


def bits(key: int, n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """int64 (n,): the 32-bit hashes of the counters 0..n-1 under `key`.

    Raises UsageError for a negative `n` or one above 2^31 (products must stay below 2^63).
    """
    if not 0 <= n <= 1 << 31:
        raise UsageError(f"noise: found {n} values asked for (expected 0 to 2^31)")
    out = torch.empty(n, dtype=torch.int64, device=device)
    for block, start in _blocks(key, n, device):
        out[start : start + block.numel()] = block
    return out


def uniform(key: int, n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """float32 (n,): uniform draws ((h >> 12) + 0.5) * 2^-20, exact, never 0 or 1."""
    if not 0 <= n <= 1 << 31:
        raise UsageError(f"noise: found {n} values asked for (expected 0 to 2^31)")
    out = torch.empty(n, dtype=torch.float32, device=device)
    for block, start in _blocks(key, n, device):
        out[start : start + block.numel()] = block.bitwise_right_shift_(12)
    return out.add_(0.5).mul_(2.0**-20)


def normal(key: int, n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """float32 (n,): standard normal draws, the inverse CDF of `uniform` (so |x| < 5)."""
    u = uniform(key, n, device=device)
    return inverse_normal_cdf(u.to(torch.float64)).to(torch.float32)


def _blocks(key: int, n: int, device: torch.device | str):  # type: ignore[no-untyped-def]
    """Yield (hashes of one block, its start); the block's storage is used again for the next."""
    size = min(n, _BLOCK if torch.device(device).type == "cpu" else n)
    if size == 0:
        return
    base = torch.arange(size, dtype=torch.int64, device=device).mul_(_GOLDEN)
    h, shifted = torch.empty_like(base), torch.empty_like(base)
    for start in range(0, n, size):
        count = min(size, n - start)
        if count < size:
            base, h, shifted = base[:count], h[:count], shifted[:count]
        # base < 2^63 - 2^33 and the offset < 2^32, so the sum does not wrap before the mask
        torch.add(base, (start * _GOLDEN + key) & _WORD, out=h)
        h.bitwise_and_(_WORD)
        torch.bitwise_right_shift(h, 16, out=shifted)
        h.bitwise_xor_(shifted).mul_(_FIRST).bitwise_and_(_WORD)
        torch.bitwise_right_shift(h, 15, out=shifted)
        h.bitwise_xor_(shifted).mul_(_SECOND).bitwise_and_(_WORD)
        torch.bitwise_right_shift(h, 15, out=shifted)
        yield h.bitwise_xor_(shifted), start
