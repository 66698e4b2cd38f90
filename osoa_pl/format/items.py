"""The item table of an archive: one entry per file or array, as compressed JSON.

The table is a zlib stream of lines, each a JSON object with the fields of `Item` that differ from
their defaults (bytes in base64, times as the difference to the last one), keys sorted, without
spaces. Reading trusts nothing: types, sizes, names and the size of the table itself are bounded
before they are used. Format 1 had one JSON list, `channels` and `member`; format 2 no `transform`.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from math import prod
from typing import Any

from osoa_pl.errors import DamagedArchiveError, UsageError
from osoa_pl.format.layout import FORMAT_VERSION
from osoa_pl.format.names import clash, given_problem, name_problem
from osoa_pl.types import MODES, Item, form_of

MAX_TABLE_BYTES = 512 << 20
"""Uncompressed JSON of one table: some 5 million entries."""
MAX_LINE_BYTES = 48 << 20
"""JSON of one entry: its metadata in base64 is most of it."""
MAX_LIST_BYTES = 128 << 20
"""Uncompressed JSON of a table of format 1."""
MAX_IMAGE_PIXELS = 8200 * 8200 * 4
"""Pixels of one image; larger files are stored byte for byte."""
MAX_HEIGHT = 1 << 24
MAX_WIDTH = 1 << 16
"""A batch holds at least one row, and the sums over a batch stay exact."""
MAX_TOTAL_PIXELS = 1 << 44
MAX_FILE_BYTES = 1 << 48
MAX_PACKED_FILE_BYTES = 1 << 20
"""A larger file is a member of its own."""
MAX_TIME = 1 << 70
"""Nanoseconds to either side of 1970."""
MAX_METADATA_BYTES = 16 << 20
"""PNG chunks kept with one image."""

MAX_REFERENCE_BYTES = 64 << 20
"""Samples from a picture's reference up to the picture: what a decoder has to keep."""

IMAGE_SOURCES = ("png", "webp", "tiff", "bmp", "ppm", "tga", "jxl")
ARRAY_SOURCES = ("npy", "npz", "idx")
ARRAY_MODES = {1: "grey8", 2: "greyalpha8", 3: "rgb8", 4: "rgba8"}
"""Of pictures in arrays, by samples a pixel."""

_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(Item) if field.default is not MISSING
}
_TYPES: dict[str, type] = {
    "name": str,
    "kind": str,
    **{name: type(value) for name, value in _DEFAULTS.items()},
}
_NESTING = (b"[", b"{", b",")
_MAX_NESTING = 1 << 14
"""Of these bytes in one entry, those in its names included: each may become an object."""
_BYTES = [name for name, kind in _TYPES.items() if kind is bytes]


def needed_version(items: Iterable[Item]) -> int:
    """The lowest format version whose readers know all that is in a table."""
    return 3 if any(map(_is_new, items)) else 2


def _is_new(item: Item) -> bool:
    return bool(item.transform) or "i" in item.coded


def pack(items: Iterable[Item]) -> bytes:
    """Compressed table of `items`, in their order. Raises UsageError for too many."""
    packer = zlib.compressobj(9)
    parts, total, last = [], 0, 0
    for number, item in enumerate(items):
        entry: dict[str, Any] = {"name": item.name, "kind": item.kind}
        for name, default in _DEFAULTS.items():
            value = getattr(item, name)
            if value != default:
                entry[name] = base64.b64encode(value).decode("ascii") if name in _BYTES else value
        if item.mtime:
            entry["mtime"], last = item.mtime - last, item.mtime
        line = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
        encoded = line.encode("utf-8")
        total += len(encoded)
        if total > MAX_TABLE_BYTES or len(encoded) > MAX_LINE_BYTES:
            raise UsageError(f"{number + 1} files and their metadata are too many for one archive")
        parts.append(packer.compress(encoded))
    return b"".join((*parts, packer.flush()))


def unpack(
    data: bytes,
    where: str,
    *,
    version: int = FORMAT_VERSION,
    max_pixels: int = MAX_TOTAL_PIXELS,
) -> list[Item]:
    """Items of a table of format `version`, each checked.

    `max_pixels` bounds the sum over all images. Raises DamagedArchiveError naming `where` and
    the entry.
    """
    entries = _lines(data, where) if version > 1 else _first_format(_parse(data, where))
    items: list[Item] = []
    last = 0
    seen: set[tuple[str, str]] = set()  # what repeats costs a table nothing, but memory
    for index, entry in enumerate(entries):
        item = _item(entry, f"{where}: entry {index}", last)
        if version < 3 and _is_new(item):
            raise DamagedArchiveError(f"{where}: {item.name!r} has what format {version} has not")
        if (item.output_name, item.key) in seen:
            if item.key:
                raise DamagedArchiveError(f"{where}: {item.name!r} has two arrays {item.key!r}")
            raise DamagedArchiveError(f"{where}: names {item.name!r} and {item.name!r} clash")
        seen.add((item.output_name, item.key))
        items.append(item)
        last = item.mtime or last
    check(items, where, max_pixels=max_pixels)
    return items


