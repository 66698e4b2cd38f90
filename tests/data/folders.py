"""What the tests of the data room share: a folder of all sorts, and the way there and back."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from osoa_pl.data.collection import Collection
from osoa_pl.data.planes import join
from osoa_pl.data.writer import ImageWriter
from osoa_pl.format import items as item_table
from osoa_pl.types import MODES

GENERATOR = np.random.default_rng(1)


def noise(*shape: int) -> Any:
    """Random bytes of this shape."""
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def idx(pixels: NDArray[np.uint8]) -> bytes:
    """An IDX file."""
    return b"\0\0\x08\x03" + struct.pack(">3I", *pixels.shape) + pixels.tobytes()


def build(root: Path) -> Path:
    """Pictures, arrays and other files, some of them broken, in nested folders."""
    (root / "sub ü" / "deep").mkdir(parents=True)
    (root / "hollow" / "more").mkdir(parents=True)
    Image.fromarray(noise(5, 6, 3)).save(root / "img10.png")
    Image.fromarray(noise(5, 6)).save(root / "img2.png")
    Image.fromarray(noise(7, 4, 3)).save(root / "sub ü" / "deep" / "ə 日.webp", lossless=True)
    Image.fromarray(noise(3, 3, 4)).save(root / "sub ü" / "alpha.png")
    Image.fromarray(noise(9, 11) > 127).save(root / "bits.png")
    Image.fromarray(noise(6, 6, 3)).convert("P").save(root / "palette.png")
    Image.fromarray(noise(4, 9).astype(np.uint16) * 201).save(root / "wide.png")
    Image.fromarray(noise(8, 8, 3)).save(root / "photo.jpg")
    (root / "notes.txt").write_text("abc " * 1000)
    (root / "empty").write_bytes(b"")
    np.save(root / "a3.npy", noise(4, 5, 6))
    np.save(root / "a4.npy", noise(4, 5, 6, 3))
    np.save(root / "a1.npy", noise(4, 5, 6, 1))
    np.save(root / "float.npy", np.zeros((2, 3, 4), np.float32))
    np.save(root / "fortran.npy", np.asfortranarray(noise(2, 5, 4)))
    np.savez_compressed(root / "two.npz", rgb=noise(2, 3, 4, 3), grey=noise(2, 3, 4))
    np.savez(root / "labels.npz", x=noise(2, 3, 4), y=np.arange(2))
    (root / "t-idx3-ubyte.gz").write_bytes(gzip.compress(idx(noise(3, 4, 5))))
    (root / "plain-idx3-ubyte").write_bytes(idx(noise(3, 4, 5)))
    (root / "text.gz").write_bytes(gzip.compress(b"hello"))
    whole = (root / "img2.png").read_bytes()
    (root / "broken.png").write_bytes(whole[:-30])
    (root / "again.npy").write_bytes((root / "a3.npy").read_bytes())
    (root / "sub ü" / "img2.png").write_bytes(whole)
    (root / "sub ü" / "notes.txt").write_bytes((root / "notes.txt").read_bytes())
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_500_000_000_123_456_700 + number * 86_400 * 10**9))
    return root


def needs_posix_names(folder: Path, *names: bytes) -> None:
    """Skip the test where the file system cannot hold all of these names side by side."""
    for name in names:
        try:
            with open(os.path.join(os.fsencode(folder), name), "xb"):
                pass
        except OSError:
            pytest.skip("the file system cannot hold these names")
    for name in names:
        os.unlink(os.path.join(os.fsencode(folder), name))


def member(collection: Collection, index: int) -> bytes:
    """A stored file as an archive holds it: one of a block stands there as it is."""
    entry = collection.entries[index]
    if entry.item.codec == "block":
        return entry.read()
    stream = io.BytesIO()
    entry.encode_file(stream)
    return stream.getvalue()


def restore(collection: Collection, folder: Path, **options: Any) -> list[str]:
    """Through the table and the members, as an archive would, the pictures in a wild order."""
    table = item_table.unpack(item_table.pack(collection.items), "table")
    assert table == collection.items
    places = [(index, number) for index, item in enumerate(table) for number in range(item.count)]
    random.Random(1).shuffle(places)
    with ImageWriter(folder, table, **options) as writer:
        for index, number in places:
            item = table[index]
            coded = collection.entries[item.same if item.same != -1 else index]
            (planes,) = coded.planes(number, 1)
            writer.put(index, number, join(planes, MODES[item.mode]))
        for index, item in enumerate(table):
            if item.kind == "file":
                target = item.same if item.same != -1 else index
                writer.put_file(index, io.BytesIO(member(collection, target)))
        assert writer.finish() == []
    return writer.written
