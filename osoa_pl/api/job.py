"""One compression: the collection, its shards, the archive being written; and how it resumes.

A job knows everything about an archive but the order of moves: `compress` runs whole policies over
its shards, the Trainer makes each move itself. Both write the same members.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor

from osoa_pl.api.members import CHECKPOINT_MEMBER, ITEMS_MEMBER, check_device, segment_member
from osoa_pl.data.collection import Collection, scan
from osoa_pl.errors import DamagedArchiveError, UsageError
from osoa_pl.format import items as item_table
from osoa_pl.format import segment as segment_format
from osoa_pl.format.atomic import check_destination
from osoa_pl.format.container import ArchiveWriter
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.models import zoo
from osoa_pl.models.base import Model
from osoa_pl.online import snapshots
from osoa_pl.online.auto import ShardRecord
from osoa_pl.online.plan import BatchSettings
from osoa_pl.online.policy import Policy
from osoa_pl.online.session import Session
from osoa_pl.types import ARITHMETIC_VERSION

PathOrArrays = (
    str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray | Iterable[np.ndarray]
)
_RUN, _STATE = "run.json", "state"


@dataclass(frozen=True)
class CompressResult:
    """What `compress` did. Rates are in bits/dim: bits per sample (pixel and channel)."""

    archive_bytes: int
    original_bytes: int
    """Bytes of the inputs as they were given."""
    raw_bytes: int
    """Samples coded as pixels, one byte each."""
    bits_per_dim: float
    """Gross: the archive without byte-for-byte members, over `raw_bytes`; 0 without pixels."""
    initial_bits: float
    """Bits-back: what its chains began with, a part of the code words; 0 for direct models."""
    images: int
    policies: tuple[str, ...]
    """Kind of pixel and adaptation of each shard, as recorded."""
    stored: tuple[tuple[str, str], ...]
    """(name, reason) of files stored byte for byte."""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of inputs that are not in the archive."""
    renamed: tuple[tuple[str, str], ...]
    seconds: float


@dataclass(frozen=True)
class JobShard:
    """The images of one kind of pixel: one trajectory."""

    number: int
    channels: int
    shapes: list[tuple[int, int]]


