"""An archive opened for reading: its facts, its images, and `decompress`."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self, overload

import numpy as np

from osoa_pl.api.members import CHECKPOINT_MEMBER, ITEMS_MEMBER, Watch, check_device, segment_member
from osoa_pl.data.writer import ImageWriter, select
from osoa_pl.errors import CheckpointError, DamagedArchiveError, PortabilityError
from osoa_pl.format import items as item_table
from osoa_pl.format import segment as segment_format
from osoa_pl.format.container import ArchiveReader, require
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.models.checkpoint import Checkpoint
from osoa_pl.online.plan import BatchSettings
from osoa_pl.types import ARITHMETIC_VERSION, Item


@dataclass(frozen=True)
class ShardInfo:
    """One shard: the images of one kind of pixel."""

    channels: int
    images: int
    pixels: int
    policy: Mapping[str, Any]
    code_bytes: int
    segment_pixels: tuple[int, ...]
    segment_bytes: tuple[int, ...]
    initial_bits: int = 0
    """Bits-back: what the chains began with, part of the code words."""


@dataclass(frozen=True)
class ArchiveInfo:
    """Facts from the manifest and the sizes of the members; rates in bits/dim."""

    archive_bytes: int
    segment_bytes: int
    table_bytes: int
    file_bytes: int
    checkpoint_bytes: int
    container_bytes: int
    """The rest: ZIP structure, mimetype, manifest."""
    items: int
    images: int
    files: int
    raw_bytes: int
    bits_per_dim: float
    """Gross: all but the byte-for-byte files, over the samples."""
    net_bits_per_dim: float
    """Code words alone."""
    checkpoint: str
    checkpoint_sha256: str
    embedded: bool
    seed: int
    settings: BatchSettings
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class DecompressResult:
    """What `decompress` wrote."""

    files: tuple[str, ...]
    raw_bytes: int
    seconds: float


class Archive:
    """Context manager over an archive: `len`, indexing, iteration over images, `info`, `items`.

    Images are uint8 (h, w, c) in item order. Indexing decodes from the shard's first image, as
    adaptation requires; going forward continues where the last access ended.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        check_device(device)
        self._reader = ArchiveReader(source)
        self._explicit, self._device, self._threads = checkpoint, device, threads
        self._watch, self._done = watch, 0
        self._cursors: dict[int, tuple[int, Iterator[np.ndarray]]] = {}
        try:
            self._read_manifest()
            where = f"{self._reader.label}: member '{ITEMS_MEMBER}'"
            self.items: list[Item] = item_table.unpack(self._reader.read(ITEMS_MEMBER), where)
            self._check_table()
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
        self._cursors.clear()
        self._reader.close()

    def __len__(self) -> int:
        return sum(item.count for item in self.items)

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
        before = {1: 0, 3: 0}
        for item in self.items:
            if number < item.count:
                return self._at(item.channels, before[item.channels] + number)
            number -= item.count
            if item.count:
                before[item.channels] += item.count
        raise IndexError(index)

    def __iter__(self) -> Iterator[np.ndarray]:
        runs = {channels: self.images(channels) for channels in (1, 3)}
        for item in self.items:
            for _ in range(item.count):
                yield next(runs[item.channels])

    def images(self, channels: int) -> Iterator[np.ndarray]:
        """The images of one kind of pixel, in item order, decoded as they are asked for."""
        number = next((i for i, s in enumerate(self.shards) if s.channels == channels), None)
        if number is None:
            return
        from osoa_pl.models import zoo  # torch: what only asks for facts does without
        from osoa_pl.online import policy as policies
        from osoa_pl.online.session import Session

        shard = self.shards[number]
        model, moment = zoo.build(
            self.checkpoint(), channels, device=self._device, threads=self._threads
        )
        session = Session(
            model, policies.from_manifest(shard.policy), moment, self._shapes(channels),
            self.settings, seed=self.seed, shard=number,
            watch=lambda pixels: self._progress(pixels * channels),
        )  # fmt: skip
        coded = (self._segment(number, i) for i in range(len(shard.segment_bytes)))
        yield from session.decode(coded, self._reader.label)

    def checkpoint(self) -> Checkpoint:
        """The checkpoint that the archive names: given, embedded or installed."""
        if self._explicit is None and self.embedded:
            if self._reader.size(CHECKPOINT_MEMBER) > checkpoints.MAX_CHECKPOINT_BYTES:
                raise CheckpointError(f"{self._reader.label}: embedded checkpoint is too large")
            found = Checkpoint(self.checkpoint_name, self._reader.read(CHECKPOINT_MEMBER))
            if found.sha256 != self.checkpoint_sha256:
                raise CheckpointError(
                    f"{self._reader.label}: embedded checkpoint has SHA-256 "
                    f"{found.sha256[:12]}..., expected {self.checkpoint_sha256[:12]}..."
                )
            return found
        return checkpoints.find(self.checkpoint_name, self.checkpoint_sha256, self._explicit)

    def extract(
        self,
        folder: str | os.PathLike[str],
        *,
        only: str | None = None,
        overwrite: bool = False,
    ) -> DecompressResult:
        """Write all entries, or those matching the glob `only`, below `folder`.

        Files appear whole, each after its pixels were checked. Raises OutputExistsError before any
        work unless `overwrite`.
        """
        began = time.monotonic()
        selected = select(self.items, only) if only is not None else None
        with ImageWriter(folder, self.items, overwrite, selected=selected) as writer:
            if writer.needed(1) or writer.needed(3):
                self.checkpoint()  # a missing one is found before anything is written
            for item in self.items:
                if item.kind == "file" and (selected is None or item.output_name in selected):
                    with self._reader.open(item.member) as member:
                        writer.put_file(item, member)
            self._expected = sum(self._samples(c, writer.needed(c)) for c in (1, 3))
            for channels in (3, 1):
                needed = writer.needed(channels)
                if needed:
                    for count, image in enumerate(self.images(channels), 1):
                        writer.put(image)
                        if count == needed:
                            break
            writer.finish()
            names = tuple(writer.written)
        chosen = [i for i in self.items if selected is None or i.output_name in selected]
        return DecompressResult(
            names, sum(i.raw_bytes for i in chosen if i.count), time.monotonic() - began
        )

    def verify(self) -> int:
        """Decode everything, comparing all checksums; returns the number of images."""
        for item in self.items:
            if item.kind == "file":
                from osoa_pl.data.files import decode_file

                with self._reader.open(item.member) as member, open(os.devnull, "wb") as sink:
                    decode_file(member, item, sink)
        return sum(1 for channels in (3, 1) for _ in self.images(channels))

    @property
    def info(self) -> ArchiveInfo:
        """Sizes of the parts, rates, model, policies: without decoding anything."""
        reader = self._reader
        files = sum(reader.size(i.member) for i in self.items if i.kind == "file")
        segments = sum(sum(s.segment_bytes) for s in self.shards)
        table = reader.size(ITEMS_MEMBER)
        checkpoint = reader.size(CHECKPOINT_MEMBER) if self.embedded else 0
        total = reader.total_size
        samples = sum(i.raw_bytes for i in self.items if i.count)
        code = sum(s.code_bytes for s in self.shards)
        return ArchiveInfo(
            archive_bytes=total,
            segment_bytes=segments,
            table_bytes=table,
            file_bytes=files,
            checkpoint_bytes=checkpoint,
            container_bytes=total - files - segments - table - checkpoint,
            items=len(self.items),
            images=len(self),
            files=sum(1 for i in self.items if i.kind == "file"),
            raw_bytes=samples,
            bits_per_dim=8 * (total - files) / samples if samples else 0.0,
            net_bits_per_dim=8 * code / samples if samples else 0.0,
            checkpoint=self.checkpoint_name,
            checkpoint_sha256=self.checkpoint_sha256,
            embedded=self.embedded,
            seed=self.seed,
            settings=self.settings,
            shards=tuple(self.shards),
        )

    def _at(self, channels: int, position: int) -> np.ndarray:
        reached, run = self._cursors.get(channels, (position + 1, iter(())))
        if reached > position:
            reached, run = 0, self.images(channels)
        for image in run:
            reached += 1
            if reached == position + 1:
                self._cursors[channels] = reached, run
                return image
        raise DamagedArchiveError(f"{self._reader.label}: image {position} is missing")

    def _shapes(self, channels: int) -> Iterator[tuple[int, int]]:
        # Lazy: a few bytes of a table may claim more images than fit into memory.
        for item in self.items:
            if item.channels == channels:
                yield from itertools.repeat((item.height, item.width), item.count)

    def _segment(self, shard: int, index: int) -> tuple[segment_format.SegmentHeader, list[Any]]:
        name = segment_member(shard, index)
        label = self._reader.label
        try:
            data = self._reader.read(name)
        except DamagedArchiveError as error:
            raise DamagedArchiveError(
                f"{label}: shard {shard}, segment {index}: {error}"
            ) from error
        return segment_format.unpack(data, f"{label}: shard {shard}, segment {index}")

    def _progress(self, samples: int) -> None:
        self._done += samples
        if self._watch is not None:
            self._watch(self._done, max(self._expected, self._done))

    def _samples(self, channels: int, images: int) -> int:
        """Samples of the first `images` pictures of one kind of pixel."""
        total = 0
        for item in self.items:
            if item.channels == channels and images > 0:
                taken = min(images, item.count)
                total += taken * item.height * item.width * channels
                images -= taken
        return total

    def _read_manifest(self) -> None:
        manifest, where = self._reader.manifest, self._reader.label
        arithmetic = require(manifest, "arithmetic", int, where)
        if arithmetic != ARITHMETIC_VERSION:
            raise PortabilityError(
                f"{where}: needs arithmetic version {arithmetic}, this version has "
                f"{ARITHMETIC_VERSION}"
            )
        checkpoint = require(manifest, "checkpoint", dict, where)
        self.checkpoint_name: str = require(checkpoint, "name", str, where)
        self.checkpoint_sha256: str = require(checkpoint, "sha256", str, where)
        self.embedded: bool = require(checkpoint, "embedded", bool, where)
        self.seed: int = require(manifest, "seed", int, where)
        if not 0 <= self.seed < 1 << 32:
            raise DamagedArchiveError(f"{where}: seed {self.seed} is out of range")
        try:
            self.settings = BatchSettings(**require(manifest, "settings", dict, where))
        except (TypeError, ValueError) as error:
            raise DamagedArchiveError(f"{where}: settings: {error}") from None
        self.shards = [_shard(s, where) for s in require(manifest, "shards", list, where)]

    def _check_table(self) -> None:
        """The table, the manifest and the members must tell of the same images."""
        where = self._reader.label
        for number, shard in enumerate(self.shards):
            if shard.channels not in (1, 3):
                raise DamagedArchiveError(f"{where}: shard {number}: {shard.channels} channels")
            for index, expected in enumerate(shard.segment_bytes):
                found_bytes = self._reader.size(segment_member(number, index))
                if found_bytes != expected:
                    raise DamagedArchiveError(
                        f"{where}: shard {number}, segment {index}: found {found_bytes} bytes, "
                        f"expected {expected}"
                    )
            if not 0 <= shard.code_bytes <= sum(shard.segment_bytes):
                raise DamagedArchiveError(
                    f"{where}: shard {number}: {shard.code_bytes} bytes of code words in segments "
                    f"of {sum(shard.segment_bytes)}"
                )
        for channels in (1, 3):
            chosen = [i for i in self.items if i.channels == channels]
            count = sum(i.count for i in chosen)
            pixels = sum(i.count * i.height * i.width for i in chosen)
            found = [
                (s.images, s.pixels, sum(s.segment_pixels))
                for s in self.shards
                if s.channels == channels
            ]
            if found != ([(count, pixels, pixels)] if count else []):
                raise DamagedArchiveError(
                    f"{where}: the table has {count} images of {channels} channels with {pixels} "
                    f"pixels, the shards {found}"
                )


