"""Which kernels may compute an exact contraction, and the guarded scope in which they run.

The value of a contraction is defined, so any kernel may compute it that sums integers exactly.
Whether this machine's kernels do is asked, not assumed: before the first use of an engine for an
operation and shape class, known answers with extreme operands are compared, and an engine that
fails is not used in this process. Fast paths with reduced precision or transforms (NNPACK's
Winograd, TF32, bfloat16 modes) are switched off inside the scope and restored after it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from osoa_pl.errors import PortabilityError, UsageError

EngineName = Literal["auto", "float32", "float64", "int8"]
#: largest magnitude up to which every integer is a float32 / a float64
FLOAT32_EXACT, FLOAT64_EXACT = 2**24, 2**53

_chosen: ContextVar[EngineName] = ContextVar("osoa_pl_engine", default="auto")
_inside: ContextVar[bool] = ContextVar("osoa_pl_exact_kernels", default=False)
_lock = threading.RLock()
_depth = 0
_restore: contextlib.ExitStack | None = None
_answers: dict[tuple[str, str, str, bool, tuple[int, ...]], bool] = {}


@contextlib.contextmanager
def use_engine(name: EngineName) -> Iterator[None]:
    """Prefer one engine inside the block: "auto", "float32", "float64" or "int8".

    The values do not depend on it. Where the named engine is not exact for some operands, or is
    refused on this machine, the next safe one computes them.
    Raises UsageError for another name.
    """
    if name not in get_args(EngineName):
        raise UsageError(f"unknown engine {name!r} (expected one of {get_args(EngineName)})")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_engine() -> EngineName:
    """The engine preferred at this point of the program."""
    return _chosen.get()


def inside_exact_kernels() -> bool:
    """Whether the caller runs inside `exact_kernels` (the operation checker asks)."""
    return _inside.get()


@contextlib.contextmanager
def exact_kernels() -> Iterator[None]:
    """The scope in which contractions call torch's kernels; global switches are left as found.

    Raises PortabilityError under autocast, which would round the operands.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise PortabilityError("exact contraction: autocast is on (expected off)")
    global _depth, _restore
    with _lock:
        # counted: the switches are the process's, and a second thread may be inside already
        if _depth == 0:
            _restore = _switch_off()
        _depth += 1
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)
        with _lock:
            _depth -= 1
            if _depth == 0 and _restore is not None:
                _restore.close()
                _restore = None


def _switch_off() -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    if torch._C._get_nnpack_enabled():
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
    for holder in _precision_holders():
        found = holder.fp32_precision
        if found not in ("none", "ieee"):
            holder.fp32_precision = "ieee"
            stack.callback(setattr, holder, "fp32_precision", found)
    return stack


def _precision_holders() -> list[Any]:
    backends: Any = torch.backends
    if not hasattr(backends.mkldnn, "matmul"):  # torch before 2.9: one switch, checked below
        if torch.get_float32_matmul_precision() != "highest":
            raise PortabilityError(
                f"exact contraction: float32 matmul precision is "
                f"{torch.get_float32_matmul_precision()} (expected highest)"
            )
        return []
    holders = [backends.mkldnn.matmul, backends.mkldnn.conv]
    if _has_cuda():
        holders.append(backends.cuda.matmul)
    return holders


@functools.cache
def _has_cuda() -> bool:
    return torch.cuda.is_available()  # looks for the driver's library at every call


def check_rounding() -> None:
    """Raise PortabilityError unless float32 rounds to nearest even and keeps subnormal numbers.

    Libraries built with unsafe flags change the processor's mode for the whole process when they
    are loaded; Adam's second moments of small gradients are subnormal.
    """
    # enough elements for torch's worker threads to take their share
    halved = torch.full((1 << 17,), 2.0**-126).mul_(0.5)
    restored = halved * 2.0**127
    kept = bool((restored == 1.0).all())
    # ties on either side of an even number: one for each directed rounding that is not nearest
    steps = torch.tensor([1.0, -1.0, 3.0, -3.0]) * 2.0**-24
    rounded = torch.tensor([1.0, -1.0, 1.0, -1.0]) + steps
    nearest = torch.tensor([1.0, -1.0, 1.0 + 2.0**-22, -1.0 - 2.0**-22])
    if not kept or not torch.equal(rounded, nearest):
        raise PortabilityError(
            "exact arithmetic: this process "
            + ("does not round to nearest even" if kept else "flushes subnormal numbers to zero")
            + " (expected the IEEE-754 default)",
            hint="leave out libraries built with -ffast-math and torch.set_flush_denormal",
        )


def is_exact(
    operation: str,
    engine: str,
    device: torch.device,
    shape_class: tuple[int, ...],
    probe: Callable[[torch.device], bool],
) -> bool:
    """Whether `engine` passed `probe` for this operation and class; asked once per process.

    A probe that raises counts as failed.
    """
    # oneDNN on or off are two sets of kernels
    question = (operation, engine, device.type, torch._C._get_mkldnn_enabled(), shape_class)
    with _lock:
        if question not in _answers:
            try:
                with torch.no_grad(), exact_kernels():
                    _answers[question] = probe(device)
            except PortabilityError:
                raise
            except RuntimeError:
                _answers[question] = False
        return _answers[question]


def known_answers() -> dict[str, dict[str, bool]]:
    """What was asked so far: "operation class on device" -> engine -> passed its known answers."""
    table: dict[str, dict[str, bool]] = {}
    for (operation, engine, device, onednn, shape_class), passed in sorted(_answers.items()):
        suffix = " " + "x".join(map(str, shape_class)) if shape_class else ""
        where = device if onednn else f"{device} without oneDNN"
        table.setdefault(f"{operation}{suffix} on {where}", {})[engine] = passed
    return table


def extreme(shape: tuple[int, ...], limit: int, seed: int) -> Tensor:
    """float32 integers in +-limit on the CPU: half of them at the ends, in runs of equal sign.

    Made from a counter and not from torch's generator, whose state stays as it was.
    """
    count = 1
    for size in shape:
        count *= size
    i = torch.arange(count, dtype=torch.int64)
    h = (i * 2654435761 + seed * 40503 + 12345) & 0xFFFFFFFF
    h = (h ^ (h >> 15)) * 73244475 & 0xFFFFFFFF
    inner = (h >> 8) % (2 * limit + 1) - limit
    ends = torch.where(((i >> 3) + seed) % 3 == 0, -limit, limit)
    values = torch.where((h >> 3) % 2 == 0, ends, inner) if seed else ends.abs()
    return values.to(torch.float32).view(shape)