class CompressionJob:
    """Context manager over one archive being made; leaving it without `commit` leaves nothing.

    Options as for `osoa_pl.compress`. `resume`: keep what was finished when the run ends early,
    and continue from there; the result is the same. Raises on construction or entry, before any
    coding: UsageError, InputError, CheckpointError, OutputExistsError.
    """

    def __init__(
        self,
        images: PathOrArrays,
        out: str | os.PathLike[str],
        *,
        checkpoint: str = checkpoints.DEFAULT,
        embed_checkpoint: bool = False,
        seed: int = 0,
        settings: BatchSettings | Mapping[str, int] | None = None,
        device: str = "cpu",
        threads: int | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self._began = time.monotonic()
        if type(seed) is not int or not 0 <= seed < 1 << 32:
            raise UsageError(f"seed {seed!r}: expected 0 to 4294967295")
        check_device(device)
        check_destination(out, overwrite=overwrite)  # before reading a collection of any size
        self.checkpoint = checkpoints.read(checkpoint)
        self.settings = _settings(settings, self.checkpoint)
        self.seed, self.out = seed, out
        self._device, self._threads, self._embed = device, threads, embed_checkpoint
        self._resume = resume
        self.collection = _collect(images, out)
        shapes = {channels: self.collection.image_shapes(channels) for channels in (3, 1)}
        present = [channels for channels, found in shapes.items() if found]
        for channels in present:
            zoo.check_sizes(self.checkpoint, channels, shapes[channels])
        self.shards = [JobShard(i, c, shapes[c]) for i, c in enumerate(present)]
        self.step_sizes = zoo.family_of(self.checkpoint).step_sizes
        """What the policy `auto` tries."""
        self.samples = sum(item.raw_bytes for item in self.collection.items if item.count)
        """Samples to code, over all shards."""
        self._writer = ArchiveWriter(out, overwrite=overwrite, keep=resume)
        self._entries: list[dict[str, Any]] = []
        self._stored = 0

    def __enter__(self) -> Self:
        self._writer.__enter__()
        try:
            self._open()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def _open(self) -> None:
        for item in self.collection.items:
            if item.kind == "file":
                with self._writer.create(item.member) as destination:
                    self.collection.encode_file(item, destination)
                    self._stored += destination.tell()
        table = item_table.pack(self.collection.items)
        item_table.unpack(table, f"{os.fspath(self.out)}: {ITEMS_MEMBER}")  # what is written opens
        self._writer.add(ITEMS_MEMBER, table)
        self._table_digest = hashlib.sha256(table).hexdigest()
        if self._embed:
            self._writer.add(CHECKPOINT_MEMBER, self.checkpoint.data)

    def session(
        self,
        shard: JobShard,
        policy: Policy,
        *,
        watch: Callable[[int], None] | None = None,
        measure: bool = False,
    ) -> Session:
        """A new trajectory over a shard, at theta_0."""
        model, moment = self.model(shard)
        return Session(
            model, policy, moment, shard.shapes, self.settings, seed=self.seed,
            shard=shard.number, watch=watch, measure=measure,
        )  # fmt: skip

    def model(self, shard: JobShard) -> tuple[Model, Tensor]:
        """A new model at theta_0 and its second moments."""
        return zoo.build(
            self.checkpoint, shard.channels, device=self._device, threads=self._threads
        )

    def images(self, shard: JobShard) -> Iterator[np.ndarray]:
        """The shard's images uint8 (h, w, c), in order."""
        return self.collection.iter_images(shard.channels)

    def add_segment(self, shard: JobShard, index: int, data: bytes) -> None:
        """Write a packed segment; segments come in order."""
        self._writer.add(segment_member(shard.number, index), data)

    def finish_shard(self, shard: JobShard, coded: ShardRecord) -> None:
        """Enter a shard, all of whose segments have been added, into the manifest."""
        self._entries.append(_shard_entry(coded, shard))

    def finished(self, policy: Policy) -> dict[str, Any] | None:
        """Where an earlier run with `resume` got to, None where there was none.

        Its segments are members of this archive again. The result is what `keep` was given, with
        `shard`. Raises UsageError where that run was another one.
        """
        run = {
            "arithmetic": ARITHMETIC_VERSION,
            "checkpoint": self.checkpoint.sha256,
            "embedded checkpoint": self._embed,
            "seed": self.seed,
            "settings": self.settings.to_dict(),
            "policy": policy.to_dict(),
            "collection": self._table_digest,
        }
        kept = self._writer.read_note(_RUN)
        state = self._writer.read_note(_STATE)
        if kept is not None and (before := json.loads(kept)) != run:
            differing = ", ".join(key for key in run if before.get(key) != run[key])
            raise UsageError(
                f"{self._writer.partial}: left by a run with another {differing}",
                hint="finish that run, or remove the folder to begin anew",
            )
        self._writer.write_note(_RUN, json.dumps(run).encode())
        try:
            return None if state is None else snapshots.unpack(state)
        except ValueError as error:
            raise self._unfinished(f"its state cannot be read ({error})") from None

    def adopt_segment(self, shard: JobShard, index: int, size: int) -> None:
        """Make a segment of `size` bytes that an earlier run has finished a member again.

        Raises DamagedArchiveError where it is missing or fails its checksums.
        """
        name = segment_member(shard.number, index)
        if not self._writer.adopt(name):
            raise self._unfinished(f"{name} is missing")
        data = self._writer.read(name)
        try:
            segment_format.unpack(data, name)
        except DamagedArchiveError as error:
            raise self._unfinished(str(error)) from None
        if len(data) != size:
            raise self._unfinished(f"{name}: found {len(data)} bytes, expected {size}")

    def _unfinished(self, problem: str) -> DamagedArchiveError:
        return DamagedArchiveError(
            f"{self._writer.partial}: cannot be continued: {problem}",
            hint="remove the folder to begin anew",
        )

    def keep(self, state: Mapping[str, Any]) -> None:
        """Note where the run has got to, after a segment was added: for `finished`."""
        self._writer.write_note(_STATE, snapshots.pack(state))

    def commit(self) -> CompressResult:
        """Pack the archive under its final name."""
        samples = sum(s["pixels"] * s["channels"] for s in self._entries)
        self._writer.commit(
            {
                "format": 1,
                "arithmetic": ARITHMETIC_VERSION,
                "checkpoint": {
                    "name": self.checkpoint.name,
                    "sha256": self.checkpoint.sha256,
                    "embedded": self._embed,
                },
                "seed": self.seed,
                "settings": self.settings.to_dict(),
                "shards": self._entries,
                "totals": {"items": len(self.collection.items), "samples": samples},
            }
        )
        total = os.path.getsize(self.out)
        return CompressResult(
            archive_bytes=total,
            original_bytes=self.collection.original_bytes,
            raw_bytes=samples,
            bits_per_dim=8 * (total - self._stored) / samples if samples else 0.0,
            initial_bits=float(sum(s.get("initial_bits", 0) for s in self._entries)),
            images=sum(s["images"] for s in self._entries),
            policies=tuple(_policy_label(s) for s in self._entries),
            stored=self.collection.stored,
            skipped=self.collection.skipped,
            renamed=self.collection.renamed,
            seconds=time.monotonic() - self._began,
        )


def _settings(
    given: BatchSettings | Mapping[str, int] | None, checkpoint: checkpoints.Checkpoint
) -> BatchSettings:
    if isinstance(given, BatchSettings):
        return given
    try:
        return replace(BatchSettings(**zoo.family_of(checkpoint).settings), **(given or {}))
    except TypeError as error:
        raise UsageError(f"settings: {error}") from None


def _collect(images: PathOrArrays, out: str | os.PathLike[str]) -> Collection:
    outputs = [out, os.fspath(out) + ".partial"]
    if isinstance(images, str | os.PathLike):
        return scan([images], exclude=outputs)
    if isinstance(images, np.ndarray):
        return Collection.from_arrays(images)
    try:
        listed: list[Any] = list(images)
    except TypeError:
        listed = [images]  # named below
    if isinstance(images, bytes | Mapping):
        listed = [images]
    if listed and all(isinstance(i, str | os.PathLike) for i in listed):
        return scan(listed, exclude=outputs)
    for index, image in enumerate(listed):
        if not isinstance(image, np.ndarray):
            raise UsageError(
                f"input {index}: found {type(image).__name__}, expected paths alone or uint8 "
                "arrays alone"
            )
    return Collection.from_arrays(listed)


def _shard_entry(coded: ShardRecord, shard: JobShard) -> dict[str, Any]:
    entry = {
        "channels": shard.channels,
        "images": len(shard.shapes),
        "pixels": sum(coded.pixels),
        "policy": coded.policy.to_dict(),
        "code_bytes": coded.code_bytes,
        "segments": [
            {"batches": b, "pixels": p, "bytes": s}
            for b, p, s in zip(coded.batches, coded.pixels, coded.sizes, strict=True)
        ],
    }
    if coded.initial_bits:
        entry["initial_bits"] = int(coded.initial_bits)
    return entry


def _policy_label(shard: Mapping[str, Any]) -> str:
    kind, policy = zoo.KINDS[shard["channels"]], shard["policy"]
    if policy["name"] == "online":
        return f"{kind}: online, step size {policy['step_size']:g}"
    return f"{kind}: not adapting"
