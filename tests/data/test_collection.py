"""Collections: what is coded as pixels, what is stored or is a copy, and that all comes back."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest
import zoo
from folders import GENERATOR, build, idx, member, noise, restore
from PIL import Image

from osoa_pl.data import files
from osoa_pl.data.collection import Collection, scan
from osoa_pl.data.listing import natural_key
from osoa_pl.data.planes import join
from osoa_pl.errors import DamagedArchiveError, InputError, UsageError
from osoa_pl.types import MODES, Item


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build(tmp_path / "in put")


def by_name(collection: Collection) -> dict[str, Item]:
    return {item.name: item for item in collection.items}


def test_round_trip_of_everything(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    names = [item.name for item in collection.items]
    assert names == sorted(names, key=natural_key)
    assert names.index("img2.png") < names.index("img10.png")
    reasons = dict(collection.stored)
    assert reasons["photo.jpg"] == "JPEG"
    assert reasons["notes.txt"] == reasons["empty"] == reasons["text.gz"] == "not an image"
    assert reasons["broken.png"].startswith("cannot be read as an image")
    assert "float32" in reasons["float.npy"]
    assert "Fortran" in reasons["fortran.npy"]
    assert "int64" in reasons["labels.npz"]
    assert len(reasons) == 9
    found = by_name(collection)
    assert {name for name, item in found.items() if item.kind == "folder"} == {
        "sub ü", "sub ü/deep", "hollow", "hollow/more"
    }  # fmt: skip
    modes = {"bits.png": "grey1", "palette.png": "palette8", "wide.png": "grey16"}
    modes |= {"img2.png": "grey8", "img10.png": "rgb8", "sub ü/alpha.png": "rgba8"}
    assert {name: found[name].mode for name in modes} == modes
    assert collection.skipped == collection.renamed == ()
    paths = list(folder.rglob("*"))
    assert collection.original_bytes == sum(p.stat().st_size for p in paths if p.is_file())
    for channels, mode in ((1, "grey8"), (3, "rgb8")):
        shapes = [image.shape for image in collection.images(mode)]
        assert shapes == [
            (item.height, item.width, channels)
            for item in collection.items
            if item.mode == mode
            for _ in range(item.count)
        ]

    output = tmp_path / "out"
    written = restore(collection, output)
    assert len(written) == len({item.name for item in collection.items if item.kind != "folder"})
    for path in paths:
        name = path.relative_to(folder).as_posix()
        back = output / found[name].output_name
        assert back.stat().st_mtime_ns == path.stat().st_mtime_ns, name
        if path.is_dir():
            assert back.is_dir()
        elif name in reasons or name.endswith((".npy", "ubyte")):
            assert back.read_bytes() == path.read_bytes()
        elif name.endswith(".npz"):
            with np.load(path) as old, np.load(back) as new:
                assert old.files == new.files
                assert all(np.array_equal(old[key], new[key]) for key in old.files)
        elif name.endswith(".gz"):
            assert back == output / name[:-3]
            assert back.read_bytes() == gzip.decompress(path.read_bytes())
        else:
            assert back == output / (name if name.endswith(".png") else name + ".png")
            assert zoo.differences(path, back) == []
    assert len(list(output.rglob("*"))) == len(paths)
    again = tmp_path / "again"
    restore(collection, again)
    assert (again / "two.npz").read_bytes() == (output / "two.npz").read_bytes()


@pytest.mark.parametrize(("colour", "depth"), zoo.KINDS)
def test_planes_of_every_mode(colour: int, depth: int, tmp_path: Path) -> None:
    samples = zoo.SAMPLES[colour]
    raster = GENERATOR.integers(0, 1 << depth, (7, 11, samples))
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.png"
    path.write_bytes(zoo.png_file(raster, colour, depth))
    collection = scan([path])
    (entry,) = collection.entries
    mode = MODES[entry.item.mode]
    assert (mode.colour_type, mode.depth) == (colour, depth)
    (planes,) = entry.planes()
    assert [plane.shape for plane in planes] == [(7, 11, channels) for channels in mode.planes]
    assert all(plane.dtype == np.uint8 for plane in planes)
    assert [plane.channels for plane in entry.item.planes] == list(mode.planes)
    assert entry.item.raw_bytes == sum(plane.nbytes for plane in planes)
    assert np.array_equal(join(planes, mode), raster)
    colours = samples - (colour in (4, 6))
    assert np.array_equal(planes[0], raster[:, :, :colours] >> (8 if depth == 16 else 0))
    if depth == 16:
        assert np.array_equal(planes[1], raster[:, :, :colours] & 255)
    if mode.plain:
        assert len(list(collection.images(mode.name))) == 1
    restore(collection, tmp_path / "out")
    assert zoo.differences(path, tmp_path / "out" / "a.png") == []


def test_pictures_of_an_array_from_anywhere(tmp_path: Path) -> None:
    pixels = {"x": noise(5, 3, 4), "y": noise(3, 4, 2, 3)}
    np.savez_compressed(tmp_path / "a.npz", **pixels)
    for entry in scan([tmp_path / "a.npz"]).entries:
        whole = pixels[entry.item.key].reshape(entry.item.count, *entry.item.shape[1:3], -1)
        for begin, count in ((0, None), (0, 1), (2, 1), (1, 2), (entry.item.count, 1)):
            found = [planes[0] for planes in entry.planes(begin, count)]
            wanted = whole[begin:] if count is None else whole[begin : begin + count]
            assert len(found) == len(wanted)
            assert all(map(np.array_equal, found, wanted))


def test_header_scan_and_truncated_pixels(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(data, "TIFF", compression="tiff_lzw")
    (tmp_path / "a.tif").write_bytes(data.getvalue()[:800])
    assert scan([tmp_path / "a.tif"]).stored[0][0] == "a.tif"
    path = tmp_path / "b.png"
    Image.fromarray(noise(40, 40)).save(path)
    collection = scan([path], verify=False)
    (entry,) = collection.entries
    assert (entry.item.mode, entry.item.height, entry.item.width) == ("grey8", 40, 40)
    Image.fromarray(noise(4, 4)).save(path)
    with pytest.raises(InputError, match=r"b\.png: found"):
        list(entry.planes())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"b\.png: cannot be read as an image"):
        list(collection.images("grey8"))
    path.unlink()
    with pytest.raises(InputError, match=r"b\.png: cannot be read"):
        list(collection.images("grey8"))
    array = tmp_path / "c.npy"
    np.save(array, noise(2, 3, 4))
    (entry,) = scan([array]).entries
    np.save(array, noise(2, 4, 3))
    with pytest.raises(InputError, match=r"c\.npy: changed"):
        list(entry.planes())


def test_clashing_output_names(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    Image.fromarray(noise(4, 4, 3)).save(root / "a.bmp")
    Image.fromarray(noise(4, 4, 3)).save(root / "a.bmp.png")
    Image.fromarray(noise(4, 4, 3)).save(root / "b.bmp")
    (root / "B.BMP.png").mkdir()
    (root / "d-idx3-ubyte.gz").write_bytes(gzip.compress(idx(noise(2, 4, 5))))
    (root / "d-idx3-ubyte").mkdir()
    (root / "d-idx3-ubyte" / "x").write_bytes(b"1")
    collection = scan([root])
    reasons = dict(collection.stored)
    assert "is taken" in reasons["a.bmp"]
    assert "is taken" in reasons["b.bmp"]
    assert "is taken" in reasons["d-idx3-ubyte.gz"]
    restore(collection, tmp_path / "out")
    assert (tmp_path / "out" / "a.bmp").read_bytes() == (root / "a.bmp").read_bytes()


def test_codec_of_stored_files(tmp_path: Path) -> None:
    sizes = {"random": GENERATOR.bytes(5000), "text": b"abcdef" * 900, "tiny": GENERATOR.bytes(99)}
    sizes |= {"large": b"pattern" * 800_000, "large random": GENERATOR.bytes(5 << 20)}
    sizes |= {"middle": b"some text " * 7000, "none": b""}
    for name, data in sizes.items():
        (tmp_path / name).write_bytes(data)
    collection = scan([tmp_path])
    assert {name: item.codec for name, item in by_name(collection).items()} == {
        "random": "raw",
        "text": "block",
        "tiny": "block",
        "none": "block",
        "middle": "xz",
        "large": "xz",
        "large random": "raw",
    }
    for index, entry in enumerate(collection.entries):
        item = entry.item
        assert collection.read_file_bytes(item) == entry.read() == sizes[item.name]
        coded = member(collection, index)
        assert item.codec != "xz" or len(coded) < item.size / 50
        back = io.BytesIO()
        files.decode_file(io.BytesIO(coded), item, back)
        assert back.getvalue() == sizes[item.name]
        for damaged in (coded[:-9], coded + b"x", b"", b"\0" * 98):
            if len(damaged) == item.size:
                continue
            with pytest.raises(DamagedArchiveError, match=item.name):
                files.decode_file(io.BytesIO(damaged), item, io.BytesIO())
    (tmp_path / "text").write_bytes(b"grown" * 9000)
    (tmp_path / "middle").unlink()
    entries = {entry.item.name: entry for entry in collection.entries}
    with pytest.raises(InputError, match="changed"):
        entries["text"].encode_file(io.BytesIO())
    with pytest.raises(InputError, match="text: changed"):
        entries["text"].read()
    for act in (entries["middle"].read, lambda: entries["middle"].encode_file(io.BytesIO())):
        with pytest.raises(InputError, match="middle: cannot be read"):
            act()
    with pytest.raises(UsageError, match="not a stored file"):
        collection.read_file_bytes(Item("text", "file"))


def test_picture_kept_as_a_file(folder: Path) -> None:
    entries = {entry.item.name: entry for entry in scan([folder]).entries}
    entry = entries["img10.png"]
    item, kept = entry.item, entry.stored().item
    size = (folder / item.name).stat().st_size
    assert kept == Item(item.name, "file", size=size, codec="block", mtime=item.mtime)
    assert entry.coded("m").item == item
    assert entry.coded("d", 3).item.planes == ((5, 6, 3, "d"),)
    assert entries["sub ü/alpha.png"].coded("mp").item.planes == ((3, 3, 3, "m"), (3, 3, 1, "p"))


def test_copies(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    grey, rgb, stack = noise(4, 5), noise(4, 5, 3), noise(2, 4, 5)
    Image.fromarray(grey).save(root / "a1.png", compress_level=0)
    Image.fromarray(grey).save(root / "a2.png", compress_level=9)
    Image.fromarray(grey).save(root / "a3.bmp")
    (root / "a4.png").write_bytes((root / "a2.png").read_bytes())
    Image.fromarray(rgb).save(root / "b1.png")
    (root / "sub" / "b2.png").write_bytes((root / "b1.png").read_bytes())
    Image.fromarray(grey.reshape(5, 4)).save(root / "c.png")
    np.save(root / "d1.npy", stack)
    np.savez(root / "d2.npz", x=stack, y=stack, z=noise(2, 4, 5))
    (root / "d3.npz").write_bytes((root / "d2.npz").read_bytes())
    np.save(root / "d4.npy", stack[0])
    for name in ("e1", "e2", "sub/e3"):
        (root / name).write_bytes(b"the same")
    (root / "f1").write_bytes(b"")
    (root / "f2").write_bytes(b"")
    collection = scan([root])
    items = collection.items
    assert all(items[item.same].same == -1 for item in items if item.same != -1)
    labels = [f"{item.name}:{item.key}".rstrip(":") for item in items]
    copies = {labels[i]: labels[item.same] for i, item in enumerate(items) if item.same != -1}
    assert copies == {
        "a2.png": "a1.png",
        "a3.bmp": "a1.png",
        "a4.png": "a1.png",
        "sub/b2.png": "b1.png",
        "d2.npz:x": "d1.npy",
        "d2.npz:y": "d1.npy",
        "d3.npz:x": "d1.npy",
        "d3.npz:y": "d1.npy",
        "d3.npz:z": "d2.npz:z",
        "e2": "e1",
        "sub/e3": "e1",
        "f2": "f1",
    }
    # A copy of the whole file asks nothing of the first: that one may be kept as it is.
    assert {labels[i] for i, e in enumerate(collection.entries) if e.pinned} == {"a1.png", "d1.npy"}
    restore(collection, tmp_path / "out")
    for path in root.rglob("*"):
        back = tmp_path / "out" / path.relative_to(root)
        if path.suffix == ".bmp":
            back = back.with_name(back.name + ".png")
        if path.suffix in (".png", ".bmp"):
            assert zoo.differences(path, back) == []
        elif path.suffix == ".npz":
            with np.load(path) as old, np.load(back) as new:
                assert all(np.array_equal(old[key], new[key]) for key in old.files)
        elif path.is_file():
            assert path.read_bytes() == back.read_bytes()


def test_copies_keep_their_own_metadata(tmp_path: Path) -> None:
    raster, text = noise(4, 4, 3), [(b"tEXt", b"Title\0other")]
    (tmp_path / "a.png").write_bytes(zoo.png_file(raster, 2, 8))
    (tmp_path / "b.png").write_bytes(zoo.png_file(raster, 2, 8, after=text))
    os.utime(tmp_path / "b.png", ns=(5, 5))
    first, second = (entry.item for entry in scan([tmp_path]).entries)
    assert (second.same, second.mtime) == (0, 5)
    assert b"other" in second.after and not first.after
    assert [item.same for item in scan([tmp_path], verify=False).items] == [-1, -1]


def test_from_arrays(tmp_path: Path) -> None:
    stack = noise(3, 4, 5, 3)
    collection = Collection.from_arrays(stack)
    assert collection.items[0].shape == stack.shape
    assert np.array_equal(np.stack(list(collection.images("rgb8"))), stack)
    restore(collection, tmp_path)
    assert np.array_equal(np.load(tmp_path / "array.npy"), stack)
    loose = [noise(4, 5), noise(4, 5, 1), noise(2, 3, 3)]
    collection = Collection.from_arrays(iter(loose))
    assert [item.name for item in collection.items] == ["000000.png", "000001.png", "000002.png"]
    assert [item.shape for item in collection.items] == [image.shape for image in loose]
    assert [image.shape for image in collection.images("grey8")] == [(4, 5, 1)] * 2
    restore(collection, tmp_path / "loose")
    for item, image in zip(collection.items, loose):
        samples, _ = zoo.png_samples((tmp_path / "loose" / item.name).read_bytes())
        assert np.array_equal(samples.reshape(image.shape), image)
    with pytest.raises(InputError, match="float64"):
        Collection.from_arrays(np.zeros((2, 3, 4)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(2, 3, 4, 5\)"):
        Collection.from_arrays(noise(2, 3, 4, 5))
    with pytest.raises(InputError, match="image 1"):
        Collection.from_arrays([noise(2, 2), noise(2, 2, 5)])
    with pytest.raises(UsageError, match="no pixels"):
        Collection.from_arrays(noise(0, 3, 4))
    with pytest.raises(UsageError, match="no images"):
        Collection.from_arrays([])


def test_copies_among_arrays() -> None:
    first = noise(4, 5)
    collection = Collection.from_arrays([first, noise(4, 5), first.copy(), first[:, :, None]])
    # (4, 5, 1) comes back as (4, 5, 1): it is no copy of (4, 5).
    assert [item.same for item in collection.items] == [-1, -1, 0, -1]
    assert collection.entries[0].pinned
