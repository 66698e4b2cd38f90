"""Writing a collection back: picture files, arrays and stored files, each whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Collection as Names
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import arrays, files, png
from osoa_pl.errors import DamagedArchiveError, OutputExistsError, UsageError
from osoa_pl.format.atomic import atomic_file, publish, reporting, temporary_beside
from osoa_pl.format.names import clash, name_problem, parents
from osoa_pl.types import Item

_NOT_ON_WINDOWS = frozenset('<>:"|?*')


def select(items: Iterable[Item], pattern: str) -> frozenset[str]:
    """Output names that match the glob `pattern` (``*`` crosses folders).

    Raises UsageError where none does.
    """
    names = {item.output_name for item in items if fnmatchcase(item.output_name, pattern)}
    names |= {item.output_name for item in items if fnmatchcase(item.name, pattern)}
    if not names:
        raise UsageError(f"no entry matches {pattern!r}")
    return frozenset(names)


class ImageWriter:
    """Context manager that receives decoded images and writes the files they came from.

    Images of `c` channels are given to `put` in item order, the two kinds interleaved at will;
    those that are not `selected` (output names; None: all) are counted and dropped. One image is
    in memory at a time: arrays grow in temporary files. Leaving the block without `finish`
    removes what is unfinished; finished files stay.

    Raises before any work: OutputExistsError without `overwrite`, UsageError for outputs that
    this system cannot hold, DamagedArchiveError for metadata that is no PNG chunks.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        items: Sequence[Item],
        overwrite: bool = False,
        *,
        selected: Names[str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        chosen = [item for item in items if selected is None or item.output_name in selected]
        self._queues = {
            channels: [
                (item, selected is None or item.output_name in selected)
                for item in items
                if item.channels == channels
            ]
            for channels in (1, 3)
        }
        self._position = {1: (0, 0), 3: (0, 0)}  # item within its queue, image within the item
        self._open: dict[int, tuple[Path, BinaryIO]] = {}
        self._members: dict[str, dict[str, tuple[Path, bool]]] = {}
        self._pending = {item.output_name: 0 for item in chosen}
        for item in chosen:
            self._pending[item.output_name] += 1
        self._groups: dict[str, list[Item]] = {}
        for item in chosen:
            self._groups.setdefault(item.output_name, []).append(item)
        self.written: list[str] = []
        """Output names of finished files, in the order in which they were finished."""
        self._check(chosen)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._drop_temporaries()

    def needed(self, channels: int) -> int:
        """How many images of `channels` channels, from the first, the selection needs."""
        total = last = 0
        for item, chosen in self._queues[channels]:
            total += item.count
            last = total if chosen else last
        return last

    def put(self, image: NDArray[np.uint8]) -> None:
        """Take the next image uint8 (h, w, c) of its number of channels."""
        if image.ndim != 3 or image.shape[2] not in self._queues or image.dtype != np.uint8:
            raise UsageError(f"image: found {image.dtype} {image.shape}, expected uint8 (h, w, c)")
        channels = image.shape[2]
        queue, (place, number) = self._queues[channels], self._position[channels]
        if place >= len(queue):
            raise DamagedArchiveError(f"more images of {channels} channels than the table has")
        item, chosen = queue[place]
        if image.shape != (item.height, item.width, channels):
            raise DamagedArchiveError(
                f"{item.name}: found an image of {image.shape[0]}x{image.shape[1]} pixels, "
                f"expected {item.height}x{item.width}"
            )
        last = number + 1 == item.count
        self._position[channels] = (place + 1, 0) if last else (place, number + 1)
        if not chosen:
            return
        if item.kind == "image":
            with self._create(item) as file:
                file.write(png.encode(image, item.before, item.after))
            self._done(item)
        else:
            self._put_in_array(item, image, last)

    def put_file(self, item: Item, member: BinaryIO | bytes) -> None:
        """Write the stored file `item` from its archive member; nothing if not selected."""
        if item.output_name not in self._pending:
            return
        stream = io.BytesIO(member) if isinstance(member, bytes) else member
        with self._create(item) as file:
            files.decode_file(stream, item, file)
        self._done(item)

    def finish(self) -> None:
        """Check that every selected file was written; raises DamagedArchiveError if not."""
        missing = [name for name, left in self._pending.items() if left]
        self._drop_temporaries()
        if missing:
            raise DamagedArchiveError(f"{missing[0]}: pixels missing ({len(missing)} files in all)")

    def _put_in_array(self, item: Item, image: NDArray[np.uint8], last: bool) -> None:
        destination = self._destination(item)
        with reporting(destination):
            if item.channels not in self._open:
                self._make_folder(destination)
                descriptor, name = temporary_beside(destination)
                self._open[item.channels] = (Path(name), os.fdopen(descriptor, "wb"))
                self._open[item.channels][1].write(arrays.header(item))
            temporary, file = self._open[item.channels]
            file.write(image.tobytes())
            if not last:
                return
            file.close()
        members = self._members.setdefault(item.output_name, {})
        members[item.key] = (temporary, item.deflated)
        del self._open[item.channels]
        if len(members) == len(self._groups[item.output_name]):
            self._finish_array(item)
        self._done(item)

    def _finish_array(self, item: Item) -> None:
        members = self._members[item.output_name]
        if item.source == "npz":
            keys = [member.key for member in self._groups[item.output_name]]
            with self._create(item) as file:
                arrays.write_npz(file, {key: members[key] for key in keys})
        else:
            destination = self._destination(item)
            with reporting(destination):
                publish(str(members[item.key][0]), destination, overwrite=self._overwrite)
        self._drop(self._members.pop(item.output_name))

    def _check(self, chosen: Sequence[Item]) -> None:
        names = list(self._pending)
        for name in names:
            problem = name_problem(name)
            if problem is not None:  # the table was checked; this is the last line of defence
                raise DamagedArchiveError(f"unsafe name {name!r}: {problem}")
            try:
                os.fsencode(name)
            except UnicodeEncodeError:
                raise UsageError(
                    f"{name}: the locale's file names cannot hold this name",
                    hint="set a UTF-8 locale, for example LC_ALL=C.UTF-8",
                ) from None
            if os.name == "nt" and not _NOT_ON_WINDOWS.isdisjoint(name):
                raise UsageError(f"{name}: Windows cannot hold this name")
        pair = clash(names)
        if pair is not None:
            raise DamagedArchiveError(f"names {pair[0]!r} and {pair[1]!r} clash")
        for item in chosen:
            try:
                png.check_metadata(item.before)
                png.check_metadata(item.after)
            except ValueError as error:
                raise DamagedArchiveError(f"{item.name}: metadata: {error}") from error
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is not a folder")
        existing = [name for name in names if self._exists(name)]
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
        if place.is_dir() and not place.is_symlink():
            raise UsageError(f"{place}: is a folder, expected a file name")
        return os.path.lexists(place)

    def _destination(self, item: Item) -> Path:
        return self.folder / item.output_name

    def _make_folder(self, destination: Path) -> None:
        self._exists(destination.relative_to(self.folder).as_posix())  # no link slipped in
        destination.parent.mkdir(parents=True, exist_ok=True)

    def _create(self, item: Item) -> AbstractContextManager[BinaryIO]:
        destination = self._destination(item)
        with reporting(destination):
            self._make_folder(destination)
        # The originals are still there: not worth a disk flush for each of thousands of files.
        return atomic_file(destination, overwrite=self._overwrite, sync=False)

    def _done(self, item: Item) -> None:
        self._pending[item.output_name] -= 1
        if self._pending[item.output_name] == 0:
            self.written.append(item.output_name)

    def _drop_temporaries(self) -> None:
        for temporary, file in self._open.values():
            with suppress(OSError):
                file.close()
            self._drop({"": (temporary, False)})
        for members in self._members.values():
            self._drop(members)
        self._open.clear()
        self._members.clear()

    @staticmethod
    def _drop(members: dict[str, tuple[Path, bool]]) -> None:
        for temporary, _ in members.values():
            with suppress(OSError):
                temporary.unlink()
