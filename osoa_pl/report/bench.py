"""The comparison behind `osoa bench`: this codec, decoded back, beside its rivals."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osoa_pl.data.collection import Collection, scan
from osoa_pl.data.files import describe
from osoa_pl.errors import OsoaError, UsageError
from osoa_pl.report import measurement, rivals
from osoa_pl.types import Item

ADAPTATIONS = ("none", "online", "auto")

Step = Callable[[str, int, int], None]
"""Called with (what begins now, steps done, steps to do)."""


@dataclass(frozen=True)
class Row:
    """One line of the table. Rates in bits/dim, speeds in MB/s of raw samples."""

    codec: str
    """``osoa none``, ``osoa online``, ``osoa auto``, or a name from `rivals.RIVALS`."""
    arrangement: str
    """``archive``, ``each``, ``mosaic`` or ``concatenated``."""
    encoded_bytes: int
    bits_per_dim: float
    encode_seconds: float
    decode_seconds: float
    encode_mb_per_second: float
    decode_mb_per_second: float
    peak_bytes: int = 0
    """Resident memory of our process; 0 for rivals."""
    net_bits_per_dim: float = 0.0
    """Of code words alone; 0 for rivals."""
    policies: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchResult:
    """All rows, sorted by rate, and what they were measured on."""

    images: int
    raw_bytes: int
    stored: tuple[tuple[str, str], ...]
    """(name, reason) of inputs that are no pixels and take no part."""
    skipped: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


def bench(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    adaptations: Sequence[str] = ADAPTATIONS,
    rival_names: Sequence[str] = rivals.USUAL,
    checkpoint: str = "default",
    device: str = "cpu",
    threads: int | None = None,
    step: Step | None = None,
) -> BenchResult:
    """Compress `inputs` with this codec and with others, decode everything back, and compare.

    The rivals hold all pixels in memory; ours runs in processes of its own, whose peak memory is
    told. Raises UsageError where the inputs hold no pixels, OsoaError where pixels do not come
    back.
    """
    collection = scan(inputs)
    samples = sum(item.raw_bytes for item in collection.items if item.count)
    if not samples:
        raise UsageError(f"{', '.join(describe(path) for path in inputs)}: no pictures to measure")
    total, done = len(adaptations) + len(rival_names), 0
    rows: list[Row] = []

    def begin(what: str) -> None:
        nonlocal done
        if step is not None:
            step(what, done, total)
        done += 1

    for adaptation in adaptations:
        begin(f"osoa {adaptation}")
        rows.append(_own(inputs, collection, adaptation, checkpoint, device, threads))
    if rival_names:
        groups = [list(collection.iter_images(channels)) for channels in (3, 1)]
        for name in rival_names:
            begin(rivals.TITLES.get(name, name))
            rows += map(_rival_row, rivals.measure(name, groups, threads=threads or 1))
    return BenchResult(
        images=sum(item.count for item in collection.items),
        raw_bytes=samples,
        stored=collection.stored,
        skipped=collection.skipped,
        rows=tuple(sorted(rows, key=lambda row: row.bits_per_dim)),
    )


def _own(
    inputs: Sequence[str | os.PathLike[str]],
    collection: Collection,
    adaptation: str,
    checkpoint: str,
    device: str,
    threads: int | None,
) -> Row:
    with tempfile.TemporaryDirectory(prefix="osoa-bench-") as place:
        folder = Path(place, "restored")
        job = measurement.Job(
            tuple(os.path.abspath(path) for path in inputs), str(Path(place, "archive.osoa")),
            str(folder), adaptation, checkpoint, threads, device,
        )  # fmt: skip
        found = measurement.measure(job)
        compare(collection, folder)
    return Row(
        codec=f"osoa {adaptation}",
        arrangement="archive",
        encoded_bytes=found.coded_bytes,
        bits_per_dim=found.bits_per_dim,
        encode_seconds=found.compress_seconds,
        decode_seconds=found.decompress_seconds,
        encode_mb_per_second=_speed(found.raw_bytes, found.compress_seconds),
        decode_mb_per_second=_speed(found.raw_bytes, found.decompress_seconds),
        peak_bytes=found.peak_bytes,
        net_bits_per_dim=found.net_bits_per_dim,
        policies=found.policies,
    )


def _rival_row(found: rivals.RivalResult) -> Row:
    return Row(
        codec=found.codec,
        arrangement=found.arrangement,
        encoded_bytes=found.encoded_bytes,
        bits_per_dim=found.bits_per_dim,
        encode_seconds=found.encode_seconds,
        decode_seconds=found.decode_seconds,
        encode_mb_per_second=_speed(found.raw_bytes, found.encode_seconds),
        decode_mb_per_second=_speed(found.raw_bytes, found.decode_seconds),
    )


def compare(collection: Collection, folder: str | os.PathLike[str]) -> None:
    """Every picture, array and file of `collection` against what was restored below `folder`.

    Raises OsoaError naming the first that differs or is missing.
    """
    entries: dict[str, list[tuple[int, Item]]] = {}
    for index, item in enumerate(collection.items):
        entries.setdefault(item.output_name, []).append((index, item))
    for name, members in entries.items():
        path = Path(folder, name)
        if not path.is_file():
            raise OsoaError(f"bench: {name} was not restored")
        first = members[0][1]
        if first.kind == "file":
            same = path.read_bytes() == collection.read_file_bytes(first)
        else:
            same = _same_pixels(collection, members, scan([path], verify=False))
        if not same:
            raise OsoaError(f"bench: {name} differs from the original")


def _same_pixels(
    collection: Collection, members: Iterable[tuple[int, Item]], restored: Collection
) -> bool:
    places = {item.key: i for i, item in enumerate(restored.items) if item.kind != "file"}
    for index, item in members:
        if item.key not in places or restored.items[places[item.key]].shape != item.shape:
            return False
        pairs = zip(
            collection.read_images(index), restored.read_images(places[item.key]), strict=True
        )
        if not all(np.array_equal(original, copy) for original, copy in pairs):
            return False
    return True


def _speed(count: int, seconds: float) -> float:
    return count / seconds / 1e6 if seconds else 0.0
