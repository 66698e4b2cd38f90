"""What the encoder learns of each picture before a model sees it, and the choice that follows.

A plane may be coded by the model, plain among its likes (xz over many), or as the difference to a
picture shortly before; or the file is kept as it is. All that is estimated here is bytes of zlib
and whole numbers: the choice is the same on every machine with the same zlib.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from osoa_pl.api.fitting import fitting
from osoa_pl.api.pieces import Choice, Piece
from osoa_pl.data.planes import Planes
from osoa_pl.format.items import MAX_REFERENCE_BYTES
from osoa_pl.online.prices import UNIT, prices
from osoa_pl.types import Form

_LEVEL = 6
_STRIPS = 16
_PACKED = ("png", "webp", "tiff", "tga", "jxl")
"""Sources whose files may be smaller than what we make of their pixels."""
_MEMBER_BYTES = 160
"""About what a file costs as a member of its own: two ZIP headers with its name."""
_BLOCK_FILE_BYTES = 4 << 10
_LARGE_PLANE = 6 << 20
_FEW = 64
"""Pictures of less than this share of a part are not worth another round."""


def alternatives(
    pieces: Sequence[Piece], kinds: frozenset[int], first_only: bool
) -> list[list[Choice]]:
    """First choices under the transforms that fit and pay, and without where those may yet be
    the smaller; see `survey`.
    """
    without = survey(pieces, [""] * len(pieces), kinds, first_only)
    transforms = [""] * len(pieces) if first_only else fitting(pieces, kinds)
    if not any(transforms):
        return [without]
    changed = survey(pieces, transforms, kinds, first_only)
    paying = [_paying(new, old) for new, old in zip(changed, without, strict=True)]
    if paying != transforms:  # references are to pictures of the same transform
        changed = survey(pieces, paying, kinds, first_only)
    differing = [(n, o) for n, o in zip(changed, without, strict=True) if n != o]
    if not differing:
        return [without]
    new, old = (sum(sum(pair[i].plain) for pair in differing) for i in (0, 1))
    best, other = (changed, without) if new <= old else (without, changed)
    much = _FEW * old > sum(sum(choice.plain) for choice in without)
    return [best, other] if much and 4 * max(new, old) < 5 * min(new, old) else [best]


def _paying(new: Choice, old: Choice) -> str:
    """The transform of `new`, if it promises to be no larger."""
    return new.transform if sum(new.plain) <= sum(old.plain) else ""


def survey(
    pieces: Sequence[Piece], transforms: Sequence[str], kinds: frozenset[int], first_only: bool
) -> list[Choice]:
    """A first choice for each piece, from its pixels alone, under the transform given for it.

    kinds: channels that the checkpoint has a model for. first_only: the model is for whole
    8-bit pictures, not for planes of others.
    """
    recent = _Recent()
    return [
        replace(_survey(piece, transform, recent, kinds, first_only), transform=transform)
        for piece, transform in zip(pieces, transforms, strict=True)
    ]


def _survey(
    piece: Piece, transform: str, recent: _Recent, kinds: frozenset[int], first_only: bool
) -> Choice:
    item, form = piece.entry.item, piece.form(transform)
    known = [not first_only and channels in kinds for channels in form.channels]
    if item.kind == "array":
        return _survey_array(piece, transform, known)
    planes = next(piece.pictures(transform))
    plain = tuple(_packed_size([plane]) for plane in planes)
    metadata = len(zlib.compress(item.before + item.after, _LEVEL)) if item.before else 0
    original = None
    if item.source in _PACKED and not piece.entry.pinned and isinstance(piece.entry.origin, str):
        size = piece.entry.size
        original = size + (_MEMBER_BYTES if size > _BLOCK_FILE_BYTES else 0)
    letters = "m"
    if form.luma or not form.mode.plain:
        guesses = map(_residual_size, planes)
        letters = _letters(piece, form, plain, guesses, known)
    choice = Choice(letters, plain=plain, original=original, metadata=metadata)
    keys = _strip_keys(piece, transform, planes)
    near = recent.nearest(piece, planes, keys)
    if near is not None:
        number, sizes = near
        small = sum(sizes)
        if (
            2 * small < sum(plain)
            and 8 * small < item.raw_bytes
            and (original is None or small < original)
        ):
            choice = replace(choice, letters="d" * len(planes), reference=number, plain=sizes)
    recent.add(piece, planes, keys)
    return choice


def _survey_array(piece: Piece, transform: str, known: Sequence[bool]) -> Choice:
    packers = [zlib.compressobj(_LEVEL) for _ in known]
    plain, guesses = [0] * len(known), [0] * len(known)
    for planes in piece.pictures(transform):
        for index, plane in enumerate(planes):
            plain[index] += len(packers[index].compress(np.ascontiguousarray(plane).data))
            if len(known) > 1:
                guesses[index] += _residual_size(plane)
    sizes = tuple(size + len(p.flush()) for size, p in zip(plain, packers, strict=True))
    letters = "m"
    if len(known) > 1:
        letters = _letters(piece, piece.form(transform), sizes, guesses, known)
    # parts must agree, and each sees its own pictures only
    agreed = ("m" if known[0] else "p") + "p" * (len(known) - 1)
    return Choice(letters if piece.whole or len(known) == 1 else agreed, plain=sizes)


def _letters(
    piece: Piece, form: Form, plain: Sequence[int], guesses: Iterable[int], known: Sequence[bool]
) -> str:
    """For each plane ``m`` where the model knows it and should cost less than zlib."""
    item, mode = piece.entry.item, form.mode
    samples = item.count * item.height * item.width
    letters = ""
    for index, (size, guess, able) in enumerate(zip(plain, guesses, known, strict=True)):
        # colours, their high bytes and alpha are worth a try unless there is next to nothing in
        # them: a model with memory may do far better than the guess
        tried = mode.depth == 8 or (index == 0 and mode.depth == 16)
        likely = tried and mode.colour_type != 3 and 50 * size > samples * form.channels[index]
        letters += "m" if able and (likely or form.luma or guess < size) else "p"
    return letters


def _residual_size(plane: NDArray[np.uint8]) -> int:
    """Bytes by the empirical entropy of what the median-edge predictor leaves, a stand-in for the
    model's price. Of a large plane three stretches of rows stand for all.
    """
    if plane.size > _LARGE_PLANE:
        rows = max(1, _LARGE_PLANE // 3 // plane[0].size)
        last = plane.shape[0] - rows
        parts = [plane[start : start + rows] for start in (0, last // 2, last)]
        found = sum(_residual_size(part) for part in parts)
        return int(found * plane.shape[0] // (3 * rows))
    padded = np.pad(plane.astype(np.int16), ((1, 0), (1, 0), (0, 0)), mode="edge")
    west, north, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    low, high = np.minimum(west, north), np.maximum(west, north)
    predicted = np.clip(west + north - corner, low, high)
    counts = np.bincount(((plane - predicted) & 0xFF).ravel().astype(np.int64), minlength=256)
    return _entropy_bytes(counts)


def _entropy_bytes(counts: NDArray[np.int64]) -> int:
    """Empirical entropy of `counts`, in whole bytes and by whole numbers."""
    total = int(counts.sum())
    if not total:
        return 0
    scaled = np.maximum(counts * (1 << 30) // total, 1)
    return max(0, int((counts * prices(scaled, 30)).sum()) // (8 * UNIT))


def _packed_size(planes: Iterable[NDArray[np.uint8]]) -> int:
    packer, size = zlib.compressobj(_LEVEL), 0
    for plane in planes:
        size += len(packer.compress(np.ascontiguousarray(plane).data))
    return size + len(packer.flush())


_StripKey = tuple[str, int, int, int, int]
"""Mode with transform, height and width of a picture, a strip's first row and checksum."""


