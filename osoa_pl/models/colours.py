"""The colours seen so far, while they are few: a tree over the channels, and what it predicts.

Palette art uses few colours of all there are. One component of the mixture gives probability to
those alone: on each level of the tree (first channel, second given the first, ...) the network's
own mixture is restricted to the values seen there, weighted by the root of their counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_COLOURS = {1: 64, 3: 1 << 13}
_LEAST_REPEATS = 16  # pixels for each colour, below which the tree is of no use
_WEIGHT_BITS = 12


class Colours(NamedTuple):
    """Levels of the tree: node k of level c has children first[c][k] .. first[c][k + 1] - 1.

    values[c] int64, weights[c] int64 (1 to 4095), in rising order of the packed colour. Level 0 is
    all children of the root. Empty arrays: the component is off.
    """

    values: tuple[NDArray[np.int64], ...]
    weights: tuple[NDArray[np.int64], ...]
    first: tuple[NDArray[np.int64], ...]


def _levels(colours: NDArray[np.uint32], counts: NDArray[np.int64], channels: int) -> Colours:
    values, weights, first = [], [], []
    parents = np.zeros(len(colours), np.int64)  # node of the level above that a colour is below
    for c in range(channels):
        prefix = colours >> np.uint32(8 * (channels - 1 - c))
        starts = np.flatnonzero(np.concatenate([[True], prefix[1:] != prefix[:-1]]))
        sums = np.add.reduceat(counts, starts)
        values.append((prefix[starts] & np.uint32(255)).astype(np.int64))
        # the integer root of an int below 2^53 from float64's own root, which is exact enough
        weights.append(np.minimum(np.sqrt(16.0 * sums).astype(np.int64), (1 << _WEIGHT_BITS) - 1))
        if c:
            owners = parents[starts]
            first.append(np.searchsorted(owners, np.arange(owners[-1] + 2)).astype(np.int64))
        parents = np.cumsum(np.concatenate([[0], (prefix[1:] != prefix[:-1]).astype(np.int64)]))
    first.append(np.zeros(1, np.int64))
    return Colours(tuple(values), tuple(weights), tuple(first))


def no_colours(channels: int) -> Colours:
    """The component is off."""
    empty = tuple(np.zeros(0, np.int64) for _ in range(channels))
    return Colours(empty, empty, empty)


class SeenColours:
    """Counts of all colours of the batches taken in, until there are too many."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._colours = np.zeros(0, np.uint32)
        self._counts = np.zeros(0, np.int64)
        self._gone = False
        self.tree = no_colours(channels)

    @property
    def on(self) -> bool:
        """Whether the component has anything to say."""
        return len(self.tree.values[0]) > 0

    def take(self, pixels: NDArray[np.uint32]) -> None:
        """Count packed pixels uint32 [P]; rebuilds the tree."""
        if self._gone:
            return
        new, counts = np.unique(pixels, return_counts=True)
        merged, places = np.unique(np.concatenate([self._colours, new]), return_inverse=True)
        if len(merged) > MOST_COLOURS[self._channels]:
            self.tree, self._gone = no_colours(self._channels), True
            self._colours, self._counts = np.zeros(0, np.uint32), np.zeros(0, np.int64)
            return
        total = np.zeros(len(merged), np.int64)
        np.add.at(total, places, np.concatenate([self._counts, counts]))
        self._colours, self._counts = merged, total
        if len(merged) * _LEAST_REPEATS <= int(total.sum()):
            self.tree = _levels(self._colours, total, self._channels)
        else:
            self.tree = no_colours(self._channels)
