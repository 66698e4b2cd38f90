"""`osoa list`: what is in an archive, without decoding it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from osoa_pl.cli.arguments import add_json
from osoa_pl.cli.console import Console, counted

if TYPE_CHECKING:
    from osoa_pl.types import Item

SUMMARY = "list the entries of an archive"
USAGE = "osoa list ARCHIVE [OPTIONS]"
DESCRIPTION = """\
List the entries of an archive without decoding it: kind, shape, bytes and name.

examples:
  osoa list photos.osoa
  osoa list photos.osoa --json
  osoa list photos.osoa | grep trip/

Shapes are height x width x channels, with the number of pictures before them for
arrays; bytes are those of the samples or of the stored file.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("archive", metavar="ARCHIVE", help=argparse.SUPPRESS)
    add_json(parser.add_argument_group("output"))


def run(arguments: argparse.Namespace, console: Console) -> int:
    """List; 0."""
    from osoa_pl.api.archive import open_archive

    with open_archive(arguments.archive) as archive:
        items = archive.items
    if console.json:
        console.emit("list", archive=arguments.archive, items=[_fields(item) for item in items])
        return 0
    rows = [(i.kind, _shape(i), str(i.raw_bytes), _name(i)) for i in items]
    console.table(("kind", "shape", "bytes", "name"), rows, left=2, last_left=True)
    images = sum(item.count for item in items)
    console.note(f"{counted(len(items), 'item')}, {counted(images, 'image')}")
    return 0


def _shape(item: Item) -> str:
    if not item.mode:
        return "-"
    one = f"{item.height}x{item.width} {item.mode}"
    return one if item.kind == "image" else f"{item.count}x{one}"


def _name(item: Item) -> str:
    key = f" [{item.key}]" if item.key else ""
    renamed = f" -> {item.output_name}" if item.output_name != item.name else ""
    own = item.given.decode("utf-8", "backslashreplace")
    renamed += f" (own name: {own})" if own else ""
    renamed += " (copy)" if item.same != -1 else ""
    return f"{item.name}{key}{renamed}"


def _fields(item: Item) -> dict[str, Any]:
    return {
        "name": item.name,
        "output_name": item.output_name,
        "own_name": item.given.decode("utf-8", "backslashreplace") or None,
        "kind": item.kind,
        "source": item.source,
        "key": item.key,
        "images": item.count,
        "height": item.height,
        "width": item.width,
        "mode": item.mode,
        "coded": item.coded,
        "transform": item.transform,
        "copy_of": item.same if item.same != -1 else None,
        "mtime_ns": item.mtime or None,
        "shape": list(item.shape),
        "raw_bytes": item.raw_bytes,
    }
