"""The tail of a message: a growable stack of 32-bit words, and its engine."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from osoa_pl.errors import CoderError

Engine = Literal["numpy", "numba"]
UInt32Array = npt.NDArray[np.uint32]


class WordStack:
    """A stack of uint32 words in one buffer whose capacity doubles: appending is amortised O(1).

    `words[:size]` is the content, bottom first; the rest of the buffer is undefined. `engine`
    names the code that runs the verbs on a message with this tail; it never changes a word.
    `lowest` is the smallest size since it was last set: words below it were never touched.
    """

    __slots__ = ("engine", "lowest", "size", "words")

    def __init__(self, words: UInt32Array | None = None, engine: Engine = "numpy") -> None:
        if engine not in ("numpy", "numba"):
            raise CoderError(f"unknown engine {engine!r} (known: 'numpy', 'numba')")
        self.words: UInt32Array = np.empty(64, np.uint32) if words is None else words
        self.size: int = 0 if words is None else len(words)
        self.lowest: int = self.size
        self.engine: Engine = engine

    def __len__(self) -> int:
        return self.size

    def reserve(self, count: int) -> UInt32Array:
        """The buffer, with room for `count` more words above `size`."""
        if self.size + count > len(self.words):
            grown = np.empty(max(self.size + count, 2 * len(self.words)), np.uint32)
            grown[: self.size] = self.words[: self.size]
            self.words = grown
        return self.words

    def push(self, words: UInt32Array) -> None:
        """Put `words` on the stack so that `words[0]` is on top."""
        count = len(words)
        self.reserve(count)[self.size : self.size + count] = words[::-1]
        self.size += count

    def pop(self, count: int) -> UInt32Array:
        """Take the `count` topmost words, the top one first (a view until the next push)."""
        if count > self.size:
            raise CoderError(
                f"message exhausted: {count} words needed, {self.size} left on the stack"
            )
        self.size -= count
        self.lowest = min(self.lowest, self.size)
        return self.words[self.size : self.size + count][::-1]

    def content(self) -> UInt32Array:
        """A copy of the words, bottom first."""
        return self.words[: self.size].copy()
