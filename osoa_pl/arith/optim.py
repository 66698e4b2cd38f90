"""Optimizers whose every step is separate IEEE-754 operations on one flat float32 vector.

torch's own optimizers fuse or reassociate (they differ with processor and thread count), so
nothing here calls them; square roots are `functions.sqrt`, not torch's. Bias corrections are
repeated products of Python doubles; constants are rounded to float32 before they meet a tensor. A
non-finite gradient skips the step on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from osoa_pl.arith import compiled
from osoa_pl.arith.functions import sqrt
from osoa_pl.errors import UsageError

_NORM_STEP_BITS = 20  # gradients enter the norm as multiples of 2^-20 ...
_NORM_SCALE = np.float32(2**_NORM_STEP_BITS)
_NORM_LIMIT = np.float32(2**22)  # ... saturating at +-4, so that a square needs at most 44 bits
_NORM_BLOCK = 1 << 18  # squares summed in int64 at once: 2^18 * 2^44 < 2^63


def flatten_parameters(parameters: Iterable[Tensor]) -> Tensor:
    """float32 (n,): one vector holding all parameters, which become views into it.

    The order is that of the iterable and part of the definition of a trajectory.
    Raises UsageError for a parameter that is not float32 or occurs twice.
    """
    listed = list(parameters)
    if len({id(p) for p in listed}) != len(listed):
        raise UsageError("flat parameters: found the same parameter twice")
    for p in listed:
        if p.dtype != torch.float32:
            raise UsageError(f"flat parameters: found {p.dtype} (expected torch.float32)")
    if not listed:
        return torch.zeros(0)
    flat = torch.cat([p.detach().reshape(-1) for p in listed])
    offset = 0
    for p in listed:
        p.data = flat[offset : offset + p.numel()].view(p.shape)
        offset += p.numel()
    return flat


def flat_gradient(parameters: Iterable[Tensor]) -> Tensor:
    """float32 (n,): the gradients in the order of `flatten_parameters`, zeros for missing ones."""
    parts = [
        (torch.zeros_like(p) if p.grad is None else p.grad).detach().reshape(-1) for p in parameters
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


class Adam:
    """Adam on one flat vector, changed in place.

    One step, each float32 operation rounded on its own (f32 rounds a double to float32)::

        c1 = c1 * b1; c2 = c2 * b2                       # Python doubles, both start at 1
        m = m * f32(b1) + g * f32(1 - b1)
        v = v * f32(b2) + (g * g) * f32(1 - b2)
        den = sqrt(v * f32(1 / (1 - c2))) + f32(eps)
        p = p - (m * f32(lr / (1 - c1))) / den

    With warm second moments (a checkpoint's), pass `second_moment` and
    `bias_correct_second=False`: the factor 1 / (1 - c2) is then 1.
    Shapes: `parameters`, `first_moment`, `second_moment` float32 (n,).
    Source: Kingma and Ba, Adam, arXiv:1412.6980, algorithm 1.
    """

    def __init__(
        self,
        parameters: Tensor,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        first_moment: Tensor | None = None,
        second_moment: Tensor | None = None,
        bias_correct_second: bool = True,
    ) -> None:
        _check_flat(parameters, "parameters", None)
        if not (0.0 <= betas[0] < 1.0 and 0.0 <= betas[1] < 1.0):
            raise UsageError(f"Adam: found betas {betas} (expected two values in [0, 1))")
        if not _float32(eps) > 0.0:
            raise UsageError(f"Adam: found eps {eps} (expected a positive float32)")
        self.parameters = parameters
        self.lr, self.betas, self.eps = lr, betas, eps
        self.bias_correct_second = bias_correct_second
        self.steps = 0
        self.correction1 = self.correction2 = 1.0
        self.first_moment = _moment(first_moment, parameters, "first moment")
        self.second_moment = _moment(second_moment, parameters, "second moment")

    @torch.no_grad()
    def step(self, gradient: Tensor) -> bool:
        """Apply one step; False and no change at all where the gradient is not finite."""
        _check_flat(gradient, "gradient", self.parameters)
        if not is_finite(gradient):
            return False
        b1, b2 = self.betas
        self.steps += 1
        self.correction1 *= b1
        self.correction2 *= b2
        factor = 1.0 / (1.0 - self.correction2) if self.bias_correct_second else 1.0
        rate = self.lr / (1.0 - self.correction1)
        if self.parameters.device.type == "cpu":
            tensors = (self.parameters, self.first_moment, self.second_moment, gradient)
            constants = (b1, 1.0 - b1, b2, 1.0 - b2, factor, self.eps, rate)
            compiled.adam_step(*(t.detach().numpy() for t in tensors), *map(np.float32, constants))
            return True
        m, v = self.first_moment, self.second_moment
        m.mul_(_float32(b1)).add_(gradient * _float32(1.0 - b1))
        v.mul_(_float32(b2)).add_((gradient * gradient).mul_(_float32(1.0 - b2)))
        den = sqrt(v * _float32(factor)).add_(_float32(self.eps))
        self.parameters.sub_((m * _float32(rate)).div_(den))
        return True

    def state_tensors(self) -> tuple[Tensor, ...]:
        """The tensors that, with `counters`, are the optimizer's whole adaptive state."""
        return self.first_moment, self.second_moment

    def counters(self) -> dict[str, float]:
        """Steps taken and the two bias corrections, exact as JSON numbers."""
        return {
            "steps": self.steps,
            "correction1": self.correction1,
            "correction2": self.correction2,
        }

    def load(self, tensors: Sequence[Tensor], counters: dict[str, float]) -> None:
        """Continue from what `state_tensors` and `counters` gave."""
        for own, given, name in zip(self.state_tensors(), tensors, _MOMENTS, strict=True):
            _check_flat(given, name, self.parameters)
            own.copy_(given)
        self.steps = int(counters["steps"])
        self.correction1 = float(counters["correction1"])
        self.correction2 = float(counters["correction2"])


class SGD:
    """Gradient descent on one flat vector: b = b * f32(momentum) + g; p = p - b * f32(lr).

    Without momentum b is g itself. Shapes: `parameters` float32 (n,), changed in place.
    """

    def __init__(self, parameters: Tensor, *, lr: float, momentum: float = 0.0) -> None:
        _check_flat(parameters, "parameters", None)
        if not 0.0 <= momentum < 1.0:
            raise UsageError(f"SGD: found momentum {momentum} (expected a value in [0, 1))")
        self.parameters = parameters
        self.lr, self.momentum = lr, momentum
        self.steps = 0
        self.buffer = torch.zeros_like(parameters) if momentum else None

    @torch.no_grad()
    def step(self, gradient: Tensor) -> bool:
        """Apply one step; False and no change at all where the gradient is not finite."""
        _check_flat(gradient, "gradient", self.parameters)
        if not is_finite(gradient):
            return False
        self.steps += 1
        if self.buffer is not None:
            gradient = self.buffer.mul_(_float32(self.momentum)).add_(gradient)
        self.parameters.sub_(gradient * _float32(self.lr))
        return True

    def state_tensors(self) -> tuple[Tensor, ...]:
        """The tensors that, with `counters`, are the optimizer's whole adaptive state."""
        return () if self.buffer is None else (self.buffer,)

    def counters(self) -> dict[str, float]:
        """Steps taken."""
        return {"steps": self.steps}

    def load(self, tensors: Sequence[Tensor], counters: dict[str, float]) -> None:
        """Continue from what `state_tensors` and `counters` gave."""
        for own, given in zip(self.state_tensors(), tensors, strict=True):
            _check_flat(given, "momentum", self.parameters)
            own.copy_(given)
        self.steps = int(counters["steps"])


_MOMENTS = ("first moment", "second moment")


def is_finite(x: Tensor) -> bool:
    """Whether every element of `x` is finite."""
    # x - x is +0 for finite values and NaN for the others, which compares unequal to zero
    return bool(((x - x) == 0).all().item())


def exact_norm(gradient: Tensor) -> float:
    """Euclidean norm of the gradient in fixed point, a double that no summation order changes.

    Elements are rounded to multiples of 2^-20 (ties to even) and saturate at +-4; the squares are
    summed as integers, and one correctly rounded square root is taken.
    Shapes: `gradient` float32 (n,), finite.
    """
    return _norm(_squared_sum(gradient) or 0)


def _norm(total: int) -> float:
    # a Python integer rounds to the nearest double, as the conversion from int64 does
    return float(np.sqrt(np.float64(total))) * 2.0**-_NORM_STEP_BITS


def _squared_sum(gradient: Tensor) -> int | None:
    """Sum of the squares in units of 2^-40, or None where an element is not finite."""
    total = 0
    for block in gradient.detach().split(_NORM_BLOCK):
        if gradient.device.type == "cpu":
            part = int(compiled.squared_sum(block.numpy(), _NORM_SCALE, _NORM_LIMIT))
            if part < 0:
                return None
        else:
            if not is_finite(block):
                return None
            fixed = (block * float(_NORM_SCALE)).clamp_(-_NORM_LIMIT, _NORM_LIMIT).round_()
            part = int(fixed.to(torch.int64).square_().sum().item())
        total += part
    return total


def clip_by_exact_norm(gradient: Tensor, limit: float) -> Tensor:
    """The gradient, times f32(limit / norm) where its `exact_norm` exceeds `limit`.

    A non-finite gradient comes back as it is (the optimizer then skips the step).
    Shapes: float32 (n,) in and out; the input is not changed.
    Raises UsageError where `limit` is not positive.
    """
    if not limit > 0.0:
        raise UsageError(f"gradient clipping: found limit {limit} (expected a positive number)")
    total = _squared_sum(gradient)
    if total is None:
        return gradient
    norm = _norm(total)
    return gradient * _float32(limit / norm) if norm > limit else gradient


def state_digest(*tensors: Tensor) -> bytes:
    """16 bytes: BLAKE2b over the tensors' values in C order, little-endian, -0.0 counted as +0.0.

    Shapes and dtypes are not part of the digest; NaN values make it meaningless.
    """
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        values = tensor.detach().cpu()
        if values.dtype.is_floating_point:
            values = values + 0.0
        array = np.ascontiguousarray(values.numpy())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.digest()


def _float32(value: float) -> float:
    return float(np.float32(value))


def _moment(given: Tensor | None, parameters: Tensor, name: str) -> Tensor:
    if given is None:
        return torch.zeros_like(parameters)
    _check_flat(given, name, parameters)
    return given.detach().clone()


def _check_flat(x: Tensor, name: str, like: Tensor | None) -> None:
    if x.dtype != torch.float32 or x.dim() != 1 or (like is not None and x.shape != like.shape):
        expected = "(n,)" if like is None else str(tuple(like.shape))
        raise UsageError(
            f"optimizer: found {name} {x.dtype} {tuple(x.shape)} (expected float32 {expected})"
        )
