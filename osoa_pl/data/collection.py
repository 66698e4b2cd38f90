"""A collection: the items to be coded, in order, and lazy access to their pixels and bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import arrays, files, images
from osoa_pl.data.images import Picture
from osoa_pl.data.listing import Found, Listing, list_files
from osoa_pl.data.picture import Raster
from osoa_pl.data.planes import Planes, join, planes_of
from osoa_pl.errors import InputError, UsageError, reason
from osoa_pl.format.items import ARRAY_MODES, array_layout, size_problem
from osoa_pl.format.names import fold, name_problem, parents
from osoa_pl.types import MODES, Item, form_of

MAX_PICTURE_BYTES = 2 << 30
"""Larger picture files are stored byte for byte: a picture is read into memory as a whole."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One item and where it comes from; a worker process needs no more to code it."""

    item: Item
    origin: str | NDArray[np.uint8] | None
    """Path of the file; array; None for a folder."""
    size: int = 0
    """Bytes of the file or array as it was given."""
    stamp: int = 0
    """Time of the file's last change in ns: one that resumes must find it again."""
    pinned: bool = False
    """A later item has these pixels in another file: they are coded as pixels."""

    def planes(
        self, begin: int = 0, count: int | None = None, transform: str = ""
    ) -> Iterator[Planes]:
        """For `count` pictures of the item, from number `begin`, the planes uint8 (h, w, c) that a
        transform leaves, read one picture at a time.

        Raises InputError naming the path where the file has changed.
        """
        item = self.item
        if not item.mode:
            return
        form = form_of(item.mode, transform)
        for raster in self._rasters(begin, item.count if count is None else begin + count):
            try:
                planes = planes_of(raster, form)
            except ValueError as error:  # it fitted before
                raise InputError(f"{item.name}: changed while it was read: {error}") from error
            yield planes

    def _rasters(self, begin: int, end: int) -> Iterator[Raster]:
        item, origin = self.item, self.origin
        if isinstance(origin, np.ndarray):
            shape = (item.count, item.height, item.width, MODES[item.mode].samples)
            yield from origin.reshape(shape)[begin:end]
        elif origin is not None and item.kind == "array":
            yield from arrays.images(Path(origin), item, begin, end - begin)
        elif origin is not None and item.kind == "image":
            yield self._raster(origin)

    def _raster(self, path: str) -> Raster:
        item = self.item
        picture = Picture(item.source, item.mode, item.height, item.width, item.before, item.after)
        try:
            return images.decode(_read(path), picture)
        except InputError as error:
            raise InputError(f"{files.describe(path)}: {error}") from error

    def read(self) -> bytes:
        """Bytes of the file as they were given. Raises InputError where its size has changed."""
        assert isinstance(self.origin, str)
        data = _read(self.origin)
        if len(data) != self.size:
            raise InputError(f"{files.describe(self.origin)}: changed while it was read")
        return data

    def encode_file(self, destination: BinaryIO) -> None:
        """Write the bytes of the archive's member `files.member_name`, in chunks.

        Undone by `osoa_pl.data.files.decode_file`.
        """
        assert isinstance(self.origin, str)
        files.encode_file(Path(self.origin), self.item, destination)

    def stored(self) -> Entry:
        """The same input, kept byte for byte."""
        assert isinstance(self.origin, str)
        item = self.item
        kept = Item(
            item.name, "file", size=self.size, codec=files.choose_codec(Path(self.origin)),
            mtime=item.mtime, given=item.given,
        )  # fmt: skip
        return replace(self, item=kept)

    def coded(self, letters: str, reference: int = -1, transform: str = "") -> Entry:
        """The same pictures, their planes coded as `letters` say (see `Item`)."""
        letters = "" if set(letters) == {"m"} else letters
        item = replace(self.item, coded=letters, reference=reference, transform=transform)
        return replace(self, item=item)


