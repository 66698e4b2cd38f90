"""How a shard's images become batches: a function of their shapes and the settings alone.

Images stand in order; a batch takes whole images while they fit its budget of pixels. An image
larger than the budget is cut into strips of full width, coded top to bottom, so that one large
image adapts too. The first batches are smaller: the first steps of adaptation gain most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby

from osoa_pl.errors import UsageError
from osoa_pl.format.items import MAX_WIDTH

MAX_BATCH_PIXELS = 1 << 16
RUN = 8
"""Consecutive images in a sample."""
_SINCE = {"first_batches": 4, "gradient_stride": 5}
"""Format versions that brought a setting; it is 1 in those before."""

WEIGHTS_SINCE = 6
"""The format version that brought `weights` in policies."""


@dataclass(frozen=True)
class BatchSettings:
    """Sizes that decide bytes; they stand in the archive's manifest."""

    batch_pixels: int = 8192
    """Budget of a batch, in pixels."""
    first_pixels: int = 2048
    """Budget of the first batches; it doubles again and again until `batch_pixels`."""
    segment_batches: int = 32
    """Batches in a segment: one entropy-coder message, one digest, one unit of damage."""
    streams: int = 8
    """Entropy-coder lanes of a segment; tile b of a batch goes to lane b mod `streams`."""
    first_batches: int = 1
    """Batches of one budget before it doubles."""
    gradient_stride: int = 1
    """An update's gradient is that of every `gradient_stride`-th pixel of its batch."""

    def __post_init__(self) -> None:
        limits = {
            "batch_pixels": (64, MAX_BATCH_PIXELS),
            "first_pixels": (64, MAX_BATCH_PIXELS),
            "segment_batches": (1, 1 << 20),
            "streams": (1, 256),
            "first_batches": (1, 1 << 20),
            "gradient_stride": (1, 64),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UsageError(f"{name}: found {value!r}, expected {low} to {high}")

    def budget(self, batch: int) -> int:
        """Pixels that batch number `batch` may hold."""
        return min(self.batch_pixels, self.first_pixels << min(batch // self.first_batches, 16))

    def to_dict(self) -> dict[str, int]:
        """Plain form for the manifest; what format 1 did not have, where it is not 1."""
        return {k: v for k, v in asdict(self).items() if k not in _SINCE or v != 1}


def newer_than(settings: BatchSettings, version: int) -> list[str]:
    """Names of the settings that readers of this format version do not know."""
    return [k for k, since in _SINCE.items() if getattr(settings, k) != 1 and since > version]


def needed_version(settings: BatchSettings) -> int:
    """The lowest format version whose readers know these settings."""
    return max((_SINCE[name] for name in newer_than(settings, 1)), default=1)


def chosen(
    given: BatchSettings | Mapping[str, int] | None, defaults: Mapping[str, int]
) -> BatchSettings:
    """What a caller gives, whole or in part, the rest from `defaults`. Raises UsageError."""
    if isinstance(given, BatchSettings):
        return given
    if given is not None and not isinstance(given, Mapping):
        found = type(given).__name__
        raise UsageError(f"settings: found {found}, expected BatchSettings or a mapping")
    known = [each.name for each in fields(BatchSettings)]
    for name in given or {}:
        if name not in known:
            raise UsageError(f"settings: unknown {name!r} (known: {', '.join(known)})")
    return BatchSettings(**{**defaults, **(given or {})})


@dataclass(frozen=True)
class Tile:
    """Rows [row, row + height) of image number `image`; `last` where the image ends with it."""

    image: int
    row: int
    height: int
    width: int
    last: bool


def batches(shapes: Iterable[tuple[int, int]], settings: BatchSettings) -> Iterator[list[Tile]]:
    """The batches of a shard whose images have these (height, width), in coding order."""
    tiles: list[Tile] = []
    number = held = 0
    budget = settings.budget(number)
    for image, (height, width) in enumerate(shapes):
        if width > MAX_WIDTH:
            raise UsageError(f"image {image}: {width} pixels wide (at most {MAX_WIDTH})")
        row = 0
        while row < height:
            if tiles and held + (height - row) * width > budget:
                yield tiles
                number, tiles, held = number + 1, [], 0
                budget = settings.budget(number)
                continue
            rows = min(height - row, max(1, budget // width))
            tiles.append(Tile(image, row, rows, width, row + rows == height))
            held += rows * width
            row += rows
            if row < height or held >= budget:
                yield tiles
                number, tiles, held = number + 1, [], 0
                budget = settings.budget(number)
    if tiles:
        yield tiles


def spread(shapes: Sequence[tuple[int, int]], pixels: int) -> list[tuple[int, int, int]]:
    """(image, first row, rows) of about so many pixels in all that stand for the images.

    Runs of images, as what comes before an image counts, evenly spread; of large images the middle
    rows alone. At least one run. shapes: (height, width).
    """
    most = max(1, pixels // max(1, min(len(shapes), RUN)))
    rows = [min(h, max(1, most // w)) for h, w in shapes]
    areas = [h * w for h, (_, w) in zip(rows, shapes, strict=True)]
    total, due = sum(areas), 0
    taken: list[int] = []
    for first in range(0, len(areas), RUN):
        area = sum(areas[first : first + RUN])
        due += area * pixels
        if 2 * due >= area * total:
            due -= area * total
            taken += range(first, min(first + RUN, len(areas)))
    taken = taken or [*range(min(RUN, len(areas)))]
    return [(n, (shapes[n][0] - rows[n]) // 2, rows[n]) for n in taken]


def segments(
    shapes: Iterable[tuple[int, int]], settings: BatchSettings
) -> Iterator[Iterator[list[Tile]]]:
    """The batches in groups of `segment_batches`; the last group may be smaller.

    Groups are lazy, to be used up in order: what an archive claims about its images costs nothing
    until its code words have paid for it.
    """
    size = settings.segment_batches
    for _, group in groupby(enumerate(batches(shapes, settings)), lambda pair: pair[0] // size):
        yield (tiles for _, tiles in group)


def clean_start(
    shapes: Iterable[tuple[int, int]], settings: BatchSettings, image: int
) -> tuple[int, int]:
    """(segment, its first image): the last segment that begins with an image and not after the
    first tile of image number `image`.
    """
    found = (0, 0)
    for number, group in enumerate(segments(shapes, settings)):
        for index, tiles in enumerate(group):
            if index == 0 and tiles[0].image > image:
                return found
            if index == 0 and tiles[0].row == 0:
                found = number, tiles[0].image
    return found


def clean_start_after(
    shapes: Iterable[tuple[int, int]], settings: BatchSettings, segment: int
) -> int | None:
    """First image of the next segment after number `segment` that begins with an image."""
    for number, group in enumerate(segments(shapes, settings)):
        for index, tiles in enumerate(group):
            if number > segment and index == 0 and tiles[0].row == 0:
                return tiles[0].image
    return None
