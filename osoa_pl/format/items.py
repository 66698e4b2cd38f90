"""The item table of an archive: one entry per file or array, as compressed JSON.

The table is a JSON list of objects with the fields of `Item` that differ from their defaults
(bytes in base64), keys sorted, without spaces, in a zlib stream. Reading trusts nothing: types,
sizes, names and the size of the table itself are bounded before they are used.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from math import prod
from typing import Any

from osoa_pl.errors import DamagedArchiveError, UsageError
from osoa_pl.format.names import clash, name_problem
from osoa_pl.types import Item

MAX_TABLE_BYTES = 128 << 20
"""Uncompressed JSON of one table: some 1.5 million entries."""
MAX_IMAGE_PIXELS = 8200 * 8200 * 4
"""Pixels of one image; larger files are stored byte for byte."""
MAX_HEIGHT = 1 << 24
MAX_WIDTH = 1 << 16
"""A batch holds at least one row, and the sums over a batch stay exact."""
MAX_TOTAL_PIXELS = 1 << 44
MAX_FILE_BYTES = 1 << 48
MAX_METADATA_BYTES = 16 << 20
"""PNG chunks kept with one image."""

IMAGE_SOURCES = ("png", "webp", "tiff", "bmp", "ppm")
ARRAY_SOURCES = ("npy", "npz", "idx")

_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(Item) if field.default is not MISSING
}
_TYPES: dict[str, type] = {
    "name": str,
    "kind": str,
    **{name: type(value) for name, value in _DEFAULTS.items()},
}
_BYTES = [name for name, kind in _TYPES.items() if kind is bytes]


def pack(items: Iterable[Item]) -> bytes:
    """Compressed table of `items`, in their order. Raises UsageError for too many."""
    entries = []
    for item in items:
        entry: dict[str, Any] = {"name": item.name, "kind": item.kind}
        for name, default in _DEFAULTS.items():
            value = getattr(item, name)
            if value != default:
                entry[name] = base64.b64encode(value).decode("ascii") if name in _BYTES else value
        entries.append(entry)
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    encoded = text.encode("utf-8")
    if len(encoded) > MAX_TABLE_BYTES:
        raise UsageError(f"{len(entries)} files and their metadata are too many for one item table")
    return zlib.compress(encoded, 9)


def unpack(data: bytes, where: str, *, max_pixels: int = MAX_TOTAL_PIXELS) -> list[Item]:
    """Items of a table, each checked.

    `max_pixels` bounds the sum over all images. Raises DamagedArchiveError naming `where` and
    the entry.
    """
    entries = _parse(data, where)
    items = [_item(entry, f"{where}: entry {index}") for index, entry in enumerate(entries)]
    check(items, where, max_pixels=max_pixels)
    return items


def check(items: Sequence[Item], where: str, *, max_pixels: int = MAX_TOTAL_PIXELS) -> None:
    """Refuse a table whose entries are sound alone but not together.

    Raises DamagedArchiveError: too many pixels, output names or archive members that clash,
    the arrays of one ``npz`` apart or with equal keys.
    """
    pixels = sum(item.count * item.height * item.width for item in items)
    if pixels > max_pixels:
        raise DamagedArchiveError(f"{where}: {pixels} pixels, expected at most {max_pixels}")
    outputs: list[str] = []
    keys: set[str] = set()
    previous: Item | None = None
    for item in items:
        if previous is None or not _same_npz(previous, item):
            outputs.append(item.output_name)
            keys = set()
        if item.key in keys:
            raise DamagedArchiveError(f"{where}: {item.name!r} has two arrays {item.key!r}")
        keys.add(item.key)
        previous = item
    pair = clash(outputs)
    if pair is not None:
        raise DamagedArchiveError(f"{where}: names {pair[0]!r} and {pair[1]!r} clash")
    members = [item.member for item in items if item.kind == "file"]
    if len(set(members)) != len(members):
        raise DamagedArchiveError(f"{where}: two files share one member")


def _parse(data: bytes, where: str) -> list[Any]:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MAX_TABLE_BYTES)
    except zlib.error as error:
        raise DamagedArchiveError(f"{where}: item table does not decompress") from error
    if not stream.eof or stream.unused_data:
        raise DamagedArchiveError(f"{where}: item table is cut off, too large or followed by data")
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedArchiveError(f"{where}: item table is not JSON") from error
    if not isinstance(entries, list):
        raise DamagedArchiveError(f"{where}: item table is not a list")
    return entries


def _item(entry: Any, where: str) -> Item:
    if not isinstance(entry, dict):
        raise DamagedArchiveError(f"{where}: not an object")
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name not in _TYPES:
            raise DamagedArchiveError(f"{where}: unknown field {name!r}")
        values[name] = _value(name, value, f"{where}: field {name!r}")
    if "name" not in values or "kind" not in values:
        raise DamagedArchiveError(f"{where}: has no name or no kind")
    item = Item(**values)
    problem = name_problem(item.name) or name_problem(item.output_name)
    if problem is not None:
        raise DamagedArchiveError(f"{where}: unsafe name {item.name!r}: {problem}")
    if item.kind == "file":
        problem = _file_problem(item)
    elif item.kind == "image":
        problem = _image_problem(item)
    elif item.kind == "array":
        problem = _array_problem(item)
    else:
        problem = f"unknown kind {item.kind!r}"
    if problem is not None:
        raise DamagedArchiveError(f"{where} ({item.name!r}): {problem}")
    return item


def _value(name: str, value: Any, where: str) -> Any:
    kind = _TYPES[name]
    if kind is bytes and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DamagedArchiveError(f"{where}: not base64") from error
    if kind is tuple and isinstance(value, list) and all(type(side) is int for side in value):
        return tuple(value)
    if type(value) is not kind:
        found = type(value).__name__
        raise DamagedArchiveError(f"{where}: found {found}, expected {kind.__name__}")
    return value


def _file_problem(item: Item) -> str | None:
    if item.channels or item.height or item.width or item.shape or item.before or item.after:
        return "a file with pixels"
    if item.codec not in ("raw", "xz"):
        return f"unknown codec {item.codec!r}"
    if not 0 <= item.size <= MAX_FILE_BYTES:
        return f"{item.size} bytes"
    return None if item.member else "no member"


def _pixel_problem(item: Item) -> str | None:
    if item.channels not in (1, 3):
        return f"{item.channels} channels, expected 1 or 3"
    if problem := size_problem(item.height, item.width):
        return problem
    if item.member or item.size or item.codec != "raw":
        return "pixels with a member"
    return None


def _image_problem(item: Item) -> str | None:
    if problem := _pixel_problem(item):
        return problem
    if item.source not in IMAGE_SOURCES:
        return f"unknown source {item.source!r}"
    if item.key or item.deflated:
        return "an image with array fields"
    if len(item.before) + len(item.after) > MAX_METADATA_BYTES:
        return "too much metadata"
    plain = (item.height, item.width)
    if item.shape not in ((), (*plain, item.channels), *([plain] if item.channels == 1 else [])):
        return f"shape {item.shape}"
    return None


def _array_problem(item: Item) -> str | None:
    if problem := _pixel_problem(item):
        return problem
    if item.source not in ARRAY_SOURCES:
        return f"unknown source {item.source!r}"
    if item.before or item.after:
        return "an array with PNG chunks"
    if item.source == "npz":
        if name_problem(item.key) is not None or "/" in item.key:
            return f"unsafe key {item.key!r}"
    elif item.key or item.deflated:
        return "npz fields in another kind of array"
    if array_layout(item.shape) != (item.channels, item.height, item.width):
        return f"shape {item.shape} does not hold {item.height}x{item.width}x{item.channels}"
    return None


def size_problem(height: int, width: int) -> str | None:
    """Why an image of this size is not coded as pixels; None where it is."""
    if height < 1 or width < 1:
        return f"{width}x{height} pixels"
    if height > MAX_HEIGHT or width > MAX_WIDTH or height * width > MAX_IMAGE_PIXELS:
        return (
            f"{width}x{height} pixels are too many for one image (at most {MAX_WIDTH} wide, "
            f"{MAX_HEIGHT} high, {MAX_IMAGE_PIXELS} in all)"
        )
    return None


def array_layout(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """(channels, height, width) of the images in a uint8 array, or None where it holds none.

    (n, h, w, c) with c in 1, 3; (n, h, w); and (h, w, c), told from (n, h, w) by a last side of
    1 or 3. All sides must be positive.

    >>> array_layout((10, 28, 28)), array_layout((512, 768, 3)), array_layout((7, 8, 8, 4))
    ((1, 28, 28), (3, 512, 768), None)
    """
    if not all(side > 0 for side in shape) or prod(shape) > 3 * MAX_TOTAL_PIXELS:
        return None
    if len(shape) == 4 and shape[3] in (1, 3):
        return shape[3], shape[1], shape[2]
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[2], shape[0], shape[1]
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    return None


def _same_npz(first: Item, second: Item) -> bool:
    both = first.kind == second.kind == "array" and first.source == second.source == "npz"
    return both and first.name == second.name