class Collection:
    """Entries in coding order.

    Pixels are read when they are iterated, one picture file or one image of an array at a time;
    iterating again reads again.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        skipped: Sequence[tuple[str, str]] = (),
        stored: Sequence[tuple[str, str]] = (),
        renamed: Sequence[tuple[str, str]] = (),
        original_bytes: int = 0,
    ) -> None:
        self.entries = list(entries)
        self.skipped = tuple(skipped)
        """(path, reason) of inputs that are not in the collection."""
        self.stored = list(stored)
        """(name, reason) of items of kind ``file``: stored byte for byte."""
        self.renamed = tuple(renamed)
        """(path, name) where the name had to change to suit every system."""
        self.original_bytes = original_bytes
        """Bytes of all inputs as they were given."""

    @classmethod
    def from_arrays(cls, data: NDArray[np.uint8] | Iterable[NDArray[np.uint8]]) -> Collection:
        """Collection of a Python caller.

        `data`: uint8 (n, h, w) or (n, h, w, c), kept as one array; or an iterable of uint8 (h, w)
        or (h, w, c), named 000000.png and so on; c in 1..4. Raises InputError for other dtypes
        or shapes, UsageError for nothing.
        """
        if isinstance(data, np.ndarray):
            layout = array_layout(data.shape)
            if data.dtype != np.uint8 or data.ndim not in (3, 4) or (data.size and layout is None):
                raise InputError(
                    f"array: found {data.dtype} {data.shape}, "
                    "expected uint8 (n, h, w) or (n, h, w, c) with c in 1 to 4"
                )
            if layout is None:
                raise UsageError(f"array of shape {data.shape}: no pixels")
            _check_size(layout[1], layout[2], "array")
            item = Item("array.npy", "array", "npy", *_sides(layout), shape=data.shape)
            return cls([Entry(item, data, data.nbytes)], original_bytes=data.nbytes)
        entries = [_image_entry(image, index) for index, image in enumerate(data)]
        if not entries:
            raise UsageError("no images given")
        return cls(_without_copies(entries), original_bytes=sum(entry.size for entry in entries))

    @property
    def items(self) -> list[Item]:
        """The items, in order."""
        return [entry.item for entry in self.entries]

    def forget_copies(self) -> None:
        """Take copies for pictures and files like all others."""
        for index, entry in enumerate(self.entries):
            if entry.item.same != -1:
                self.entries[index] = replace(entry, item=replace(entry.item, same=-1))

    def images(self, mode: str) -> Iterator[NDArray[np.uint8]]:
        """Pictures uint8 (h, w, samples) of one mode of 8 bits, in item order, read lazily."""
        for entry in self.entries:
            if entry.item.mode == mode:
                for found in entry.planes():
                    yield join(found, MODES[mode]).astype(np.uint8, copy=False)

    def read_file_bytes(self, item: Item) -> bytes:
        """Bytes of a stored file as they were given."""
        for entry in self.entries:
            if entry.item is item and isinstance(entry.origin, str):
                return _read(entry.origin)
        raise UsageError(f"{item.name}: not a stored file of this collection")


def scan(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    verify: bool = True,
    exclude: Sequence[str | os.PathLike[str]] = (),
    times: bool = True,
) -> Collection:
    """Collection of the files in `inputs` (files, and folders recursively; see `list_files`).

    Pictures and uint8 arrays are coded as pixels, all else becomes an item of kind ``file`` with
    a reason in `stored`. `verify` decodes every picture once, so that broken ones are among those
    and copies are found. `exclude`: outputs of this run. `times`: keep times of change, and
    folders. Raises UsageError for missing or empty inputs.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    return collect(list_files(inputs, exclude=exclude, times=times), verify=verify)


def collect(listing: Listing, *, verify: bool = True) -> Collection:
    """Collection of what was listed; the listing is used up. Raises UsageError where nothing is
    left.
    """
    skipped, stored = list(listing.skipped), []
    outputs = _Outputs(listing.entries)
    entries: list[Entry] = []
    copies = _Copies(entries)
    total = 0
    listing.entries.reverse()
    while listing.entries:
        found = listing.entries.pop()
        if found.folder:
            folder = Item(found.name, "folder", mtime=found.mtime, given=found.given)
            entries.append(Entry(folder, None))
            continue
        try:
            status = os.stat(found.path)
            size = status.st_size
            items, reason, digests = _classify(found, verify=verify)
            if items and not outputs.free(found.name, items[0].output_name):
                taken = f"its restored name {items[0].output_name} is taken"
                items, reason, digests = [], taken, digests[:1]
            if not items:
                items = [_file_item(found, size)]
                stored.append((found.name, reason))
        except OSError as error:
            skipped.append((files.describe(found.path), f"cannot be read: {error.strerror}"))
            continue
        total += size
        for index, item in enumerate(items):
            item = replace(item, mtime=found.mtime, given=found.given)
            entry = Entry(item, found.path, size, status.st_mtime_ns)
            copies.add(entry, digests[0] if digests else b"", digests[1 + index :][:1])
    if not entries:
        raise UsageError(f"{skipped[0][0]}: {skipped[0][1]}; no files left")
    return Collection(
        entries, skipped=skipped, stored=stored, renamed=listing.renamed, original_bytes=total
    )


class _Outputs:
    """Restored names that are given away: those of all inputs, and what pictures add to them."""

    def __init__(self, listed: Sequence[Found]) -> None:
        self._taken = {fold(found.name) for found in listed}
        for found in listed:
            self._taken.update(parents(fold(found.name)))

    def free(self, name: str, output: str) -> bool:
        """Whether the picture `name` may be restored as `output`, which it then is."""
        if output == name:
            return True
        if fold(output) in self._taken or name_problem(output) is not None:
            return False
        self._taken.add(fold(output))
        return True