def check(items: Sequence[Item], where: str, *, max_pixels: int = MAX_TOTAL_PIXELS) -> None:
    """Refuse a table whose entries are sound alone but not together.

    Raises DamagedArchiveError: too many pixels, output names that clash, the arrays of one
    ``npz`` apart or with equal keys, references to what does not come before or is not alike.
    """
    pixels = sum(item.count * item.height * item.width for item in items)
    if pixels > max_pixels:
        raise DamagedArchiveError(f"{where}: {pixels} pixels, expected at most {max_pixels}")
    outputs: list[str] = []
    keys: set[str] = set()
    previous: Item | None = None
    for index, item in enumerate(items):
        if previous is None or not _same_npz(previous, item):
            outputs.append(item.output_name)
            keys = set()
        if item.key in keys:
            raise DamagedArchiveError(f"{where}: {item.name!r} has two arrays {item.key!r}")
        keys.add(item.key)
        previous = item
        if item.same != -1 and not (0 <= item.same < index and alike(items[item.same], item)):
            raise DamagedArchiveError(f"{where}: {item.name!r} is no copy of entry {item.same}")
    pair = clash(outputs, folders=[item.name for item in items if item.kind == "folder"])
    if pair is not None:
        raise DamagedArchiveError(f"{where}: names {pair[0]!r} and {pair[1]!r} clash")
    _check_references(items, where)


def alike(first: Item, second: Item) -> bool:
    """Whether `second` can have the pixels or bytes of `first`."""
    if first.same != -1 or first.kind != second.kind or first.kind == "folder":
        return False
    if first.kind == "file":
        return (first.size, first.codec) == (second.size, second.codec)
    facts = ("mode", "height", "width", "shape")
    return all(getattr(first, name) == getattr(second, name) for name in facts)


def _check_references(items: Sequence[Item], where: str) -> None:
    if all(item.reference == -1 for item in items):
        return
    images: dict[int, tuple[Item, int]] = {}
    number = total = 0
    for item in items:
        if item.reference != -1:
            target, start = images.get(item.reference, (item, total))
            known = target is not item and target.same == -1
            if not known or _sides(target) != _sides(item):
                raise DamagedArchiveError(f"{where}: {item.name!r} has no such reference")
            if total - start > MAX_REFERENCE_BYTES:
                raise DamagedArchiveError(f"{where}: {item.name!r} has a reference too far back")
        if item.kind == "image":
            images[number] = (item, total)
        number += item.count
        total += item.raw_bytes if item.count else 0


def _sides(item: Item) -> tuple[str, str, int, int]:
    return item.mode, item.transform, item.height, item.width


def _lines(data: bytes, where: str) -> Iterator[Any]:
    """The objects of a table, one in memory at a time."""
    stream = zlib.decompressobj()
    total, line = 0, b""
    while not stream.eof:
        try:
            text = stream.decompress(data, 1 << 20)
        except zlib.error as error:
            raise DamagedArchiveError(f"{where}: item table does not decompress") from error
        data = stream.unconsumed_tail
        total += len(text)
        if (not text and not stream.eof) or total > MAX_TABLE_BYTES:
            raise DamagedArchiveError(f"{where}: item table is cut off or too large")
        *whole, rest = text.split(b"\n")
        if whole:
            yield from (_object(found, where) for found in (line + whole[0], *whole[1:]))
            line = rest
        else:
            line += rest
        if len(line) > MAX_LINE_BYTES:
            raise DamagedArchiveError(f"{where}: an entry of the item table is too large")
    if line or stream.unused_data:
        raise DamagedArchiveError(f"{where}: item table is cut off or followed by data")


def _object(line: bytes, where: str) -> Any:
    if len(line) > 1 << 20 and sum(map(line.count, _NESTING)) > _MAX_NESTING:
        raise DamagedArchiveError(f"{where}: an entry of the item table is not flat")
    return _json(line, where)


def _json(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedArchiveError(f"{where}: an entry of the item table is not JSON") from error


def _parse(data: bytes, where: str) -> list[Any]:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MAX_LIST_BYTES)
    except zlib.error as error:
        raise DamagedArchiveError(f"{where}: item table does not decompress") from error
    if not stream.eof or stream.unused_data:
        raise DamagedArchiveError(f"{where}: item table is cut off, too large or followed by data")
    entries = _json(text, where)
    if not isinstance(entries, list):
        raise DamagedArchiveError(f"{where}: item table is not a list")
    return entries


def _first_format(entries: list[Any]) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry, dict):
            entry = {key: value for key, value in entry.items() if key != "member"}
            channels = entry.pop("channels", 0)
            if channels:
                modes = {1: "grey8", 3: "rgb8"}
                known = type(channels) is int and channels in modes
                entry["mode"] = modes[channels] if known else repr(channels)
        yield entry


