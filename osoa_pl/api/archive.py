"""An archive opened for reading: its facts, its images, and `decompress`."""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from types import TracebackType
from typing import BinaryIO, Self, cast, overload

import numpy as np

from osoa_pl.api.decoding import Decoding, PartDecoder, Place, Span, check_part, check_sizes
from osoa_pl.api.facts import ArchiveInfo, DecompressResult
from osoa_pl.api.manifest import read_manifest
from osoa_pl.api.members import (
    CHECKPOINT_MEMBER,
    FIRST_ITEMS_MEMBER,
    ITEMS_MEMBER,
    Watch,
    check_device,
)
from osoa_pl.api.problems import Problems
from osoa_pl.api.runs import Cursor, Spool
from osoa_pl.api.stored import StoredFiles
from osoa_pl.api.workers import DecodePart, run, threads_each
from osoa_pl.data import files
from osoa_pl.data.picture import Raster
from osoa_pl.data.planes import Planes, picture_of
from osoa_pl.data.writer import Deliver, ImageWriter, select
from osoa_pl.errors import CheckpointError, DamagedArchiveError
from osoa_pl.format import items as item_table
from osoa_pl.format.container import ArchiveReader
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.models.checkpoint import Checkpoint
from osoa_pl.types import STREAM, Item, form_of