class _Recent:
    """Pictures that a difference may refer to, found by equal strips of rows."""

    def __init__(self) -> None:
        self._strips: dict[_StripKey, int] = {}
        self._held: deque[tuple[int, int, Planes, list[_StripKey]]] = deque()
        self._planes: dict[int, Planes] = {}

    def add(self, piece: Piece, planes: Planes, keys: list[_StripKey]) -> None:
        """Hold a picture, and let go of those that are too far back."""
        self._held.append((piece.number, piece.position, planes, keys))
        self._planes[piece.number] = planes
        for key in keys:
            self._strips[key] = piece.number
        self._let_go(piece.position + piece.entry.item.raw_bytes)

    def _let_go(self, position: int) -> None:
        while self._held and position - self._held[0][1] > MAX_REFERENCE_BYTES // 2:
            number, _, _, old = self._held.popleft()
            del self._planes[number]
            for key in old:
                if self._strips.get(key) == number:
                    del self._strips[key]

    def nearest(
        self, piece: Piece, planes: Planes, keys: list[_StripKey]
    ) -> tuple[int, tuple[int, ...]] | None:
        """(number, bytes of each plane's difference) of the picture that has most strips in common
        with this one, if it has a quarter of them.
        """
        self._let_go(piece.position)  # copies and arrays may stand between
        votes = Counter(self._strips[key] for key in keys if key in self._strips)
        if not votes:
            return None
        number, count = max(votes.items(), key=lambda vote: (vote[1], vote[0]))
        if 4 * count < len(keys):
            return None
        pairs = zip(planes, self._planes[number], strict=True)
        return number, tuple(_packed_size([ours - theirs]) for ours, theirs in pairs)


def _strip_keys(piece: Piece, transform: str, planes: Planes) -> list[_StripKey]:
    item = piece.entry.item
    rows = -(-item.height // _STRIPS)
    keys: list[_StripKey] = []
    for start in range(0, item.height, rows):
        check = 0
        for plane in planes:
            begin, end = (row * len(plane) // item.height for row in (start, start + rows))
            check = zlib.crc32(np.ascontiguousarray(plane[begin:end]).data, check)
        keys.append((f"{item.mode} {transform}", item.height, item.width, start, check))
    return keys


def settle(
    pieces: Sequence[Piece], choices: Sequence[Choice], prices: Sequence[Sequence[int]]
) -> tuple[list[Choice], int]:
    """Better choices now that the model's prices are known, and the bytes that they save.

    prices: for each piece the bytes of each plane that the model codes, -1 for the others.
    """
    referred = {choice.reference for choice in choices}
    settled, saved = [], 0
    for piece, choice, costs in zip(pieces, choices, prices, strict=True):
        if not piece.whole or choice.kept:
            settled.append(choice)
            continue
        letters = "".join(
            "p" if letter == "m" and plain < cost else letter
            for letter, cost, plain in zip(choice.letters, costs, choice.plain, strict=True)
        )
        now, best = (_cost(way, costs, choice.plain) for way in (choice.letters, letters))
        better = replace(choice, letters=letters)
        original = choice.original
        free = original is not None and piece.number not in referred
        if original is not None and free and original < best + choice.metadata:
            better, best = replace(choice, kept=True), original - choice.metadata
        settled.append(better)
        saved += now - best
    return settled, saved


def _cost(letters: str, costs: Sequence[int], plain: Sequence[int]) -> int:
    """Bytes of a picture's planes, those of the letter ``m`` by the model, the others plain."""
    ways = zip(letters, costs, plain, strict=True)
    return sum(cost if letter == "m" else size for letter, cost, size in ways)