def _item(entry: Any, where: str, last_mtime: int = 0) -> Item:
    if not isinstance(entry, dict):
        raise DamagedArchiveError(f"{where}: not an object")
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name not in _TYPES:
            raise DamagedArchiveError(f"{where}: unknown field {name[:80]!r}")
        values[name] = _value(name, value, f"{where}: field {name!r}")
    if "name" not in values or "kind" not in values:
        raise DamagedArchiveError(f"{where}: has no name or no kind")
    if "mtime" in values:
        values["mtime"] += last_mtime
    item = Item(**values)
    problem = name_problem(item.name)
    if problem is None and item.output_name != item.name:
        problem = name_problem(item.output_name)
    if problem is not None:
        raise DamagedArchiveError(f"{where}: unsafe name {item.name[:200]!r}: {problem}")
    reader = _PROBLEMS.get(item.kind)
    problem = f"unknown kind {item.kind!r}" if reader is None else reader(item)
    if item.given and problem is None:
        problem = given_problem(item.given, item.name)
    if not -MAX_TIME <= item.mtime <= MAX_TIME:
        problem = "a time out of range"
    if problem is not None:
        raise DamagedArchiveError(f"{where} ({item.name!r}): {problem[:200]}")
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


def _folder_problem(item: Item) -> str | None:
    plain = Item(item.name, "folder", mtime=item.mtime, given=item.given)
    return None if item == plain else "a folder with content"


def _file_problem(item: Item) -> str | None:
    plain = Item(
        item.name, "file", size=item.size, codec=item.codec, same=item.same, mtime=item.mtime,
        given=item.given,
    )  # fmt: skip
    if item != plain:
        return "a file with pixels"
    if item.codec not in ("raw", "xz", "block"):
        return f"unknown codec {item.codec!r}"
    if not 0 <= item.size <= MAX_FILE_BYTES:
        return f"{item.size} bytes"
    if item.codec == "block" and item.size > MAX_PACKED_FILE_BYTES:
        return f"{item.size} bytes in a block"
    return None


def _pixel_problem(item: Item) -> str | None:
    if item.mode not in MODES:
        return f"unknown mode {item.mode!r}"
    if problem := size_problem(item.height, item.width):
        return problem
    if item.size or item.codec != "raw":
        return "pixels with a file's fields"
    try:
        form = form_of(item.mode, item.transform)
    except ValueError as error:
        return str(error)
    planes = len(form.channels)
    known = set(item.coded) <= set("mpd")
    if planes > 1 and not form.halved and item.coded == "i" * planes:
        known = True
    if item.coded and (len(item.coded) != planes or not known):
        return f"planes coded as {item.coded!r}"
    if item.same != -1 and (item.coded or item.transform or item.reference != -1):
        return "a copy that is coded"
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
    if ("d" in item.coded) != (item.reference != -1):
        return "a difference without its reference"
    if not item.shape:
        return None
    plain = (item.height, item.width)
    samples = MODES[item.mode].samples
    known = item.mode == ARRAY_MODES.get(samples)
    sound = item.shape == (*plain, samples) or (samples == 1 and item.shape == plain)
    return None if known and sound else f"shape {item.shape}"


def _array_problem(item: Item) -> str | None:
    if problem := _pixel_problem(item):
        return problem
    if item.source not in ARRAY_SOURCES:
        return f"unknown source {item.source!r}"
    if item.before or item.after:
        return "an array with PNG chunks"
    if item.reference != -1 or "d" in item.coded:
        return "an array with a reference"
    if item.source == "npz":
        if name_problem(item.key) is not None or "/" in item.key:
            return f"unsafe key {item.key!r}"
    elif item.key or item.deflated:
        return "npz fields in another kind of array"
    mode = MODES[item.mode]
    expected = (mode.samples, item.height, item.width)
    if item.mode != ARRAY_MODES.get(mode.samples) or array_layout(item.shape) != expected:
        return f"shape {item.shape} does not hold {item.height}x{item.width} of {item.mode}"
    return None


_PROBLEMS = {
    "file": _file_problem,
    "folder": _folder_problem,
    "image": _image_problem,
    "array": _array_problem,
}


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

    (n, h, w, c) with c in 1..4; (n, h, w); and (h, w, c), told from (n, h, w) by a last side of
    1 or 3. All sides must be positive.

    >>> array_layout((10, 28, 28)), array_layout((512, 768, 3)), array_layout((7, 8, 8, 4))
    ((1, 28, 28), (3, 512, 768), (4, 8, 8))
    """
    if not all(side > 0 for side in shape) or prod(shape) > 3 * MAX_TOTAL_PIXELS:
        return None
    if len(shape) == 4 and shape[3] in ARRAY_MODES:
        return shape[3], shape[1], shape[2]
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[2], shape[0], shape[1]
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    return None


def _same_npz(first: Item, second: Item) -> bool:
    both = first.kind == second.kind == "array" and first.source == second.source == "npz"
    return both and first.name == second.name
