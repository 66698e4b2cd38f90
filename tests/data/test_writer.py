"""ImageWriter: outputs are checked first, and each file appears whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from folders import build, needs_posix_names, noise, restore
from PIL import Image

from osoa_pl.data.collection import Collection, scan
from osoa_pl.data.writer import ImageWriter, select
from osoa_pl.errors import DamagedArchiveError, OsoaError, OutputExistsError, UsageError
from osoa_pl.types import Item


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build(tmp_path / "in put")


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_output_is_checked_before_any_work(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    output = tmp_path / "out"
    restore(collection, output)
    (output / "img2.png").write_bytes(b"other")
    with pytest.raises(OutputExistsError, match="files in all"):
        ImageWriter(output, collection.items)
    assert (output / "img2.png").read_bytes() == b"other"
    restore(collection, output, overwrite=True)
    assert zoo.differences(folder / "img2.png", output / "img2.png") == []
    shutil.rmtree(output)
    (output / "notes.txt").mkdir(parents=True)
    with pytest.raises(UsageError, match="is a folder, expected a file"):
        ImageWriter(output, collection.items, True)
    (output / "notes.txt").rmdir()
    (output / "sub ü").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        ImageWriter(output, collection.items, True)
    (output / "sub ü").unlink()
    (output / "hollow").write_bytes(b"")
    hollow = select(collection.items, "hollow")
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        ImageWriter(output, collection.items, selected=hollow)
    with pytest.raises(UsageError, match="not a folder"):
        ImageWriter(folder / "notes.txt", collection.items)


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_links_in_the_output(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "out"
    for place in (elsewhere, output):
        place.mkdir()
    os.symlink(elsewhere, output / "sub ü")
    with pytest.raises(UsageError, match="symbolic link"):
        ImageWriter(output, collection.items, True)
    for name in ("sub ü", "sub ü/deep"):  # the folder alone, and one within
        with pytest.raises(UsageError, match="symbolic link"):
            ImageWriter(output, collection.items, selected=select(collection.items, name))
    (output / "sub ü").unlink()
    (elsewhere / "file").write_bytes(b"kept")
    os.symlink(elsewhere / "file", output / "notes.txt")
    with pytest.raises(OutputExistsError):
        ImageWriter(output, collection.items)
    restore(collection, output, overwrite=True)
    assert (elsewhere / "file").read_bytes() == b"kept"
    assert not (output / "notes.txt").is_symlink()

    array = Item("sub/a.npy", "array", "npy", "grey8", 2, 2, (1, 2, 2))
    with ImageWriter(tmp_path / "late", [array]) as writer:
        (tmp_path / "late").mkdir()
        os.symlink(elsewhere, tmp_path / "late" / "sub")
        with pytest.raises(UsageError, match="symbolic link"):
            writer.put(0, 0, noise(2, 2, 1))
    assert os.listdir(elsewhere) == ["file"]


def test_only_some(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    items = collection.items
    chosen = select(items, "*.webp")
    assert [items[index].output_name for index in chosen] == ["sub ü/deep/ə 日.webp.png"]
    assert select(items, "*.webp.png") == chosen
    assert restore(collection, tmp_path / "one", selected=chosen) == ["sub ü/deep/ə 日.webp.png"]
    assert files_below(tmp_path / "one") == ["sub ü/deep/ə 日.webp.png"]
    assert not (tmp_path / "one" / "hollow").exists()

    (index,) = select(items, "a4.npy")
    writer = ImageWriter(tmp_path / "two", items, selected={index})
    assert [i for i in range(len(items)) if writer.wants(i)] == [index]
    assert writer.name(index) == "a4.npy"
    assert {items[i].key for i in select(items, "two.npz")} == {"rgb", "grey"}
    both = select(items, ["*.webp", "a4.npy"])
    assert both == chosen | {index}

    assert {items[i].kind for i in select(items, "sub*")} == {"folder", "image", "file"}
    restore(collection, tmp_path / "three", selected=select(items, "hollow*"))
    assert (tmp_path / "three" / "hollow" / "more").is_dir()
    copies = {index for index, item in enumerate(items) if item.same != -1}
    assert {items[index].name for index in copies} == {
        *("again.npy", "sub ü/img2.png", "sub ü/notes.txt")
    }
    assert len(restore(collection, tmp_path / "four", selected=copies)) == 3
    with pytest.raises(UsageError, match="no entry matches"):
        select(items, "*.exe")


def test_selected_by_any_spelling_and_by_folder() -> None:
    items = [
        Item("d", "folder"),
        Item("d/a~2.png", "image", "png", "grey8", 2, 2, given=b"d/A.png"),
        Item("d/b_c.tif", "image", "tiff", "grey8", 2, 2, given=b"d/b:c.tif"),
        Item("dd.txt", "file"),
    ]
    for pattern in ("d/A.png", "d/a~2.png"):
        assert select(items, pattern) == {1}
    for pattern in ("d/b:c.tif", "d/b:c.tif.png", "d/b_c*"):
        assert select(items, pattern) == {2}
    assert select(items, "d") == {0, 1, 2}
    with pytest.raises(UsageError, match="no entry matches 'x'"):
        select(items, ["d", "x"])


def test_missing_and_wrong_images(tmp_path: Path) -> None:
    items, output = Collection.from_arrays(noise(3, 4, 5)).items, tmp_path / "out"
    with (
        pytest.raises(DamagedArchiveError, match="pixels missing"),
        ImageWriter(output, items) as writer,
    ):
        writer.put(0, 2, noise(4, 5, 1))
        writer.finish()
    assert list(output.iterdir()) == []
    with ImageWriter(output, items) as writer:
        for wrong in (noise(5, 4, 1), noise(4, 5, 3)):
            with pytest.raises(DamagedArchiveError, match=r"expected \(4, 5, 1\)"):
                writer.put(0, 0, wrong)
        for number in (-1, 3):
            with pytest.raises(DamagedArchiveError, match=f"picture {number}, expected 3"):
                writer.put(0, number, noise(4, 5, 1))
    with pytest.raises(RuntimeError), ImageWriter(output, items) as writer:
        writer.put(0, 1, noise(4, 5, 1))
        raise RuntimeError
    assert list(output.iterdir()) == []
    hostile = Item("a.png", "image", "png", "grey8", 2, 2, before=b"junk")
    with pytest.raises(DamagedArchiveError, match="metadata"):
        ImageWriter(output, [hostile])


@pytest.mark.parametrize(
    ("mode", "before", "raster", "reason"),
    [
        ("palette8", b"", noise(2, 2, 1), "no palette"),
        ("palette1", zoo.chunk(b"PLTE", bytes(9)), noise(2, 2, 1) % 2, "palette of a wrong size"),
        ("grey8", zoo.chunk(b"PLTE", bytes(9)), noise(2, 2, 1), "a palette too many"),
        ("grey2", b"", noise(2, 2, 1) | 4, "more than 2 bits"),
        ("grey16", b"", noise(2, 2, 1), "expected samples of grey16"),
    ],
)
def test_picture_that_no_png_can_hold(
    mode: str, before: bytes, raster: Any, reason: str, tmp_path: Path
) -> None:
    item = Item("sub/a.png", "image", "png", mode, 2, 2, before=before)
    with (
        pytest.raises(DamagedArchiveError, match=f"sub/a.png: .*{reason}"),
        ImageWriter(tmp_path, [item]) as writer,
    ):
        writer.put(0, 0, raster)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("name", ["../a", "/a", "a/../b", "nul", "a\\b", "a."])
def test_unsafe_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedArchiveError, match="unsafe name"):
        ImageWriter(tmp_path / "out", [Item(name, "file")])


def test_clashing_names(tmp_path: Path) -> None:
    for names in (("a", "A"), ("a", "a/b"), ("é", "e\u0301")):
        with pytest.raises(DamagedArchiveError, match="clash"):
            ImageWriter(tmp_path / "out", [Item(name, "file") for name in names])
    folder = Item("a", "folder")
    ImageWriter(tmp_path / "out", [folder, Item("a/b", "file"), Item("a/c", "file")])
    with pytest.raises(DamagedArchiveError, match="clash"):
        ImageWriter(tmp_path / "out", [folder, Item("A", "file")])


def test_own_names_that_cannot_stand_side_by_side(tmp_path: Path) -> None:
    needs_posix_names(tmp_path, b"a.", b"A", b"a")
    alike = [Item("a_", "file", given=b"a."), Item("a_~2", "file", given=b"a.")]
    above = [Item("a_", "file", given=b"a."), Item("a_~2/x", "file", given=b"a./x")]
    hold = [Item("a_", "folder", given=b"a."), Item("a_~2", "file", given=b"a.")]
    for items in (alike, above, hold):
        writer = ImageWriter(tmp_path, items)
        assert [writer.name(index) for index in (0, 1)] == [item.name for item in items]
    writer = ImageWriter(tmp_path, alike, selected={1})
    assert writer.name(1) == "a."


def test_own_name_that_exists(tmp_path: Path) -> None:
    needs_posix_names(tmp_path, b"a.", b"a_", b"A", b"a")
    (tmp_path / "a.").write_bytes(b"")
    with pytest.raises(OutputExistsError, match=r"a\.: exists"):
        ImageWriter(tmp_path, [Item("a_", "file", given=b"a.")])


def test_arrays_of_one_npz_in_any_order(tmp_path: Path) -> None:
    pixels = {"x": noise(3, 4, 5), "y": noise(2, 2, 2, 3), "z": noise(1, 4, 5)}
    sides = {"x": ("grey8", 4, 5), "y": ("rgb8", 2, 2), "z": ("grey8", 4, 5)}
    items = [
        Item("a.npz", "array", "npz", *sides[key], whole.shape, key, deflated=key == "y")
        for key, whole in pixels.items()
    ]
    keys = list(pixels)
    order = [("y", 1), ("x", 2), ("z", 0), ("x", 0), ("y", 0), ("x", 1)]
    with ImageWriter(tmp_path, items) as writer:
        for key, number in order:
            assert writer.written == []
            raster = pixels[key][number]
            writer.put(keys.index(key), number, raster.reshape(*raster.shape[:2], -1))
        assert writer.written == ["a.npz"]
        assert os.listdir(tmp_path) == ["a.npz"]
        assert writer.finish() == []
    with np.load(tmp_path / "a.npz") as found:
        assert found.files == keys
        assert all(np.array_equal(found[key], pixels[key]) for key in keys)


def test_some_arrays_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=noise(2, 3, 4), y=noise(2, 3, 4))
    restore(scan([tmp_path / "a.npz"]), tmp_path / "out", selected={1})
    with np.load(tmp_path / "a.npz") as old, np.load(tmp_path / "out" / "a.npz") as new:
        assert new.files == ["y"]
        assert np.array_equal(old["y"], new["y"])


def test_what_is_lost(tmp_path: Path) -> None:
    items = [
        Item("a.png", "image", "png", "grey8", 2, 2),
        Item("b.npz", "array", "npz", "grey8", 2, 2, (2, 2, 2), key="x"),
        Item("b.npz", "array", "npz", "grey8", 2, 2, (1, 2, 2), key="y"),
        Item("c.npy", "array", "npy", "grey8", 2, 2, (2, 2, 2)),
        Item("d.bin", "file", size=3),
        Item("e.png", "image", "png", "grey8", 2, 2),
        Item("f.npy", "array", "npy", "grey8", 2, 2, (1, 2, 2)),
    ]
    picture = noise(2, 2, 1)
    with ImageWriter(tmp_path, items, selected=set(range(6))) as writer:
        writer.put(2, 0, picture)
        writer.put(1, 1, picture)
        writer.put(3, 0, picture)
        for index in (1, 3, 0, 4, 6):
            writer.lose(index)
        for index in (1, 3):
            writer.put(index, 0, picture)
        writer.put(5, 0, picture)
        assert writer.finish() == ["a.png", "b.npz", "c.npy", "d.bin"]
        assert writer.written == ["e.png"]
    assert os.listdir(tmp_path) == ["e.png"]

    with ImageWriter(tmp_path / "again", items, selected=set(range(6))) as writer:
        writer.lose(0)
        with pytest.raises(DamagedArchiveError, match=r"b\.npz: pixels missing \(4 files"):
            writer.finish()


def test_damaged_file_leaves_nothing(tmp_path: Path) -> None:
    items = [Item("a.bin", "file", size=3), Item("b.bin", "file", size=3)]
    with ImageWriter(tmp_path, items, selected={0}) as writer:
        writer.put_file(1, io.BytesIO(b"not selected"))
        for wrong in (b"", b"12", b"1234"):
            with pytest.raises(DamagedArchiveError, match=r"a\.bin: found"):
                writer.put_file(0, io.BytesIO(wrong))
        assert os.listdir(tmp_path) == []
        writer.put_file(0, io.BytesIO(b"123"))
        assert writer.finish() == []
    assert files_below(tmp_path) == ["a.bin"]


def test_deliver(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    told: list[tuple[str, int]] = []
    away = tmp_path / "away"
    away.mkdir()

    def deliver(name: str, path: Path, mtime: int) -> None:
        assert path == tmp_path / "out" / name
        if path.is_file():
            assert path.stat().st_mtime_ns == mtime
            path.rename(away / str(len(told)))
        told.append((name, mtime))

    written = restore(collection, tmp_path / "out", deliver=deliver)
    times = {item.output_name: item.mtime for item in collection.items}
    assert sorted(told) == sorted(times.items())
    folders = [item.name for item in collection.items if item.kind == "folder"]
    assert [name for name, _ in told] == folders + written
    assert len(os.listdir(away)) == len(written)
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize("mtime", [1, -1, 1_234_567_890_987_654_321, -(10**18) - 1])
def test_times(mtime: int, tmp_path: Path) -> None:
    items = [
        Item("sub", "folder", mtime=mtime),
        Item("sub/in", "folder", mtime=-mtime),
        Item("sub/in/a.npy", "array", "npy", "grey8", 2, 2, (1, 2, 2), mtime=mtime),
        Item("sub/in/b.png", "image", "png", "grey8", 2, 2, mtime=mtime),
        Item("sub/in/c", "file", mtime=mtime),
        Item("sub/in/now", "file"),
    ]
    with ImageWriter(tmp_path, items) as writer:
        writer.put_file(4, io.BytesIO())
        writer.put_file(5, io.BytesIO())
        writer.put(3, 0, noise(2, 2, 1))
        writer.put(2, 0, noise(2, 2, 1))
        writer.finish()
    found = {item.name: (tmp_path / item.name).stat().st_mtime_ns for item in items}
    assert found.pop("sub/in/now") > 1_600_000_000 * 10**9
    assert found == {item.name: item.mtime for item in items if item.mtime}


def test_time_that_the_system_has_not(tmp_path: Path) -> None:
    with ImageWriter(tmp_path, [Item("a", "file", mtime=1 << 70)]) as writer:
        writer.put_file(0, io.BytesIO())
        assert writer.finish() == []
    assert (tmp_path / "a").is_file()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder closed to us")
def test_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    with (
        pytest.raises(OsoaError, match="cannot write"),
        ImageWriter(tmp_path / "out", [Item("a", "file")]) as writer,
    ):
        writer.put_file(0, io.BytesIO())


def test_usual_permissions(tmp_path: Path) -> None:
    Image.fromarray(noise(2, 2)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", noise(2, 3, 4))
    restore(scan([tmp_path]), tmp_path / "out")
    for name in ("a.png", "b.npy"):
        wanted = (tmp_path / "b.npy").stat().st_mode
        assert (tmp_path / "out" / name).stat().st_mode == wanted
