"""Files of data sets: where they are, and their images as uint8 arrays.

Pickles are read by an unpickler that knows arrays and plain values only: a data set may come from
anywhere, and an ordinary unpickler runs what it is told to.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from osoa_pl.data import arrays
from osoa_pl.errors import InputError, reason
from osoa_pl.format.items import array_layout
from osoa_pl.types import Item


class Planar:
    """Images of square RGB arrays that are stored channel by channel, as a sequence.

    `batches`: uint8 (n, 3 * side * side) each; an image comes out as uint8 (side, side, 3). Nothing
    is copied before that.
    """

    def __init__(self, batches: Sequence[NDArray[np.uint8]], side: int) -> None:
        self._batches = batches
        self._ends = list(accumulate(map(len, batches)))
        self._side = side

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        batch = bisect_right(self._ends, index)
        row: NDArray[np.uint8] = self._batches[batch][index - self._ends[batch]]  # from its end
        return row.reshape(3, self._side, self._side).transpose(1, 2, 0)


def find(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """First of the files called one of `names` in one of `folders`."""
    candidates = (folder / name for folder in folders for name in names)
    return next((path for path in candidates if path.is_file()), None)


def locate(what: str, folders: Sequence[Path], names: Sequence[str], hint: str) -> Path:
    """As `find`. Raises InputError with `hint`, naming `what` and the places, if there is none."""
    path = find(folders, names)
    if path is None:
        places = ", ".join(map(str, folders))
        raise InputError(f"{what}: no {' or '.join(names)} in {places}", hint=hint)
    return path


def read_array(path: Path, key: str = "images") -> NDArray[np.uint8]:
    """uint8 (n, h, w, c), c in 1, 3, of an npy (mapped, not read), npz or IDX file, gz or not.

    `key`: member of the npz; one of another name is taken where it is the only one. Raises
    InputError naming the path.
    """
    try:
        if zipfile.is_zipfile(path):
            return _images(_read_member(path, key), path)
        found = arrays.inspect(path, verify=False)
        if found is None:
            raise InputError("not an npy, npz or IDX file of uint8 images")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    facts = found[0]
    if facts.source == "npy":
        return _images(np.load(path, mmap_mode="r"), path)
    channels, height, width = array_layout(facts.shape) or (0, 0, 0)
    mode = "grey8" if channels == 1 else "rgb8"
    item = Item(path.name, "array", facts.source, mode, height, width, shape=facts.shape)
    pixels = np.empty((item.count, height, width, channels), np.uint8)
    for index, image in enumerate(arrays.images(path, item)):
        pixels[index] = image
    return pixels


def read_batch(path: Path, side: int) -> NDArray[np.uint8]:
    """uint8 (n, 3 * side * side), channel by channel: `data` of an npz or a pickled dictionary.

    Raises InputError naming the path.
    """
    try:
        data = _read_member(path, "data") if zipfile.is_zipfile(path) else _read_pickle(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    if (
        data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != 3 * side * side
        or not len(data)
    ):
        raise InputError(
            f"{path}: found {data.dtype} {data.shape}, expected uint8 (n, {3 * side * side}): "
            f"RGB images of {side}x{side}, channel by channel"
        )
    return data


def download(name: str, root: Path) -> None:
    """Let torchvision fetch its data set `name` into `root`.

    Raises InputError in one line for whatever goes wrong: no network, no space, a broken file.
    """
    from torchvision import datasets

    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            getattr(datasets, name)(root, download=True)
    except Exception as error:  # network, archives and disks fail in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: cannot be downloaded to {root}: {reason}") from error


def _images(pixels: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    layout = array_layout(pixels.shape)
    if layout is not None and layout[0] not in (1, 3):
        layout = None
    if pixels.dtype != np.uint8 or layout is None:
        raise InputError(
            f"{path}: found {pixels.dtype} {pixels.shape}, "
            "expected uint8 (n, h, w) or (n, h, w, c) with c in 1, 3"
        )
    channels, height, width = layout
    return pixels.reshape(-1, height, width, channels)


def _read_member(path: Path, key: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as pack:
            names = list(pack.files)
            if key not in names and len(names) != 1:
                raise InputError(f"found {', '.join(names) or 'nothing'}, expected {key}")
            found = pack[key if key in names else names[0]]
    except (InputError, OSError):
        raise
    except Exception as error:  # zip, deflate, bzip2, LZMA and npy readers have their own
        raise InputError(f"cannot be read as an npz file: {error}") from error
    if not isinstance(found, np.ndarray):
        raise InputError("cannot be read as an npz file: a member is no array")
    return found


def _read_pickle(path: Path) -> NDArray[Any]:
    with open(path, "rb") as file:
        try:
            content = _PlainUnpickler(file, encoding="latin1").load()
        except (InputError, OSError):
            raise
        except Exception as error:  # a broken pickle raises whatever it meets
            raise InputError("neither an npz file nor a pickle of arrays") from error
    data = content.get("data", content.get(b"data")) if isinstance(content, dict) else None
    if not isinstance(data, np.ndarray):
        raise InputError("found no array under the key data")
    return data


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes that Python 3 pickled as text for the sake of Python 2."""
    if encoding != "latin1":
        raise InputError(f"a pickle that asks for encoding {encoding!r}")
    return text.encode("latin1")


def _plain_names() -> dict[tuple[str, str], Callable[..., Any]]:
    rebuild = np.empty(0).__reduce__()[0]  # moves from module to module between versions of numpy
    buffer = np.zeros(1).__reduce_ex__(5)[0]
    known: dict[tuple[str, str], Callable[..., Any]] = {("_codecs", "encode"): _latin1}
    known |= {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    for package in ("numpy.core", "numpy._core"):
        known[f"{package}.multiarray", "_reconstruct"] = rebuild  # type: ignore[assignment]
        known[f"{package}.numeric", "_frombuffer"] = buffer  # type: ignore[assignment]
    return known


class _PlainUnpickler(pickle.Unpickler):
    """Arrays, dictionaries, lists, text, bytes and numbers; all else is refused by name."""

    _known = _plain_names()

    def __init__(self, file: BinaryIO, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        known = self._known.get((module, name))
        if known is None:
            raise InputError(f"a pickle that asks for {module}.{name}; only arrays are read")
        return known
