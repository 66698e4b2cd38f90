"""Threads of the compiled engines: a pool that runs kernels over rows, calls side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import numpy as np
import torch


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Hold torch to one thread a call inside the block; the number is restored after it."""
    found = torch.get_num_threads()
    if found != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if found != 1:
            torch.set_num_threads(found)


class Together:
    """Calls that run side by side, a thread each, and share the processor's cores.

    Meanwhile a `RowPool` that one of them uses takes its share of threads alone: all of them again
    for the last one.
    """

    _present: ContextVar[Together | None] = ContextVar("osoa_pl_together", default=None)

    def __init__(self) -> None:
        self._running = 0
        self._lock = threading.Lock()
        self._failed = False

    @classmethod
    def running(cls) -> int:
        """How many calls run side by side with the caller's, itself counted."""
        present = cls._present.get()
        return 1 if present is None else max(1, present._running)

    @classmethod
    def in_vain(cls) -> bool:
        """Whether the caller's call may come back at once: one beside it has failed."""
        present = cls._present.get()
        return present is not None and present._failed

    def run(self, calls: Sequence[Callable[[], Any]], threads: int) -> None:
        """Make the calls, at most `threads` at once, here where one is all.

        Raises what the first that failed has raised, once all that had begun are back.
        """
        if threads < 2 or len(calls) < 2:
            for call in calls:
                call()
            return
        with ThreadPoolExecutor(threads) as executor:
            futures = [executor.submit(copy_context().run, self._one, call) for call in calls]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._failed = True
                executor.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, call: Callable[[], Any]) -> None:
        self._present.set(self)
        self._count(1)
        try:
            with single_torch_thread():
                call()
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._running += more


_ROWS_EACH = 1024
"""Rows for each thread that is worth waking: with fewer it costs what it saves."""


class RowPool:
    """Runs a compiled kernel over row ranges in threads; the result never depends on how many.

    Kernels release the interpreter's lock and touch only their own rows; column maxima, the one
    reduction, are kept per thread and joined by an exact max.
    """

    def __init__(self, threads: int) -> None:
        self._most = max(1, threads)
        self._executor = ThreadPoolExecutor(self._most) if self._most > 1 else None

    @property
    def threads(self) -> int:
        """Threads to use now."""
        return max(1, self._most // Together.running())

    def _worth(self, rows: int) -> int:
        """How many threads are worth using for so many rows."""
        return max(1, min(self.threads, rows // _ROWS_EACH))

    def ranges(self, rows: int) -> list[tuple[int, int]]:
        """At most `threads` contiguous ranges that cover [0, rows)."""
        parts = self._worth(rows)
        cuts = [rows * i // parts for i in range(parts + 1)]
        return list(zip(cuts[:-1], cuts[1:], strict=True))

    def each(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run the calls, at most `threads` at once, and return their results in order."""
        if self._executor is None or len(calls) == 1 or self.threads == 1:
            return [call() for call in calls]
        futures = [self._executor.submit(call) for call in calls[1:]]
        first = calls[0]()
        return [first] + [future.result() for future in futures]

    def later(self, call: Callable[[], Any], rows: int) -> Future[Any]:
        """Make a call over so many rows beside what the caller does next, or now if it is small."""
        if self._executor is not None and self._worth(rows) > 1:
            return self._executor.submit(call)
        made: Future[Any] = Future()
        made.set_result(call())
        return made

    def run(self, kernel: Callable[..., None], rows: int, *arguments: Any) -> None:
        """kernel(begin, end, *arguments) over all rows."""
        ranges = self.ranges(rows)
        if len(ranges) == 1:
            kernel(0, rows, *arguments)
            return
        self.each([partial(kernel, b, e, *arguments) for b, e in ranges])

    def run_each(self, kernel: Callable[..., None], count: int, rows: int, *arguments: Any) -> None:
        """kernel(begin, end, *arguments) over few things, each of them work of so many rows."""
        parts = min(self._worth(rows), count)
        cuts = [count * i // parts for i in range(parts + 1)]
        self.each([partial(kernel, b, e, *arguments) for b, e in zip(cuts, cuts[1:])])

    def run_with_max(
        self, kernel: Callable[..., None], rows: int, width: int, *arguments: Any
    ) -> np.float32:
        """As `run`, for kernels whose last argument is the column maxima; returns the max."""
        ranges = self.ranges(rows)
        maxima = np.zeros((len(ranges), width), np.float32)
        calls = [
            partial(kernel, begin, end, *arguments, maxima[i])
            for i, (begin, end) in enumerate(ranges)
        ]
        self.each(calls)
        return np.float32(maxima.max())