class _Copies:
    """Appends entries, those with the content of an earlier one as its copies."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries
        self._files: dict[bytes, int] = {}
        self._pixels: dict[bytes, int] = {}

    def add(self, entry: Entry, whole: bytes, pixels: Sequence[bytes]) -> None:
        """`whole`: digest of the file's bytes; `pixels`: of the item's pixels, if it has some."""
        item = entry.item
        facts = (item.kind, item.mode, item.height, item.width, item.shape, item.size)
        of_file = _key(facts, whole, item.key) if whole else b""
        of_pixels = _key(facts, pixels[0], "") if pixels else b""
        by_file, by_pixels = self._files.get(of_file), self._pixels.get(of_pixels)
        target = by_file if by_file is not None else by_pixels
        number = len(self._entries)
        if target is not None:
            if by_file is None:
                self._entries[target] = replace(self._entries[target], pinned=True)
            codec = self._entries[target].item.codec
            entry = replace(entry, item=replace(item, same=target, codec=codec))
        else:
            if of_file:
                self._files[of_file] = number
            if of_pixels:
                self._pixels[of_pixels] = number
        self._entries.append(entry)


def _key(facts: tuple[object, ...], digest: bytes, key: str) -> bytes:
    # Short: there is one for every file of a collection of any size.
    return hashlib.blake2b(repr((facts, digest, key)).encode(), digest_size=16).digest()


def _without_copies(entries: Sequence[Entry]) -> list[Entry]:
    found: list[Entry] = []
    copies = _Copies(found)
    for entry in entries:
        copies.add(entry, b"", [_pixel_digest(np.asarray(entry.origin))])
    return found


def _classify(found: Found, *, verify: bool) -> tuple[list[Item], str, list[bytes]]:
    """Items coded as pixels, or none and the reason why the file is stored; digests of the file
    and of each item's pixels.
    """
    path, digests = Path(found.path), []
    try:
        inside = arrays.inspect(path, verify=verify)
        if inside is not None:
            items = [_array_item(found.name, facts) for facts in inside]
            digests = [_digest(path), *(facts.digest for facts in inside if facts.digest)]
            return items, "", digests
        with open(path, "rb") as file:
            source = images.sniff(file.read(64), path.suffix)
        if source is None:
            known = path.suffix.lower() in images.SUFFIXES
            reason = "cannot be read as an image: unknown content" if known else "not an image"
            return [], reason, [_digest(path)]
        if path.stat().st_size > MAX_PICTURE_BYTES:
            return [], f"a picture file of more than {MAX_PICTURE_BYTES >> 30} GiB", []
        data = path.read_bytes()
        digests = [hashlib.sha256(data).digest()]
        picture = images.inspect(data, source)
        if verify:
            pixels = images.decode(data, picture)
            digests.append(_pixel_digest(pixels))
    except InputError as error:
        return [], str(error), digests[:1] or [_digest(path)]
    return [_image_item(found.name, picture)], "", digests


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _pixel_digest(pixels: NDArray[np.generic]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


def _image_item(name: str, picture: Picture) -> Item:
    return Item(
        name, "image", picture.source, picture.mode, picture.height, picture.width,
        before=picture.before, after=picture.after,
    )  # fmt: skip


def _array_item(name: str, facts: arrays.ArrayFacts) -> Item:
    layout = array_layout(facts.shape)
    if layout is None:
        raise InputError(f"array {facts.shape} holds no images of 1 to 4 channels")
    if problem := size_problem(layout[1], layout[2]):
        raise InputError(f"array {facts.shape}: images of {problem}")
    return Item(
        name, "array", facts.source, *_sides(layout), shape=facts.shape, key=facts.key,
        deflated=facts.deflated,
    )  # fmt: skip


def _sides(layout: tuple[int, int, int]) -> tuple[str, int, int]:
    return ARRAY_MODES[layout[0]], layout[1], layout[2]


def _file_item(found: Found, size: int) -> Item:
    codec = files.choose_codec(Path(found.path))
    return Item(found.name, "file", size=size, codec=codec)


def _image_entry(image: NDArray[np.uint8], index: int) -> Entry:
    where = f"image {index}"
    pixels = np.asarray(image)
    sound = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in ARRAY_MODES)
    if pixels.dtype != np.uint8 or not sound or not pixels.size:
        raise InputError(
            f"{where}: found {pixels.dtype} {pixels.shape}, "
            "expected uint8 (h, w) or (h, w, c) with c in 1 to 4"
        )
    height, width = pixels.shape[:2]
    _check_size(height, width, where)
    mode = ARRAY_MODES[pixels.shape[2] if pixels.ndim == 3 else 1]
    item = Item(f"{index:06d}.png", "image", "png", mode, height, width, shape=pixels.shape)
    return Entry(item, pixels, pixels.nbytes)


def _check_size(height: int, width: int, where: str) -> None:
    if problem := size_problem(height, width):
        raise InputError(f"{where}: {problem}")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{files.describe(path)}: cannot be read: {reason(error)}") from error
