"""From a collection to an archive: shards by kind of pixel, segments, tables, manifest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from osoa_pl.api.members import CHECKPOINT_MEMBER, ITEMS_MEMBER, Watch, check_device, segment_member
from osoa_pl.data.collection import Collection, scan
from osoa_pl.errors import UsageError
from osoa_pl.format import items as item_table
from osoa_pl.format.atomic import check_destination
from osoa_pl.format.container import ArchiveWriter
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.models import zoo
from osoa_pl.online import auto
from osoa_pl.online.auto import CodedShard
from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings
from osoa_pl.online.policy import Policy
from osoa_pl.online.session import Segment, Session
from osoa_pl.types import ARITHMETIC_VERSION

Adaptation = Literal["auto", "online", "none"]

PathOrArrays = (
    str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray | Iterable[np.ndarray]
)


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
    images: int
    policies: tuple[str, ...]
    """Kind of pixel and adaptation of each shard, as recorded."""
    stored: tuple[tuple[str, str], ...]
    """(name, reason) of files stored byte for byte."""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of inputs that are not in the archive."""
    renamed: tuple[tuple[str, str], ...]
    seconds: float


def compress(
    images: PathOrArrays,
    out: str | os.PathLike[str],
    *,
    checkpoint: str = checkpoints.DEFAULT,
    embed_checkpoint: bool = False,
    adaptation: Adaptation = "auto",
    step_size: float = 1e-3,
    seed: int = 0,
    settings: BatchSettings | None = None,
    device: str = "cpu",
    threads: int | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> CompressResult:
    """Compress pictures into the archive `out`, adapting the checkpoint to them on the way.

    images: a path or paths (folders, picture files, .npy/.npz/IDX), or uint8 arrays: (n, h, w),
    (n, h, w, c), or an iterable of (h, w[, c]), c in 1, 3. adaptation: `none`, `online` (one pass
    with `step_size`) or `auto` (the smaller of `none` and the better of two step sizes).
    The same input and options give the same segments, on any machine and number of threads (the
    item table and stored files pass through zlib and xz, whose versions may differ).

    Raises UsageError, InputError, CheckpointError, OutputExistsError; nothing is left at `out`
    after an error.
    """
    began = time.monotonic()
    if adaptation not in ("auto", "online", "none"):
        raise UsageError(f"adaptation {adaptation!r} (expected auto, online or none)")
    if type(seed) is not int or not 0 <= seed < 1 << 32:
        raise UsageError(f"seed {seed!r}: expected 0 to 4294967295")
    fixed: dict[str, Policy] = {
        "online": OnlineAdaptation(step_size=step_size),
        "none": NoAdaptation(),
    }
    check_device(device)
    settings = settings or BatchSettings()
    check_destination(out, overwrite=overwrite)  # before reading a collection of any size
    model_file = checkpoints.read(checkpoint)
    collection = _collect(images, out)
    stored = 0
    with ArchiveWriter(out, overwrite=overwrite) as writer:
        for item in collection.items:
            if item.kind == "file":
                with writer.create(item.member) as destination:
                    collection.encode_file(item, destination)
                    stored += destination.tell()
        table = item_table.pack(collection.items)
        item_table.unpack(table, f"{os.fspath(out)}: {ITEMS_MEMBER}")  # what is written opens
        writer.add(ITEMS_MEMBER, table)
        if embed_checkpoint:
            writer.add(CHECKPOINT_MEMBER, model_file.data)
        counter = _Counter(watch, adaptation, sum(i.raw_bytes for i in collection.items if i.count),
                           settings.batch_pixels * settings.segment_batches)  # fmt: skip
        shards: list[dict[str, Any]] = []
        for channels in (3, 1):
            shapes = collection.image_shapes(channels)
            if not shapes:
                continue
            number = len(shards)

            def encode(policy: Policy, channels: int = channels, number: int = number,
                       shapes: list[tuple[int, int]] = shapes) -> Iterator[Segment]:  # fmt: skip
                model, moment = zoo.build(model_file, channels, device=device, threads=threads)
                session = Session(
                    model, policy, moment, shapes, settings, seed=seed, shard=number,
                    watch=lambda pixels: counter.add(pixels * channels),
                )  # fmt: skip
                return session.encode(collection.iter_images(channels))

            policy = fixed.get(adaptation)
            with auto.code(encode, policy) if policy else auto.choose(encode) as shard:
                for index, data in enumerate(shard.members()):
                    writer.add(segment_member(number, index), data)
                shards.append(_shard_entry(shard, channels, len(shapes)))
        samples = sum(s["pixels"] * s["channels"] for s in shards)
        writer.commit(
            {
                "format": 1,
                "arithmetic": ARITHMETIC_VERSION,
                "checkpoint": {
                    "name": model_file.name,
                    "sha256": model_file.sha256,
                    "embedded": embed_checkpoint,
                },
                "seed": seed,
                "settings": settings.to_dict(),
                "shards": shards,
                "totals": {"items": len(collection.items), "samples": samples},
            }
        )
    total = os.path.getsize(out)
    return CompressResult(
        archive_bytes=total,
        original_bytes=collection.original_bytes,
        raw_bytes=samples,
        bits_per_dim=8 * (total - stored) / samples if samples else 0.0,
        images=sum(s["images"] for s in shards),
        policies=tuple(_policy_label(s) for s in shards),
        stored=collection.stored,
        skipped=collection.skipped,
        renamed=collection.renamed,
        seconds=time.monotonic() - began,
    )


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


def _shard_entry(shard: CodedShard, channels: int, images: int) -> dict[str, Any]:
    return {
        "channels": channels,
        "images": images,
        "pixels": sum(shard.pixels),
        "policy": shard.policy.to_dict(),
        "code_bytes": shard.code_bytes,
        "segments": [
            {"batches": b, "pixels": p, "bytes": s}
            for b, p, s in zip(shard.batches, shard.pixels, shard.sizes, strict=True)
        ],
    }


def _policy_label(shard: Mapping[str, Any]) -> str:
    kind, policy = zoo.KINDS[shard["channels"]], shard["policy"]
    if policy["name"] == "online":
        return f"{kind}: online, step size {policy['step_size']:g}"
    return f"{kind}: not adapting"


class _Counter:
    """Progress in samples coded, summed over what `auto` tries."""

    def __init__(
        self, watch: Watch | None, adaptation: Adaptation, samples: int, segment_pixels: int
    ) -> None:
        self._watch, self._done, self._total = watch, 0, samples
        if adaptation == "auto":  # two to the end, and a third over the first segment
            self._total += samples + min(samples, 3 * segment_pixels)

    def add(self, samples: int) -> None:
        self._done += samples
        if self._watch is not None:
            self._watch(self._done, max(self._total, self._done))
