"""Who wants to know that kernels are being compiled; needs no numba: `arith.native` tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_waiting: list[Callable[[], None]] = []


@contextmanager
def telling(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` once if a kernel is compiled inside the block."""
    _waiting.append(tell)
    try:
        yield
    finally:
        if tell in _waiting:
            _waiting.remove(tell)


def begun() -> None:
    """A kernel is being compiled."""
    while _waiting:
        _waiting.pop()()
