"""One compression: the collection, its parts, the archive being written.

A job knows everything about an archive but who codes its parts: this process, several, or the
Trainer batch by batch. All write the same members.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from osoa_pl.api.members import (
    CHECKPOINT_MEMBER,
    ITEMS_MEMBER,
    Watch,
    check_device,
    file_block_member,
)
from osoa_pl.api.options import Adaptation, CodingOptions
from osoa_pl.api.part import PartCoder, PartResult, code_part
from osoa_pl.api.pieces import Piece, check_unchanged, even_limit
from osoa_pl.api.tiers import best_tier
from osoa_pl.data import files
from osoa_pl.data.collection import Collection, Entry, collect
from osoa_pl.data.listing import list_inputs
from osoa_pl.errors import OsoaError, UsageError
from osoa_pl.format import items as item_table
from osoa_pl.format.blocks import BlockWriter
from osoa_pl.format.container import ArchiveWriter
from osoa_pl.format.partial import PartialFolder
from osoa_pl.format.writing import WORK
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.models import zoo
from osoa_pl.models.checkpoint import Checkpoint
from osoa_pl.online import auto
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import WEIGHTS_SINCE, BatchSettings, chosen, needed_version
from osoa_pl.types import ARITHMETIC_VERSION, MODES, Item

PathOrArrays = (
    str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray | Iterable[np.ndarray]
)

SHARD_SAMPLES = 48 << 20
"""Samples after which a new part begins: some two minutes' work, so that the loss by beginning
anew at theta_0 is small."""
_RUN = "run.json"
KEPT_REASON = "smaller than its coded pixels"


@dataclass(frozen=True)
class CompressResult:
    """What `compress` did. Rates are in bits/dim: bits per sample (pixel and channel)."""

    archive_bytes: int
    original_bytes: int
    """Bytes of the inputs as they were given."""
    raw_bytes: int
    """Samples coded as pixels, one byte each."""
    bits_per_dim: float
    """Gross: the archive without byte-for-byte files, over `raw_bytes`; 0 without pixels."""
    initial_bits: float
    """Bits-back: what its chains began with, a part of the code words; 0 for direct models."""
    images: int
    policies: tuple[str, ...]
    """Kind of pixel and adaptation of each shard, each once; `xz` where planes are plain."""
    stored: tuple[tuple[str, str], ...]
    """(name, reason) of files stored byte for byte."""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of inputs that are not in the archive."""
    renamed: tuple[tuple[str, str], ...]
    seconds: float
    kept_bytes: int = 0
    """Of the archive: picture files that are smaller than what their pixels would cost."""
    checkpoint_bytes: int = 0
    """Of the archive: the checkpoint, where it is embedded."""
    verified: bool = False
    copies: int = 0
    """Files that are copies of another and cost nothing but their entry."""
    parts: int = 1
    checkpoint: str = ""
    """Name of the checkpoint that it starts from."""


@dataclass(frozen=True)
class JobOptions:
    """What may be chosen about a compression; see `osoa_pl.compress`."""

    checkpoint: str = checkpoints.DEFAULT
    embed_checkpoint: bool = False
    adaptation: Adaptation = "auto"
    step_size: float = 1e-3
    effort: int = auto.DEFAULT_EFFORT
    seed: int = 0
    settings: BatchSettings | Mapping[str, int] | None = None
    shard: int | None = None
    times: bool = True
    model_only: bool = False
    device: str = "cpu"
    threads: int | None = None
    overwrite: bool = False
    resume: bool = False
    verify: bool = False
    jobs: int = 1
    """Processes that `verify` decodes with."""
    measure: bool = False


