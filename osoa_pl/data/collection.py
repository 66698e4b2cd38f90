"""A collection: the items to be coded, in order, and lazy access to their pixels and bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import arrays, files, images
from osoa_pl.data.images import Picture
from osoa_pl.data.listing import list_files
from osoa_pl.errors import InputError, UsageError
from osoa_pl.format.items import array_layout, size_problem
from osoa_pl.format.names import fold, name_problem, parents
from osoa_pl.types import Item

MAX_PICTURE_BYTES = 2 << 30
"""Larger picture files are stored byte for byte: a picture is read into memory as a whole."""


@dataclass(frozen=True)
class _Entry:
    item: Item
    origin: Path | NDArray[np.uint8]


class Collection:
    """Items in coding order.

    Pixels are read when they are iterated, one picture file or one image of an array at a time;
    iterating again reads again. Raises InputError naming the path where a file has changed.
    """

    def __init__(
        self,
        entries: Sequence[_Entry],
        *,
        skipped: Sequence[tuple[str, str]] = (),
        stored: Sequence[tuple[str, str]] = (),
        renamed: Sequence[tuple[str, str]] = (),
        original_bytes: int = 0,
    ) -> None:
        self._entries = tuple(entries)
        self.items = tuple(entry.item for entry in entries)
        self._files = {
            entry.item.member: entry.origin
            for entry in entries
            if entry.item.kind == "file" and isinstance(entry.origin, Path)
        }
        self.skipped = tuple(skipped)
        """(path, reason) of inputs that are not in the collection."""
        self.stored = tuple(stored)
        """(name, reason) of items of kind ``file``: stored byte for byte."""
        self.renamed = tuple(renamed)
        """(path, name) where the name had to change to suit every system."""
        self.original_bytes = original_bytes
        """Bytes of all inputs as they were given."""

    @classmethod
    def from_arrays(cls, data: NDArray[np.uint8] | Iterable[NDArray[np.uint8]]) -> Collection:
        """Collection of a Python caller.

        `data`: uint8 (n, h, w) or (n, h, w, c), kept as one array; or an iterable of uint8 (h, w)
        or (h, w, c), named 000000.png and so on; c in 1, 3. Raises InputError for other dtypes
        or shapes, UsageError for nothing.
        """
        if isinstance(data, np.ndarray):
            layout = array_layout(data.shape)
            if data.dtype != np.uint8 or data.ndim not in (3, 4) or (data.size and layout is None):
                raise InputError(
                    f"array: found {data.dtype} {data.shape}, "
                    "expected uint8 (n, h, w) or (n, h, w, c) with c in 1, 3"
                )
            if layout is None:
                raise UsageError(f"array of shape {data.shape}: no pixels")
            _check_size(layout[1], layout[2], "array")
            item = Item("array.npy", "array", "npy", *layout, shape=data.shape)
            return cls([_Entry(item, data)], original_bytes=data.nbytes)
        entries = [_image_entry(image, index) for index, image in enumerate(data)]
        if not entries:
            raise UsageError("no images given")
        return cls(entries, original_bytes=sum(entry.item.raw_bytes for entry in entries))

    def count(self, channels: int) -> int:
        """Number of images with `channels` channels."""
        return sum(item.count for item in self.items if item.channels == channels)

    def image_shapes(self, channels: int) -> list[tuple[int, int]]:
        """(height, width) of each image that `iter_images` gives, without reading pixels."""
        shapes: list[tuple[int, int]] = []
        for item in self.items:
            if item.channels == channels:
                shapes += [(item.height, item.width)] * item.count
        return shapes

    def iter_images(self, channels: int) -> Iterator[NDArray[np.uint8]]:
        """uint8 images (h, w, `channels`) in item order, read lazily."""
        for entry in self._entries:
            if entry.item.channels == channels:
                yield from _read_entry(entry)

    def read_images(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """uint8 images (h, w, c) of item `index`; nothing for a file."""
        entry = self._entries[index]
        if entry.item.kind != "file":
            yield from _read_entry(entry)

    def read_file_bytes(self, item: Item) -> bytes:
        """Bytes of a stored file as they were given."""
        path = self._path(item)
        try:
            return path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error

    def encode_file(self, item: Item, destination: BinaryIO) -> None:
        """Write the bytes of the archive's member `item.member`, in chunks.

        Undone by `osoa_pl.data.files.decode_file`.
        """
        files.encode_file(self._path(item), item, destination)

    def _path(self, item: Item) -> Path:
        path = self._files.get(item.member)
        if path is not None:
            return path
        raise UsageError(f"{item.name}: not a stored file of this collection")


def scan(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    verify: bool = True,
    exclude: Sequence[str | os.PathLike[str]] = (),
) -> Collection:
    """Collection of the files in `inputs` (files, and folders recursively; see `list_files`).

    8-bit grey and RGB pictures and uint8 arrays are coded as pixels, all else becomes an item of
    kind ``file`` with a reason in `stored`. `verify` decodes every picture once, so that broken
    ones are among those. `exclude`: outputs of this run, see `list_files`. Raises UsageError for
    missing or empty inputs.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    listing = list_files(inputs, exclude=exclude)
    skipped, stored = list(listing.skipped), []
    groups: list[tuple[Path, str, list[Item], str]] = []
    total = 0
    for path, name in listing.files:
        try:
            total += path.stat().st_size
            items, reason = _classify(path, name, verify=verify)
        except OSError as error:
            skipped.append((files.describe(path), f"cannot be read: {error.strerror}"))
            continue
        groups.append((path, name, items, reason))
    if not groups:
        raise UsageError(f"{skipped[0][0]}: {skipped[0][1]}; no files left")
    entries: list[_Entry] = []
    for path, name, items, reason in _settle_outputs(groups):
        if not items:
            items = [_file_item(path, name)]
            stored.append((name, reason))
        entries += [_Entry(item, path) for item in items]
    return Collection(
        entries, skipped=skipped, stored=stored, renamed=listing.renamed, original_bytes=total
    )


