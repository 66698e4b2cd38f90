"""The comparison behind `osoa bench`: this codec, decoded back, beside its rivals."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from osoa_pl.data.collection import Collection, Entry, scan
from osoa_pl.data.files import describe
from osoa_pl.errors import OsoaError, UsageError
from osoa_pl.models.checkpoint import DEFAULT
from osoa_pl.report import measurement, rivals

_RIVALS_TAKE = ("rgb8", "grey8", "rgba8")
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
    checkpoint: str = DEFAULT,
    effort: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    step: Step | None = None,
) -> BenchResult:
    """Compress `inputs` with this codec and with others, decode everything back, and compare.

    effort: of `auto`; None: the default.
    The rivals hold all pixels in memory; ours runs in processes of its own, whose peak memory is
    told. Raises UsageError where the inputs hold no pixels, OsoaError where pixels do not come
    back.
    """
    collection = scan(inputs)
    samples = sum(item.raw_bytes for item in collection.items if item.count)
    if not samples:
        raise UsageError(f"{', '.join(describe(path) for path in inputs)}: no pictures to measure")
    others = [item for item in collection.items if item.mode not in ("", *_RIVALS_TAKE)]
    if rival_names and others:
        raise UsageError(
            f"{others[0].name}: rivals are measured on 8-bit grey, RGB and RGBA pictures, found "
            f"{others[0].mode}",
            hint="leave such pictures out, or measure without rivals (--rivals none)",
        )
    total, done = len(adaptations) + len(rival_names), 0
    rows: list[Row] = []

    def begin(what: str) -> None:
        nonlocal done
        if step is not None:
            step(what, done, total)
        done += 1

    for adaptation in adaptations:
        begin(f"osoa {adaptation}")
        tried = effort if adaptation == "auto" else None
        job = measurement.Job(
            tuple(os.path.abspath(path) for path in inputs), "", "", adaptation, checkpoint,
            threads, device, tried,
        )  # fmt: skip
        rows.append(_own(job, collection, samples))
    if rival_names:
        groups = [list(collection.images(mode)) for mode in _RIVALS_TAKE]
        for name in rival_names:
            begin(rivals.TITLES.get(name, name))
            rows += map(_rival_row, rivals.measure(name, groups, threads=threads or 1))
    return BenchResult(
        images=sum(item.count for item in collection.items),
        raw_bytes=samples,
        stored=tuple(collection.stored),
        skipped=collection.skipped,
        rows=tuple(sorted(rows, key=lambda row: row.bits_per_dim)),
    )


def _own(job: measurement.Job, collection: Collection, samples: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="osoa-bench-") as place:
        folder = Path(place, "restored")
        archive = str(Path(place, "archive.osoa"))
        found = measurement.measure(replace(job, archive=archive, folder=str(folder)))
        compare(collection, folder)
    return Row(
        codec=f"osoa {job.adaptation}",
        arrangement="archive",
        encoded_bytes=found.coded_bytes,
        bits_per_dim=8 * found.coded_bytes / samples,
        encode_seconds=found.compress_seconds,
        decode_seconds=found.decompress_seconds,
        encode_mb_per_second=_speed(samples, found.compress_seconds),
        decode_mb_per_second=_speed(samples, found.decompress_seconds),
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
    groups: dict[str, list[Entry]] = {}
    for entry in collection.entries:
        if entry.item.kind != "folder":
            groups.setdefault(entry.item.output_name, []).append(entry)
    for name, members in groups.items():
        first, path = members[0], Path(folder, name)
        kept = Path(folder, first.item.name)  # a picture whose file was the smaller
        if not path.is_file() and not kept.is_file():
            raise OsoaError(f"bench: {name} was not restored")
        if first.item.kind == "file" or not path.is_file():
            same = kept.read_bytes() == first.read()
        else:
            same = _same_pixels(members, scan([path], verify=False))
        if not same:
            raise OsoaError(f"bench: {name} differs from the original")


def _same_pixels(members: Iterable[Entry], restored: Collection) -> bool:
    places = {e.item.key: e for e in restored.entries if e.item.count}
    for entry in members:
        found = places.get(entry.item.key)
        if found is None or found.item.shape != entry.item.shape:
            return False
        for original, copy in zip(entry.planes(), found.planes(), strict=True):
            if not all(map(np.array_equal, original, copy)):
                return False
    return True


def _speed(count: int, seconds: float) -> float:
    return count / seconds / 1e6 if seconds else 0.0