class CompressionJob:
    """Context manager over one archive being made.

    Leaving it without `commit` leaves nothing under the final name; what was finished stays beside
    it, and a job with `resume` continues from there; the result is the same. Raises on
    construction or entry, before any coding: UsageError, InputError, CheckpointError,
    OutputExistsError.
    """

    def __init__(self, images: PathOrArrays, out: Any, options: JobOptions) -> None:
        self._began = time.monotonic()
        if options.adaptation not in ("auto", "online", "none"):
            raise UsageError(f"adaptation {options.adaptation!r} (expected auto, online or none)")
        if type(options.effort) is not int or options.effort not in auto.EFFORTS:
            raise UsageError(f"effort {options.effort!r} (expected 1 to 9)")
        if type(options.seed) is not int or not 0 <= options.seed < 1 << 32:
            raise UsageError(f"seed {options.seed!r}: expected 0 to 4294967295")
        if options.shard is not None and (type(options.shard) is not int or options.shard < 1):
            raise UsageError(f"shard {options.shard!r}: expected a number of images above 0")
        OnlineAdaptation(step_size=options.step_size)
        check_device(options.device)
        self._options = options
        # the writer looks at the output before a collection of any size is read
        self._writer = ArchiveWriter(out, overwrite=options.overwrite, resume=options.resume)
        checkpoint = checkpoints.read(options.checkpoint)
        self._workspace: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.collection = self._collect(images)
            self._prepare(checkpoint)
        except BaseException:
            self._drop_workspace()
            raise

    def _prepare(self, checkpoint: Checkpoint) -> None:
        options = self._options
        family = zoo.family_of(checkpoint)
        suited = family.suited(options.effort if options.adaptation == "auto" else None)
        self.options = CodingOptions(
            checkpoint, chosen(options.settings, suited), options.seed,
            options.adaptation, options.step_size, auto.search(options.effort, family.step_sizes),
            options.device, options.threads, options.measure, options.model_only,
        )  # fmt: skip
        if options.model_only:
            self.collection.forget_copies()
        self.parts, self._spans = _cut(self.collection.entries, options.shard)
        for channels in (3, 1):
            plain = [
                (p.entry.item.height, p.entry.item.width)
                for part in self.parts
                for p in part
                if MODES[p.entry.item.mode].plain and MODES[p.entry.item.mode].planes[0] == channels
            ]
            if plain:
                zoo.check_sizes(checkpoint, channels, plain)
        self.samples = [
            sum(p.count * (p.entry.item.raw_bytes // p.entry.item.count) for p in part)
            for part in self.parts
        ]
        """Samples of each part."""
        self._results: dict[int, PartResult] = {}

    def __enter__(self) -> Self:
        try:
            self._writer.__enter__()
            self._choose_tier()
            self._check_leftover()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _choose_tier(self) -> None:
        """Where no checkpoint is named and the effort allows, take the best for a sample."""
        asked = self._options  # one that is embedded costs more than a larger one gains
        free = asked.checkpoint == checkpoints.DEFAULT and not asked.embed_checkpoint
        if free and asked.adaptation == "auto" and self.options.search.tiers and self.parts[0]:
            self.options = best_tier(self.parts[0], self.options, self.folder)

    def _check_leftover(self) -> None:
        """Raises UsageError where the folder is left by a run with other options."""
        run = {**self.options.identity(), "shard": self._options.shard}
        kept = self._writer.read_note(_RUN)
        try:
            before = run if kept is None else json.loads(kept)
            differing = [key for key in run if before.get(key) != run[key]]
        except (ValueError, AttributeError):
            differing = []
        if differing:
            raise UsageError(
                f"{self.folder.path}: left by a run with another {', '.join(differing)}",
                hint="finish that run, or begin anew with -f and without --resume",
            )
        self._writer.write_note(_RUN, json.dumps(run).encode())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.keep = bool(self.folder.names(WORK))
        except OsoaError:
            self._writer.keep = False
        try:
            self._writer.__exit__(kind, error, trace)
        finally:
            self._drop_workspace()

    @property
    def folder(self) -> PartialFolder:
        """Where the parts' files gather."""
        return self._writer.folder

    @property
    def verifies(self) -> bool:
        """Whether `commit` decodes the archive."""
        return self._options.verify

    @property
    def lock(self) -> tuple[int, ...]:
        """Descriptor that holds the lock on `folder`, for processes that write there."""
        return self._writer.lock

    def coder(self, number: int, watch: Callable[[int], None] | None = None) -> PartCoder:
        """The coder of part `number`."""
        return PartCoder(number, self.parts[number], self.options, self.folder, watch)

    def code(self, number: int, watch: Callable[[int], None] | None = None) -> None:
        """Code part `number` in this process."""
        part = self.parts[number]
        self.take(code_part(number, part, self.options, self.folder, watch))

    def take(self, result: PartResult) -> None:
        """Take a part that has been coded."""
        self._results[result.number] = result

    def commit(self, watch: Watch | None = None) -> CompressResult:
        """Pack the archive under its final name, once all parts have been taken.

        watch: progress of decoding it, with `verify`. Raises InputError where an input has changed.
        """
        checkpoint = self.options.checkpoint
        results = [self._results[number] for number in range(len(self.parts))]
        stored, pictures = self._settle(results)
        items = self.collection.items
        for result in results:
            for member, name in result.members:
                self._writer.adopt(member, name)
        coded = [member for result in results for member, _ in result.members]
        packed, file_bytes, kept_bytes = self._store_files({name for name, _ in stored})
        table = item_table.pack(items)
        item_table.check(items, ITEMS_MEMBER)  # what is written opens
        self._writer.add(ITEMS_MEMBER, table)
        if self._options.embed_checkpoint:
            self._writer.add(CHECKPOINT_MEMBER, checkpoint.data)
        order = [ITEMS_MEMBER, *([CHECKPOINT_MEMBER] if self._options.embed_checkpoint else [])]
        shards = [entry for result in results for entry in result.shards]
        samples = sum(item.raw_bytes for item in items if item.mode)
        manifest = {
            "arithmetic": ARITHMETIC_VERSION,
            "checkpoint": {
                "name": checkpoint.name,
                "sha256": checkpoint.sha256,
                "embedded": self._options.embed_checkpoint,
            },
            "seed": self.options.seed,
            "settings": self.options.settings.to_dict(),
            "parts": [
                {"pictures": count, "planes": [list(block) for block in result.blocks]}
                for count, result in zip(pictures, results, strict=True)
            ],
            "packed": packed,
            "shards": shards,
            "totals": {"items": len(items), "samples": samples},
        }
        check_unchanged(self.collection.entries)

        def check(path: Path) -> None:
            self._verify(path, watch)

        total = self._writer.commit(
            manifest, order=[*order, *coded], check=check if self._options.verify else None,
            version=max(
                item_table.needed_version(items), needed_version(self.options.settings),
                *(WEIGHTS_SINCE for shard in shards if "weights" in shard["policy"]),
            ),
        )  # fmt: skip
        return CompressResult(
            archive_bytes=total,
            original_bytes=self.collection.original_bytes,
            raw_bytes=samples,
            bits_per_dim=8 * (total - file_bytes) / samples if samples else 0.0,
            initial_bits=float(sum(s.get("initial_bits", 0) for s in shards)),
            images=sum(item.count for item in items),
            policies=_policies(shards, any(result.blocks for result in results)),
            stored=(*self.collection.stored, *stored),
            skipped=self.collection.skipped,
            renamed=self.collection.renamed,
            seconds=time.monotonic() - self._began,
            kept_bytes=kept_bytes,
            checkpoint_bytes=len(checkpoint.data) if self._options.embed_checkpoint else 0,
            verified=self._options.verify,
            copies=sum(1 for item in items if item.same != -1),
            parts=len(results),
            checkpoint=checkpoint.name,
        )

    def _verify(self, path: Path, watch: Watch | None) -> None:
        from osoa_pl.api.archive import Archive

        options = self._options
        try:
            with Archive(
                path, checkpoint=None if options.embed_checkpoint else options.checkpoint,
                device=options.device, threads=options.threads, watch=watch,
            ) as archive:  # fmt: skip
                archive.verify(jobs=options.jobs)
        except OsoaError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise type(error)(f"{self._writer.label}: fails its verification: {reason}") from error

    def _settle(self, results: Sequence[PartResult]) -> tuple[list[tuple[str, str]], list[int]]:
        """Enter what the parts decided into the items.

        Returns (name, reason) of pictures that are kept as files, and how many pictures each part
        still spans.
        """
        entries = self.collection.entries
        starts = list(accumulate((entry.item.count for entry in entries), initial=0))
        kept: list[tuple[str, str]] = []
        for part, result in zip(self.parts, results, strict=True):
            for piece, choice in zip(part, result.choices, strict=True):
                letters, reference, transform, keep = choice
                entry = entries[piece.index]
                if keep:
                    entries[piece.index] = entry.stored()
                    kept.append((entry.item.name, KEPT_REASON))
                else:
                    entries[piece.index] = entry.coded(letters, reference, transform)
        for index, entry in enumerate(entries):
            if entry.item.same != -1:
                copy = _copy_of(entries[entry.item.same].item, entry)
                entries[index] = replace(entry, item=copy)
                if copy.kind != entry.item.kind:
                    kept.append((copy.name, KEPT_REASON))
        left = list(accumulate((entry.item.count for entry in entries), initial=0))
        for index, entry in enumerate(entries):
            if entry.item.reference != -1:  # pictures before it may have become files
                target = bisect_right(starts, entry.item.reference) - 1
                item = replace(entry.item, reference=left[target])
                entries[index] = replace(entry, item=item)
        ends = [_moved(end, starts, left) for end in accumulate(self._spans, initial=0)]
        return kept, [end - begin for begin, end in pairwise(ends)]

    def _store_files(self, kept: Container[str]) -> tuple[list[list[int]], int, int]:
        """Write the files that are stored: sizes of the blocks; bytes of it all, and of those
        that are `kept` pictures.
        """
        total = of_kept = 0

        def sink(index: int, data: bytes) -> None:
            nonlocal total
            self._writer.add(file_block_member(index), data)
            total += len(data)

        blocks = BlockWriter(sink)
        in_blocks = 0
        for entry in self.collection.entries:
            item = entry.item
            if item.kind != "file" or item.same != -1:
                continue
            if item.codec == "block":
                blocks.add(entry.read())
                in_blocks += item.size if item.name in kept else 0
                continue
            with self._writer.create(files.member_name(item)) as destination:
                entry.encode_file(destination)
                total += destination.tell()
                of_kept += destination.tell() if item.name in kept else 0
        blocks.finish()
        sizes = [[info.raw_bytes, info.coded_bytes] for info in blocks.infos]
        raw, coded = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (1, 0)
        return sizes, total, of_kept + in_blocks * coded // raw

    def _collect(self, images: PathOrArrays) -> Collection:
        outputs = [self._writer.partial, self._writer.partial.with_suffix("")]
        if isinstance(images, np.ndarray):
            return Collection.from_arrays(images)
        if isinstance(images, str | os.PathLike):
            images = [images]
        try:
            listed: list[Any] = list(images)
        except TypeError:
            listed = [images]  # named below
        if isinstance(images, bytes | Mapping):
            listed = [images]
        if listed and all(isinstance(i, str | os.PathLike) for i in listed):
            self._workspace = tempfile.TemporaryDirectory(prefix="osoa-")
            place = Path(self._workspace.name)
            listing = list_inputs(listed, place, exclude=outputs, times=self._options.times)
            if not any(place.iterdir()):  # a run that is killed should leave as little as it can
                self._drop_workspace()
            return collect(listing)
        for index, image in enumerate(listed):
            if not isinstance(image, np.ndarray):
                raise UsageError(
                    f"input {index}: found {type(image).__name__}, expected paths alone or uint8 "
                    "arrays alone"
                )
        return Collection.from_arrays(listed)

    def _drop_workspace(self) -> None:
        if self._workspace is not None:
            self._workspace.cleanup()
            self._workspace = None


def _copy_of(target: Item, entry: Entry) -> Item:
    """The item of a copy, which is stored as its target is."""
    item = entry.item
    if target.kind == "file" and item.kind != "file":
        item = Item(
            item.name, "file", same=item.same, size=entry.size, mtime=item.mtime, given=item.given
        )
    return replace(item, codec=target.codec) if item.kind == "file" else item


def _moved(number: int, starts: Sequence[int], left: Sequence[int]) -> int:
    """Pictures before picture `number` once some have become files."""
    index = bisect_right(starts, number) - 1
    if index >= len(left) - 1:
        return left[-1]
    return left[index] + min(number - starts[index], left[index + 1] - left[index])


def _cut(entries: Sequence[Entry], shard: int | None) -> tuple[list[list[Piece]], list[int]]:
    """The parts' pieces, and how many pictures each part spans, copies included."""
    parts: list[list[Piece]] = [[]]
    spans = [0]
    number = position = samples = 0
    limit = even_limit((entry.item for entry in entries), SHARD_SAMPLES)
    for index, entry in enumerate(entries):
        item = entry.item
        if not item.count:
            continue
        each = item.raw_bytes // item.count
        begin = 0
        while begin < item.count:
            room = item.count - begin
            if shard is not None:
                room = min(room, shard - spans[-1])
            elif item.same == -1:
                room = min(room, max(int(not samples), (limit - samples) // each))
            if room <= 0:
                parts.append([])
                spans.append(0)
                samples = 0
                continue
            if item.same == -1:
                parts[-1].append(Piece(entry, index, number + begin, position, begin, room))
                samples += room * each
            spans[-1] += room
            begin += room
        number += item.count
        position += item.raw_bytes
    return parts, spans


def _policies(shards: Sequence[Mapping[str, Any]], plain: bool) -> tuple[str, ...]:
    labels = dict.fromkeys(map(_policy_label, shards))
    return (*labels, "xz") if plain else tuple(labels)


def _policy_label(shard: Mapping[str, Any]) -> str:
    kind, policy = zoo.KINDS[shard["channels"]], shard["policy"]
    weights = policy.get("weights", "")
    if policy["name"] == "online":
        start = f" from {weights}" if weights else ""
        return f"{kind}: online{start}, step size {policy['step_size']:g}"
    return f"{kind}: not adapting" + (f", {weights} weights" if weights else "")