def _classify(path: Path, name: str, *, verify: bool) -> tuple[list[Item], str]:
    """Items coded as pixels, or none and the reason why the file is stored."""
    try:
        found = arrays.inspect(path, verify=verify)
        if found is not None:
            return [_array_item(name, facts) for facts in found], ""
        with open(path, "rb") as file:
            source = images.sniff(file.read(16))
        if source is None:
            known = path.suffix.lower() in images.SUFFIXES
            return [], "cannot be read as an image: unknown content" if known else "not an image"
        if path.stat().st_size > MAX_PICTURE_BYTES:
            return [], f"a picture file of more than {MAX_PICTURE_BYTES >> 30} GiB"
        data = path.read_bytes()
        picture = images.inspect(data, source)
        if verify:
            images.decode(data, picture)
    except InputError as error:
        return [], str(error)
    return [_image_item(name, picture)], ""


def _image_item(name: str, picture: Picture) -> Item:
    return Item(
        name,
        "image",
        picture.source,
        picture.channels,
        picture.height,
        picture.width,
        before=picture.before,
        after=picture.after,
    )


def _array_item(name: str, facts: arrays.ArrayFacts) -> Item:
    layout = array_layout(facts.shape)
    if layout is None:
        raise InputError(f"array {facts.shape} holds no images of 1 or 3 channels")
    if problem := size_problem(layout[1], layout[2]):
        raise InputError(f"array {facts.shape}: images of {problem}")
    return Item(
        name,
        "array",
        facts.source,
        *layout,
        shape=facts.shape,
        key=facts.key,
        deflated=facts.deflated,
    )


def _file_item(path: Path, name: str) -> Item:
    codec = files.choose_codec(path)
    member = files.member_name(name, codec)
    return Item(name, "file", member=member, size=path.stat().st_size, codec=codec)


def _settle_outputs(
    groups: Sequence[tuple[Path, str, list[Item], str]],
) -> Iterator[tuple[Path, str, list[Item], str]]:
    """Turn pixel items whose restored name is another's into stored files."""
    taken = {fold(name) for _, name, _, _ in groups}
    for _, name, _, _ in groups:
        taken.update(parents(fold(name)))
    for path, name, items, reason in groups:
        if items and items[0].output_name != name:
            output = items[0].output_name
            if fold(output) in taken or name_problem(output) is not None:
                items, reason = [], f"its restored name {output} is taken"
            else:
                taken.add(fold(output))
        yield path, name, items, reason


def _image_entry(image: NDArray[np.uint8], index: int) -> _Entry:
    where = f"image {index}"
    pixels = np.asarray(image)
    sound = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))
    if pixels.dtype != np.uint8 or not sound or not pixels.size:
        raise InputError(
            f"{where}: found {pixels.dtype} {pixels.shape}, "
            "expected uint8 (h, w) or (h, w, c) with c in 1, 3"
        )
    height, width = pixels.shape[:2]
    _check_size(height, width, where)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    name = f"{index:06d}.png"
    item = Item(name, "image", "png", channels, height, width, shape=pixels.shape)
    return _Entry(item, pixels)


def _check_size(height: int, width: int, where: str) -> None:
    if problem := size_problem(height, width):
        raise InputError(f"{where}: {problem}")


def _read_entry(entry: _Entry) -> Iterator[NDArray[np.uint8]]:
    item, origin = entry.item, entry.origin
    if isinstance(origin, np.ndarray):
        yield from origin.reshape(item.count, item.height, item.width, item.channels)
    elif item.kind == "array":
        yield from arrays.images(origin, item)
    else:
        picture = Picture(item.source, item.channels, item.height, item.width)
        try:
            yield images.decode(origin.read_bytes(), picture)
        except OSError as error:
            raise _unreadable(origin, error) from error
        except InputError as error:
            raise InputError(f"{files.describe(origin)}: {error}") from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{files.describe(path)}: cannot be read: {error.strerror}")
