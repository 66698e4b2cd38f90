"""Listings: order, links, and names that not every system can hold, which come back all the same.

Of tars among the inputs: test_tars.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from folders import build, needs_posix_names, noise, restore
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osoa_pl.data import listing, writer
from osoa_pl.data.collection import scan
from osoa_pl.data.listing import Found, Listing, list_files
from osoa_pl.errors import UsageError
from osoa_pl.format import items as item_table
from osoa_pl.format.names import parents
from osoa_pl.types import Item

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs POSIX names and links")
ODD = (
    *(b"A.png", b"a.png", b"a~2.png", b"trailing.", b"space ", b"tab\there", b"b\\c", b"c:d"),
    *("\u00e9.txt".encode(), "e\u0301.txt".encode(), b"a\xff.bin", b"aux", b"x\x7f\n.txt"),
)


def tree(folder: Path) -> dict[bytes, bytes | None]:
    """Content of all files, None for folders, by the bytes of their names."""
    root = os.fsencode(folder)
    found: dict[bytes, bytes | None] = {}
    for place, folders, names in os.walk(root):
        found |= {os.path.relpath(os.path.join(place, name), root): None for name in folders}
        for path in (os.path.join(place, name) for name in names):
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def test_inputs(tmp_path: Path) -> None:
    folder = build(tmp_path / "in put")
    assert [item.name for item in scan([folder / "img2.png"]).items] == ["img2.png"]
    several = scan([folder / "img2.png", folder / "sub ü"])
    assert several.items[0].name == "img2.png"
    assert {i.name.split("/")[0] for i in several.items} == {"img2.png", "sub ü"}
    assert several.items[1].name == "sub ü" and several.items[1].kind == "folder"
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


def test_folders_and_times(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "full" / "inner").mkdir(parents=True)
    (root / "hollow").mkdir()
    (root / "full" / "inner" / "x").write_bytes(b"1")
    times = {"full/inner/x": 5, "full/inner": -7 * 10**9 - 1, "full": 10**18 + 3, "hollow": 9}
    for name, time in times.items():
        os.utime(root / name, ns=(0, time))
    found = {entry.name: entry for entry in list_files([root]).entries}
    assert {name: entry.mtime for name, entry in found.items()} == times
    assert [name for name, entry in found.items() if entry.folder] == [
        "full",
        "full/inner",
        "hollow",
    ]
    restore(scan([root]), tmp_path / "out")
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times} == times
    plain = list_files([root], times=False).entries
    assert [(entry.name, entry.mtime) for entry in plain] == [("full/inner/x", 0), ("hollow", 0)]


def test_outputs_are_no_inputs(tmp_path: Path) -> None:
    for name in ("a", "out.osoa"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").write_bytes(b"2")
    outputs = [tmp_path / "out.osoa", tmp_path / "out"]
    assert [entry.name for entry in list_files([tmp_path], exclude=outputs).entries] == ["a"]
    with pytest.raises(UsageError, match="both an input and the output"):
        list_files([tmp_path / "a", tmp_path / "out"], exclude=outputs)


@POSIX
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
    assert found["aux"] == b"3"
    assert found["b\\c"] == b"4"
    assert found["in"] == found["a.txt"] == b"1"
    assert found["A.txt"] == b"2"
    assert found["12:30 x.txt"] == b"5"


@POSIX
def test_name_that_is_not_unicode(tmp_path: Path) -> None:
    needs_posix_names(tmp_path, b"a\xff.bin")
    (tmp_path / os.fsdecode(b"a\xff.bin")).write_bytes(b"1")
    collection = scan([tmp_path])
    assert [item.name for item in collection.items] == ["a\ufffd.bin"]
    assert collection.items[0].given == b"a\xff.bin"
    assert collection.renamed == ((str(tmp_path / "a\ufffd.bin"), "a\ufffd.bin"),)


@POSIX
def test_names_of_this_system_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "in"
    (root / "con").mkdir(parents=True)
    needs_posix_names(root, *ODD)
    for number, name in enumerate(ODD):
        for place in (root, root / "con"):
            (place / os.fsdecode(name)).write_bytes(b"%d" % number)
    collection = scan([root])
    items = {item.name: item for item in collection.items}
    sound = {
        *("A.png", "a~2.png", "a~2~2.png", "trailing_", "space_", "tab_here", "b_c", "c_d"),
        *("e\u0301.txt", "\u00e9~2.txt", "a\ufffd.bin", "_aux", "x__.txt"),
    }
    assert set(items) == {"_con", *sound, *(f"_con/{name}" for name in sound)} - {
        "_con/c_d"
    } | {"_con/c:d"}  # fmt: skip
    assert {item.given or os.fsencode(name) for name, item in items.items()} == {
        b"con", *ODD, *(b"con/" + name for name in ODD)
    }  # fmt: skip
    assert not items["A.png"].given
    assert items["a~2.png"].given == b"a.png"
    assert items["a~2~2.png"].given == b"a~2.png"
    restore(collection, tmp_path / "own")
    assert tree(tmp_path / "own") == tree(root)

    monkeypatch.setattr(writer, "_holds_any_name", lambda folder: False)
    restore(collection, tmp_path / "sound")
    found = tree(tmp_path / "sound")
    assert {os.fsdecode(name) for name in found} == set(items)
    assert found[b"a~2.png"] == tree(root)[b"a.png"]


@POSIX
def test_own_names_of_pictures(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    needs_posix_names(root, b"p.bmp", b"P.bmp", b"\xfe.png")
    pixels = {b"p.bmp": noise(3, 3), b"P.bmp": noise(3, 3), b"\xfe.png": noise(3, 3, 3)}
    for name, raster in pixels.items():
        Image.fromarray(raster).save(root / os.fsdecode(name))
    restore(scan([root]), tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {b"p.bmp.png", b"P.bmp.png", b"\xfe.png"}
    with Image.open(tmp_path / "out" / "p.bmp.png") as image:
        assert image.tobytes() == pixels[b"p.bmp"].tobytes()


@POSIX
@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("A", "a/x", "a/y"), {"A", "a~2", "a~2/x", "a~2/y"}),
        (("_aux", "aux/x"), {"_aux", "_aux~2", "_aux~2/x"}),
        (("F/x", "f/x", "f/y"), {"F", "F/x", "f~2", "f/x~2", "f/y"}),
        (("D/x", "d"), {"D", "D/x", "d~2"}),
        (("b~2", "B~2", "b", "B"), {"B", "b~2", "B~2~2", "b~2~3"}),
    ],
)
def test_files_and_folders_of_one_name(
    paths: tuple[str, ...], names: set[str], tmp_path: Path
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    needs_posix_names(root, *{path.split("/")[0].encode() for path in paths})
    for path in paths:
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(path.encode())
    collection = scan([root])
    assert {item.name for item in collection.items} == names
    restore(collection, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(root)


PARTS = st.sampled_from(["a", "A", "a~2", "A~2", "a~2~2", "a.", "a_", ".a", ".A", "con", "_con"])
ANY = st.text("aA.~2 \\é\u0301\x01", min_size=1, max_size=4)
PATHS = st.lists(
    PARTS | ANY.filter(lambda part: part not in (".", "..")), min_size=1, max_size=3
).map("/".join)


@given(st.sets(PATHS, max_size=12))
def test_any_names_make_a_table(paths: set[str]) -> None:
    folders = {part for path in paths for part in parents(path)}
    found = [("", path, path in folders, 0) for path in sorted(paths | folders)]
    named = Listing()
    listing._name(found, named)
    items = [
        Item(entry.name, "folder" if entry.folder else "file", given=entry.given)
        for entry in named.entries
    ]
    assert [entry.folder for entry in named.entries] == [folder for _, _, folder, _ in found]
    assert [item.given.decode() or item.name for item in items] == [name for _, name, _, _ in found]
    assert item_table.unpack(item_table.pack(items), "table") == items


def test_sound_names_stay(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_bytes(b"")
    (entry,) = list_files([tmp_path]).entries
    time = (tmp_path / "plain.txt").stat().st_mtime_ns
    assert entry == Found(str(tmp_path / "plain.txt"), "plain.txt", b"", time)
