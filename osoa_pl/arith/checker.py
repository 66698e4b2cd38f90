"""A guard for tests: fails on a torch operation that is not the same everywhere.

Only what IEEE-754 or integer arithmetic fixes is let through, each with the condition under which
it is fixed; products and convolutions only inside the guarded scope of `contract`. It sees torch
operations alone: compiled engines are compared with the eager path instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from osoa_pl.arith.engines import FLOAT32_EXACT, FLOAT64_EXACT, inside_exact_kernels
from osoa_pl.errors import PortabilityError


class OperationRefused(PortabilityError):
    """An operation whose result is not defined to the bit; the message names it."""


_ARITHMETIC = [
    "add",
    "sub",
    "rsub",
    "mul",
    "neg",
    "abs",
    "floor",
    "ceil",
    "trunc",
    "round",
    "frac",
    "sign",
]
_COMPARING = [
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "where",
    "maximum",
    "minimum",
    "clamp",
    "clamp_min",
    "clamp_max",
    "relu",
    "threshold_backward",
    "amax",
    "amin",
    "aminmax",
    "isnan",
    "isinf",
    "isfinite",
    "logical_and",
    "logical_or",
    "logical_not",
    "logical_xor",
    "all",
    "any",
    "equal",
    "searchsorted",
    "bucketize",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_not",
    "bitwise_left_shift",
    "bitwise_right_shift",
    "__and__",
    "__or__",
    "__xor__",
    "__lshift__",
    "__rshift__",
    "__iand__",
    "__ior__",
    "__ixor__",
    "__ilshift__",
    "__irshift__",
    "nonzero",
    "masked_select",
]
_MOVING = [
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "as_strided",
    "expand",
    "permute",
    "transpose",
    "t",
    "squeeze",
    "unsqueeze",
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "unbind",
    "narrow",
    "unfold",
    "alias",
    "detach",
    "clone",
    "copy",
    "contiguous",
    "cat",
    "stack",
    "gather",
    "scatter",
    "index",
    "index_select",
    "index_copy",
    "masked_fill",
    "masked_scatter",
    "take",
    "constant_pad_nd",
    "repeat",
    "flip",
    "roll",
    "tril",
    "triu",
    "diagonal",
    "movedim",
    "slice_backward",
    "select_backward",
    "constant_pad",
    "index_fill",
    "pixel_shuffle",
    "pixel_unshuffle",
    "_to_copy",
    "to",
    "lift_fresh",
    "lift",
    "resize",
    "set",
    "is_same_size",
    "_local_scalar_dense",
    "select_scatter",
    "slice_scatter",
    "as_strided_scatter",
    "channel_shuffle",
]
_MAKING = [
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "zeros",
    "zeros_like",
    "new_zeros",
    "ones",
    "ones_like",
    "new_ones",
    "full",
    "full_like",
    "new_full",
    "zero",
    "fill",
    "arange",
    "scalar_tensor",
    "eye",
    "frexp",
]
_ALLOWED = frozenset(_ARITHMETIC + _COMPARING + _MOVING + _MAKING)
_SUMS = frozenset(
    ["sum", "cumsum", "scatter_add", "index_add", "index_put", "_index_put_impl_", "bincount"]
)
_FLOATS = frozenset((torch.float32, torch.float64))
_UNKNOWN_FLOATS = frozenset((torch.float16, torch.bfloat16, torch.complex64, torch.complex128))


class OperationChecker(TorchDispatchMode):
    """Context manager: raises OperationRefused at the first operation outside the list.

    Operations between integers are all let through but for division. `seen` counts what was
    called, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = _name(func)
        self.seen[name] = self.seen.get(name, 0) + 1
        if not inside_exact_kernels():
            reason = _refusal(name, list(args), kwargs)
            if reason:
                raise OperationRefused(f"portable arithmetic: {func}: {reason}")
        return func(*args, **kwargs)


