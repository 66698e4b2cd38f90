"""What an archive's manifest says, checked: nothing in it is trusted before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osoa_pl.errors import DamagedArchiveError, PortabilityError
from osoa_pl.format.blocks import BLOCK_BYTES, MAX_BLOCK_BYTES, BlockInfo
from osoa_pl.format.container import ArchiveReader, require
from osoa_pl.online.plan import WEIGHTS_SINCE, BatchSettings, newer_than
from osoa_pl.types import ARITHMETIC_VERSION

_MAX_NAME = 255


@dataclass(frozen=True)
class ShardInfo:
    """One shard: the planes of one kind in one part, one trajectory."""

    channels: int
    images: int
    """Planes."""
    pixels: int
    policy: Mapping[str, Any]
    code_bytes: int
    segment_pixels: tuple[int, ...]
    segment_bytes: tuple[int, ...]
    initial_bits: int = 0
    """Bits-back: what the chains began with, part of the code words."""
    number: int = 0
    """In the names of its members; its part is this by two."""


@dataclass(frozen=True)
class PartInfo:
    """A stretch of pictures, and what decodes them."""

    pictures: int
    shards: Mapping[int, ShardInfo]
    """By channels."""
    blocks: tuple[BlockInfo, ...] = ()
    """Of plain planes."""


@dataclass(frozen=True)
class Manifest:
    """The facts of a manifest."""

    checkpoint_name: str
    checkpoint_sha256: str
    embedded: bool
    seed: int
    settings: BatchSettings
    parts: tuple[PartInfo, ...]
    packed: tuple[BlockInfo, ...]
    """Blocks of small files."""

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """Of all parts, in order."""
        return tuple(shard for part in self.parts for shard in part.shards.values())


def read_manifest(reader: ArchiveReader) -> Manifest:
    """The manifest of an archive of any known format.

    Raises DamagedArchiveError naming the key, PortabilityError for another arithmetic.
    """
    entries, where = reader.manifest, reader.label
    arithmetic = require(entries, "arithmetic", int, where)
    if arithmetic != ARITHMETIC_VERSION:
        raise PortabilityError(
            f"{where}: needs arithmetic version {arithmetic}, this version has {ARITHMETIC_VERSION}"
        )
    checkpoint = require(entries, "checkpoint", dict, where)
    seed: int = require(entries, "seed", int, where)
    if not 0 <= seed < 1 << 32:
        raise DamagedArchiveError(f"{where}: seed {seed} is out of range")
    sizes = require(entries, "settings", dict, where)
    try:
        settings = BatchSettings(**sizes)
        if unknown := newer_than(settings, reader.version):
            raise ValueError(f"format {reader.version} has no {', '.join(unknown)}")
    except (TypeError, ValueError) as error:
        raise DamagedArchiveError(f"{where}: settings: {error}") from None
    shards = [
        _shard(entry, index, where, reader.version)
        for index, entry in enumerate(require(entries, "shards", list, where))
    ]
    if reader.version == 1:
        parts = [_part({"pictures": sum(s.images for s in shards), "planes": []}, shards, where)]
    else:
        parts = _parts(entries, shards, where)
    return Manifest(
        checkpoint_name=_shown(require(checkpoint, "name", str, where)),
        checkpoint_sha256=require(checkpoint, "sha256", str, where),
        embedded=require(checkpoint, "embedded", bool, where),
        seed=seed,
        settings=settings,
        parts=tuple(parts),
        packed=_blocks({"packed": [], **entries}, "packed", where, BLOCK_BYTES),
    )


def _parts(entries: Mapping[str, Any], shards: list[ShardInfo], where: str) -> list[PartInfo]:
    listed: Sequence[Any] = require(entries, "parts", list, where)
    by_part: dict[int, list[ShardInfo]] = {}
    for shard in shards:
        number, grey = divmod(shard.number, 2)
        if number >= len(listed) or grey != (shard.channels == 1):
            raise DamagedArchiveError(f"{where}: shard {shard.number} belongs to no part")
        by_part.setdefault(number, []).append(shard)
    return [_part(part, by_part.get(n, []), where) for n, part in enumerate(listed)]


def _part(entry: Any, shards: Sequence[ShardInfo], where: str) -> PartInfo:
    if not isinstance(entry, dict):
        raise DamagedArchiveError(f"{where}: a part of the manifest is no object")
    pictures: int = require(entry, "pictures", int, where)
    by_channels = {shard.channels: shard for shard in shards}
    if pictures < 0 or len(by_channels) != len(shards):
        raise DamagedArchiveError(f"{where}: a part with {pictures} pictures or with twin shards")
    return PartInfo(pictures, by_channels, _blocks(entry, "planes", where))


def _blocks(
    entry: Mapping[str, Any], key: str, where: str, largest: int = MAX_BLOCK_BYTES
) -> tuple[BlockInfo, ...]:
    infos = []
    for sizes in require(entry, key, list, where):
        sound = isinstance(sizes, list) and len(sizes) == 2 and all(type(s) is int for s in sizes)
        if not sound or not 0 < sizes[1] <= sizes[0] <= largest:
            raise DamagedArchiveError(f"{where}: manifest key '{key}': not the sizes of a block")
        infos.append(BlockInfo(*sizes))
    return tuple(infos)


def _shard(entry: Any, index: int, where: str, version: int) -> ShardInfo:
    if not isinstance(entry, dict):
        raise DamagedArchiveError(f"{where}: a shard of the manifest is no object")
    segments: Sequence[Any] = require(entry, "segments", list, where)
    if not all(isinstance(s, dict) for s in segments):
        raise DamagedArchiveError(f"{where}: a segment of the manifest is no object")
    found = ShardInfo(
        channels=require(entry, "channels", int, where),
        images=require(entry, "images", int, where),
        pixels=require(entry, "pixels", int, where),
        policy=require(entry, "policy", dict, where),
        code_bytes=require(entry, "code_bytes", int, where),
        segment_pixels=tuple(_positive(s, "pixels", where) for s in segments),
        segment_bytes=tuple(require(s, "bytes", int, where) for s in segments),
        initial_bits=require({"initial_bits": 0, **entry}, "initial_bits", int, where),
        number=index if version == 1 else require(entry, "number", int, where),
    )
    name = f"{where}: shard {found.number}"
    if version < WEIGHTS_SINCE and "weights" in found.policy:
        raise DamagedArchiveError(f"{name}: format {version} has no weights in a policy")
    if found.channels not in (1, 3) or found.number < 0:
        raise DamagedArchiveError(f"{name}: {found.channels} channels")
    if found.pixels != sum(found.segment_pixels) or found.images < 1:
        raise DamagedArchiveError(f"{name}: its segments do not add up to {found.pixels} pixels")
    if not 0 <= found.code_bytes <= sum(found.segment_bytes):
        raise DamagedArchiveError(
            f"{name}: {found.code_bytes} bytes of code words in segments of "
            f"{sum(found.segment_bytes)}"
        )
    return found


def _shown(name: str) -> str:
    """A name that messages can hold: one line, not too long. Nothing is looked up by it."""
    return "".join(c if c.isprintable() else "?" for c in name[:_MAX_NAME])


def _positive(entry: Mapping[str, Any], key: str, where: str) -> int:
    value: int = require(entry, key, int, where)
    if value < 1:
        raise DamagedArchiveError(f"{where}: manifest key '{key}': found {value}, expected above 0")
    return value
