"""The pictures of one part, decoded in order: planes of the model, plain planes, differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from osoa_pl.api.manifest import PartInfo, ShardInfo
from osoa_pl.api.members import block_member, segment_member
from osoa_pl.api.problems import Problems
from osoa_pl.data.planes import Planes, deinterleave
from osoa_pl.errors import ArchiveError, DamagedArchiveError, UsageError
from osoa_pl.format import segment as segment_format
from osoa_pl.format.blocks import BlockReader
from osoa_pl.format.container import ArchiveReader
from osoa_pl.models.checkpoint import Checkpoint
from osoa_pl.online.plan import BatchSettings, clean_start, clean_start_after
from osoa_pl.types import Item

_MAX_SEARCHED = 1 << 20
"""Planes that are looked through for the next segment that can be decoded."""

Place = tuple[int, int]
"""(index of the item, number of the picture within it)."""


@dataclass(frozen=True)
class Span:
    """Pictures begin .. begin + count - 1 of an item; `number`: of the first, in the archive."""

    index: int
    item: Item
    number: int
    begin: int
    count: int


@dataclass(frozen=True)
class Decoding:
    """What it takes to decode an archive, whatever the part."""

    reader: ArchiveReader
    settings: BatchSettings
    seed: int
    checkpoint: Callable[[], Checkpoint]
    device: str = "cpu"
    threads: int | None = None
    watch: Callable[[int], None] | None = None
    """Called with samples as they are decoded."""


def check_part(part: PartInfo, spans: Iterator[Span], first: int, where: str) -> None:
    """Raises DamagedArchiveError where a part does not hold the planes of its pictures.

    first: number of its first picture; none refers to one before.
    """
    planes = {1: [0, 0], 3: [0, 0]}
    plain = 0
    for span in spans:
        item = span.item
        if item.reference != -1 and item.reference < first:
            raise DamagedArchiveError(f"{where}: {item.name!r} refers to another part")
        for height, width, channels, letter in item.planes:
            if letter == "m":
                planes[channels][0] += span.count
                planes[channels][1] += span.count * height * width
            else:
                plain += span.count * height * width * channels
    found = {c: [s.images, s.pixels] for c, s in part.shards.items()}
    if found != {c: counts for c, counts in planes.items() if counts[0]}:
        raise DamagedArchiveError(
            f"{where}: the table has planes and pixels {planes}, the shards {found}"
        )
    if plain != sum(block.raw_bytes for block in part.blocks):
        raise DamagedArchiveError(f"{where}: {plain} bytes of plain planes")


def check_sizes(reader: ArchiveReader, shards: Iterable[ShardInfo]) -> None:
    """Raises DamagedArchiveError for a segment that has not the size that the manifest says."""
    for shard in shards:
        for index, expected in enumerate(shard.segment_bytes):
            size = reader.size(segment_member(shard.number, index))
            if size != expected:
                raise DamagedArchiveError(
                    f"{reader.label}: shard {shard.number}, segment {index}: found {size} bytes, "
                    f"expected {expected}"
                )


class PartDecoder:
    """Decodes one part. `spans`: makes an iterator over its pictures, in order.

    Where `problems` bear it, what is damaged gives None instead of an error.
    """

    def __init__(
        self,
        decoding: Decoding,
        number: int,
        part: PartInfo,
        spans: Callable[[], Iterator[Span]],
        problems: Problems,
    ) -> None:
        self.decoding, self._number, self._part = decoding, number, part
        self._spans, self.problems = spans, problems

    def pictures(
        self, wanted: Container[int] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Place, Planes | None]]:
        """The pictures of the items `wanted` (None: all) with numbers from `start` to `stop`.

        What they refer to has to be among them. Only segments and blocks that are needed are read.
        Raises DamagedArchiveError, PortabilityError naming the segment.
        """
        where = f"{self.decoding.reader.label}: part {self._number}"
        blocks = BlockReader(self._part.blocks, self._read_block, where)
        runs = {channels: _PlaneRun(self, s) for channels, s in self._part.shards.items()}
        last_use = self._last_uses()
        held: dict[int, Planes | None] = {}
        for span in self._spans():
            item = span.item
            for offset in range(span.count):
                number = span.number + offset
                if stop is not None and number >= stop:
                    return
                taken = number >= start and (wanted is None or span.index in wanted)
                if taken and all(p.letter == "m" and _gone(runs, p.channels) for p in item.planes):
                    yield (span.index, span.begin + offset), None
                    break  # nor can the others be decoded: an item may claim any number of them
                planes: Planes = []
                lost = False
                for plane in self._planes(item, runs, blocks, taken, held):
                    lost = lost or plane is None
                    if plane is not None:
                        planes.append(plane)
                if not taken:
                    continue
                if number in last_use:
                    held[number] = None if lost else planes
                if last_use.get(item.reference) == number:
                    held.pop(item.reference, None)
                yield (span.index, span.begin + offset), None if lost else planes
        for run in runs.values():
            run.end()

    def _planes(
        self,
        item: Item,
        runs: dict[int, _PlaneRun],
        blocks: BlockReader,
        taken: bool,
        held: dict[int, Planes | None],
    ) -> Iterator[np.ndarray | None]:
        """The planes of the next picture; None for those that are lost or not `taken`."""
        found = item.planes
        if "i" in item.coded:
            channels = [plane.channels for plane in found]
            sides = self._plain(blocks, (*found[0][:2], sum(channels)), skip=not taken)
            yield from [None] if sides is None else deinterleave(sides, channels)
            return
        for index, wanted in enumerate(found):
            shape = wanted[:3]
            if wanted.letter != "m":
                plane = self._plain(blocks, shape, skip=not taken)
                if wanted.letter == "d" and plane is not None and taken:
                    plane = _added(plane, held.get(item.reference), index)
                yield plane
                continue
            run = runs.get(wanted.channels)
            if run is None:
                where = f"{self.decoding.reader.label}: part {self._number}"
                raise DamagedArchiveError(f"{where}: has no shard for {item.name!r}")
            yield run.take(shape[:2], skip=not taken)

    def _last_uses(self) -> dict[int, int]:
        found: dict[int, int] = {}
        if self._part.blocks:  # without them there are no differences
            for span in self._spans():
                if span.item.reference != -1:
                    found[span.item.reference] = span.number
        return found

    def _plain(
        self, blocks: BlockReader, shape: tuple[int, int, int], *, skip: bool
    ) -> np.ndarray | None:
        place = blocks.place(int(np.prod(shape)))
        if skip:
            return None
        try:
            return np.frombuffer(blocks.read(place), np.uint8).reshape(shape)
        except DamagedArchiveError as error:
            self.problems.bear(error)
            return None

    def _read_block(self, index: int) -> bytes:
        return self.decoding.reader.read(block_member(self._number, index))

    def shapes(self, channels: int) -> Iterator[tuple[int, int]]:
        """(height, width) of the planes that the shard of so many channels holds, in order."""
        # Lazy: a few bytes of a table may claim more images than fit into memory.
        for span in self._spans():
            found = [p[:2] for p in span.item.planes if (p.channels, p.letter) == (channels, "m")]
            for shapes in itertools.repeat(found, span.count if found else 0):
                yield from shapes


def _gone(runs: dict[int, _PlaneRun], channels: int) -> bool:
    """Whether no plane of so many channels can be decoded any more."""
    return channels in runs and runs[channels].gone


def _added(plane: np.ndarray, base: Planes | None, index: int) -> np.ndarray | None:
    return None if base is None else plane + base[index]


class _PlaneRun:
    """The planes of one shard, taken or skipped one after the other."""

    def __init__(self, part: PartDecoder, shard: ShardInfo) -> None:
        self._part, self._shard = part, shard
        self._run: Iterator[np.ndarray] | None = None
        self._passed = 0
        self._reached = 0
        """Plane that the run gives next."""
        self._lost_before = 0
        """Planes up to here cannot be decoded."""
        self._segment = 0

    @property
    def gone(self) -> bool:
        """Whether no plane can be decoded any more."""
        return self._lost_before >= self._shard.images

    def take(self, shape: tuple[int, int], *, skip: bool) -> np.ndarray | None:
        """The next plane uint8 (h, w, c); None where it is to `skip`, or is lost."""
        number, self._passed = self._passed, self._passed + 1
        if skip:
            return None
        while True:
            if number < self._lost_before:
                return None
            try:
                plane = self._decode(number)
                break
            except DamagedArchiveError as error:
                self._part.problems.bear(error)
                self._recover()
        if plane.shape[:2] != shape:
            raise DamagedArchiveError(
                f"{self._part.decoding.reader.label}: shard {self._shard.number}: "
                f"found a plane {plane.shape[:2]}, expected {shape}"
            )
        return plane

    def end(self) -> None:
        """After the last plane: the run must be at its end too."""
        if self._run is None or self._reached != self._shard.images:
            return
        try:
            if next(self._run, None) is not None:
                raise DamagedArchiveError(f"shard {self._shard.number} has planes left over")
        except DamagedArchiveError as error:
            self._part.problems.bear(error)

    def _decode(self, number: int) -> np.ndarray:
        if self._run is None:
            self._begin(number)
        assert self._run is not None
        while True:
            plane = next(self._run, None)
            if plane is None:
                raise DamagedArchiveError(
                    f"{self._part.decoding.reader.label}: shard {self._shard.number}: "
                    f"plane {number} is missing"
                )
            self._reached += 1
            if self._reached == number + 1:
                return plane

    def _begin(self, number: int) -> None:
        """Start a run that comes to plane `number`."""
        from osoa_pl.models import zoo  # torch: what only asks for facts does without
        from osoa_pl.online import policy as policies
        from osoa_pl.online.session import Session

        shard, decoding = self._shard, self._part.decoding
        skip = first = 0
        self._segment = len(shard.segment_bytes)  # what fails without a model fails for all
        if shard.policy.get("name") == "none" and number:
            shapes = self._part.shapes(shard.channels)
            skip, first = clean_start(shapes, decoding.settings, number)
        watch, where = decoding.watch, f"{decoding.reader.label}: shard {shard.number}"
        try:
            policy = policies.from_manifest(shard.policy)
        except ArchiveError as error:
            raise ArchiveError(f"{where}: {error}") from error
        model, moment = zoo.build(
            decoding.checkpoint(), shard.channels, device=decoding.device,
            threads=decoding.threads, weights=policy.weights,
        )  # fmt: skip
        try:
            session = Session(
                model, policy, moment,
                self._part.shapes(shard.channels), decoding.settings, seed=decoding.seed,
                shard=shard.number,
                watch=None if watch is None else lambda pixels: watch(pixels * shard.channels),
            )  # fmt: skip
        except UsageError as error:  # what the manifest asks of a model that cannot
            raise ArchiveError(f"{where}: {error}") from error
        self._segment, self._reached = skip, first
        self._run = self._located(
            session.decode(self._segments(skip), decoding.reader.label, skip=skip), skip
        )

    def _segments(self, skip: int) -> Iterator[tuple[segment_format.SegmentHeader, list[Any]]]:
        reader, number = self._part.decoding.reader, self._shard.number
        for index in range(skip, len(self._shard.segment_bytes)):
            self._segment = index
            name, where = segment_member(number, index), f"shard {number}, segment {index}"
            try:
                data = reader.read(name)
            except DamagedArchiveError as error:
                raise DamagedArchiveError(f"{reader.label}: {where}: {error}") from error
            yield segment_format.unpack(data, f"{reader.label}: {where}")

    def _located(self, run: Iterator[np.ndarray], first: int) -> Iterator[np.ndarray]:
        """The run, its errors with the place in the file and what is intact."""
        try:
            yield from run
        except DamagedArchiveError as error:
            segment, count = self._segment, len(self._shard.segment_bytes)
            name = segment_member(self._shard.number, segment)
            try:
                place = f" at byte {self._part.decoding.reader.offset(name)}"
            except DamagedArchiveError:
                place = ""
            intact = f"segments {first}-{segment - 1} are intact"
            if segment == first + 1:
                intact = f"segment {first} is intact"
            if segment == first:
                intact = f"begun at segment {first}" if first else "none before it"
            raise DamagedArchiveError(
                f"{error} (segment {segment} of {count}{place}; {intact})", error.hint
            ) from error

    def _recover(self) -> None:
        """Find the next plane that can be decoded without the damaged segment."""
        self._run = None
        self._lost_before = self._shard.images
        left = self._segment + 1 < len(self._shard.segment_bytes)
        if left and self._shard.policy.get("name") == "none":
            shapes = itertools.islice(self._part.shapes(self._shard.channels), _MAX_SEARCHED)
            plane = clean_start_after(shapes, self._part.decoding.settings, self._segment)
            self._lost_before = self._shard.images if plane is None else plane
