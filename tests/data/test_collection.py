"""Collections: scanning, order, names, and the way back through ImageWriter."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from osoa_pl.data import files
from osoa_pl.data.collection import Collection, scan
from osoa_pl.data.listing import natural_key
from osoa_pl.data.writer import ImageWriter, select
from osoa_pl.errors import DamagedArchiveError, InputError, OutputExistsError, UsageError
from osoa_pl.format import items as item_table

GENERATOR = np.random.default_rng(1)


def noise(*shape: int) -> Any:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def idx(pixels: Any) -> bytes:
    return b"\0\0\x08\x03" + struct.pack(">3I", *pixels.shape) + pixels.tobytes()


def restore(collection: Collection, folder: Path, **options: Any) -> list[str]:
    """Through the table and the members, as an archive would, both channel kinds interleaved."""
    table = item_table.unpack(item_table.pack(collection.items), "table")
    assert tuple(table) == collection.items
    with ImageWriter(folder, table, **options) as writer:
        for pair in zip_longest(collection.iter_images(1), collection.iter_images(3)):
            for image in pair:
                if image is not None:
                    writer.put(image)
        for item in table:
            if item.kind == "file":
                member = io.BytesIO()
                collection.encode_file(item, member)
                writer.put_file(item, member.getvalue())
        writer.finish()
    return writer.written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in put"
    (root / "sub ü" / "deep").mkdir(parents=True)
    Image.fromarray(noise(5, 6, 3)).save(root / "img10.png")
    Image.fromarray(noise(5, 6)).save(root / "img2.png")
    Image.fromarray(noise(7, 4, 3)).save(root / "sub ü" / "deep" / "ə 日.webp", lossless=True)
    Image.fromarray(noise(3, 3, 4)).save(root / "sub ü" / "alpha.png")
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
    return root


def test_round_trip_of_everything(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    names = [item.name for item in collection.items]
    assert names == sorted(names, key=natural_key)
    assert names.index("img2.png") < names.index("img10.png")
    reasons = dict(collection.stored)
    assert reasons["sub ü/alpha.png"] == "alpha channel"
    assert reasons["photo.jpg"] == "jpeg"
    assert reasons["notes.txt"] == reasons["empty"] == "not an image"
    assert reasons["broken.png"].startswith("cannot be read as an image")
    assert "float32" in reasons["float.npy"]
    assert "Fortran" in reasons["fortran.npy"]
    assert "int64" in reasons["labels.npz"]
    assert len(reasons) == 9
    assert collection.skipped == collection.renamed == ()
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert collection.original_bytes == total
    for channels in (1, 3):
        shapes = [image.shape[:2] for image in collection.iter_images(channels)]
        assert shapes == collection.image_shapes(channels)
        assert len(shapes) == collection.count(channels)

    output = tmp_path / "out"
    written = restore(collection, output)
    assert len(written) == len({item.name for item in collection.items})
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        if name in reasons or name.endswith(".npy"):
            assert (output / name).read_bytes() == path.read_bytes()
        elif name.endswith(".npz"):
            with np.load(path) as old, np.load(output / name) as new:
                assert old.files == new.files
                assert all(np.array_equal(old[key], new[key]) for key in old.files)
        elif name.endswith(".gz"):
            assert (output / name[:-3]).read_bytes() == gzip.decompress(path.read_bytes())
        elif name.endswith("ubyte"):
            assert (output / name).read_bytes() == path.read_bytes()
        else:
            back = output / (name if name.endswith(".png") else name + ".png")
            with Image.open(path) as old_image, Image.open(back) as new_image:
                assert old_image.mode == new_image.mode
                assert np.array_equal(np.asarray(old_image), np.asarray(new_image))
    assert not [path for path in output.rglob("*") if path.name.startswith(".osoa")]
    again = tmp_path / "again"
    restore(collection, again)
    assert (again / "two.npz").read_bytes() == (output / "two.npz").read_bytes()


def test_header_scan_and_truncated_pixels(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(data, "TIFF", compression="tiff_lzw")
    (tmp_path / "a.tif").write_bytes(data.getvalue()[:800])  # directory first? either way refused
    path = tmp_path / "b.png"
    Image.fromarray(noise(40, 40)).save(path)
    collection = scan([tmp_path / "b.png"], verify=False)
    assert collection.image_shapes(1) == [(40, 40)]
    Image.fromarray(noise(4, 4)).save(path)
    with pytest.raises(InputError, match=r"b\.png"):
        list(collection.iter_images(1))
    path.unlink()
    with pytest.raises(InputError, match=r"b\.png: cannot be read"):
        list(collection.iter_images(1))


def test_inputs(folder: Path, tmp_path: Path) -> None:
    assert [item.name for item in scan([folder / "img2.png"]).items] == ["img2.png"]
    several = scan([folder / "img2.png", folder / "sub ü"])
    assert [i.name for i in several.items][0] == "img2.png"
    assert {i.name.split("/")[0] for i in several.items} == {"img2.png", "sub ü"}
    with pytest.raises(UsageError, match="no such file"):
        scan([tmp_path / "missing"])
    with pytest.raises(UsageError, match="would both be named"):
        scan([folder, folder])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="no files"):
        scan([empty])
    with pytest.raises(UsageError):
        scan([])


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX names and links")
def test_links_pipes_and_names(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "outside").write_bytes(b"secret")
    (root / "a.txt").write_bytes(b"1")
    (root / "A.txt").write_bytes(b"2")
    (root / "aux").write_bytes(b"3")
    (root / "b\\c").write_bytes(b"4")
    (root / "12:30 x.txt").write_bytes(b"5")
    os.symlink(tmp_path / "outside", root / "out")
    os.symlink(root / "a.txt", root / "in")
    os.symlink(root, root / "loop")
    os.symlink("nowhere", root / "dead")
    os.mkfifo(root / "pipe")
    collection = scan([root])
    reasons = {Path(path).name: reason for path, reason in collection.skipped}
    assert reasons == {
        "out": "symbolic link out of the folder",
        "loop": "symbolic link to a folder",
        "dead": "symbolic link to nothing",
        "pipe": "pipe",
    }
    renamed = {Path(path).name: name for path, name in collection.renamed}
    if len(os.listdir(root)) == 10:  # case counts here
        assert renamed == {"a.txt": "a~2.txt", "aux": "_aux", "b\\c": "b_c"}
    restore(collection, tmp_path / "out")
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found["_aux"] == b"3"
    assert found["in"] == found["a~2.txt"] == b"1"
    assert found["12:30 x.txt"] == b"5"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX names")
def test_name_that_is_not_unicode(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"a\xff.bin")).write_bytes(b"1")
    except OSError:
        pytest.skip("the file system wants Unicode")
    collection = scan([tmp_path])
    assert [item.name for item in collection.items] == ["a\ufffd.bin"]
    assert collection.renamed == ((str(tmp_path / "a\ufffd.bin"), "a\ufffd.bin"),)


def test_clashing_output_names(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    Image.fromarray(noise(4, 4, 3)).save(root / "a.bmp")
    Image.fromarray(noise(4, 4, 3)).save(root / "a.bmp.png")
    (root / "d-idx3-ubyte.gz").write_bytes(gzip.compress(idx(noise(2, 4, 5))))
    (root / "d-idx3-ubyte").mkdir()
    (root / "d-idx3-ubyte" / "x").write_bytes(b"1")
    collection = scan([root])
    reasons = dict(collection.stored)
    assert "is taken" in reasons["a.bmp"]
    assert "is taken" in reasons["d-idx3-ubyte.gz"]
    restore(collection, tmp_path / "out")
    assert (tmp_path / "out" / "a.bmp").read_bytes() == (root / "a.bmp").read_bytes()


def test_codec_of_stored_files(tmp_path: Path) -> None:
    sizes = {"random": GENERATOR.bytes(5000), "text": b"abcdef" * 900}
    sizes |= {"large": b"pattern" * 800_000, "large random": GENERATOR.bytes(5 << 20)}
    for name, data in sizes.items():
        (tmp_path / name).write_bytes(data)
    collection = scan([tmp_path])
    by_name = {item.name: item for item in collection.items}
    assert {name: item.codec for name, item in by_name.items()} == {
        "random": "raw",
        "text": "xz",
        "large": "xz",
        "large random": "raw",
    }
    for name, item in by_name.items():
        assert collection.read_file_bytes(item) == sizes[name]
        member = io.BytesIO()
        collection.encode_file(item, member)
        for damaged in (member.getvalue()[:-9], member.getvalue() + b"x", b"", b"\0" * 99):
            with pytest.raises(DamagedArchiveError, match=name):
                files.decode_file(io.BytesIO(damaged), item, io.BytesIO())
    (tmp_path / "text").write_bytes(b"grown" * 9000)
    with pytest.raises(InputError, match="changed"):
        collection.encode_file(by_name["text"], io.BytesIO())


def test_output_is_checked_before_any_work(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    output = tmp_path / "out"
    restore(collection, output)
    before = (output / "img2.png").stat().st_mtime_ns
    with pytest.raises(OutputExistsError, match="files in all"):
        ImageWriter(output, collection.items)
    restore(collection, output, overwrite=True)
    assert (output / "img2.png").stat().st_mtime_ns >= before
    shutil.rmtree(output)
    (tmp_path / "elsewhere").mkdir()
    output.mkdir()
    os.symlink(tmp_path / "elsewhere", output / "sub ü")
    with pytest.raises(UsageError, match="symbolic link"):
        ImageWriter(output, collection.items, True)
    with pytest.raises(UsageError, match="not a folder"):
        ImageWriter(folder / "notes.txt", collection.items)


def test_only_and_needed(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    chosen = select(collection.items, "*.webp")
    assert chosen == {"sub ü/deep/ə 日.webp.png"}
    assert restore(collection, tmp_path / "one", selected=chosen) == list(chosen)
    assert len([path for path in (tmp_path / "one").rglob("*") if path.is_file()]) == 1
    writer = ImageWriter(tmp_path / "two", collection.items, selected={"a4.npy"})
    assert writer.needed(3) == 4
    assert writer.needed(1) == 0
    with pytest.raises(UsageError, match="no entry matches"):
        select(collection.items, "*.exe")


def test_missing_and_wrong_images(tmp_path: Path) -> None:
    collection = Collection.from_arrays(noise(3, 4, 5))
    with (
        pytest.raises(DamagedArchiveError, match="pixels missing"),
        ImageWriter(tmp_path / "out", collection.items) as writer,
    ):
        writer.put(noise(4, 5, 1))
        writer.finish()
    assert list((tmp_path / "out").iterdir()) == []
    with ImageWriter(tmp_path / "out", collection.items) as writer:
        with pytest.raises(DamagedArchiveError, match="expected 4x5"):
            writer.put(noise(5, 4, 1))
        with pytest.raises(DamagedArchiveError, match="more images"):
            writer.put(noise(4, 5, 3))
    hostile = item_table.Item("a.png", "image", "png", 1, 2, 2, before=b"junk")
    with pytest.raises(DamagedArchiveError, match="metadata"):
        ImageWriter(tmp_path / "out", [hostile])


def test_from_arrays(tmp_path: Path) -> None:
    stack = noise(3, 4, 5, 3)
    collection = Collection.from_arrays(stack)
    assert collection.items[0].shape == stack.shape
    assert np.array_equal(np.stack(list(collection.iter_images(3))), stack)
    restore(collection, tmp_path)
    assert np.array_equal(np.load(tmp_path / "array.npy"), stack)
    loose = [noise(4, 5), noise(4, 5, 1), noise(2, 3, 3)]
    collection = Collection.from_arrays(iter(loose))
    assert [item.name for item in collection.items] == ["000000.png", "000001.png", "000002.png"]
    assert [item.shape for item in collection.items] == [image.shape for image in loose]
    assert [image.shape for image in collection.iter_images(1)] == [(4, 5, 1)] * 2
    with pytest.raises(InputError, match="float64"):
        Collection.from_arrays(np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match=r"\(2, 3, 4, 4\)"):
        Collection.from_arrays(noise(2, 3, 4, 4))
    with pytest.raises(InputError, match="image 1"):
        Collection.from_arrays([noise(2, 2), noise(2, 2, 2)])
    for nothing in (noise(0, 3, 4), []):
        with pytest.raises(UsageError):
            Collection.from_arrays(nothing)