def _name(func: Any) -> str:
    base = str(func).split(".")[1]
    return base if base.startswith("__") else base.rstrip("_")


def _refusal(name: str, args: list[Any], kwargs: dict[str, Any]) -> str | None:
    """Why the call is not portable, or None."""
    tensors = _tensors([*args, *kwargs.values()])
    for x in tensors:
        if x.dtype in _UNKNOWN_FLOATS:
            return f"{x.dtype} operand (expected float32, float64 or integers)"
    for dtype in (kwargs.get("dtype"), *(a for a in args if isinstance(a, torch.dtype))):
        if dtype in _UNKNOWN_FLOATS:
            return f"conversion to {dtype} (expected float32, float64 or integers)"
    special: dict[str, Callable[[list[Any], dict[str, Any]], str | None]] = {
        "div": _division,
        "add": _addition,
        "sub": _addition,
        "rsub": _addition,
        "scatter": _scatter,
        "sqrt": _square_root,
    }
    if name in special:
        reason = special[name](args, kwargs)
        if reason or name in _ALLOWED or name in ("div", "sqrt"):
            return reason
    if name in _SUMS:
        return _integer_sum(name, args, kwargs)
    if name in _ALLOWED:
        return None
    if tensors and not any(x.dtype in _FLOATS for x in tensors):
        return None if name in ("mul", "remainder", "floor_divide", "prod") else _listed()
    return _listed()


def _listed() -> str:
    return "not in the list of portable operations"


def _division(args: list[Any], kwargs: dict[str, Any]) -> str | None:
    divisor = args[1]
    if isinstance(divisor, Tensor):
        dividend = args[0]
        if divisor.dim() == 0 and divisor.device != dividend.device:
            return "division by a scalar kept on another device"
        return None
    # x / scalar multiplies by a rounded reciprocal on CUDA: exact for powers of two alone
    mantissa = abs(math.frexp(float(divisor))[0])
    return None if mantissa == 0.5 else "division by a scalar (expected tensor by tensor)"


def _square_root(args: list[Any], kwargs: dict[str, Any]) -> str | None:
    on_cpu = any(x.device.type == "cpu" for x in _tensors(args))
    return "not correctly rounded on the CPU (use functions.sqrt)" if on_cpu else None


def _addition(args: list[Any], kwargs: dict[str, Any]) -> str | None:
    alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
    return None if alpha == 1 else f"alpha={alpha} (expected 1: the product may be fused)"


def _scatter(args: list[Any], kwargs: dict[str, Any]) -> str | None:
    reduced = kwargs.get("reduce") is not None
    return "reduction of an unordered scatter" if reduced else None


def _integer_sum(name: str, args: list[Any], kwargs: dict[str, Any]) -> str | None:
    """Sums are fixed for integers below the exact range, and only there."""
    if name in ("index_put", "_index_put_impl"):
        accumulate = kwargs.get("accumulate", args[3] if len(args) > 3 else False)
        if not accumulate:
            return None
    floats = [x for x in _tensors([*args, *kwargs.values()]) if x.dtype in _FLOATS]
    total, smallest = 0.0, math.inf
    for x in floats:
        if x.numel() == 0:
            continue
        if not bool(torch.isfinite(x).all()) or not torch.equal(x, x.round()):
            return "sum of floats that are not integers (use fixed point)"
        # each output of a plain sum has its own bound; elsewhere one for all
        parts = x.abs().to(torch.float64)
        sums = parts.sum(*args[1:2]) if name == "sum" and len(args) > 1 else parts.sum()
        total += float(sums.max())
        smallest = min(smallest, FLOAT32_EXACT if x.dtype == torch.float32 else FLOAT64_EXACT)
    wide = kwargs.get("dtype") == torch.float64
    limit = FLOAT64_EXACT if wide else smallest
    return None if total <= limit else f"sum of absolute values {total:.3g} may not be exact"


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(_tensors(value))
    return found
