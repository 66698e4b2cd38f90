"""What is told of an archive, and of one that was restored."""

from __future__ import annotations

from dataclasses import dataclass

from osoa_pl.api.manifest import ShardInfo
from osoa_pl.online.plan import BatchSettings


@dataclass(frozen=True)
class ArchiveInfo:
    """Facts from the manifest and the sizes of the members; rates in bits/dim."""

    archive_bytes: int
    segment_bytes: int
    plane_bytes: int
    """Blocks of plain planes."""
    table_bytes: int
    file_bytes: int
    checkpoint_bytes: int
    container_bytes: int
    """The rest: ZIP structure, mimetype, manifest."""
    items: int
    images: int
    files: int
    copies: int
    """Entries that have the content of an earlier one."""
    raw_bytes: int
    bits_per_dim: float
    """Gross: all but the byte-for-byte files, over the samples."""
    net_bits_per_dim: float
    """Code words alone, over the samples that a model coded."""
    checkpoint: str
    checkpoint_sha256: str
    embedded: bool
    seed: int
    settings: BatchSettings
    parts: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class DecompressResult:
    """What `decompress` wrote."""

    files: tuple[str, ...]
    raw_bytes: int
    seconds: float
    lost: tuple[str, ...] = ()
    """Names of files that could not be restored (`keep_going`)."""
    problems: tuple[str, ...] = ()