def _shard(entry: Any, where: str) -> ShardInfo:
    if not isinstance(entry, dict):
        raise DamagedArchiveError(f"{where}: a shard of the manifest is no object")
    segments: Sequence[Any] = require(entry, "segments", list, where)
    if not all(isinstance(s, dict) for s in segments):
        raise DamagedArchiveError(f"{where}: a segment of the manifest is no object")
    return ShardInfo(
        channels=require(entry, "channels", int, where),
        images=require(entry, "images", int, where),
        pixels=require(entry, "pixels", int, where),
        policy=require(entry, "policy", dict, where),
        code_bytes=require(entry, "code_bytes", int, where),
        segment_pixels=tuple(_positive(s, "pixels", where) for s in segments),
        segment_bytes=tuple(require(s, "bytes", int, where) for s in segments),
        initial_bits=require({"initial_bits": 0, **entry}, "initial_bits", int, where),
    )


def _positive(entry: Mapping[str, Any], key: str, where: str) -> int:
    value: int = require(entry, key, int, where)
    if value < 1:
        raise DamagedArchiveError(f"{where}: manifest key '{key}': found {value}, expected above 0")
    return value


def open_archive(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    watch: Watch | None = None,
) -> Archive:
    """Open an archive for reading; see `Archive`."""
    return Archive(source, checkpoint=checkpoint, device=device, threads=threads, watch=watch)


def decompress(
    source: str | os.PathLike[str] | BinaryIO,
    out: str | os.PathLike[str] | None = None,
    *,
    only: str | None = None,
    checkpoint: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> list[np.ndarray] | DecompressResult:
    """Restore an archive: into the folder `out`, or without it as a list of uint8 (h, w, c).

    only: a glob over entry names. Raises DamagedArchiveError naming the segment, CheckpointError,
    PortabilityError, OutputExistsError; what was written by then is complete and right.
    """
    with Archive(
        source, checkpoint=checkpoint, device=device, threads=threads, watch=watch
    ) as archive:
        if out is not None:
            return archive.extract(out, only=only, overwrite=overwrite)
        return [image for image in archive]  # list() would trust `len`
