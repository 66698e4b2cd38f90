"""`osoa info`: facts about an archive, or the installed checkpoints, without decoding."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from osoa_pl.cli.arguments import add_json
from osoa_pl.cli.console import Console, counted
from osoa_pl.errors import UsageError

if TYPE_CHECKING:
    from osoa_pl.api.facts import ArchiveInfo
    from osoa_pl.api.manifest import ShardInfo

SUMMARY = "sizes, rates, model and policy of an archive"
USAGE = "osoa info ARCHIVE [OPTIONS]\n       osoa info --checkpoints [OPTIONS]"
DESCRIPTION = """\
Tell, without decoding, what an archive is made of: bytes of each part, rates, model,
policy, and the rate of each segment.

examples:
  osoa info photos.osoa
  osoa info photos.osoa --json
  osoa info --checkpoints

The gross rate counts the whole archive but the files stored byte for byte; the net
rate counts code words alone. Both are in bits/dim: bits a sample.
"""
_KINDS = {1: "grey", 3: "rgb"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("archive", nargs="?", metavar="ARCHIVE", help=argparse.SUPPRESS)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--checkpoints", action="store_true", help="the installed checkpoints instead"
    )
    add_json(group)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Tell; 0."""
    if arguments.checkpoints:
        if arguments.archive is not None:
            raise UsageError(f"--checkpoints takes no archive, found {arguments.archive!r}")
        return _tell_checkpoints(console)
    if arguments.archive is None:
        raise UsageError("no archive given", hint="`osoa info --help` shows how it is used")
    from osoa_pl.api.archive import open_archive

    with open_archive(arguments.archive) as archive:
        info = archive.info
    if console.json:
        fields = asdict(info)
        for entry, shard in zip(fields["shards"], info.shards, strict=True):
            entry["segment_bits_per_dim"] = _segment_rates(shard)
        console.emit("info", archive=arguments.archive, **fields)
        return 0
    _tell_archive(arguments.archive, info, console)
    return 0


def _tell_archive(name: str, info: ArchiveInfo, console: Console) -> None:
    embedded = "embedded" if info.embedded else "not embedded"
    console.table(
        (name, ""),
        [
            ("items", _items(info)),
            ("samples", f"{info.raw_bytes} bytes"),
            ("rate, gross", f"{info.bits_per_dim:.4f} bits/dim"),
            ("rate, net", f"{info.net_bits_per_dim:.4f} bits/dim"),
            ("checkpoint", f"{info.checkpoint}, SHA-256 {info.checkpoint_sha256}, {embedded}"),
            ("seed", str(info.seed)),
            ("parts", str(info.parts)),
            ("settings", ", ".join(f"{k} {v}" for k, v in info.settings.to_dict().items())),
        ],
        left=2,
    )
    parts = [
        ("segments", info.segment_bytes),
        ("plain planes", info.plane_bytes),
        ("files byte for byte", info.file_bytes),
        ("item table", info.table_bytes),
        ("checkpoint", info.checkpoint_bytes),
        ("container", info.container_bytes),
        ("whole archive", info.archive_bytes),
    ]
    console.result("")
    console.table(
        ("part", "bytes", "share"),
        [(part, str(n), f"{100 * n / info.archive_bytes:.1f} %") for part, n in parts],
    )
    for shard in info.shards:
        rates = _segment_rates(shard)
        console.result("")
        kind = _KINDS.get(shard.channels, "?")
        console.result(
            f"part {shard.number // 2}, shard {shard.number}: {shard.images} {kind} planes, "
            f"{shard.pixels} pixels, {_policy(shard)}{_initial(shard)}"
        )
        rows = [
            (str(i), str(pixels), str(count), f"{rate:.4f}")
            for i, (pixels, count, rate) in enumerate(
                zip(shard.segment_pixels, shard.segment_bytes, rates, strict=True)
            )
        ]
        console.table(("segment", "pixels", "bytes", "bits/dim"), rows, left=0)


def _items(info: ArchiveInfo) -> str:
    found = [counted(info.images, "image"), counted(info.files, "file")]
    if info.copies:
        found.append(f"of these {info.copies} copies of others")
    return f"{info.items} ({', '.join(found)})"


def _segment_rates(shard: ShardInfo) -> list[float]:
    """bits/dim of each segment, its header included."""
    return [
        8 * count / (pixels * shard.channels) if pixels > 0 and shard.channels > 0 else 0.0
        for pixels, count in zip(shard.segment_pixels, shard.segment_bytes, strict=True)
    ]


def _policy(shard: ShardInfo) -> str:
    options = ", ".join(f"{k} {v}" for k, v in shard.policy.items() if k != "name")
    return f"adaptation {shard.policy.get('name')}" + (f" ({options})" if options else "")


def _initial(shard: ShardInfo) -> str:
    return f", initial bits {shard.initial_bits}" if shard.initial_bits else ""


def _tell_checkpoints(console: Console) -> int:
    found = installed_checkpoints()
    if console.json:
        console.emit("checkpoints", checkpoints=found)
        return 0
    rows = [
        (c["name"], str(c["bytes"]), c["sha256"], _models(c["models"]) or c["problem"])
        for c in found
    ]
    console.table(("name", "bytes", "SHA-256", "models"), rows, last_left=True)
    return 0


def _models(models: dict[str, Any]) -> str:
    """Kinds of pixel, each with the names of its further starting weights."""
    named = {kind: ", ".join(about.get("weights", ())) for kind, about in models.items()}
    return ", ".join(f"{kind} ({names})" if names else kind for kind, names in named.items())


def installed_checkpoints() -> list[dict[str, Any]]:
    """name, bytes, sha256, models (kind -> sizes) and problem of each installed checkpoint."""
    from osoa_pl.errors import CheckpointError
    from osoa_pl.models import checkpoint as checkpoints

    found = []
    for name in checkpoints.available():
        models: dict[str, Any] = {}
        problem, digest, count = "", "", 0
        try:
            checkpoint = checkpoints.read(name)
            digest, count = checkpoint.sha256, len(checkpoint.data)
            models = checkpoints.describe(checkpoint)
        except CheckpointError as error:
            problem = str(error)
        entry = {"name": name, "bytes": count, "sha256": digest, "models": models}
        found.append({**entry, "problem": problem})
    return found
