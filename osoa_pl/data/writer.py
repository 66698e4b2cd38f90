"""Writing a collection back: picture files, arrays and stored files, each whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Collection as Indices
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from osoa_pl.data import arrays, files, png
from osoa_pl.data.picture import Raster
from osoa_pl.errors import DamagedArchiveError, OsoaError, OutputExistsError, UsageError
from osoa_pl.format.atomic import atomic_file, publish, reporting, temporary_beside
from osoa_pl.format.names import clash, name_problem, parents
from osoa_pl.types import MODES, Item

Deliver = Callable[[str, Path, int], None]
"""Takes name, path and time of what has been written."""

_NOT_ON_WINDOWS = frozenset('<>:"|?*')


def select(items: Sequence[Item], patterns: str | Sequence[str]) -> frozenset[int]:
    """Indices of the entries whose name matches a glob (``*`` crosses folders), by any of its
    spellings; a folder stands for what is in it too.

    Raises UsageError where nothing matches one of `patterns`.
    """
    found: set[int] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = {
            index
            for index, item in enumerate(items)
            if any(fnmatchcase(name, pattern) for name in _spellings(item))
        }
        if not matching:
            raise UsageError(f"no entry matches {pattern!r}", hint="`osoa list` shows the names")
        found |= matching
    inside = tuple(items[i].name + "/" for i in found if items[i].kind == "folder")
    if inside:
        found |= {i for i, item in enumerate(items) if item.name.startswith(inside)}
    return frozenset(found)


def _spellings(item: Item) -> tuple[str, ...]:
    own = os.fsdecode(item.given)
    return (item.output_name, item.name, own, _own_name(item)) if own else (
        item.output_name, item.name,
    )  # fmt: skip


@dataclass
class _Array:
    """An array whose pictures are coming in, in any order."""

    place: Path
    file: BinaryIO
    header: int
    missing: int


@dataclass
class _Output:
    """One file to write: the items that go into it."""

    indices: list[int] = field(default_factory=list)
    left: int = 0
    lost: bool = False


class ImageWriter:
    """Context manager that receives decoded pictures and writes the files they came from.

    `selected`: indices of the items to write (None: all). `deliver`: told of folders and finished
    files. One picture is in memory at a time:
    arrays grow in temporary files. Leaving the block without `finish` removes what is unfinished;
    finished files stay. Names that not every system can hold are written where this one can.

    Raises before any work: OutputExistsError without `overwrite`, UsageError for outputs that
    this system cannot hold, DamagedArchiveError for metadata that is no PNG chunks.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        items: Sequence[Item],
        overwrite: bool = False,
        *,
        selected: Indices[int] | None = None,
        deliver: Deliver | None = None,
    ) -> None:
        self.folder, self._deliver = Path(folder), deliver
        self._items, self._overwrite = items, overwrite
        chosen = range(len(items)) if selected is None else sorted(selected)
        self._folders = [index for index in chosen if items[index].kind == "folder"]
        written = [index for index in chosen if items[index].kind != "folder"]
        self._names = self._final_names([*self._folders, *written])
        self._outputs: dict[str, _Output] = {}
        for index in written:
            output = self._outputs.setdefault(self._names[index], _Output())
            output.indices.append(index)
            output.left += 1
        self._arrays: dict[int, _Array] = {}
        self._begun = False
        self._ready: dict[int, Path] = {}
        self.written: list[str] = []
        """Names of finished files below the folder, in the order in which they were finished."""
        with reporting(self.folder):
            self._check()

    def __enter__(self) -> Self:
        with reporting(self.folder):
            for index in self._folders:
                place = self.folder / self._names[index]
                place.mkdir(parents=True, exist_ok=True)
                if self._deliver is not None:
                    self._deliver(self._names[index], place, self._items[index].mtime)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._drop_temporaries()

    def wants(self, index: int) -> bool:
        """Whether item `index` is among those to be written."""
        return index in self._names

    def name(self, index: int) -> str:
        """Name of the selected item's file below the folder."""
        return self._names[index]

    def put(self, index: int, number: int, raster: Raster) -> None:
        """Take picture `number` of item `index`, (h, w, samples); nothing if not selected."""
        if index not in self._names:
            return
        item = self._items[index]
        expected = (item.height, item.width, MODES[item.mode].samples)
        if raster.shape != expected:
            raise DamagedArchiveError(
                f"{item.name}: found a picture {raster.shape}, expected {expected}"
            )
        if not 0 <= number < item.count:
            raise DamagedArchiveError(f"{item.name}: found picture {number}, expected {item.count}")
        if item.kind == "array":
            self._put_in_array(index, number, raster)
            return
        try:
            data = png.encode(raster, item.mode, item.before, item.after)
        except ValueError as error:
            raise DamagedArchiveError(f"{item.name}: {error}") from error
        with self._create(index) as file:
            file.write(data)
        self._done(index)

    def put_file(self, index: int, member: BinaryIO) -> None:
        """Write the stored file `index` from its bytes as they are in the archive; nothing if not
        selected.
        """
        if index not in self._names:
            return
        with self._create(index) as file:
            files.decode_file(member, self._items[index], file)
        self._done(index)

    def lose(self, index: int) -> None:
        """Give item `index` up: it cannot be restored. Its file is not written."""
        if index in self._names:
            self._outputs[self._names[index]].lost = True
            array = self._arrays.pop(index, None)
            if array is not None:
                array.file.close()
                _drop([array.place])

    def finish(self, *, give_up: bool = False) -> list[str]:
        """Check that every selected file was written, and set the times of folders.

        Returns the names of those that were lost; raises DamagedArchiveError for others that are
        missing, unless it is to `give_up` on them.
        """
        missing = [n for n, output in self._outputs.items() if output.left and not output.lost]
        self._drop_temporaries()
        if missing and not give_up:
            raise DamagedArchiveError(f"{missing[0]}: pixels missing ({len(missing)} files in all)")
        for index in reversed(self._folders):
            _set_time(self.folder / self._names[index], self._items[index].mtime)
        return [name for name, output in self._outputs.items() if output.left or output.lost]

    def _put_in_array(self, index: int, number: int, raster: Raster) -> None:
        item, destination = self._items[index], self._destination(index)
        if self._outputs[self._names[index]].lost:
            return
        with reporting(destination):
            array = self._arrays.get(index)
            if array is None:
                self._make_folder(destination)
                descriptor, name = temporary_beside(destination)
                file = os.fdopen(descriptor, "wb")
                header = arrays.header(item)
                file.write(header)
                array = self._arrays[index] = _Array(Path(name), file, len(header), item.count)
            data = raster.tobytes()
            array.file.seek(array.header + number * len(data))
            array.file.write(data)
            array.missing -= 1
            if array.missing:
                return
            array.file.close()
        del self._arrays[index]
        self._ready[index] = array.place
        indices = self._outputs[self._names[index]].indices
        if all(other in self._ready for other in indices):
            self._finish_array(index, indices)
        self._done(index)

    def _finish_array(self, index: int, indices: Sequence[int]) -> None:
        item, destination = self._items[index], self._destination(index)
        places = {i: self._ready.pop(i) for i in indices}
        try:
            if item.source == "npz":
                with self._create(index) as file:
                    members = {
                        self._items[i].key: (places[i], self._items[i].deflated) for i in indices
                    }
                    arrays.write_npz(file, members)
            else:
                with reporting(destination):
                    publish(str(places[index]), destination, overwrite=self._overwrite)
        finally:
            _drop(places.values())

    def _done(self, index: int) -> None:
        output = self._outputs[self._names[index]]
        output.left -= 1
        if not output.left:
            _set_time(self._destination(index), self._items[index].mtime)
            self.written.append(self._names[index])
            if self._deliver is not None:
                mtime = self._items[index].mtime
                self._deliver(self._names[index], self._destination(index), mtime)

    def _final_names(self, chosen: Sequence[int]) -> dict[int, str]:
        """The names' own spelling where all of them can stand below this folder."""
        items = self._items
        sound = {index: items[index].output_name for index in chosen}
        if not any(items[index].given for index in chosen) or not _holds_any_name(self.folder):
            return sound
        own = {index: _own_name(items[index]) for index in chosen}
        seen = {own[i] for i in chosen if items[i].kind != "folder"}
        alike = len(seen) < len({sound[i] for i in chosen if items[i].kind != "folder"})
        if any(part in ("", ".", "..") for name in own.values() for part in name.split("/")):
            return sound
        in_the_way = any(not seen.isdisjoint(parents(name)) for name in own.values())
        holding = {own[i] for i in chosen if items[i].kind == "folder"} & seen
        return sound if alike or in_the_way or holding else own

    def _check(self) -> None:
        items = self._items
        sound = {items[i].output_name: i for i in self._names}
        for name, index in sound.items():
            problem = name_problem(name)
            if problem is not None:  # the table was checked; this is the last line of defence
                raise DamagedArchiveError(f"unsafe name {name!r}: {problem}")
            final = self._names[index]
            try:
                os.fsencode(final)
            except UnicodeEncodeError:
                raise UsageError(
                    f"{name}: the locale's file names cannot hold this name",
                    hint="set a UTF-8 locale, for example LC_ALL=C.UTF-8",
                ) from None
            if os.name == "nt" and not _NOT_ON_WINDOWS.isdisjoint(name):
                raise UsageError(f"{name}: Windows cannot hold this name")
        pair = clash(sound, folders=[items[i].name for i in self._folders])
        if pair is not None:
            raise DamagedArchiveError(f"names {pair[0]!r} and {pair[1]!r} clash")
        for index in self._names:
            item = items[index]
            try:
                png.check_metadata(item.before)
                png.check_metadata(item.after)
            except ValueError as error:
                raise DamagedArchiveError(f"{item.name}: metadata: {error}") from error
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is not a folder")
        for index in self._folders:
            self._exists(self._names[index] + "/")
        existing = [name for name in self._outputs if self._exists(name)]
        if existing and not self._overwrite:
            more = f" ({len(existing)} files in all)" if len(existing) > 1 else ""
            raise OutputExistsError(
                f"{self.folder / existing[0]}: exists already{more}", hint="overwrite with -f"
            )

    def _exists(self, name: str) -> bool:
        """Whether the file is there. Raises UsageError where something is in its way."""
        for parent in parents(name):
            place = self.folder / parent
            if place.is_symlink():
                raise UsageError(f"{place}: is a symbolic link, expected a folder")
            if place.exists() and not place.is_dir():
                raise UsageError(f"{place}: is a file, expected a folder")
        place = self.folder / name
        if name.endswith("/"):
            return False
        if place.is_dir() and not place.is_symlink():
            raise UsageError(f"{place}: is a folder, expected a file name")
        return os.path.lexists(place)

    def _destination(self, index: int) -> Path:
        return self.folder / self._names[index]

    def _make_folder(self, destination: Path) -> None:
        self._exists(destination.relative_to(self.folder).as_posix())  # no link slipped in
        if self._begun and not self.folder.is_dir():
            raise OsoaError(f"{self.folder}: this folder has vanished")
        destination.parent.mkdir(parents=True, exist_ok=True)
        self._begun = True

    def _create(self, index: int) -> AbstractContextManager[BinaryIO]:
        destination = self._destination(index)
        with reporting(destination):
            self._make_folder(destination)
        # The originals are still there: not worth a disk flush for each of thousands of files.
        return atomic_file(destination, overwrite=self._overwrite, sync=False)

    def _drop_temporaries(self) -> None:
        for array in self._arrays.values():
            with suppress(OSError):
                array.file.close()
            _drop([array.place])
        _drop(self._ready.values())
        self._arrays.clear()
        self._ready.clear()


def _drop(places: Iterable[Path]) -> None:
    for place in places:
        with suppress(OSError):
            place.unlink()


def _set_time(path: Path, mtime: int) -> None:
    if mtime:
        with suppress(OSError, OverflowError, ValueError):  # not every system has every time
            links = os.utime in os.supports_follow_symlinks
            os.utime(path, ns=(mtime, mtime), follow_symlinks=not links)


def _own_name(item: Item) -> str:
    if not item.given:
        return item.output_name
    own = os.fsdecode(item.given)
    if item.output_name == item.name:
        return own
    return own + item.output_name[len(item.name) :] if len(item.output_name) > len(item.name) else (
        own[: len(own) - (len(item.name) - len(item.output_name))]
    )  # fmt: skip


def _holds_any_name(folder: Path) -> bool:
    """Whether names that differ in case or form stay apart below `folder`, and none is special."""
    if os.name == "nt" or sys.platform == "darwin":
        return False
    place = folder
    while not place.is_dir() and place != place.parent:
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(prefix=".osoa-case-", dir=place) as probe:
            return not os.path.lexists(Path(probe.name).with_name(Path(probe.name).name.upper()))
    except OSError:
        return False
