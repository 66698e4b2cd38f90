"""Which transforms fit the pictures of a part, seen once by the encoder.

A transform is offered where it holds for every picture of a piece; whether it pays is for the
survey and the rounds to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from osoa_pl.api.pieces import Piece
from osoa_pl.data import yuv
from osoa_pl.data.picture import Raster
from osoa_pl.data.planes import join
from osoa_pl.types import MATRICES, Step, form_of

_NEAR = 12
"""Keys are looked for so near to the colour that they stand for, in each sample."""
_CHUNK = 1 << 20
"""Pixels at once, where each takes many bytes."""
_LUMA = (*(Step("yuv420", (bytes([matrix]),)) for matrix in range(MATRICES)), Step("jfif"))
_DIAGONAL = 0x010101
"""Greys stand among the colours as those of three equal samples."""


def fitting(pieces: Sequence[Piece], kinds: frozenset[int]) -> list[str]:
    """For each piece the transform that fits it, or nothing.

    kinds: channels that the checkpoint has a model for; nothing is turned into others.
    """
    keys = _Keys()
    facts = [_Facts(piece, keys) if _may_fit(piece) else None for piece in pieces]
    keys.settle(fact.hidden for fact in facts if fact is not None)
    found = []
    for piece, fact in zip(pieces, facts, strict=True):
        transform = "" if fact is None else " ".join(map(str, fact.steps(keys)))
        known = set(form_of(piece.entry.item.mode, transform).channels) <= kinds
        found.append(transform if known else "")
    return found


def _may_fit(piece: Piece) -> bool:
    # an array that parts cut has one transform, and each part sees its own pictures only
    return piece.whole and piece.mode.colour_type in (2, 4, 6)


class _Keys:
    """Colours that no pixel of the part's pictures has, but for those with alpha 0."""

    def __init__(self) -> None:
        self._used = np.zeros(1 << 24, np.bool_)
        self._common: tuple[int, ...] = ()

    def add(self, colours: Raster) -> None:
        """Colours (n, 1 or 3) of pixels with some alpha."""
        for start in range(0, len(colours), _CHUNK):
            self._used[_numbers(colours[start : start + _CHUNK])] = True

    def settle(self, hidden: Iterator[tuple[int, ...] | None]) -> None:
        """After all pixels: the colours of those with alpha 0, of each piece."""
        counts = Counter(colour for colour in hidden if colour)
        self._common = max(counts, key=lambda colour: (counts[colour], colour), default=())

    def key(self, samples: int, own: NDArray[np.bool_]) -> tuple[int, ...] | None:
        """The unused colour of 1 or 3 samples nearest to the hidden colour that most pieces have:
        one key for all. Greys may be all in use; then one that `own`, the piece's (256,), leaves.
        """
        common = (*self._common, *self._common)[:3] if samples == 3 else self._common[:1]
        steps = np.arange(-255, 256) if samples == 1 else np.arange(-_NEAR, _NEAR + 1)
        near = np.stack(np.meshgrid(*[steps] * samples, indexing="ij"), -1).reshape(-1, samples)
        near = near[np.argsort(np.abs(near).sum(1), kind="stable")] + np.array(common)
        near = near[((near >= 0) & (near < 256)).all(1)].astype(np.uint8)
        for used in (self._used[_numbers(near)], own[near[:, 0]] if samples == 1 else None):
            if used is not None and not used.all():
                return tuple(near[int(used.argmin())].tolist())
        return None


def _numbers(colours: Raster) -> NDArray[np.int64]:
    wide = colours.astype(np.int64)
    if wide.shape[-1] == 1:
        return wide[:, 0] * _DIAGONAL
    return (wide[:, 0] << 16) | (wide[:, 1] << 8) | wide[:, 2]


class _Facts:
    """What holds of all pictures of a piece."""

    hidden: tuple[int, ...] | None
    """The one colour of pixels with alpha 0; empty where there are several."""

    def __init__(self, piece: Piece, keys: _Keys) -> None:
        self._mode = piece.mode
        self._grey = self._mode.colour_type in (2, 6)
        self._has_alpha = self._mode.colour_type in (4, 6)
        self._alpha: int | None = None
        self._steady, self._hard = self._has_alpha, True  # alpha is one value; 0 and 255 alone
        self.hidden = None
        self._greys = np.zeros(256, np.bool_)
        self._luma = list(_LUMA) if self._mode.depth == 8 else []
        for planes in piece.pictures():
            self._see(join(planes, self._mode), keys)

    def _see(self, raster: Raster, keys: _Keys) -> None:
        colours = raster[:, :, :-1] if self._has_alpha else raster
        if self._grey:
            first = colours[:, :, 0]
            self._grey = all(np.array_equal(first, colours[:, :, i]) for i in (1, 2))
        if self._has_alpha:
            self._see_alpha(colours, raster[:, :, -1], keys)
        if colours.shape[2] == 3 and (self._steady or not self._has_alpha):
            self._luma = [step for step in self._luma if _fits(colours, step)]

    def _see_alpha(self, colours: Raster, alpha: Raster, keys: _Keys) -> None:
        if self._alpha is None:
            self._alpha = int(alpha[0, 0])
        self._steady = self._steady and bool((alpha == self._alpha).all())
        if self._mode.depth != 8:
            return
        clear = alpha == 0
        self._hard = self._hard and bool((clear | (alpha == 255)).all())
        seen = colours[~clear]
        keys.add(seen)
        self._greys[seen[:, 0]] = True
        hidden = colours[clear]
        if len(hidden) and self.hidden != ():
            one = self.hidden or tuple(hidden[0].tolist())
            self.hidden = one if bool((hidden == one).all()) else ()

    def steps(self, keys: _Keys) -> Iterator[Step]:
        """The steps that fit, in order."""
        if self._grey:
            yield Step("grey")
        if self._steady:
            yield Step("alpha", ((self._alpha or 0).to_bytes(self._mode.depth // 8, "big"),))
        elif self.hidden:
            hidden = self.hidden[:1] if self._grey else self.hidden
            key = keys.key(len(hidden), self._greys)
            if key is not None:
                yield Step("key", (bytes(key), bytes(hidden)))
                if self._hard:
                    yield Step("alpha", (b"\0",))
        opaque = self._steady or not self._has_alpha
        if opaque and self._luma and not self._grey and self._mode.samples >= 3:
            yield self._luma[0]


def _fits(colours: Raster, step: Step) -> bool:
    try:
        yuv.split(np.asarray(colours, np.uint8), step)
    except ValueError:
        return False
    return True