class Archive:
    """Context manager over an archive: `len`, indexing, iteration over images, `info`, `items`.

    Images are uint8 (h, w, c), c in 1..4; palette indices (h, w, 1); uint16 where their mode has 16
    bits. They come in item order. Indexing decodes from the first image of the part (without
    adaptation: of a segment shortly before), as adaptation requires; going forward continues where
    the last access ended.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        watch: Watch | None = None,
        keep_going: bool = False,
    ) -> None:
        check_device(device)
        self._reader = ArchiveReader(source, recover=keep_going)
        self._source, self._keep_going = source, keep_going
        self._explicit = None if checkpoint == checkpoints.DEFAULT else checkpoint
        self._device, self._threads = device, threads
        self.watch, self._done = watch, 0
        known = [self._reader.damage] if self._reader.damage else []
        self._problems = Problems(keep_going, known)
        self._cursor: Cursor | None = None
        self._checkpoint: Checkpoint | None = None
        self._no_checkpoint: str | None = None
        try:
            self.manifest = read_manifest(self._reader)
            self._table_member = ITEMS_MEMBER if self._reader.version > 1 else FIRST_ITEMS_MEMBER
            where = f"{self._reader.label}: member '{self._table_member}'"
            table = self._reader.read(self._table_member)
            self.items: list[Item] = item_table.unpack(table, where, version=self._reader.version)
            self._starts = list(accumulate((i.count for i in self.items), initial=0))
            self._parts = list(accumulate((p.pictures for p in self.manifest.parts), initial=0))
            self._check_consistent()
            self._expected = sum(item.raw_bytes for item in self.items if item.count)
        except BaseException:
            self._reader.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._cursor = None
        self._reader.close()

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        item = self._item_of(number)
        if self.items[item].same != -1:
            number += self._starts[self.items[item].same] - self._starts[item]
            item = self.items[item].same
        planes = self._decode_picture(number, self._chain_start(item, number))
        return _picture(planes, self.items[item])

    def __iter__(self) -> Iterator[np.ndarray]:
        with Spool({item.same for item in self.items}) as spool:
            runs = (
                found
                for part in range(len(self.manifest.parts))
                for found in self.decode_part(part)
            )
            for index, item in enumerate(self.items):
                for number in range(item.count):
                    if item.same != -1:
                        yield spool.get(item, number)
                        continue
                    place, planes = next(runs, ((-1, -1), None))
                    if planes is None or place != (index, number):
                        raise DamagedArchiveError(f"{self._reader.label}: {item.name!r} is missing")
                    picture = _picture(planes, item)
                    spool.put(index, number, picture)
                    yield picture

    def decode_part(
        self, number: int, wanted: Sequence[int] | None = None, start: int = 0
    ) -> Iterator[tuple[Place, Planes | None]]:
        """Pictures of part `number`, copies apart, as (item, number within it) and planes.

        wanted: rising indices of items, with all that they refer to; None: all. start: number of
        the first picture. With `keep_going` lost pictures have None for planes, and an item that
        has no picture left gives one for all.
        """
        chosen, stop = None, None
        if wanted is not None:
            listed = self._within(number, wanted)
            if not listed:
                return
            chosen, stop = frozenset(listed), self._starts[listed[-1] + 1]
        decoder = PartDecoder(
            self._decoding(), number, self.manifest.parts[number], lambda: self._spans(number),
            self._problems,
        )  # fmt: skip
        yield from decoder.pictures(chosen, start, stop)

    def checkpoint(self) -> Checkpoint:
        """The checkpoint that the archive names: given, embedded or installed."""
        if self._no_checkpoint is not None:
            raise DamagedArchiveError(self._no_checkpoint)
        if self._checkpoint is None:
            self._checkpoint = self._find_checkpoint()
        return self._checkpoint

    def _find_checkpoint(self) -> Checkpoint:
        name, digest = self.manifest.checkpoint_name, self.manifest.checkpoint_sha256
        if self._explicit is not None or not self.manifest.embedded:
            return checkpoints.find(name, digest, self._explicit)
        try:
            return self._embedded_checkpoint()
        except DamagedArchiveError as error:
            self._problems.bear(error)
            try:
                return checkpoints.find(name, digest)
            except CheckpointError:
                self._no_checkpoint = str(error)
                raise error from None

    def _embedded_checkpoint(self) -> Checkpoint:
        if self._reader.size(CHECKPOINT_MEMBER) > checkpoints.MAX_CHECKPOINT_BYTES:
            raise CheckpointError(f"{self._reader.label}: embedded checkpoint is too large")
        name, digest = self.manifest.checkpoint_name, self.manifest.checkpoint_sha256
        found = Checkpoint(name, self._reader.read(CHECKPOINT_MEMBER))
        if found.sha256 != digest:
            raise CheckpointError(
                f"{self._reader.label}: embedded checkpoint has SHA-256 "
                f"{found.sha256[:12]}..., expected {digest[:12]}..."
            )
        return found

    @property
    def problems(self) -> list[str]:
        """What is damaged, as far as it is known (`keep_going`)."""
        return self._problems.found

    def extract(
        self,
        folder: str | os.PathLike[str],
        *,
        only: str | Sequence[str] | None = None,
        overwrite: bool = False,
        jobs: int = 1,
        deliver: Deliver | None = None,
    ) -> DecompressResult:
        """Write all entries, or those that match a glob of `only`, below `folder`.

        Files appear whole, each after its pixels were checked. jobs: processes that decode parts
        side by side. deliver: called with the name, path and time of each folder and finished
        file, and may take it away. Raises OutputExistsError before any work unless `overwrite`.
        With `keep_going` what is lost is told in the result; nothing wrong is written.
        """
        began = time.monotonic()
        selected = select(self.items, only) if only is not None else None
        with ImageWriter(
            folder, self.items, overwrite, selected=selected, deliver=deliver
        ) as writer:
            chosen = range(len(self.items)) if selected is None else sorted(selected)
            wanted = self._closure(chosen) if selected is not None else None
            pictures = [i for i in chosen if self.items[i].count]
            if pictures:
                self._need_checkpoint(wanted)
            self._extract_files(writer, chosen)
            self._expected = sum(self.items[i].raw_bytes for i in pictures)
            copies: dict[int, list[int]] = {}
            for index in pictures:
                if self.items[index].same != -1:
                    copies.setdefault(self.items[index].same, []).append(index)
            for (index, number), planes in self._all_pictures(wanted, jobs):
                targets = [index, *copies.get(index, ())]
                if planes is None:
                    for target in targets:
                        writer.lose(target)
                    continue
                picture = _picture(planes, self.items[index])
                for target in targets:
                    self._put(writer, target, number, picture)
            lost = writer.finish(give_up=self._keep_going)
            names, done = tuple(writer.written), set(writer.written)
            written = [i for i in pictures if writer.name(i) in done]
        return DecompressResult(
            names, sum(self.items[i].raw_bytes for i in written), time.monotonic() - began,
            tuple(lost), tuple(self.problems),
        )  # fmt: skip

    def _put(self, writer: ImageWriter, index: int, number: int, picture: Raster) -> None:
        try:
            writer.put(index, number, picture)
        except DamagedArchiveError as error:
            self._problems.bear(error)
            writer.lose(index)

    def verify(self, *, jobs: int = 1) -> int:
        """Decode everything, comparing all checksums; returns the number of images."""
        stored = StoredFiles(self._reader, self.manifest.packed, self.items)
        for index, item in enumerate(self.items):
            if item.kind == "file" and item.same == -1:
                with stored.open(index) as member, open(os.devnull, "wb") as sink:
                    files.decode_file(member, item, sink)
        for _ in self._all_pictures(None, jobs):
            pass
        return len(self)

    @property
    def info(self) -> ArchiveInfo:
        """Sizes of the parts, rates, model, policies: without decoding anything."""
        reader, manifest = self._reader, self.manifest
        stored = [i for i in self.items if i.kind == "file" and i.same == -1]
        in_files = sum(reader.size(files.member_name(i)) for i in stored if i.codec != "block")
        in_files += sum(block.coded_bytes for block in manifest.packed)
        segments = sum(sum(s.segment_bytes) for s in manifest.shards)
        planes = sum(b.coded_bytes for part in manifest.parts for b in part.blocks)
        table = reader.size(self._table_member)
        checkpoint = reader.size(CHECKPOINT_MEMBER) if manifest.embedded else 0
        total = reader.total_size
        samples = sum(i.raw_bytes for i in self.items if i.count)
        code = sum(s.code_bytes for s in manifest.shards)
        coded = sum(s.pixels * s.channels for s in manifest.shards)
        return ArchiveInfo(
            archive_bytes=total,
            segment_bytes=segments,
            plane_bytes=planes,
            table_bytes=table,
            file_bytes=in_files,
            checkpoint_bytes=checkpoint,
            container_bytes=total - in_files - segments - planes - table - checkpoint,
            items=len(self.items),
            images=len(self),
            files=sum(1 for i in self.items if i.kind == "file"),
            copies=sum(1 for i in self.items if i.same != -1),
            raw_bytes=samples,
            bits_per_dim=8 * (total - in_files) / samples if samples else 0.0,
            net_bits_per_dim=8 * code / coded if coded else 0.0,
            checkpoint=manifest.checkpoint_name,
            checkpoint_sha256=manifest.checkpoint_sha256,
            embedded=manifest.embedded,
            seed=manifest.seed,
            settings=manifest.settings,
            parts=len(manifest.parts),
            shards=manifest.shards,
        )

    def _decoding(self) -> Decoding:
        return Decoding(
            self._reader, self.manifest.settings, self.manifest.seed, self.checkpoint,
            self._device, self._threads, self._progress,
        )  # fmt: skip

    def _item_of(self, number: int) -> int:
        """Index of the item that has picture `number`."""
        return bisect_right(self._starts, number) - 1

    def _spans(self, part: int) -> Iterator[Span]:
        """The part's pictures, copies apart."""
        first, last = self._parts[part], self._parts[part + 1]
        index = self._item_of(first) if first < last else len(self.items)
        while index < len(self.items) and self._starts[index] < last:
            item, start = self.items[index], self._starts[index]
            begin, end = max(first, start), min(last, self._starts[index + 1])
            if item.same == -1 and begin < end:
                yield Span(index, item, begin, begin - start, end - begin)
            index += 1

    def _within(self, part: int, wanted: Sequence[int]) -> Sequence[int]:
        """Those of the rising indices `wanted` that have pictures in the part."""
        first, last = self._parts[part], self._parts[part + 1]
        begin = bisect_right(wanted, first, key=lambda index: self._starts[index + 1])
        return wanted[begin : bisect_left(wanted, last, key=self._starts.__getitem__)]

    def _chain_start(self, item: int, number: int) -> int:
        """First picture that picture `number` of `item` refers to, at whatever remove."""
        while self.items[item].reference != -1:
            number = self.items[item].reference
            item = self._item_of(number)
        return number

    def _closure(self, chosen: Iterable[int]) -> list[int]:
        """The items `chosen` that are coded, and all that they refer to."""
        found: set[int] = set()
        for index in chosen:
            target = self.items[index].same if self.items[index].same != -1 else index
            while self.items[target].count and target not in found:
                found.add(target)
                if self.items[target].reference == -1:
                    break
                target = self._item_of(self.items[target].reference)
        return sorted(found)

    def _decode_picture(self, number: int, start: int) -> Planes:
        part = bisect_right(self._parts, number) - 1
        place = (self._item_of(number), number - self._starts[self._item_of(number)])
        cursor, self._cursor = self._cursor, None
        # a run has what it passed over, as far as it will be referred to
        if cursor is not None and not (
            cursor.part == part
            and cursor.begun <= start
            and cursor.reached <= number
            and not self._far(part, cursor.reached, start)
        ):
            cursor = None
        cursor = cursor or Cursor(part, start, start, self.decode_part(part, start=start))
        for found, planes in cursor.run:
            if found == place:
                self._cursor = replace(cursor, reached=number + 1)
                if planes is None:
                    break
                return planes
        raise DamagedArchiveError(f"{self._reader.label}: image {number} is missing")

    def _far(self, part: int, reached: int, number: int) -> bool:
        """Whether jumping to `number` is cheaper than decoding all on the way."""
        shards = self.manifest.parts[part].shards.values()
        return number - reached > 64 and all(s.policy.get("name") == "none" for s in shards)

    def _all_pictures(
        self, wanted: list[int] | None, jobs: int
    ) -> Iterator[tuple[Place, Planes | None]]:
        parts = [
            n for n in range(len(self.manifest.parts))
            if self._parts[n] < self._parts[n + 1] and (wanted is None or self._within(n, wanted))
        ]  # fmt: skip
        source = self._source
        alone = source == STREAM or not isinstance(source, str | os.PathLike)
        if min(jobs, len(parts)) < 2 or alone:  # a stream is for this process
            for number in parts:
                yield from self.decode_part(number, wanted)
            return
        jobs = min(jobs, len(parts))
        options = {
            "checkpoint": self._explicit, "device": self._device, "keep_going": self._keep_going,
            "threads": self._threads or threads_each(jobs),
        }  # fmt: skip
        tasks = [DecodePart(os.fspath(cast(str, source)), n, wanted, options) for n in parts]
        with closing(run(tasks, jobs)) as answers:
            for _, kind, value in answers:
                if kind == "progress":
                    self._progress(value)
                elif kind == "picture":
                    yield value
                else:
                    self._problems.add(value)

    def _need_checkpoint(self, wanted: list[int] | None) -> None:
        """A missing checkpoint is found before anything is written."""
        indices: Iterable[int] = range(len(self.items)) if wanted is None else wanted
        coded = (self.items[i] for i in indices if self.items[i].same == -1)
        if any(plane.letter == "m" for item in coded for plane in item.planes):
            try:
                self.checkpoint()
            except DamagedArchiveError as error:
                self._problems.bear(error)

    def _extract_files(self, writer: ImageWriter, chosen: Iterable[int]) -> None:
        stored = StoredFiles(self._reader, self.manifest.packed, self.items)
        for index in chosen:
            if self.items[index].kind != "file":
                continue
            try:
                with stored.open(index) as member:
                    writer.put_file(index, member)
            except DamagedArchiveError as error:
                self._problems.bear(error)
                writer.lose(index)

    def _check_consistent(self) -> None:
        """The table, the manifest and the members must tell of the same pictures."""
        label, inside, told = self._reader.label, self._starts[-1], self._parts[-1]
        if told != inside:
            raise DamagedArchiveError(f"{label}: the table has {inside} pictures, the parts {told}")
        for number, part in enumerate(self.manifest.parts):
            first = self._parts[number]
            check_part(part, self._spans(number), first, f"{label}: part {number}")
        if not self._keep_going:
            check_sizes(self._reader, self.manifest.shards)

    def _progress(self, samples: int) -> None:
        self._done += samples
        if self.watch is not None:
            self.watch(self._done, max(self._expected, self._done))


def _picture(planes: Planes, item: Item) -> Raster:
    """A picture of the item."""
    return picture_of(planes, form_of(item.mode, item.transform))


def open_archive(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    watch: Watch | None = None,
    keep_going: bool = False,
) -> Archive:
    """Open an archive for reading; see `Archive`.

    source: path, fsspec URL, binary file, or ``-`` for standard input. keep_going: open what is
    damaged, too, and decode what is intact.
    """
    return Archive(
        source, checkpoint=checkpoint, device=device, threads=threads, watch=watch,
        keep_going=keep_going,
    )  # fmt: skip


def decompress(
    source: str | os.PathLike[str] | BinaryIO,
    out: str | os.PathLike[str] | None = None,
    *,
    only: str | Sequence[str] | None = None,
    jobs: int = 1,
    keep_going: bool = False,
    checkpoint: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> list[np.ndarray] | DecompressResult:
    """Restore an archive: into the folder `out`, or without it as a list of images (see `Archive`).

    only: globs over entry names. jobs, keep_going: see `Archive.extract`. Raises
    DamagedArchiveError naming the segment, CheckpointError, PortabilityError, OutputExistsError;
    what was written by then is complete and right.
    """
    with Archive(
        source, checkpoint=checkpoint, device=device, threads=threads, watch=watch,
        keep_going=keep_going and out is not None,
    ) as archive:  # fmt: skip
        if out is not None:
            return archive.extract(out, only=only, overwrite=overwrite, jobs=jobs)
        return [image for image in archive]  # list() would trust `len`
